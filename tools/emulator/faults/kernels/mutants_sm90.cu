// Kernels with one fault each in their use of device_sm90.cuh; `sound` has none. Compiled for the host alone.
#include "common/device_sm90.cuh"

constexpr u32 BOX_BYTES = BOX_ROW * 2 * BOX_ROW;
constexpr u32 STAGES = 2;

/// What a kernel does wrong.
enum Fault { NONE, NO_WAIT, NO_EMPTY, EARLY_RELEASE, NO_WGMMA_WAIT, WRONG_BYTES, OTHER_WGMMA, UNALIGNED, NO_INIT };

/// d[64, 64] = the sum over `steps` boxes of 64 columns of a b, both [64, 64 steps] and K-major: one producer warp, one
/// consumer warpgroup.
template <Fault fault> DEVICE void multiply(float* d, const TensorMap& a_map, const TensorMap& b_map, u32 steps) {
    DYNAMIC_SHARED(u8, tiles);
    SHARED(u64, full, STAGES);
    SHARED(u64, empty, STAGES);
    if (threadIdx.x == 0 && fault != NO_INIT) {
        for (u32 i = 0; i < STAGES; ++i) {
            mbarrier_init(&full[i], 1);
            mbarrier_init(&empty[i], 4);
        }
        fence_mbarrier_init();
    }
    block_sync();
    if (threadIdx.x >= 128) {
        for (u32 i = 0; threadIdx.x == 128 && i < steps; ++i) {
            u32 stage = i % STAGES;
            if (fault != NO_EMPTY) mbarrier_wait(&empty[stage], i / STAGES % 2 ^ 1);
            mbarrier_arrive_expect_tx(&full[stage], 2 * BOX_BYTES + (fault == WRONG_BYTES ? 16 : 0));
            u8* to = tiles + stage * 2 * BOX_BYTES + (fault == UNALIGNED ? 128 : 0);
            tma_load(to, a_map, i32(i * BOX_ROW), 0, &full[stage]);
            tma_load(to + BOX_BYTES, b_map, i32(i * BOX_ROW), 0, &full[stage]);
        }
        return;
    }
    float acc[32];
    for (u32 i = 0; i < steps; ++i) {
        u32 stage = i % STAGES;
        if (fault != NO_WAIT) mbarrier_wait(&full[stage], i / STAGES % 2);
        u8* at = tiles + stage * 2 * BOX_BYTES;
        u64 a = matrix_descriptor(at, BOX_BYTES, BOX_ALIGN),
            b = matrix_descriptor(at + BOX_BYTES, BOX_BYTES, BOX_ALIGN);
        wgmma_fence();
        for (u32 k = 0; k < 4; ++k) {
            u32 slice = fault == OTHER_WGMMA && threadIdx.x >= 96 ? 3 - k : k;
            wgmma<64, false, false>(acc, a + 2 * slice, b + 2 * slice, i + k > 0);
        }
        wgmma_commit_group();
        if (fault == EARLY_RELEASE) {
            warp_sync();
        } else if (fault != NO_WGMMA_WAIT) {
            wgmma_wait_group<0>();
        }
        if (threadIdx.x % 32 == 0) mbarrier_arrive(&empty[stage]);
    }
    if (fault != NO_WGMMA_WAIT) wgmma_wait_group<0>();
    u32 row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, col = threadIdx.x % 4 * 2;
    for (u32 i = 0; i < 32; ++i) d[(row + i / 2 % 2 * 8) * 64 + col + i / 4 * 8 + i % 2] = acc[i];
}

/// What a kernel in clusters does wrong.
enum ClusterFault { SOUND, NO_CLUSTER_SYNC, OWN_EMPTY, LEAVES, NO_ARRIVE, NO_BLOCK };

