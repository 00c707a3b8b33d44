// Confusion matrix of label maps: counts [classes, classes], row = target, column = prediction. Pixels whose target or
// prediction is no class do not count, nor do those whose confidence, float [pixels] or null, is below the threshold.
// Integer sums do not depend on order, so atomics add them.
#include "common/vector.cuh"

/// Labels that a thread takes at a time.
constexpr int WIDTH = 16;

/// Adds the labels of a run to `counts`, of 32 bits in shared memory or of 64 bits in global memory.
template <int width, class Count>
DEVICE void count_run(Count* counts, const u8* pred, const u8* target, const float* confidence, u32 classes,
                      float threshold) {
    Pack<u8, width> p = load_pack<width>(pred), t = load_pack<width>(target);
    // Confidences come 16 bytes at a time, or one.
    constexpr int FLOATS = width < VECTOR<float> ? width : VECTOR<float>;
#pragma unroll
    for (int first = 0; first < width; first += FLOATS) {
        Pack<float, FLOATS> c;
#pragma unroll
        for (int k = 0; k < FLOATS; ++k) c.v[k] = threshold;
        if (confidence) c = load_pack<FLOATS>(confidence + first);
#pragma unroll
        for (int k = 0; k < FLOATS; ++k) {
            u32 row = t.v[first + k], column = p.v[first + k];
            if (row < classes && column < classes && c.v[k] >= threshold) {
                atomic_add(counts + row * classes + column, Count(1));
            }
        }
    }
}

template <class Count>
DEVICE void count_labels(Count* counts, const u8* pred, const u8* target, const float* confidence, u64 len, u32 classes,
                         float threshold) {
    u64 runs = len / WIDTH;
    for (u64 i = grid_thread() * WIDTH; i < runs * WIDTH; i += grid_threads() * WIDTH) {
        count_run<WIDTH>(counts, pred + i, target + i, confidence ? confidence + i : nullptr, classes, threshold);
    }
    for (u64 i = runs * WIDTH + grid_thread(); i < len; i += grid_threads()) {
        count_run<1>(counts, pred + i, target + i, confidence ? confidence + i : nullptr, classes, threshold);
    }
}

/// `counts` must be zero. Each block counts in shared memory of classes² words first; it sees fewer than 2^32 pixels.
KERNEL(256)
confusion_matrix_shared(u64* counts, const u8* pred, const u8* target, const float* confidence, u64 len, u32 classes,
                        float threshold) {
    DYNAMIC_SHARED(u32, histogram);
    for (u32 i = threadIdx.x; i < classes * classes; i += blockDim.x) histogram[i] = 0;
    block_sync();
    count_labels(histogram, pred, target, confidence, len, classes, threshold);
    block_sync();
    for (u32 i = threadIdx.x; i < classes * classes; i += blockDim.x) {
        if (histogram[i]) atomic_add(counts + i, u64(histogram[i]));
    }
}

/// The same for matrices that do not fit into shared memory.
KERNEL(256)
confusion_matrix_global(u64* counts, const u8* pred, const u8* target, const float* confidence, u64 len, u32 classes,
                        float threshold) {
    count_labels(counts, pred, target, confidence, len, classes, threshold);
}
REGISTER_KERNEL(confusion_matrix_shared)
REGISTER_KERNEL(confusion_matrix_global)
