// Kernels that show what device_sm90.cuh promises; tools/lab/src/check/selftest/warpgroups.rs says what each must give.
#include "common/device_sm90.cuh"

constexpr u32 ROW_BYTES = 2 * BOX_ROW, BOX_BYTES = BOX_ROW * ROW_BYTES;

/// Shared memory from the next multiple of what boxes are aligned to.
DEVICE u8* aligned(u8* shared) {
    u32 at = shared_address(shared);
    return shared + ((at + BOX_ALIGN - 1) / BOX_ALIGN * BOX_ALIGN - at);
}

/// One box as it lies in shared memory: out[rows, 64]. Forms: 0 and 1 of two and three axes, 2 a column of pixels.
KERNEL(32)
bulk(u16* out, const GRID_CONSTANT TensorMap map, u32 form, u32 rows, i32 c0, i32 c1, i32 c2, i32 c3, u32 off_w,
     u32 off_h) {
    DYNAMIC_SHARED(u8, shared);
    SHARED(u64, barrier, 1);
    u16* box = reinterpret_cast<u16*>(aligned(shared));
    if (threadIdx.x == 0) {
        mbarrier_init(barrier, 1);
        mbarriers_ready();
    }
    block_sync();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(barrier, rows * ROW_BYTES);
        if (form == 0) bulk_load(box, map, c0, c1, barrier);
        if (form == 1) bulk_load(box, map, c0, c1, c2, barrier);
        if (form == 2) bulk_load_im2col(box, map, c0, c1, c2, c3, off_w, off_h, barrier);
    }
    mbarrier_wait(barrier, 0);
    for (u32 i = threadIdx.x; i < rows * BOX_ROW; i += 32) out[i] = box[i];
}

/// out[column] = the sum of all rows of a matrix of 64 columns, which come eight at a time through two places: a warp copies,
/// two warps add.
KERNEL(96) bulk_ring(float* out, const GRID_CONSTANT TensorMap map, u32 boxes) {
    DYNAMIC_SHARED(u8, shared);
    SHARED(u64, full, 2);
    SHARED(u64, empty, 2);
    SHARED(float, sums, 64);
    u8* places = aligned(shared);
    if (threadIdx.x == 0) {
        for (u32 i = 0; i < 2; ++i) {
            mbarrier_init(&full[i], 1);
            mbarrier_init(&empty[i], 2);
        }
        mbarriers_ready();
    }
    block_sync();
    if (threadIdx.x >= 64) {
        for (u32 i = 0; threadIdx.x == 64 && i < boxes; ++i) {
            mbarrier_wait(&empty[i % 2], i / 2 % 2 ^ 1);
            mbarrier_arrive_expect(&full[i % 2], 8 * ROW_BYTES);
            bulk_load(places + i % 2 * BOX_ALIGN, map, 0, i32(8 * i), &full[i % 2]);
        }
    } else {
        float sum = 0.0f;
        for (u32 i = 0; i < boxes; ++i) {
            mbarrier_wait(&full[i % 2], i / 2 % 2);
            const u8* box = places + i % 2 * BOX_ALIGN;
            for (u32 row = 0; row < 8; ++row) {
                u32 chunk = threadIdx.x / 8 ^ row;
                sum += to_float(reinterpret_cast<const bf16*>(box + row * ROW_BYTES + chunk * 16)[threadIdx.x % 8]);
            }
            warp_sync();
            if (threadIdx.x % 32 == 0) mbarrier_arrive(&empty[i % 2]);
        }
        // In reverse, so that each warp waits for the other.
        sums[63 - threadIdx.x] = sum;
        group_sync(1, 64);
        out[threadIdx.x] = sums[63 - threadIdx.x];
    }
}

