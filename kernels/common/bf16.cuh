// Activations are float or bf16 in memory and float in registers.
#pragma once

/// Two values that are loaded and stored as one.
template <class T> struct alignas(2 * sizeof(T)) Pair {
    T x, y;
};

/// The upper half of a float: 8 bits of exponent, 7 of mantissa.
struct bf16 {
    u16 bits;
};

DEVICE float to_float(float v) { return v; }

DEVICE float to_float(bf16 v) { return bits_to_float(u32(v.bits) << 16); }

template <class T> struct Convert;

template <> struct Convert<float> {
    DEVICE static float from(float v) { return v; }
    DEVICE static void store(float* to, float x, float y) { *reinterpret_cast<Pair<float>*>(to) = {x, y}; }
};

template <> struct Convert<bf16> {
    DEVICE static bf16 from(float v) { return {u16(round_to_bf16x2(v, 0.0f))}; }
    /// As one word: naming the halves would cost instructions to split and join them.
    DEVICE static void store(bf16* to, float x, float y) { *reinterpret_cast<u32*>(to) = round_to_bf16x2(x, y); }
};

/// `v` rounded to T.
template <class T> DEVICE T from_float(float v) { return Convert<T>::from(v); }

/// Writes x to to[0] and y to to[1]; `to` is aligned to both.
template <class T> DEVICE void store_pair(T* to, float x, float y) { Convert<T>::store(to, x, y); }
