// Activations are float or bf16 in memory and float in registers.
#pragma once

/// The upper half of a float: 8 bits of exponent, 7 of mantissa.
struct bf16 {
    u16 bits;
};

DEVICE float to_float(float v) { return v; }

DEVICE float to_float(bf16 v) { return bits_to_float(u32(v.bits) << 16); }

template <class T> struct Convert;

template <> struct Convert<float> {
    DEVICE static float from(float v) { return v; }
};

template <> struct Convert<bf16> {
    /// Rounds to nearest even; NaN stays NaN.
    DEVICE static bf16 from(float v) {
        u32 b = float_to_bits(v);
        if ((b & 0x7fffffffu) > 0x7f800000u) return bf16{u16((b >> 16) | 0x40u)};
        return bf16{u16((b + 0x7fffu + ((b >> 16) & 1u)) >> 16)};
    }
};

/// `v` as it is stored in an activation of type T.
template <class T> DEVICE T from_float(float v) { return Convert<T>::from(v); }
