// Batch normalisation with residual and activation, NHWC as [positions, c] (Ioffe and Szegedy, 2015).
//
//   y = act(weight (x - mean) inv + bias + residual) with inv = 1 / sqrt(var + eps) and act(v) = v > 0 ? v : slope v.
//   With g = dy act'(y) and xhat = (x - mean) inv: dbias = sum g, dweight = sum g xhat, dresidual = g,
//   dx = weight inv g for frozen statistics, weight inv (g - sum g / n - xhat sum(g xhat) / n) for the batch's.
//
// Statistics are two-stage reductions: blocks over parts of the positions, then the parts combined in double, in a
// fixed order. The number of positions is below 2^32.
#include "common/batch_norm.cuh"
#include "common/channels.cuh"

/// Mean and sum of squared deviations of each channel over the block's part: partial [parts, 2, c].
///
/// A thread sums differences from its first value, which leaves nothing large to cancel however far the mean is from
/// zero. The threads' results are combined as by Chan et al. (1979), as differences from the part's first value.
template <int width, class T>
DEVICE void partial_moments(double* partial, const T* x, float* scratch, u32 lanes, u32 positions, u32 c) {
    Share share = thread_share<width>(positions, lanes);
    bool any = share.channel < c && share.begin < share.to;
    float first[width] = {}, sum[width] = {}, square[width] = {}, count = 0.0f;
    if (any && share.from < share.to) {
        load(first, x + u64(share.from) * c + share.channel);
#pragma unroll 2
        for (u32 p = share.from; p < share.to; p += share.step) {
            float v[width];
            load(v, x + u64(p) * c + share.channel);
            count += 1.0f;
#pragma unroll
            for (int k = 0; k < width; ++k) {
                float d = v[k] - first[k];
                sum[k] += d;
                square[k] += d * d;
            }
        }
    }
    // A thread without positions has weight zero.
    float origin[width] = {}, one = count > 0.0f ? 1.0f / count : 0.0f, mean[width];
    if (any) load(origin, x + u64(share.begin) * c + share.channel);
#pragma unroll
    for (int k = 0; k < width; ++k) {
        float offset = sum[k] * one;
        square[k] -= sum[k] * offset;
        first[k] = count > 0.0f ? first[k] - origin[k] + offset : 0.0f;
        mean[k] = count * first[k];
    }
    sum_rows(mean, scratch, lanes);
    float rest = any ? 1.0f / float(share.to - share.begin) : 0.0f;
#pragma unroll
    for (int k = 0; k < width; ++k) {
        mean[k] *= rest;
        float d = first[k] - mean[k];
        square[k] += count * d * d;
    }
    sum_rows(square, scratch, lanes);
    if (threadIdx.x < lanes && share.channel < c) {
        double* out = partial + u64(blockIdx.y) * 2 * c + share.channel;
#pragma unroll
        for (int k = 0; k < width; ++k) {
            out[k] = double(origin[k]) + double(mean[k]);
            out[c + k] = double(square[k]);
        }
    }
}

template <class T>
DEVICE void batch_norm_moments_parts(double* partial, const T* x, float* scratch, u32 lanes, u32 positions, u32 c) {
    with_width<T>(c, [=](auto width) { partial_moments<width>(partial, x, scratch, lanes, positions, c); });
}

/// y = act of the normalised x plus residual.
template <int width, class T>
DEVICE void normalise_all(T* y, const T* x, const T* residual, const Norm& norm, float slope, u32 lanes, u32 positions,
                          u32 c) {
    Share share = thread_share<width>(positions, lanes);
    if (share.channel >= c) return;
    Affine<width> affine;
    affine.load(norm, share.channel);
    for (u32 p = share.from; p < share.to; p += share.step) {
        u64 at = u64(p) * c + share.channel;
        float v[width], r[width] = {};
        load(v, x + at);
        if (residual) load(r, residual + at);
        normalise(v, r, affine, slope);
        store(y + at, v);
    }
}

template <class T>
DEVICE void batch_norm_fwd(T* y, const T* x, const T* residual, const Norm& norm, float slope, u32 lanes, u32 positions,
                           u32 c) {
    with_width<T>(c, [=](auto width) { normalise_all<width>(y, x, residual, norm, slope, lanes, positions, c); });
}

/// g = dy act'(y) and v = x at offset `at`. y is null where nothing was added before the activation: x alone then
/// decides.
template <int width, class T>
DEVICE void load_gradient(float (&g)[width], float (&v)[width], const T* dy, const T* x, const T* y, u64 at,
                          const Affine<width>& affine, float slope) {
    load(g, dy + at);
    load(v, x + at);
    if (y) {
        activation_bwd(g, y + at, slope);
    } else {
        activation_bwd_from_x(g, v, affine, slope);
    }
}

