// The functions of device.cuh for nvcc.
#pragma once

#define KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)
#define KERNEL_RESIDENT(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
#define KERNEL_CLUSTER(threads, blocks) \
    extern "C" __global__ void __cluster_dims__(blocks, 1, 1) __launch_bounds__(threads)
#define GRID_CONSTANT __grid_constant__
#define REGISTER_KERNEL(name)
#define DEVICE __device__ __forceinline__

#define SHARED(T, name, count) __shared__ alignas(16) T name[count]
#define DYNAMIC_SHARED(T, name)                                      \
    extern __shared__ __align__(128) unsigned char dynamic_shared[]; \
    T* name = reinterpret_cast<T*>(dynamic_shared)

constexpr u32 FULL_WARP = 0xffffffffu;

DEVICE void block_sync() { __syncthreads(); }
DEVICE void warp_sync() { __syncwarp(FULL_WARP); }

template <class T> DEVICE T shfl(T v, int lane) { return __shfl_sync(FULL_WARP, v, lane); }
template <class T> DEVICE T shfl_xor(T v, int mask) { return __shfl_xor_sync(FULL_WARP, v, mask); }
template <class T> DEVICE T shfl_down(T v, int delta) { return __shfl_down_sync(FULL_WARP, v, delta); }
DEVICE u32 warp_ballot(bool p) { return __ballot_sync(FULL_WARP, p); }

DEVICE void atomic_add(u32* p, u32 v) { atomicAdd(p, v); }
DEVICE void atomic_add(u64* p, u64 v) { atomicAdd(p, v); }
DEVICE void atomic_max(u32* p, u32 v) { atomicMax(p, v); }
DEVICE void atomic_max(u64* p, u64 v) { atomicMax(p, v); }

DEVICE u32 float_to_bits(float v) { return __float_as_uint(v); }
DEVICE float bits_to_float(u32 v) { return __uint_as_float(v); }

DEVICE float exp2_approx(float v) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(v));
    return y;
}

DEVICE u32 round_to_bf16x2(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

/// The 32-bit address that shared-memory instructions take.
DEVICE u32 shared_address(const void* p) { return u32(__cvta_generic_to_shared(p)); }

DEVICE void copy_async16(void* shared, const void* global, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
                 : "memory");
}
DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int groups> DEVICE void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

DEVICE void ldmatrix_x4(u32 (&r)[4], const void* shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared))
                 : "memory");
}
DEVICE void ldmatrix_x4_trans(u32 (&r)[4], const void* shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared))
                 : "memory");
}
DEVICE void mma_m16n8k16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
