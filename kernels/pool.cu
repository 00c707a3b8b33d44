// Max pooling (square window, padding with minus infinity) and adaptive average pooling, NHWC, forward and backward.
// An image has fewer than 2^32 values.
//
// Bin i of `bins` along an axis of length len covers floor(i len / bins) to ceil((i + 1) len / bins). Backward passes
// gather, so sums have one order. The product of two sizes along an axis must be below 2^32.
#include "common/channels.cuh"

/// Rows or columns from..to.
struct Range {
    u32 from, to;
};

/// Size of an image before and after, and the window of max pooling.
struct MaxPool {
    u32 h, w, oh, ow, kernel, stride, padding;
};

/// What window `i` covers of an axis of length `len`.
DEVICE Range window(u32 i, u32 len, const MaxPool& pool) {
    u32 start = i * pool.stride, end = start + pool.kernel - pool.padding;
    return Range{start > pool.padding ? start - pool.padding : 0, end < len ? end : len};
}

/// Which of `count` windows cover position `i`.
DEVICE Range windows(u32 i, u32 count, const MaxPool& pool) {
    u32 end = i + pool.padding + 1, last = (end - 1) / pool.stride + 1;
    u32 from = end > pool.kernel ? (end - pool.kernel + pool.stride - 1) / pool.stride : 0;
    return Range{from, last < count ? last : count};
}

/// First maximum in row order of `width` channels of window (oy, ox), and its index row * w + column; `x` is the image
/// at these channels.
template <int width, class T>
DEVICE void window_max(float (&best)[width], u32 (&at)[width], const T* x, u32 oy, u32 ox, u32 c, const MaxPool& pool) {
    Range ys = window(oy, pool.h, pool), xs = window(ox, pool.w, pool);
    bool first = true;
    for (u32 iy = ys.from; iy < ys.to; ++iy) {
        for (u32 ix = xs.from; ix < xs.to; ++ix) {
            u32 here = iy * pool.w + ix;
            float v[width];
            load(v, x + here * c);
#pragma unroll
            for (int k = 0; k < width; ++k) {
                bool more = first || v[k] > best[k];
                best[k] = more ? v[k] : best[k];
                at[k] = more ? here : at[k];
            }
            first = false;
        }
    }
}

/// Writes the maxima to `y`, or without it their indices to `at`.
template <int width, class T>
DEVICE void max_pool2d_windows(T* y, u32* at, const T* x, u32 n, u32 c, const MaxPool& pool) {
    u32 groups = c / width;
    u64 count = u64(n) * pool.oh * pool.ow * groups;
    for (u64 i = grid_thread(); i < count; i += grid_threads()) {
        u64 image = i;
        u32 channel = split(image, groups) * width, ox = split(image, pool.ow), oy = split(image, pool.oh);
        float best[width] = {};
        Pack<u32, width> where = {};
        window_max<width>(best, where.v, x + image * pool.h * pool.w * c + channel, oy, ox, c, pool);
        if (y) {
            store(y + i * width, best);
        } else {
            store_pack<width>(at + i * width, where);
        }
    }
}

template <class T> DEVICE void max_pool2d(T* y, u32* at, const T* x, u32 n, u32 c, const MaxPool& pool) {
    with_width<T>(c, [=](auto width) { max_pool2d_windows<width>(y, at, x, n, c, pool); });
}

/// dx at a position is the sum, in row order, of dy over the windows whose maximum has that index in `at`.
template <int width, class T>
DEVICE void max_pool2d_gather(T* dx, const T* dy, const u32* at, u32 n, u32 c, const MaxPool& pool) {
    u32 groups = c / width;
    u64 count = u64(n) * pool.h * pool.w * groups;
    for (u64 i = grid_thread(); i < count; i += grid_threads()) {
        u64 image = i;
        u32 channel = split(image, groups) * width, ix = split(image, pool.w), iy = split(image, pool.h);
        Range ys = windows(iy, pool.oh, pool), xs = windows(ix, pool.ow, pool);
        u32 here = iy * pool.w + ix;
        u64 from = image * pool.oh * pool.ow * c + channel;
        float sum[width] = {};
        for (u32 oy = ys.from; oy < ys.to; ++oy) {
            for (u32 ox = xs.from; ox < xs.to; ++ox) {
                // Within an image 32 bits are enough.
                u64 one = from + (oy * pool.ow + ox) * c;
                Pack<u32, width> where = load_pack<width>(at + one);
                float g[width];
                load(g, dy + one);
#pragma unroll
                for (int k = 0; k < width; ++k) sum[k] += where.v[k] == here ? g[k] : 0.0f;
            }
        }
        store(dx + i * width, sum);
    }
}

