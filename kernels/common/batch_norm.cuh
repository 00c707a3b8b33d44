// What a batch norm's passes and the convolutions beside them know of it.
#pragma once

#include "vector.cuh"

/// A layer's parameters and statistics, a value a channel each.
struct Norm {
    const float *weight, *bias, *mean;
    /// The running variance where `frozen`, else 1 / sqrt(var + eps).
    const float* spread;
    float eps;
    u32 frozen;
};

DEVICE float inverse(const Norm& norm, u32 channel) {
    float spread = norm.spread[channel];
    return norm.frozen ? 1.0f / sqrtf(spread + norm.eps) : spread;
}

/// Multiplies g by the activation's derivative where its output is y; the identity (slope 1) needs no y.
template <int width, class T> DEVICE void mask(float (&g)[width], const T* y, float slope) {
    if (slope == 1.0f) return;
    float v[width];
    load(v, y);
#pragma unroll
    for (int k = 0; k < width; ++k) g[k] = v[k] > 0.0f ? g[k] : slope * g[k];
}

/// What a batch norm does to `width` channels, in registers: scale (x - mean) + shift.
template <int width> struct Affine {
    float scale[width] = {}, mean[width] = {}, shift[width] = {};

    /// Of the channels from `channel` on.
    DEVICE void load(const Norm& norm, u32 channel) {
#pragma unroll
        for (u32 k = 0; k < u32(width); ++k) {
            scale[k] = norm.weight[channel + k] * inverse(norm, channel + k);
            mean[k] = norm.mean[channel + k];
            shift[k] = norm.bias[channel + k];
        }
    }
};

/// act of the normalised v, plus r before the activation.
template <int width>
DEVICE void normalise(float (&v)[width], const float (&r)[width], const Affine<width>& affine, float slope) {
#pragma unroll
    for (int k = 0; k < width; ++k) {
        float out = affine.scale[k] * (v[k] - affine.mean[k]) + affine.shift[k] + r[k];
        v[k] = out > 0.0f ? out : slope * out;
    }
}

/// g times the derivative of a frozen batch norm and its activation, whose output is y.
template <int width, class T>
DEVICE void scale_and_mask(float (&g)[width], const T* y, const Affine<width>& affine, float slope) {
    mask(g, y, slope);
#pragma unroll
    for (int k = 0; k < width; ++k) g[k] *= affine.scale[k];
}

/// `mask` where there is no y to read: the sign of what the forward pass made of x, by the same arithmetic.
template <int width>
DEVICE void mask_again(float (&g)[width], const float (&x)[width], const Affine<width>& affine, float slope) {
#pragma unroll
    for (int k = 0; k < width; ++k) {
        g[k] = affine.scale[k] * (x[k] - affine.mean[k]) + affine.shift[k] > 0.0f ? g[k] : slope * g[k];
    }
}