/// out[block][64] = the sum of the rows of a matrix [8 steps, 64]; the two blocks of a cluster take turns to multicast
/// eight rows to both.
template <ClusterFault fault> DEVICE void add(float* out, const TensorMap& map, u32 steps) {
    DYNAMIC_SHARED(u8, place);
    SHARED(u64, barriers, 2);
    u64 *full = barriers, *empty = barriers + 1;
    if (threadIdx.x == 0) {
        mbarrier_init(full, 1);
        mbarrier_init(empty, fault == OWN_EMPTY ? 1 : 2);
        fence_mbarrier_init();
    }
    if (fault == NO_CLUSTER_SYNC) {
        block_sync();
    } else {
        if (fault != NO_ARRIVE) cluster_arrive();
        cluster_wait();
    }
    if (threadIdx.x >= 32) {
        for (u32 i = 0; threadIdx.x == 32 && i < steps; ++i) {
            mbarrier_wait(empty, i % 2 ^ 1);
            mbarrier_arrive_expect_tx(full, BOX_ALIGN);
            if (i % 2 == cluster_rank()) tma_load<2>(place, map, 0, i32(8 * i), full);
        }
    } else {
        float sums[2] = {};
        for (u32 i = 0; i < steps; ++i) {
            mbarrier_wait(full, i % 2);
            for (u32 j = 0; j < 16; ++j) {
                u32 row = j / 2, column = threadIdx.x + j % 2 * 32,
                    at = row * 128 + (column / 8 ^ row) * 16 + column % 8 * 2;
                sums[j % 2] += to_float(*reinterpret_cast<const bf16*>(place + at));
            }
            warp_sync();
            if (fault == OWN_EMPTY) {
                if (threadIdx.x == 0) mbarrier_arrive(empty);
            } else if (threadIdx.x < 2) {
                mbarrier_arrive_cluster(empty, threadIdx.x + (fault == NO_BLOCK));
            }
        }
        out[blockIdx.x * 64 + threadIdx.x] = sums[0];
        out[blockIdx.x * 64 + threadIdx.x + 32] = sums[1];
    }
    if (fault == LEAVES) return;
    cluster_arrive();
    cluster_wait();
}

#define MUTANT(name, fault)                                                                       \
    KERNEL(160)                                                                                   \
    name(float* d, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b, u32 steps) { \
        multiply<fault>(d, a, b, steps);                                                          \
    }                                                                                             \
    REGISTER_KERNEL(name)

MUTANT(sound, NONE)
MUTANT(no_wait, NO_WAIT)
MUTANT(no_empty, NO_EMPTY)
MUTANT(early_release, EARLY_RELEASE)
MUTANT(no_wgmma_wait, NO_WGMMA_WAIT)
MUTANT(wrong_bytes, WRONG_BYTES)
MUTANT(other_wgmma, OTHER_WGMMA)
MUTANT(unaligned, UNALIGNED)
MUTANT(no_init, NO_INIT)

KERNEL_CLUSTER(64, 2) cluster_sound(float* out, const GRID_CONSTANT TensorMap map, u32 steps) {
    add<SOUND>(out, map, steps);
}
KERNEL_CLUSTER(64, 2) cluster_no_sync(float* out, const GRID_CONSTANT TensorMap map, u32 steps) {
    add<NO_CLUSTER_SYNC>(out, map, steps);
}
KERNEL_CLUSTER(64, 2) cluster_own_empty(float* out, const GRID_CONSTANT TensorMap map, u32 steps) {
    add<OWN_EMPTY>(out, map, steps);
}
KERNEL_CLUSTER(64, 2) cluster_leaves(float* out, const GRID_CONSTANT TensorMap map, u32 steps) {
    add<LEAVES>(out, map, steps);
}
KERNEL_CLUSTER(64, 2) cluster_no_arrive(float* out, const GRID_CONSTANT TensorMap map, u32 steps) {
    add<NO_ARRIVE>(out, map, steps);
}
KERNEL_CLUSTER(64, 2) cluster_no_block(float* out, const GRID_CONSTANT TensorMap map, u32 steps) {
    add<NO_BLOCK>(out, map, steps);
}
REGISTER_KERNEL(cluster_sound)
REGISTER_KERNEL(cluster_no_sync)
REGISTER_KERNEL(cluster_own_empty)
REGISTER_KERNEL(cluster_leaves)
REGISTER_KERNEL(cluster_no_arrive)
REGISTER_KERNEL(cluster_no_block)