/// Sums of g and of g (x - mean) over the block's part: partial [parts, 2, c]. Also writes dx of frozen statistics if
/// `dx` is not null. y as for load_gradient.
template <int width, class T>
DEVICE void partial_sums(float* partial, T* dx, const T* dy, const T* x, const T* y, float* scratch, const Norm& norm,
                         float slope, u32 lanes, u32 positions, u32 c) {
    Share share = thread_share<width>(positions, lanes);
    float sum[width] = {}, dot[width] = {};
    if (share.channel < c) {
        Affine<width> affine;
        affine.load(norm, share.channel);
        for (u32 p = share.from; p < share.to; p += share.step) {
            u64 at = u64(p) * c + share.channel;
            float g[width], v[width];
            load_gradient(g, v, dy, x, y, at, affine, slope);
#pragma unroll
            for (int k = 0; k < width; ++k) {
                sum[k] += g[k];
                dot[k] += g[k] * (v[k] - affine.mean[k]);
                g[k] *= affine.scale[k];
            }
            if (dx) store(dx + at, g);
        }
    }
    sum_rows(sum, scratch, lanes);
    sum_rows(dot, scratch, lanes);
    if (threadIdx.x < lanes && share.channel < c) {
        float* out = partial + u64(blockIdx.y) * 2 * c + share.channel;
        store(out, sum);
        store(out + c, dot);
    }
}

template <class T>
DEVICE void batch_norm_sums(float* partial, T* dx, const T* dy, const T* x, const T* y, float* scratch,
                            const Norm& norm, float slope, u32 lanes, u32 positions, u32 c) {
    with_width<T>(
        c, [=](auto width) { partial_sums<width>(partial, dx, dy, x, y, scratch, norm, slope, lanes, positions, c); });
}

/// dx = weight inv g + coeffs[0] (x - mean) + coeffs[1], dresidual = g; coeffs [2, c]; y as for load_gradient.
template <int width, class T>
DEVICE void input_gradient(T* dx, T* dresidual, const T* dy, const T* x, const T* y, const float* coeffs,
                           const Norm& norm, float slope, u32 lanes, u32 positions, u32 c) {
    Share share = thread_share<width>(positions, lanes);
    if (share.channel >= c) return;
    float a[width], b[width];
    load(a, coeffs + share.channel);
    load(b, coeffs + c + share.channel);
    Affine<width> affine;
    affine.load(norm, share.channel);
    for (u32 p = share.from; p < share.to; p += share.step) {
        u64 at = u64(p) * c + share.channel;
        float g[width], v[width];
        load_gradient(g, v, dy, x, y, at, affine, slope);
        if (dresidual) store(dresidual + at, g);
#pragma unroll
        for (int k = 0; k < width; ++k) v[k] = affine.scale[k] * g[k] + (a[k] * (v[k] - affine.mean[k]) + b[k]);
        store(dx + at, v);
    }
}

template <class T>
DEVICE void batch_norm_bwd(T* dx, T* dresidual, const T* dy, const T* x, const T* y, const float* coeffs,
                           const Norm& norm, float slope, u32 lanes, u32 positions, u32 c) {
    with_width<T>(c, [=](auto width) {
        input_gradient<width>(dx, dresidual, dy, x, y, coeffs, norm, slope, lanes, positions, c);
    });
}

/// The whole backward pass in double, one thread per channel: with few positions dx is the small difference of much
/// larger terms, so the moments are computed again from x.
template <class T>
DEVICE void batch_norm_bwd_few(T* dx, T* dresidual, float* dweight, float* dbias, const T* dy, const T* x, const T* y,
                               const float* weight, float slope, double eps, u32 positions, u32 c) {
    u32 channel = u32(grid_thread());
    if (channel >= c) return;
    double n = positions, mean = 0.0, square = 0.0, sum = 0.0, dot = 0.0;
    for (u32 p = 0; p < positions; ++p) mean += to_float(x[u64(p) * c + channel]);
    mean /= n;
    for (u32 p = 0; p < positions; ++p) {
        u64 at = u64(p) * c + channel;
        float g[1] = {to_float(dy[at])};
        activation_bwd(g, y + at, slope);
        double d = to_float(x[at]) - mean;
        square += d * d;
        sum += g[0];
        dot += g[0] * d;
    }
    double var = square / n + eps, inv = 1.0 / sqrt(var);
    for (u32 p = 0; p < positions; ++p) {
        u64 at = u64(p) * c + channel;
        float g[1] = {to_float(dy[at])};
        activation_bwd(g, y + at, slope);
        if (dresidual) dresidual[at] = from_float<T>(g[0]);
        double rest = g[0] - sum / n - (to_float(x[at]) - mean) * dot / (var * n);
        dx[at] = from_float<T>(float(weight[channel] * inv * rest));
    }
    dweight[channel] += float(dot * inv);
    dbias[channel] += float(sum);
}

