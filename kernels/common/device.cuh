// The one header that kernels include. The same kernel text is compiled by nvcc (cuda.cuh: PTX) and by the host's C++
// compiler (emulated.cuh: what each instruction means), so nothing else may use asm, raw __shared__ or CUDA headers.
//
//   KERNEL(threads) name(args)     a kernel that is launched with at most `threads` threads per block
//   KERNEL_RESIDENT(threads, blocks) name(args)   the same with few enough registers for that many resident blocks per
//                                  multiprocessor
//   const GRID_CONSTANT Struct name   an argument that functions take by reference without a copy to local memory
//   REGISTER_KERNEL(name)          adds it to the emulator's list of kernels; once per kernel, at the end of the file
//   DEVICE                         a function that kernels call
//   SHARED(T, name, count)         an array in shared memory; DYNAMIC_SHARED(T, name) the part sized at launch
//   threadIdx blockIdx blockDim gridDim   as in CUDA
//   block_sync(), warp_sync()      barriers of all threads of the block, of the warp
//   shfl(v, lane) shfl_xor(v, m) shfl_down(v, d) warp_ballot(p)   within a full warp; v is a 32-bit or a 64-bit value
//   atomic_add(p, v) atomic_max(p, v)   on u32 and u64 only: sums of floats must not depend on order
//   exp2_approx(v)                 2^v within 2 ulp, 0 where that is below 2^-126
//   round_to_bf16x2(low, high)     both rounded to nearest even, packed; NaN becomes 0x7fff
//   copy_async16(shared, global, bytes)   16 bytes to shared memory, the last 16 - bytes of them zero; 0 reads nothing
//   copy_async_commit() copy_async_wait<n>()   closes a group; waits until at most n groups are in flight
//   ldmatrix_x4(r, shared) ldmatrix_x4_trans(r, shared)   four 8x8 matrices of 16-bit values, one row address per lane
//   mma_m16n8k16(d, a, b)          d += a b of bf16 fragments, accumulated in float
#pragma once

#include "types.cuh"

#ifdef __CUDACC__
#include "cuda.cuh"
#else
#include "emulated.cuh"
#endif

#include "bf16.cuh"
