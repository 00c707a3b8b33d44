// Kernels that exercise each function of device_sm90.cuh; tools/lab/src/check/selftest/warpgroups.rs has the expected
// values.
#include "common/device_sm90.cuh"

constexpr u32 ROW_BYTES = 2 * BOX_ROW, BOX_BYTES = BOX_ROW * ROW_BYTES;

/// Shared memory from the next multiple of BOX_ALIGN on.
DEVICE u8* aligned(u8* shared) {
    u32 at = shared_address(shared);
    return shared + ((at + BOX_ALIGN - 1) / BOX_ALIGN * BOX_ALIGN - at);
}

/// One box as TMA writes it to shared memory: out[rows, 64]. Forms: 0 and 1 tiled in two and three dimensions, 2
/// im2col.
KERNEL(32)
tma_box(u16* out, const GRID_CONSTANT TensorMap map, u32 form, u32 rows, i32 c0, i32 c1, i32 c2, i32 c3, u32 off_w,
        u32 off_h) {
    DYNAMIC_SHARED(u8, shared);
    SHARED(u64, barrier, 1);
    u16* box = reinterpret_cast<u16*>(aligned(shared));
    if (threadIdx.x == 0) {
        mbarrier_init(barrier, 1);
        fence_mbarrier_init();
    }
    block_sync();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect_tx(barrier, rows * ROW_BYTES);
        if (form == 0) tma_load(box, map, c0, c1, barrier);
        if (form == 1) tma_load(box, map, c0, c1, c2, barrier);
        if (form == 2) tma_load_im2col(box, map, c0, c1, c2, c3, off_w, off_h, barrier);
    }
    mbarrier_wait(barrier, 0);
    for (u32 i = threadIdx.x; i < rows * BOX_ROW; i += 32) out[i] = box[i];
}

/// out[column] = the sum of all rows of a matrix of 64 columns, which are loaded eight at a time into two stages: one
/// warp produces, two warps consume.
KERNEL(96) tma_ring(float* out, const GRID_CONSTANT TensorMap map, u32 boxes) {
    DYNAMIC_SHARED(u8, shared);
    SHARED(u64, full, 2);
    SHARED(u64, empty, 2);
    SHARED(float, sums, 64);
    u8* stages = aligned(shared);
    if (threadIdx.x == 0) {
        for (u32 i = 0; i < 2; ++i) {
            mbarrier_init(&full[i], 1);
            mbarrier_init(&empty[i], 2);
        }
        fence_mbarrier_init();
    }
    block_sync();
    if (threadIdx.x >= 64) {
        for (u32 i = 0; threadIdx.x == 64 && i < boxes; ++i) {
            mbarrier_wait(&empty[i % 2], i / 2 % 2 ^ 1);
            mbarrier_arrive_expect_tx(&full[i % 2], 8 * ROW_BYTES);
            tma_load(stages + i % 2 * BOX_ALIGN, map, 0, i32(8 * i), &full[i % 2]);
        }
    } else {
        float sum = 0.0f;
        for (u32 i = 0; i < boxes; ++i) {
            mbarrier_wait(&full[i % 2], i / 2 % 2);
            const u8* box = stages + i % 2 * BOX_ALIGN;
            for (u32 row = 0; row < 8; ++row) {
                u32 chunk = threadIdx.x / 8 ^ row;
                sum += to_float(reinterpret_cast<const bf16*>(box + row * ROW_BYTES + chunk * 16)[threadIdx.x % 8]);
            }
            warp_sync();
            if (threadIdx.x % 32 == 0) mbarrier_arrive(&empty[i % 2]);
        }
        // Reversed, so that each warp depends on the other.
        sums[63 - threadIdx.x] = sum;
        named_barrier_sync(1, 64);
        out[threadIdx.x] = sums[63 - threadIdx.x];
    }
}

