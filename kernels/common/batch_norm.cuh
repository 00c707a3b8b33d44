// A batch norm and its activation in registers, for the batch norm kernels and the epilogues of convolutions.
#pragma once

#include "vector.cuh"

/// A layer's parameters and statistics, one value per channel each.
struct Norm {
    const float *weight, *bias, *mean;
    /// The running variance where `frozen`, else 1 / sqrt(var + eps).
    const float* var_or_inv;
    float eps;
    u32 frozen;
};

DEVICE float inverse(const Norm& norm, u32 channel) {
    float var_or_inv = norm.var_or_inv[channel];
    return norm.frozen ? 1.0f / sqrtf(var_or_inv + norm.eps) : var_or_inv;
}

/// Multiplies g by the derivative of the activation whose output is y; the identity (slope 1) reads no y.
template <int width, class T> DEVICE void activation_bwd(float (&g)[width], const T* y, float slope) {
    if (slope == 1.0f) return;
    float v[width];
    load(v, y);
#pragma unroll
    for (int k = 0; k < width; ++k) g[k] = v[k] > 0.0f ? g[k] : slope * g[k];
}

/// A batch norm of `width` channels as an affine map: scale (x - mean) + shift.
template <int width> struct Affine {
    float scale[width] = {}, mean[width] = {}, shift[width] = {};

    /// Loads the channels from `channel` on.
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
DEVICE void norm_activation_bwd(float (&g)[width], const T* y, const Affine<width>& affine, float slope) {
    activation_bwd(g, y, slope);
#pragma unroll
    for (int k = 0; k < width; ++k) g[k] *= affine.scale[k];
}

/// `activation_bwd` without y: its sign is recomputed from the input x by the arithmetic of the forward pass.
template <int width>
DEVICE void activation_bwd_from_x(float (&g)[width], const float (&x)[width], const Affine<width>& affine,
                                  float slope) {
#pragma unroll
    for (int k = 0; k < width; ++k) {
        g[k] = affine.scale[k] * (x[k] - affine.mean[k]) + affine.shift[k] > 0.0f ? g[k] : slope * g[k];
    }
}