/// out = t act'(y) weight inv.
template <int width, class T>
DEVICE void tangent_all(T* out, const T* t, const T* y, const Norm& norm, float slope, u32 lanes, u32 positions,
                        u32 c) {
    Share share = thread_share<width>(positions, lanes);
    if (share.channel >= c) return;
    Affine<width> affine;
    affine.load(norm, share.channel);
    for (u32 p = share.from; p < share.to; p += share.step) {
        u64 at = u64(p) * c + share.channel;
        float g[width];
        load(g, t + at);
        norm_activation_bwd(g, y + at, affine, slope);
        store(out + at, g);
    }
}

template <class T>
DEVICE void batch_norm_tangent(T* out, const T* t, const T* y, const Norm& norm, float slope, u32 lanes, u32 positions,
                               u32 c) {
    with_width<T>(c, [=](auto width) { tangent_all<width>(out, t, y, norm, slope, lanes, positions, c); });
}

/// Combines partial moments of parts of `len` positions, `lanes` channels per block: writes mean and 1 / sqrt(var +
/// eps) to `moments` [2, c] and updates the running statistics, the variance with the unbiased one.
KERNEL(256)
batch_norm_moments(float* moments, float* running_mean, float* running_var, const double* partial, u32 len, u32 lanes,
                   u32 positions, u32 c, double momentum, double eps) {
    SHARED(double, scratch, ROW_BLOCK);
    u32 channel = blockIdx.x * lanes + threadIdx.x % lanes, row = threadIdx.x / lanes, rows = ROW_BLOCK / lanes;
    u32 filled = channel < c ? (positions + len - 1) / len : 0;
    double mean[1] = {}, square[1] = {};
#pragma unroll 4
    for (u32 k = row; k < filled; k += rows) {
        u32 count = positions - k * len < len ? positions - k * len : len;
        mean[0] += partial[u64(k) * 2 * c + channel] * count;
    }
    sum_rows(mean, scratch, lanes);
    mean[0] /= positions;
#pragma unroll 4
    for (u32 k = row; k < filled; k += rows) {
        u32 count = positions - k * len < len ? positions - k * len : len;
        const double* part = partial + u64(k) * 2 * c + channel;
        double d = part[0] - mean[0];
        square[0] += part[c] + d * d * count;
    }
    sum_rows(square, scratch, lanes);
    if (row > 0 || channel >= c) return;
    double var = square[0] / positions;
    moments[channel] = float(mean[0]);
    moments[c + channel] = float(1.0 / sqrt(var + eps));
    running_mean[channel] = float(running_mean[channel] * (1.0 - momentum) + momentum * mean[0]);
    double unbiased = square[0] / (positions - 1);
    running_var[channel] = float(running_var[channel] * (1.0 - momentum) + momentum * unbiased);
}

/// Combines partial sums, `lanes` channels per block: adds to dweight and dbias, and writes the coefficients of
/// input_gradient where `coeffs` is not null.
KERNEL(256)
batch_norm_gradients(float* dweight, float* dbias, float* coeffs, const float* partial, Norm norm, u32 parts, u32 lanes,
                     u32 positions, u32 c) {
    SHARED(double, scratch, 2 * ROW_BLOCK);
    u32 channel = blockIdx.x * lanes + threadIdx.x % lanes, row = threadIdx.x / lanes, rows = ROW_BLOCK / lanes;
    double sums[2] = {};
#pragma unroll 4
    for (u32 k = row; k < parts && channel < c; k += rows) {
        const float* part = partial + u64(k) * 2 * c + channel;
        sums[0] += part[0];
        sums[1] += part[c];
    }
    sum_rows(sums, scratch, lanes);
    if (row > 0 || channel >= c) return;
    double inv = inverse(norm, channel), dot = sums[1] * inv;
    dweight[channel] += float(dot);
    dbias[channel] += float(sums[0]);
    if (coeffs) {
        double factor = -norm.weight[channel] * inv / positions;
        coeffs[channel] = float(factor * dot * inv);
        coeffs[c + channel] = float(factor * sums[0]);
    }
}

