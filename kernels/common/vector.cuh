// Vectorised loads and stores, and division of a flat index.
#pragma once

#include "device.cuh"

/// Values of type T in 16 bytes, the widest access.
template <class T> constexpr int VECTOR = 16 / sizeof(T);

/// A compile-time integer that is passed as a value.
template <int value> struct Constant {
    constexpr operator int() const { return value; }
};

/// Calls `f` with the vector width for runs of `len` values: VECTOR<T> where that divides `len`, else 1.
/// `f` should capture by value: captured references cost registers in some kernels.
template <class T, class F> DEVICE void with_width(u32 len, F f) {
    if (len % VECTOR<T> == 0) {
        f(Constant<VECTOR<T>>());
    } else {
        f(Constant<1>());
    }
}

/// `width` values that move as one; their address must be a multiple of their size.
template <class T, int width> struct alignas(width * sizeof(T)) Pack {
    T v[width];
};

/// `width` values from `p` as they are stored.
template <int width, class T> DEVICE Pack<T, width> load_pack(const T* p) {
    return *reinterpret_cast<const Pack<T, width>*>(p);
}

/// Writes `width` values at `p`.
template <int width, class T> DEVICE void store_pack(T* p, const Pack<T, width>& pack) {
    *reinterpret_cast<Pack<T, width>*>(p) = pack;
}

/// `width` values from `p` as floats.
template <int width, class T> DEVICE void load(float (&v)[width], const T* p) {
    Pack<T, width> pack = load_pack<width>(p);
#pragma unroll
    for (int i = 0; i < width; ++i) v[i] = to_float(pack.v[i]);
}

/// Writes `width` floats at `p`, rounded to T.
template <int width, class T> DEVICE void store(T* p, const float (&v)[width]) {
    Pack<T, width> pack;
#pragma unroll
    for (int i = 0; i + 1 < width; i += 2) store_pair(pack.v + i, v[i], v[i + 1]);
    if (width % 2 == 1) pack.v[width - 1] = from_float<T>(v[width - 1]);
    store_pack<width>(p, pack);
}

/// Index of the thread in the grid, along x.
DEVICE u64 grid_thread() { return blockIdx.x * u64(blockDim.x) + threadIdx.x; }

/// The number of threads of the grid, along x.
DEVICE u64 grid_threads() { return u64(gridDim.x) * blockDim.x; }

/// Divides `i` by `len` and returns the remainder: splits the fastest index off a flat one. Nearly all indices fit in
/// 32 bits. Others are divided bit by bit: the compiler's 64-bit division is a call, which costs registers even where
/// it is not taken.
DEVICE u32 split(u64& i, u32 len) {
    if (i >> 32) {
        u64 rest = 0;
#pragma unroll 1
        for (int step = 0; step < 64; ++step) {
            rest = rest << 1 | i >> 63;
            bool fits = rest >= len;
            rest -= fits ? len : 0;
            i = i << 1 | u64(fits);
        }
        return u32(rest);
    }
    u32 flat = u32(i), quotient = flat / len;
    i = quotient;
    return flat - quotient * len;
}