template <class T> DEVICE void max_pool2d_bwd(T* dx, const T* dy, const u32* at, u32 n, u32 c, const MaxPool& pool) {
    with_width<T>(c, [=](auto width) { max_pool2d_gather<width>(dx, dy, at, n, c, pool); });
}

/// What bin `i` of `bins` covers of an axis of length `len`.
DEVICE Range bin(u32 i, u32 bins, u32 len) { return Range{i * len / bins, ((i + 1) * len + bins - 1) / bins}; }

/// The bins that cover position `i`.
DEVICE Range covering(u32 i, u32 bins, u32 len) { return Range{i * bins / len, ((i + 1) * bins - 1) / len + 1}; }

/// Sizes of adaptive pooling: the input, the bins.
struct Bins {
    u32 h, w, oh, ow;
};

/// Part blockIdx.y of gridDim.y of the sum over each bin: partial [n oh ow, gridDim.y, c]. blockIdx.x counts bins and,
/// fastest, slabs of lanes * width channels.
template <int width, class T>
DEVICE void bin_sum_block(float* partial, const T* x, float* scratch, u32 lanes, u32 c, const Bins& bins) {
    u32 slabs = (c / width + lanes - 1) / lanes, rows = ROW_BLOCK / lanes;
    u64 output = blockIdx.x / slabs, image = output;
    u32 channel = (blockIdx.x % slabs * lanes + threadIdx.x % lanes) * width;
    u32 ox = split(image, bins.ow), oy = split(image, bins.oh);
    Range ys = bin(oy, bins.oh, bins.h), xs = bin(ox, bins.ow, bins.w);
    u32 columns = xs.to - xs.from, count = (ys.to - ys.from) * columns;
    u32 part = (count + gridDim.y - 1) / gridDim.y, from = blockIdx.y * part;
    u32 to = from + part < count ? from + part : count;
    float sum[width] = {};
    if (channel < c) {
        const T* source = x + image * bins.h * bins.w * c + channel;
        for (u32 p = from + threadIdx.x / lanes; p < to; p += rows) {
            u32 row = p / columns;
            float v[width];
            load(v, source + (u64(ys.from + row) * bins.w + xs.from + (p - row * columns)) * c);
#pragma unroll
            for (int k = 0; k < width; ++k) sum[k] += v[k];
        }
    }
    sum_rows(sum, scratch, lanes);
    if (threadIdx.x < lanes && channel < c) store(partial + (output * gridDim.y + blockIdx.y) * c + channel, sum);
}

template <class T> DEVICE void bin_sum(float* partial, const T* x, float* scratch, u32 lanes, u32 c, const Bins& bins) {
    with_width<T>(c, [=](auto width) { bin_sum_block<width>(partial, x, scratch, lanes, c, bins); });
}

/// Adds the `parts` of each bin's sum in order; divides by the bin's number of positions if `mean`.
template <class T>
DEVICE void bin_finish(T* y, const float* partial, u32 parts, u32 n, u32 c, u32 mean, const Bins& bins) {
    u64 count = u64(n) * bins.oh * bins.ow * c;
    for (u64 i = grid_thread(); i < count; i += grid_threads()) {
        u64 rest = i;
        u32 channel = split(rest, c);
        double sum = 0.0;
        for (u32 k = 0; k < parts; ++k) sum += partial[(rest * parts + k) * c + channel];
        u32 ox = split(rest, bins.ow), oy = split(rest, bins.oh);
        Range ys = bin(oy, bins.oh, bins.h), xs = bin(ox, bins.ow, bins.w);
        double positions = double((ys.to - ys.from) * (xs.to - xs.from));
        y[i] = from_float<T>(float(mean ? sum / positions : sum));
    }
}