KERNEL(256) batch_norm_moments_parts_f32(double* partial, const float* x, u32 lanes, u32 positions, u32 c) {
    SHARED(float, scratch, ROW_SCRATCH<float>);
    batch_norm_moments_parts(partial, x, scratch, lanes, positions, c);
}
KERNEL(256) batch_norm_moments_parts_bf16(double* partial, const bf16* x, u32 lanes, u32 positions, u32 c) {
    SHARED(float, scratch, ROW_SCRATCH<bf16>);
    batch_norm_moments_parts(partial, x, scratch, lanes, positions, c);
}
KERNEL(256)
batch_norm_fwd_f32(float* y, const float* x, const float* residual, Norm norm, float slope, u32 lanes, u32 positions,
                   u32 c) {
    batch_norm_fwd(y, x, residual, norm, slope, lanes, positions, c);
}
KERNEL(256)
batch_norm_fwd_bf16(bf16* y, const bf16* x, const bf16* residual, Norm norm, float slope, u32 lanes, u32 positions,
                    u32 c) {
    batch_norm_fwd(y, x, residual, norm, slope, lanes, positions, c);
}
KERNEL(256)
batch_norm_sums_f32(float* partial, float* dx, const float* dy, const float* x, const float* y, Norm norm, float slope,
                    u32 lanes, u32 positions, u32 c) {
    SHARED(float, scratch, ROW_SCRATCH<float>);
    batch_norm_sums(partial, dx, dy, x, y, scratch, norm, slope, lanes, positions, c);
}
KERNEL(256)
batch_norm_sums_bf16(float* partial, bf16* dx, const bf16* dy, const bf16* x, const bf16* y, Norm norm, float slope,
                     u32 lanes, u32 positions, u32 c) {
    SHARED(float, scratch, ROW_SCRATCH<bf16>);
    batch_norm_sums(partial, dx, dy, x, y, scratch, norm, slope, lanes, positions, c);
}
KERNEL(256)
batch_norm_bwd_f32(float* dx, float* dresidual, const float* dy, const float* x, const float* y, const float* coeffs,
                   Norm norm, float slope, u32 lanes, u32 positions, u32 c) {
    batch_norm_bwd(dx, dresidual, dy, x, y, coeffs, norm, slope, lanes, positions, c);
}
KERNEL(256)
batch_norm_bwd_bf16(bf16* dx, bf16* dresidual, const bf16* dy, const bf16* x, const bf16* y, const float* coeffs,
                    Norm norm, float slope, u32 lanes, u32 positions, u32 c) {
    batch_norm_bwd(dx, dresidual, dy, x, y, coeffs, norm, slope, lanes, positions, c);
}
KERNEL(256)
batch_norm_bwd_few_f32(float* dx, float* dresidual, float* dweight, float* dbias, const float* dy, const float* x,
                       const float* y, const float* weight, float slope, double eps, u32 positions, u32 c) {
    batch_norm_bwd_few(dx, dresidual, dweight, dbias, dy, x, y, weight, slope, eps, positions, c);
}
KERNEL(256)
batch_norm_bwd_few_bf16(bf16* dx, bf16* dresidual, float* dweight, float* dbias, const bf16* dy, const bf16* x,
                        const bf16* y, const float* weight, float slope, double eps, u32 positions, u32 c) {
    batch_norm_bwd_few(dx, dresidual, dweight, dbias, dy, x, y, weight, slope, eps, positions, c);
}
KERNEL(256)
batch_norm_tangent_f32(float* out, const float* t, const float* y, Norm norm, float slope, u32 lanes, u32 positions,
                       u32 c) {
    batch_norm_tangent(out, t, y, norm, slope, lanes, positions, c);
}
KERNEL(256)
batch_norm_tangent_bf16(bf16* out, const bf16* t, const bf16* y, Norm norm, float slope, u32 lanes, u32 positions,
                        u32 c) {
    batch_norm_tangent(out, t, y, norm, slope, lanes, positions, c);
}
REGISTER_KERNEL(batch_norm_moments)
REGISTER_KERNEL(batch_norm_gradients)
REGISTER_KERNEL(batch_norm_moments_parts_f32)
REGISTER_KERNEL(batch_norm_moments_parts_bf16)
REGISTER_KERNEL(batch_norm_fwd_f32)
REGISTER_KERNEL(batch_norm_fwd_bf16)
REGISTER_KERNEL(batch_norm_sums_f32)
REGISTER_KERNEL(batch_norm_sums_bf16)
REGISTER_KERNEL(batch_norm_bwd_f32)
REGISTER_KERNEL(batch_norm_bwd_bf16)
REGISTER_KERNEL(batch_norm_bwd_few_f32)
REGISTER_KERNEL(batch_norm_bwd_few_bf16)
REGISTER_KERNEL(batch_norm_tangent_f32)
REGISTER_KERNEL(batch_norm_tangent_bf16)
