// What kernels for compute capability 9.0 have beside device.cuh. A file that includes this is compiled for sm_90a alone, and
// the launcher asks for its kernels only where they run.
//
//   KERNEL_CLUSTER(threads, blocks) name(args)   a kernel in clusters of so many blocks, which follow one another along x
//   cluster_rank()          the block's number in its cluster
//   cluster_arrive() cluster_wait()   a barrier of all threads of the cluster: each arrives, then waits until all have. It orders no
//                           accesses to memory; after it all blocks know barriers that mbarriers_ready() made known before
//   TensorMap               how bulk copies read a tensor; an argument `const GRID_CONSTANT TensorMap name`
//   mbarrier_init(b, n) mbarriers_ready()   a barrier of n arrivals a phase; makes barriers known to copies (then block_sync)
//   mbarrier_arrive(b) mbarrier_arrive_expect(b, bytes)   one arrival; `bytes` that the phase waits for as well
//   mbarrier_arrive_at(b, rank)   one arrival at the barrier in the same place of another block of the cluster
//   mbarrier_wait(b, parity)   until the phase of that parity is over; phases count from 0
//   bulk_load(to, map, x, y, z, b)   the box of a map of three axes at (x, y, z), innermost first; counts at b when it landed
//   bulk_load(to, map, c, position, b)   the same of two axes
//   bulk_load<blocks>(...)  any of these to the same place of all so many blocks of the cluster, counted at each one's barrier
//   bulk_load_im2col(to, map, c, w, h, n, off_w, off_h, b)   a column of pixels from (w, h, n) on, each moved by the offsets
//   factor(shared, leading, stride)   descriptor of a factor in shared memory with the exchange of chunks of 128-byte rows:
//                           rows along k: eight rows to the next eight are `stride` bytes; rows along m or n ("across"):
//                           64 values to the next 64 are `leading` bytes, eight k to the next eight `stride`
//   elect()                 whether this lane is the one of its warp, all of whose lanes come here, that acts for all
//   product_hold(d)         the compiler moves no access to the sums past this: before the first product, and after the last wait
//   product_fence()         before the first product, and after sums were touched by other instructions
//   product<n, across_a, across_b>(d, a, b, accumulate)   d (+)= a b: 64 x n by a warpgroup, depth 16, not there before the wait
//   product_commit() product_wait<groups>()   closes a group; waits until at most that many are under way
//   group_sync(id, threads) a barrier (1 to 15) of so many threads, whole warps
#pragma once

#include "device.cuh"

/// As `TensorMap` in src/backend/cuda/tensor_map.rs.
struct alignas(64) TensorMap {
    u64 words[16];
};

/// Values of a row of a box.
constexpr u32 BOX_ROW = 64;
/// Bytes after which the exchange of chunks repeats: boxes and factors begin at multiples.
constexpr u32 BOX_ALIGN = 1024;

#ifdef __CUDACC__
#include "cuda_sm90.cuh"
#else
#include "emulated_sm90.cuh"
#endif

DEVICE u64 factor(const void* shared, u32 leading, u32 stride) {
    u64 at = shared_address(shared);
    return (at & 0x3ffff) >> 4 | u64(leading >> 4) << 16 | u64(stride >> 4) << 32 | u64(1) << 62;
}
