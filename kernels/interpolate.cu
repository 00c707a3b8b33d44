// Bilinear resampling with align_corners, [n, h, w, c] to [n, oh, ow, c], and its transpose.
//
// The transpose is separable: an output's gradient goes to two rows and two columns. Each axis is one gather, first
// rows, into floats, so every value of dy is read twice and sums have a fixed order.
#include "common/bilinear.cuh"
#include "common/vector.cuh"

template <int width, class T>
DEVICE void interpolate_runs(T* y, const T* x, u32 n, u32 h, u32 w, u32 oh, u32 ow, u32 c) {
    u32 groups = c / width;
    u64 count = u64(n) * oh * ow * groups;
    for (u64 i = grid_thread(); i < count; i += grid_threads()) {
        u64 image = i;
        u32 channel = split(image, groups) * width, ox = split(image, ow), oy = split(image, oh);
        Tap ty = bilinear_tap(oy, h, oh), tx = bilinear_tap(ox, w, ow);
        const T* source = x + image * h * w * c + channel;
        float a[width], b[width], lower_a[width], lower_b[width];
        load(a, source + u64(ty.lo * w + tx.lo) * c);
        load(b, source + u64(ty.lo * w + tx.hi) * c);
        load(lower_a, source + u64(ty.hi * w + tx.lo) * c);
        load(lower_b, source + u64(ty.hi * w + tx.hi) * c);
#pragma unroll
        for (int k = 0; k < width; ++k) {
            a[k] = bilinear_value(a[k], b[k], lower_a[k], lower_b[k], ty.frac, tx.frac);
        }
        store(y + i * width, a);
    }
}

template <class T> DEVICE void interpolate_fwd(T* y, const T* x, u32 n, u32 h, u32 w, u32 oh, u32 ow, u32 c) {
    with_width<T>(c, [=](auto width) { interpolate_runs<width>(y, x, n, h, w, oh, ow, c); });
}

/// Transposed resampling along the middle axis: `in` [outer, to, inner] is the gradient of the `to` outputs, `out`
/// [outer, from, inner] that of the `from` inputs.
template <int width, class Out, class In>
DEVICE void transpose_runs(Out* out, const In* in, u64 outer, u32 from, u32 to, u32 inner) {
    u32 groups = inner / width;
    for (u64 i = grid_thread(); i < outer * from * groups; i += grid_threads()) {
        u64 line = i;
        u32 group = split(line, groups), j = split(line, from);
        u32 before = j > 0 ? bilinear_first(j - 1, from, to) : 0, end = bilinear_first(j + 1, from, to);
        const In* source = in + line * to * inner + group * width;
        float sum[width] = {};
        for (u32 o = before; o < end; ++o) {
            // Output o lies between inputs j - 1 and j, or between j and j + 1.
            Tap tap = bilinear_tap(o, from, to);
            float weight = tap.lo == j ? 1.0f - tap.frac : tap.frac, g[width];
            load(g, source + u64(o) * inner);
#pragma unroll
            for (int k = 0; k < width; ++k) sum[k] += weight * g[k];
        }
        store(out + i * width, sum);
    }
}

/// A run is 16 bytes of the narrower of the two types.
template <class Out, class In>
DEVICE void transpose_axis(Out* out, const In* in, u64 outer, u32 from, u32 to, u32 inner) {
    constexpr int width = VECTOR<In> > VECTOR<Out> ? VECTOR<In> : VECTOR<Out>;
    if (inner % width == 0) {
        transpose_runs<width>(out, in, outer, from, to, inner);
    } else {
        transpose_runs<1>(out, in, outer, from, to, inner);
    }
}

KERNEL(256) interpolate_fwd_f32(float* y, const float* x, u32 n, u32 h, u32 w, u32 oh, u32 ow, u32 c) {
    interpolate_fwd(y, x, n, h, w, oh, ow, c);
}
KERNEL(256) interpolate_fwd_bf16(bf16* y, const bf16* x, u32 n, u32 h, u32 w, u32 oh, u32 ow, u32 c) {
    interpolate_fwd(y, x, n, h, w, oh, ow, c);
}
KERNEL(256) interpolate_bwd_rows_f32(float* out, const float* dy, u64 outer, u32 from, u32 to, u32 inner) {
    transpose_axis(out, dy, outer, from, to, inner);
}
KERNEL(256) interpolate_bwd_rows_bf16(float* out, const bf16* dy, u64 outer, u32 from, u32 to, u32 inner) {
    transpose_axis(out, dy, outer, from, to, inner);
}
KERNEL(256) interpolate_bwd_columns_f32(float* dx, const float* in, u64 outer, u32 from, u32 to, u32 inner) {
    transpose_axis(dx, in, outer, from, to, inner);
}
KERNEL(256) interpolate_bwd_columns_bf16(bf16* dx, const float* in, u64 outer, u32 from, u32 to, u32 inner) {
    transpose_axis(dx, in, outer, from, to, inner);
}
REGISTER_KERNEL(interpolate_fwd_f32)
REGISTER_KERNEL(interpolate_fwd_bf16)
REGISTER_KERNEL(interpolate_bwd_rows_f32)
REGISTER_KERNEL(interpolate_bwd_rows_bf16)
REGISTER_KERNEL(interpolate_bwd_columns_f32)
REGISTER_KERNEL(interpolate_bwd_columns_bf16)
