// What kernels for compute capability 9.0 have in addition to device.cuh. A file that includes this is compiled for
// sm_90a alone, and the launcher asks for its kernels only where they run.
//
//   KERNEL_CLUSTER(threads, blocks) name(args)   a kernel in clusters of that many blocks along x
//   cluster_rank()          the block's rank in its cluster
//   cluster_arrive() cluster_wait()   the two halves of a barrier of all threads of the cluster. It orders no accesses
//                           to memory; mbarriers that were initialised and fenced before it are visible to all blocks
//                           after it
//   TensorMap               descriptor of a tensor for TMA; an argument `const GRID_CONSTANT TensorMap name`
//   mbarrier_init(b, n)     an mbarrier of n arrivals per phase
//   fence_mbarrier_init()   makes initialised mbarriers visible to the cluster and to TMA; a block_sync has to follow
//   mbarrier_arrive(b) mbarrier_arrive_expect_tx(b, bytes)   one arrival; `bytes` that the phase waits for as well
//   mbarrier_arrive_cluster(b, rank)   one arrival at the mbarrier at the same offset in another block of the cluster
//   mbarrier_wait(b, parity)   until the phase of that parity has completed; phases count from 0
//   tma_load(to, map, x, y, z, b)   the box of a 3-D map at (x, y, z), innermost first; completes its bytes at b
//   tma_load(to, map, x, y, b)   the same of a 2-D map
//   tma_load_im2col(to, map, c, w, h, n, off_w, off_h, b)   a column of pixels from (w, h, n) on, moved by the offsets
//   tma_load<blocks>(...)   any of these as a multicast to the same offset in all blocks of a cluster of that size;
//                           completes at each block's mbarrier
//   matrix_descriptor(shared, leading, stride)   of a WGMMA operand with 128-byte swizzle. K-major: `stride` is the
//                           bytes from eight rows to the next eight. MN-major: `leading` is the bytes from 64 values to
//                           the next 64, `stride` those from eight k to the next eight
//   elect_one()             true in one lane of a converged warp
//   wgmma_fence_operand(d)  keeps the compiler from moving accesses to the accumulators across it: before the first
//                           WGMMA, and after the last wait
//   wgmma_fence()           before the first WGMMA, and after other instructions touched the accumulators
//   wgmma<n, mn_major_a, mn_major_b>(d, a, b, accumulate)   d (+)= a b: m64 n k16 by a warpgroup, asynchronous
//   wgmma_commit_group() wgmma_wait_group<groups>()   closes a group; waits until at most that many are in flight
//   named_barrier_sync(id, threads)   a barrier (1 to 15) of that many threads, whole warps
#pragma once

#include "device.cuh"

/// As `TensorMap` in src/backend/cuda/tensor_map.rs.
struct alignas(64) TensorMap {
    u64 words[16];
};

/// Values in a row of a box: 128 bytes, the span of the swizzle.
constexpr u32 BOX_ROW = 64;
/// Bytes after which the 128-byte swizzle repeats: boxes and WGMMA operands begin at multiples.
constexpr u32 BOX_ALIGN = 1024;

#ifdef __CUDACC__
#include "cuda_sm90.cuh"
#else
#include "emulated_sm90.cuh"
#endif

DEVICE u64 matrix_descriptor(const void* shared, u32 leading, u32 stride) {
    u64 at = shared_address(shared);
    return (at & 0x3ffff) >> 4 | u64(leading >> 4) << 16 | u64(stride >> 4) << 32 | u64(1) << 62;
}
