// Activations without batch norm, sums of activations and channel ranges of activations, NHWC.
//
//   leaky_relu     y = x for x > 0, slope x elsewhere; backward dx = dy for x > 0, slope dy elsewhere
//   add            out = x + alpha y, y of x's shape or with one position per image
//   copy_channels  out[p, out_offset + k] = x[p, x_offset + k] for k below len: slices, concat by one launch per part
#include "common/vector.cuh"

/// g times the derivative of leaky ReLU at x.
DEVICE float leaky(float g, float x, float slope) { return x > 0.0f ? g : slope * g; }

template <int width, class T> DEVICE void leaky_relu_run(T* out, const T* g, const T* x, float slope, u64 i) {
    float a[width], b[width];
    load(a, g + i);
    load(b, x + i);
#pragma unroll
    for (int k = 0; k < width; ++k) a[k] = leaky(a[k], b[k], slope);
    store(out + i, a);
}

/// Both directions: forward is backward with dy = x.
template <class T> DEVICE void leaky_relu(T* out, const T* g, const T* x, float slope, u64 len) {
    constexpr int width = VECTOR<T>;
    u64 runs = len / width;
    for (u64 i = grid_thread(); i < runs; i += grid_threads()) leaky_relu_run<width>(out, g, x, slope, i * width);
    for (u64 i = runs * width + grid_thread(); i < len; i += grid_threads()) {
        leaky_relu_run<1>(out, g, x, slope, i);
    }
}

template <int width, class T> DEVICE void add_run(T* out, const T* x, const T* y, float alpha, u64 i, u64 j) {
    float a[width], b[width];
    load(a, x + i);
    load(b, y + j);
#pragma unroll
    for (int k = 0; k < width; ++k) a[k] += alpha * b[k];
    store(out + i, a);
}

template <class T> DEVICE void add(T* out, const T* x, const T* y, float alpha, u64 len) {
    constexpr int width = VECTOR<T>;
    u64 runs = len / width;
    for (u64 i = grid_thread(); i < runs; i += grid_threads()) {
        add_run<width>(out, x, y, alpha, i * width, i * width);
    }
    for (u64 i = runs * width + grid_thread(); i < len; i += grid_threads()) add_run<1>(out, x, y, alpha, i, i);
}

/// y is [n, c]; an image of x has `positions` positions.
template <int width, class T>
DEVICE void add_broadcast_runs(T* out, const T* x, const T* y, float alpha, u32 n, u32 positions, u32 c) {
    u32 groups = c / width;
    u64 count = u64(n) * positions * groups;
    for (u64 i = grid_thread(); i < count; i += grid_threads()) {
        u64 image = i;
        u32 group = split(image, groups);
        split(image, positions);
        add_run<width>(out, x, y, alpha, i * width, (image * groups + group) * width);
    }
}

template <class T> DEVICE void add_broadcast(T* out, const T* x, const T* y, float alpha, u32 n, u32 positions, u32 c) {
    with_width<T>(c, [=](auto width) { add_broadcast_runs<width>(out, x, y, alpha, n, positions, c); });
}

template <int width, class T>
DEVICE void copy_channel_runs(T* out, const T* x, u64 positions, u32 len, u32 out_c, u32 out_offset, u32 x_c,
                              u32 x_offset) {
    u32 groups = len / width;
    for (u64 i = grid_thread(); i < positions * groups; i += grid_threads()) {
        u64 p = i;
        u32 k = split(p, groups) * width;
        store_pack<width>(out + p * out_c + out_offset + k, load_pack<width>(x + p * x_c + x_offset + k));
    }
}

template <class T>
DEVICE void copy_channels(T* out, const T* x, u64 positions, u32 len, u32 out_c, u32 out_offset, u32 x_c,
                          u32 x_offset) {
    // All runs are aligned where every length and offset is.
    with_width<T>(len | out_c | out_offset | x_c | x_offset, [=](auto width) {
        copy_channel_runs<width>(out, x, positions, len, out_c, out_offset, x_c, x_offset);
    });
}

KERNEL(256) leaky_relu_fwd_f32(float* y, const float* x, float slope, u64 len) { leaky_relu(y, x, x, slope, len); }
KERNEL(256) leaky_relu_fwd_bf16(bf16* y, const bf16* x, float slope, u64 len) { leaky_relu(y, x, x, slope, len); }
KERNEL(256) leaky_relu_bwd_f32(float* dx, const float* dy, const float* x, float slope, u64 len) {
    leaky_relu(dx, dy, x, slope, len);
}
KERNEL(256) leaky_relu_bwd_bf16(bf16* dx, const bf16* dy, const bf16* x, float slope, u64 len) {
    leaky_relu(dx, dy, x, slope, len);
}
KERNEL(256) add_fwd_f32(float* out, const float* x, const float* y, float alpha, u64 len) {
    add(out, x, y, alpha, len);
}
KERNEL(256) add_fwd_bf16(bf16* out, const bf16* x, const bf16* y, float alpha, u64 len) { add(out, x, y, alpha, len); }
KERNEL(256)
add_broadcast_fwd_f32(float* out, const float* x, const float* y, float alpha, u32 n, u32 positions, u32 c) {
    add_broadcast(out, x, y, alpha, n, positions, c);
}
KERNEL(256) add_broadcast_fwd_bf16(bf16* out, const bf16* x, const bf16* y, float alpha, u32 n, u32 positions, u32 c) {
    add_broadcast(out, x, y, alpha, n, positions, c);
}
KERNEL(256)
copy_channels_f32(float* out, const float* x, u64 positions, u32 len, u32 out_c, u32 out_offset, u32 x_c,
                  u32 x_offset) {
    copy_channels(out, x, positions, len, out_c, out_offset, x_c, x_offset);
}
KERNEL(256)
copy_channels_bf16(bf16* out, const bf16* x, u64 positions, u32 len, u32 out_c, u32 out_offset, u32 x_c, u32 x_offset) {
    copy_channels(out, x, positions, len, out_c, out_offset, x_c, x_offset);
}
REGISTER_KERNEL(leaky_relu_fwd_f32)
REGISTER_KERNEL(leaky_relu_fwd_bf16)
REGISTER_KERNEL(leaky_relu_bwd_f32)
REGISTER_KERNEL(leaky_relu_bwd_bf16)
REGISTER_KERNEL(add_fwd_f32)
REGISTER_KERNEL(add_fwd_bf16)
REGISTER_KERNEL(add_broadcast_fwd_f32)
REGISTER_KERNEL(add_broadcast_fwd_bf16)
REGISTER_KERNEL(copy_channels_f32)
REGISTER_KERNEL(copy_channels_bf16)