template <int width, class T> DEVICE void bin_spread(T* dx, const T* dy, u32 n, u32 c, const Bins& bins) {
    u32 groups = c / width;
    u64 count = u64(n) * bins.h * bins.w * groups;
    for (u64 i = grid_thread(); i < count; i += grid_threads()) {
        u64 image = i;
        u32 channel = split(image, groups) * width, ix = split(image, bins.w), iy = split(image, bins.h);
        Range ys = covering(iy, bins.oh, bins.h), xs = covering(ix, bins.ow, bins.w);
        float sum[width] = {};
        for (u32 oy = ys.from; oy < ys.to; ++oy) {
            Range rows = bin(oy, bins.oh, bins.h);
            for (u32 ox = xs.from; ox < xs.to; ++ox) {
                Range columns = bin(ox, bins.ow, bins.w);
                float scale = 1.0f / float((rows.to - rows.from) * (columns.to - columns.from)), g[width];
                load(g, dy + ((image * bins.oh + oy) * bins.ow + ox) * c + channel);
#pragma unroll
                for (int k = 0; k < width; ++k) sum[k] += scale * g[k];
            }
        }
        store(dx + i * width, sum);
    }
}

template <class T> DEVICE void adaptive_avg_pool2d_bwd(T* dx, const T* dy, u32 n, u32 c, const Bins& bins) {
    with_width<T>(c, [=](auto width) { bin_spread<width>(dx, dy, n, c, bins); });
}

KERNEL(256) max_pool2d_fwd_f32(float* y, const float* x, u32 n, u32 c, MaxPool pool) {
    max_pool2d<float>(y, nullptr, x, n, c, pool);
}
KERNEL(256) max_pool2d_fwd_bf16(bf16* y, const bf16* x, u32 n, u32 c, MaxPool pool) {
    max_pool2d<bf16>(y, nullptr, x, n, c, pool);
}
KERNEL(256) max_pool2d_at_f32(u32* at, const float* x, u32 n, u32 c, MaxPool pool) {
    max_pool2d<float>(nullptr, at, x, n, c, pool);
}
KERNEL(256) max_pool2d_at_bf16(u32* at, const bf16* x, u32 n, u32 c, MaxPool pool) {
    max_pool2d<bf16>(nullptr, at, x, n, c, pool);
}
KERNEL(256) max_pool2d_bwd_f32(float* dx, const float* dy, const u32* at, u32 n, u32 c, MaxPool pool) {
    max_pool2d_bwd(dx, dy, at, n, c, pool);
}
KERNEL(256) max_pool2d_bwd_bf16(bf16* dx, const bf16* dy, const u32* at, u32 n, u32 c, MaxPool pool) {
    max_pool2d_bwd(dx, dy, at, n, c, pool);
}
KERNEL(256) bin_sum_f32(float* partial, const float* x, u32 lanes, u32 c, Bins bins) {
    SHARED(float, scratch, ROW_SCRATCH<float>);
    bin_sum(partial, x, scratch, lanes, c, bins);
}
KERNEL(256) bin_sum_bf16(float* partial, const bf16* x, u32 lanes, u32 c, Bins bins) {
    SHARED(float, scratch, ROW_SCRATCH<bf16>);
    bin_sum(partial, x, scratch, lanes, c, bins);
}
KERNEL(256) bin_finish_f32(float* y, const float* partial, u32 parts, u32 n, u32 c, u32 mean, Bins bins) {
    bin_finish(y, partial, parts, n, c, mean, bins);
}
KERNEL(256) bin_finish_bf16(bf16* y, const float* partial, u32 parts, u32 n, u32 c, u32 mean, Bins bins) {
    bin_finish(y, partial, parts, n, c, mean, bins);
}
KERNEL(256) adaptive_avg_pool2d_bwd_f32(float* dx, const float* dy, u32 n, u32 c, Bins bins) {
    adaptive_avg_pool2d_bwd(dx, dy, n, c, bins);
}
KERNEL(256) adaptive_avg_pool2d_bwd_bf16(bf16* dx, const bf16* dy, u32 n, u32 c, Bins bins) {
    adaptive_avg_pool2d_bwd(dx, dy, n, c, bins);
}
REGISTER_KERNEL(max_pool2d_fwd_f32)
REGISTER_KERNEL(max_pool2d_fwd_bf16)
REGISTER_KERNEL(max_pool2d_at_f32)
REGISTER_KERNEL(max_pool2d_at_bf16)
REGISTER_KERNEL(max_pool2d_bwd_f32)
REGISTER_KERNEL(max_pool2d_bwd_bf16)
REGISTER_KERNEL(bin_sum_f32)
REGISTER_KERNEL(bin_sum_bf16)
REGISTER_KERNEL(bin_finish_f32)
REGISTER_KERNEL(bin_finish_bf16)
REGISTER_KERNEL(adaptive_avg_pool2d_bwd_f32)
REGISTER_KERNEL(adaptive_avg_pool2d_bwd_bf16)
