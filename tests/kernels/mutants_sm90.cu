// Kernels with one fault each in what device_sm90.cuh offers; `sound` has none. Compiled for the host alone.
#include "common/device_sm90.cuh"

constexpr u32 BOX_BYTES = BOX_ROW * 2 * BOX_ROW;
constexpr u32 PLACES = 2;

/// What a kernel does wrong.
enum Fault { NONE, NO_WAIT, NO_EMPTY, EARLY_RELEASE, NO_PRODUCT_WAIT, WRONG_BYTES, OTHER_PRODUCT, UNALIGNED, NO_INIT };

/// d[64, 64] = the sum over `steps` boxes of 64 columns of a b, both [64, 64 steps] with rows along k: a warpgroup multiplies,
/// one warp copies.
template <Fault fault> DEVICE void multiply(float* d, const TensorMap& a_map, const TensorMap& b_map, u32 steps) {
    DYNAMIC_SHARED(u8, tiles);
    SHARED(u64, full, PLACES);
    SHARED(u64, empty, PLACES);
    if (threadIdx.x == 0 && fault != NO_INIT) {
        for (u32 i = 0; i < PLACES; ++i) {
            mbarrier_init(&full[i], 1);
            mbarrier_init(&empty[i], 4);
        }
        mbarriers_ready();
    }
    block_sync();
    if (threadIdx.x >= 128) {
        for (u32 i = 0; threadIdx.x == 128 && i < steps; ++i) {
            u32 place = i % PLACES;
            if (fault != NO_EMPTY) mbarrier_wait(&empty[place], i / PLACES % 2 ^ 1);
            mbarrier_arrive_expect(&full[place], 2 * BOX_BYTES + (fault == WRONG_BYTES ? 16 : 0));
            u8* to = tiles + place * 2 * BOX_BYTES + (fault == UNALIGNED ? 128 : 0);
            bulk_load(to, a_map, i32(i * BOX_ROW), 0, &full[place]);
            bulk_load(to + BOX_BYTES, b_map, i32(i * BOX_ROW), 0, &full[place]);
        }
        return;
    }
    float sums[32];
    for (u32 i = 0; i < steps; ++i) {
        u32 place = i % PLACES;
        if (fault != NO_WAIT) mbarrier_wait(&full[place], i / PLACES % 2);
        u8* at = tiles + place * 2 * BOX_BYTES;
        u64 a = factor(at, BOX_BYTES, BOX_ALIGN), b = factor(at + BOX_BYTES, BOX_BYTES, BOX_ALIGN);
        product_fence();
        for (u32 k = 0; k < 4; ++k) {
            u32 slice = fault == OTHER_PRODUCT && threadIdx.x >= 96 ? 3 - k : k;
            product<64, false, false>(sums, a + 2 * slice, b + 2 * slice, i + k > 0);
        }
        product_commit();
        if (fault == EARLY_RELEASE) {
            warp_sync();
        } else if (fault != NO_PRODUCT_WAIT) {
            product_wait<0>();
        }
        if (threadIdx.x % 32 == 0) mbarrier_arrive(&empty[place]);
    }
    if (fault != NO_PRODUCT_WAIT) product_wait<0>();
    u32 row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, col = threadIdx.x % 4 * 2;
    for (u32 i = 0; i < 32; ++i) d[(row + i / 2 % 2 * 8) * 64 + col + i / 4 * 8 + i % 2] = sums[i];
}

#define MUTANT(name, fault)                                                                                           \
    KERNEL(160)                                                                                                       \
    name(float* d, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b, u32 steps) {                     \
        multiply<fault>(d, a, b, steps);                                                                              \
    }                                                                                                                 \
    REGISTER_KERNEL(name)

MUTANT(sound, NONE)
MUTANT(no_wait, NO_WAIT)
MUTANT(no_empty, NO_EMPTY)
MUTANT(early_release, EARLY_RELEASE)
MUTANT(no_product_wait, NO_PRODUCT_WAIT)
MUTANT(wrong_bytes, WRONG_BYTES)
MUTANT(other_product, OTHER_PRODUCT)
MUTANT(unaligned, UNALIGNED)
MUTANT(no_init, NO_INIT)