/// out[block, column] = the sum over rows r of a matrix of 64 columns, each r / 8 % 2 + 1 times, for both blocks of
/// each cluster: rows are loaded sixteen at a time, eight of them by a multicast of each block.
KERNEL_CLUSTER(64, 2) cluster_ring(float* out, const GRID_CONSTANT TensorMap map, u32 boxes) {
    DYNAMIC_SHARED(u8, shared);
    SHARED(u64, barriers, 2);
    u64 *full = barriers, *empty = barriers + 1;
    u8* tile = aligned(shared);
    if (threadIdx.x == 0) {
        mbarrier_init(full, 1);
        mbarrier_init(empty, 2);
        fence_mbarrier_init();
    }
    cluster_arrive();
    cluster_wait();
    if (threadIdx.x >= 32) {
        for (u32 i = 0; threadIdx.x == 32 && i < boxes; ++i) {
            mbarrier_wait(empty, i % 2 ^ 1);
            mbarrier_arrive_expect_tx(full, 16 * ROW_BYTES);
            tma_load<2>(tile + cluster_rank() * BOX_ALIGN, map, 0, i32(16 * i + 8 * cluster_rank()), full);
        }
    } else {
        float sums[2] = {};
        for (u32 i = 0; i < boxes; ++i) {
            mbarrier_wait(full, i % 2);
            for (u32 row = 0; row < 16; ++row) {
                for (u32 j = 0; j < 2; ++j) {
                    u32 column = threadIdx.x + 32 * j, chunk = column / 8 ^ row % 8;
                    const bf16* values = reinterpret_cast<const bf16*>(tile + row * ROW_BYTES + chunk * 16);
                    sums[j] += float(row / 8 + 1) * to_float(values[column % 8]);
                }
            }
            warp_sync();
            if (threadIdx.x < 2) mbarrier_arrive_cluster(empty, threadIdx.x);
        }
        for (u32 j = 0; j < 2; ++j) out[blockIdx.x * BOX_ROW + threadIdx.x + 32 * j] = sums[j];
    }
    cluster_arrive();
    cluster_wait();
}

/// d[64, n] = 2 a b over a depth of 64, a and b loaded by TMA as boxes of 64 rows, K-major or MN-major.
template <int n, bool mn_major_a, bool mn_major_b>
DEVICE void multiply(float* d, const TensorMap& a_map, const TensorMap& b_map, u8* shared) {
    SHARED(u64, barrier, 1);
    u8 *a_tile = aligned(shared), *b_tile = a_tile + BOX_BYTES;
    if (threadIdx.x == 0) {
        mbarrier_init(barrier, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect_tx(barrier, BOX_BYTES + n / BOX_ROW * BOX_BYTES);
        tma_load(a_tile, a_map, 0, 0, barrier);
        for (u32 j = 0; j < n / BOX_ROW; ++j) {
            i32 first = i32(j * BOX_ROW);
            tma_load(b_tile + j * BOX_BYTES, b_map, mn_major_b ? first : 0, mn_major_b ? 0 : first, barrier);
        }
    }
    block_sync();
    mbarrier_wait(barrier, 0);
    // A k16 slice is 32 bytes of a row, or 16 rows.
    constexpr u32 STEP_A = mn_major_a ? 16 * ROW_BYTES : 32, STEP_B = mn_major_b ? 16 * ROW_BYTES : 32;
    u64 a = matrix_descriptor(a_tile, BOX_BYTES, BOX_ALIGN), b = matrix_descriptor(b_tile, BOX_BYTES, BOX_ALIGN);
    float acc[n / 2];
    wgmma_fence();
#pragma unroll
    for (u32 i = 0; i < 8; ++i) {
        u32 k = i % 4;
        wgmma<n, mn_major_a, mn_major_b>(acc, a + k * (STEP_A / 16), b + k * (STEP_B / 16), i > 0);
        if (i == 3) wgmma_commit_group();
    }
    wgmma_commit_group();
    wgmma_wait_group<0>();
    u32 row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, col = threadIdx.x % 4 * 2;
    for (u32 i = 0; i < n / 2; ++i) d[(row + i / 2 % 2 * 8) * n + col + i / 4 * 8 + i % 2] = acc[i];
}

KERNEL(128) wgmma_64(float* d, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b) {
    DYNAMIC_SHARED(u8, shared);
    multiply<64, false, false>(d, a, b, shared);
}
KERNEL(128) wgmma_64_mn_major_b(float* d, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b) {
    DYNAMIC_SHARED(u8, shared);
    multiply<64, false, true>(d, a, b, shared);
}
KERNEL(128) wgmma_64_mn_major(float* d, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b) {
    DYNAMIC_SHARED(u8, shared);
    multiply<64, true, true>(d, a, b, shared);
}
KERNEL(128) wgmma_128(float* d, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b) {
    DYNAMIC_SHARED(u8, shared);
    multiply<128, false, false>(d, a, b, shared);
}
KERNEL(128) wgmma_128_mn_major_b(float* d, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b) {
    DYNAMIC_SHARED(u8, shared);
    multiply<128, false, true>(d, a, b, shared);
}
KERNEL(128) wgmma_128_mn_major(float* d, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b) {
    DYNAMIC_SHARED(u8, shared);
    multiply<128, true, true>(d, a, b, shared);
}

REGISTER_KERNEL(tma_box)
REGISTER_KERNEL(tma_ring)
REGISTER_KERNEL(cluster_ring)
REGISTER_KERNEL(wgmma_64)
REGISTER_KERNEL(wgmma_64_mn_major_b)
REGISTER_KERNEL(wgmma_64_mn_major)
REGISTER_KERNEL(wgmma_128)
REGISTER_KERNEL(wgmma_128_mn_major_b)
REGISTER_KERNEL(wgmma_128_mn_major)
