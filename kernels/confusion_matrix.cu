// Confusion matrix of label maps: counts [classes, classes], row = target, column = prediction. Pixels whose target or
// prediction is no class do not count. Integer sums do not depend on order, so atomics add them.
#include "common/vector.cuh"

/// Labels that a thread takes at a time.
constexpr int WIDTH = 16;

/// Adds the labels of a run to `counts`, of 32 bits in shared memory or of 64 bits in global memory.
template <int width, class Count> DEVICE void count_run(Count* counts, const u8* pred, const u8* target, u32 classes) {
    Pack<u8, width> p = load_pack<width>(pred), t = load_pack<width>(target);
#pragma unroll
    for (int k = 0; k < width; ++k) {
        if (t.v[k] < classes && p.v[k] < classes) atomic_add(counts + t.v[k] * classes + p.v[k], Count(1));
    }
}

template <class Count>
DEVICE void count_labels(Count* counts, const u8* pred, const u8* target, u64 len, u32 classes) {
    u64 runs = len / WIDTH;
    for (u64 i = grid_thread(); i < runs; i += grid_threads()) {
        count_run<WIDTH>(counts, pred + i * WIDTH, target + i * WIDTH, classes);
    }
    for (u64 i = runs * WIDTH + grid_thread(); i < len; i += grid_threads()) {
        count_run<1>(counts, pred + i, target + i, classes);
    }
}

/// `counts` must be zero. Each block counts in shared memory of classes² words first; it sees fewer than 2^32 pixels.
KERNEL(256) confusion_matrix_shared(u64* counts, const u8* pred, const u8* target, u64 len, u32 classes) {
    DYNAMIC_SHARED(u32, histogram);
    for (u32 i = threadIdx.x; i < classes * classes; i += blockDim.x) histogram[i] = 0;
    block_sync();
    count_labels(histogram, pred, target, len, classes);
    block_sync();
    for (u32 i = threadIdx.x; i < classes * classes; i += blockDim.x) {
        if (histogram[i]) atomic_add(counts + i, u64(histogram[i]));
    }
}

/// For matrices that shared memory does not hold.
KERNEL(256) confusion_matrix_global(u64* counts, const u8* pred, const u8* target, u64 len, u32 classes) {
    count_labels(counts, pred, target, len, classes);
}
REGISTER_KERNEL(confusion_matrix_shared)
REGISTER_KERNEL(confusion_matrix_global)
