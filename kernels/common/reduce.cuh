// Reductions over a warp and over a block, in an order that depends on the number of threads alone.
#pragma once

#include "device.cuh"

/// Sum over the warp, the same bits in every lane: each step adds the same two values in both lanes of a pair.
template <class T> DEVICE T warp_sum(T v) {
#pragma unroll
    for (int mask = 16; mask > 0; mask >>= 1) v += shfl_xor(v, mask);
    return v;
}

/// Sum over a block of `threads` threads (a multiple of 32, along x), the same bits in every thread. `scratch` holds
/// threads / 32 values in shared memory; all threads of the block must call, and may use `scratch` again at once.
template <int threads, class T> DEVICE T block_sum(T v, T* scratch) {
    static_assert(threads % 32 == 0 && threads <= 1024, "full warps");
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
    block_sync();
    T sum = scratch[0];
#pragma unroll
    for (int i = 1; i < threads / 32; ++i) sum += scratch[i];
    block_sync();
    return sum;
}
