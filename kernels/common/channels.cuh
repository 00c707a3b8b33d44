// Blocks that work on channels over many positions of an NHWC activation. A block's 256 threads are rows of `lanes`
// threads (a power of two) along the channels, each `width` channels wide; the rows take positions in turn. So loads of a
// row are contiguous, what belongs to a channel stays in registers, and sums end in one tree over the rows.
#pragma once

#include "vector.cuh"

/// Threads of a block.
constexpr int ROW_BLOCK = 256;

/// Floats of shared memory that `sum_rows` needs for `width` channels a thread.
template <class T> constexpr int ROW_SCRATCH = ROW_BLOCK * VECTOR<T>;

/// Sums `v` over the rows of the block, the same bits in every row. All threads of the block must call, and may use
/// `scratch` again at once.
template <int width> DEVICE void sum_rows(float (&v)[width], float* scratch, u32 lanes) {
    u32 t = threadIdx.x;
#pragma unroll
    for (int k = 0; k < width; ++k) scratch[k * ROW_BLOCK + t] = v[k];
    block_sync();
    for (u32 half = ROW_BLOCK / 2; half >= lanes; half /= 2) {
        if (t < half) {
#pragma unroll
            for (int k = 0; k < width; ++k) scratch[k * ROW_BLOCK + t] += scratch[k * ROW_BLOCK + t + half];
        }
        block_sync();
    }
#pragma unroll
    for (int k = 0; k < width; ++k) v[k] = scratch[k * ROW_BLOCK + t % lanes];
    block_sync();
}
