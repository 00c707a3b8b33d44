// Blocks that work on channels over many positions of an NHWC activation. A block's 256 threads form rows of `lanes`
// threads (a power of two) along the channels, each `width` channels wide; row r takes every (256 / lanes)-th position.
// So loads of a row are contiguous, per-channel values stay in registers, and a reduction ends in one tree over the
// rows.
#pragma once

#include "vector.cuh"

/// Threads of a block.
constexpr int ROW_BLOCK = 256;

/// Floats of shared memory that `sum_rows` needs for VECTOR<T> channels per thread.
template <class T> constexpr int ROW_SCRATCH = ROW_BLOCK * VECTOR<T>;

/// Sums `v` over the rows of the block, the same bits in every row. All threads of the block must call, and may use
/// `scratch` again at once.
template <int width, class V> DEVICE void sum_rows(V (&v)[width], V* scratch, u32 lanes) {
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

/// A thread's work where block x of the grid is a slab of lanes * width channels and block y a part of the positions:
/// channels from `channel`, positions `from`, `from + step`, ... below `to`. The block's part is `begin` to `to`. Some
/// channels, positions and whole parts may lie past the end.
struct Share {
    u32 channel, begin, from, to, step;
};

/// Positions per part; the last parts may be shorter or empty.
DEVICE u32 part_len(u32 positions, u32 parts) { return (positions + parts - 1) / parts; }

template <int width> DEVICE Share thread_share(u32 positions, u32 lanes) {
    u32 part = part_len(positions, gridDim.y), begin = blockIdx.y * part;
    u32 to = positions < begin + part ? positions : begin + part;
    u32 channel = (blockIdx.x * lanes + threadIdx.x % lanes) * width;
    return Share{channel, begin, begin + threadIdx.x / lanes, to, ROW_BLOCK / lanes};
}