/// out[block, column] = the sum over rows r of a matrix of 64 columns, each r / 8 % 2 + 1 times, for both blocks of each cluster: rows
/// come sixteen at a time, eight by the copies of each block to both.
KERNEL_CLUSTER(64, 2) cluster_ring(float* out, const GRID_CONSTANT TensorMap map, u32 boxes) {
    DYNAMIC_SHARED(u8, shared);
    SHARED(u64, barriers, 2);
    u64 *full = barriers, *empty = barriers + 1;
    u8* place = aligned(shared);
    if (threadIdx.x == 0) {
        mbarrier_init(full, 1);
        mbarrier_init(empty, 2);
        mbarriers_ready();
    }
    cluster_arrive();
    cluster_wait();
    if (threadIdx.x >= 32) {
        for (u32 i = 0; threadIdx.x == 32 && i < boxes; ++i) {
            mbarrier_wait(empty, i % 2 ^ 1);
            mbarrier_arrive_expect(full, 16 * ROW_BYTES);
            bulk_load<2>(place + cluster_rank() * BOX_ALIGN, map, 0, i32(16 * i + 8 * cluster_rank()), full);
        }
    } else {
        float sums[2] = {};
        for (u32 i = 0; i < boxes; ++i) {
            mbarrier_wait(full, i % 2);
            for (u32 row = 0; row < 16; ++row) {
                for (u32 j = 0; j < 2; ++j) {
                    u32 column = threadIdx.x + 32 * j, chunk = column / 8 ^ row % 8;
                    const bf16* values = reinterpret_cast<const bf16*>(place + row * ROW_BYTES + chunk * 16);
                    sums[j] += float(row / 8 + 1) * to_float(values[column % 8]);
                }
            }
            warp_sync();
            if (threadIdx.x < 2) mbarrier_arrive_at(empty, threadIdx.x);
        }
        for (u32 j = 0; j < 2; ++j) out[blockIdx.x * BOX_ROW + threadIdx.x + 32 * j] = sums[j];
    }
    cluster_arrive();
    cluster_wait();
}

/// d[64, n] = 2 a b over a depth of 64, a and b as they come by bulk copies of boxes of 64 rows: rows along k, or across.
template <int n, bool across_a, bool across_b>
DEVICE void products(float* d, const TensorMap& a_map, const TensorMap& b_map, u8* shared) {
    SHARED(u64, barrier, 1);
    u8 *a_tile = aligned(shared), *b_tile = a_tile + BOX_BYTES;
    if (threadIdx.x == 0) {
        mbarrier_init(barrier, 1);
        mbarriers_ready();
        mbarrier_arrive_expect(barrier, BOX_BYTES + n / BOX_ROW * BOX_BYTES);
        bulk_load(a_tile, a_map, 0, 0, barrier);
        for (u32 j = 0; j < n / BOX_ROW; ++j) {
            i32 first = i32(j * BOX_ROW);
            bulk_load(b_tile + j * BOX_BYTES, b_map, across_b ? first : 0, across_b ? 0 : first, barrier);
        }
    }
    block_sync();
    mbarrier_wait(barrier, 0);
    // Sixteen k are 32 bytes of a row, or 16 rows.
    constexpr u32 STEP_A = across_a ? 16 * ROW_BYTES : 32, STEP_B = across_b ? 16 * ROW_BYTES : 32;
    u64 a = factor(a_tile, BOX_BYTES, BOX_ALIGN), b = factor(b_tile, BOX_BYTES, BOX_ALIGN);
    float sums[n / 2];
    product_fence();
#pragma unroll
    for (u32 i = 0; i < 8; ++i) {
        u32 k = i % 4;
        product<n, across_a, across_b>(sums, a + k * (STEP_A / 16), b + k * (STEP_B / 16), i > 0);
        if (i == 3) product_commit();
    }
    product_commit();
    product_wait<0>();
    u32 row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, col = threadIdx.x % 4 * 2;
    for (u32 i = 0; i < n / 2; ++i) d[(row + i / 2 % 2 * 8) * n + col + i / 4 * 8 + i % 2] = sums[i];
}

KERNEL(128) products_64(float* d, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b) {
    DYNAMIC_SHARED(u8, shared);
    products<64, false, false>(d, a, b, shared);
}
KERNEL(128) products_64_across_b(float* d, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b) {
    DYNAMIC_SHARED(u8, shared);
    products<64, false, true>(d, a, b, shared);
}
KERNEL(128) products_64_across(float* d, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b) {
    DYNAMIC_SHARED(u8, shared);
    products<64, true, true>(d, a, b, shared);
}
KERNEL(128) products_128(float* d, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b) {
    DYNAMIC_SHARED(u8, shared);
    products<128, false, false>(d, a, b, shared);
}
KERNEL(128) products_128_across_b(float* d, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b) {
    DYNAMIC_SHARED(u8, shared);
    products<128, false, true>(d, a, b, shared);
}
KERNEL(128) products_128_across(float* d, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b) {
    DYNAMIC_SHARED(u8, shared);
    products<128, true, true>(d, a, b, shared);
}

REGISTER_KERNEL(bulk)
REGISTER_KERNEL(bulk_ring)
REGISTER_KERNEL(cluster_ring)
REGISTER_KERNEL(products_64)
REGISTER_KERNEL(products_64_across_b)
REGISTER_KERNEL(products_64_across)
REGISTER_KERNEL(products_128)
REGISTER_KERNEL(products_128_across_b)
REGISTER_KERNEL(products_128_across)
