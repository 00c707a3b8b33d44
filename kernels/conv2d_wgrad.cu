// Gradients of a convolution's weight and bias, which add to what `grads` holds.
//
//   dweight[o, r, s, c] += sum over positions (n, i, j) of
//                              dy[n, i, j, o] x[n, i stride - padding + r dilation, j ..., c]
//   dbias[o]            += sum over positions of dy[n, i, j, o]
//
// The weight's is an implicit GEMM over positions: m = o, n = (r, s, c), k = positions. There are few tiles and many
// positions, so it is split-K: each split writes its sums as floats to a workspace [splits, groups, m, n], and a second
// pass adds the splits in their order. The sums therefore repeat bit by bit.
#include "common/conv2d_operands.cuh"
#include "common/conv2d_mma.cuh"
#include "common/conv2d_tiles.cuh"

/// Block x: tiles of n, then of m; block y: split; block z: group.
template <class T, class Tile, bool any>
DEVICE void wgrad(float* partial, const T* x, const T* dy, const Conv2dSizes& s) {
    DYNAMIC_SHARED(u8, shared);
    const u32 n_begin = blockIdx.x % s.n_tiles * Tile::n, m_begin = blockIdx.x / s.n_tiles * Tile::m;
    const u32 positions = s.n * s.out_h * s.out_w, columns = s.kernel * s.kernel * s.in_channels;
    const u32 begin = blockIdx.y * s.split_len;
    const u32 end = begin + s.split_len < positions ? begin + s.split_len : positions;

    const u32 first_in = blockIdx.z * s.in_channels, first_out = blockIdx.z * s.out_channels;
    GradientMnMajor<T, Tile, any> a(dy, first_out, first_out + s.out_channels, s.out_pitch, m_begin, begin, end,
                                    s.aligned_a != 0);
    ActivationMnMajor<T, Tile, any> b(x, s, first_in, n_begin, begin, end);
    BlockMma<T, Tile, false, false> mma;
    mainloop<T, Tile>(mma, a, b, num_steps(end - begin, DEPTH<T>), shared);

    mma.template store_accumulators<float>(shared, nullptr, 0);
    block_sync();
    float* out = partial + (u64(blockIdx.y) * gridDim.z + blockIdx.z) * s.out_channels * columns;
    write_tile<Tile>(out, shared, n_begin, columns, [&](u32 row) {
        u32 m = m_begin + row;
        return m < s.out_channels ? i64(m) * columns + n_begin : i64(-1);
    });
}

KERNEL(256) conv2d_wgrad_large_f32(float* partial, const float* x, const float* dy, const Conv2dSizes s) {
    wgrad<float, Tiles<float>::Large, false>(partial, x, dy, s);
}
KERNEL(128) conv2d_wgrad_small_f32(float* partial, const float* x, const float* dy, const Conv2dSizes s) {
    wgrad<float, Tiles<float>::Small, false>(partial, x, dy, s);
}
KERNEL(128) conv2d_wgrad_any_f32(float* partial, const float* x, const float* dy, const Conv2dSizes s) {
    wgrad<float, Tiles<float>::Small, true>(partial, x, dy, s);
}
KERNEL(256) conv2d_wgrad_large_bf16(float* partial, const bf16* x, const bf16* dy, const Conv2dSizes s) {
    wgrad<bf16, Tiles<bf16>::Large, false>(partial, x, dy, s);
}
KERNEL(128) conv2d_wgrad_small_bf16(float* partial, const bf16* x, const bf16* dy, const Conv2dSizes s) {
    wgrad<bf16, Tiles<bf16>::Small, false>(partial, x, dy, s);
}
KERNEL(128) conv2d_wgrad_any_bf16(float* partial, const bf16* x, const bf16* dy, const Conv2dSizes s) {
    wgrad<bf16, Tiles<bf16>::Small, true>(partial, x, dy, s);
}

/// Channels and positions that a block of the bias gradient reads at a time.
constexpr u32 BIAS_CHANNELS = 32, BIAS_LANES = 8;

/// partial[split, channel] = sum over the split's positions of dy. Block x: 32 channels; block y: split. Thread: one
/// channel of every eighth position.
template <class T> DEVICE void dbias(float* partial, const T* dy, u32 positions, u32 channels, u32 split_len) {
    SHARED(float, sums, (BIAS_CHANNELS * BIAS_LANES));
    const u32 channel = blockIdx.x * BIAS_CHANNELS + threadIdx.x % BIAS_CHANNELS, lane = threadIdx.x / BIAS_CHANNELS;
    const u32 begin = blockIdx.y * split_len, end = begin + split_len < positions ? begin + split_len : positions;
    float sum = 0.0f;
    if (channel < channels) {
        for (u32 p = begin + lane; p < end; p += BIAS_LANES) sum += to_float(dy[u64(p) * channels + channel]);
    }
    sums[threadIdx.x] = sum;
    block_sync();
    if (lane == 0 && channel < channels) {
        for (u32 l = 1; l < BIAS_LANES; ++l) sum += sums[l * BIAS_CHANNELS + threadIdx.x];
        partial[u64(blockIdx.y) * channels + channel] = sum;
    }
}

KERNEL(256) conv2d_dbias_f32(float* partial, const float* dy, u32 positions, u32 channels, u32 split_len) {
    dbias(partial, dy, positions, channels, split_len);
}
KERNEL(256) conv2d_dbias_bf16(float* partial, const bf16* dy, u32 positions, u32 channels, u32 split_len) {
    dbias(partial, dy, positions, channels, split_len);
}

/// grads[i] += sum over splits of partial[split, i], i < len. `lanes` threads share an element (a power of two up to
/// 32): lane l adds splits l, l + lanes, ..., then the first adds the lanes in their order.
KERNEL(256) conv2d_add_splits_f32(float* grads, const float* partial, u32 splits, u32 lanes, u64 len) {
    SHARED(float, sums, 256);
    const u32 width = 256 / lanes, lane = threadIdx.x / width;
    const u64 i = u64(blockIdx.x) * width + threadIdx.x % width;
    float sum = 0.0f;
    if (i < len) {
        for (u32 split = lane; split < splits; split += lanes) sum += partial[split * len + i];
    }
    if (lanes > 1) {
        sums[threadIdx.x] = sum;
        block_sync();
        for (u32 l = 1; lane == 0 && l < lanes; ++l) sum += sums[l * width + threadIdx.x];
    }
    if (lane == 0 && i < len) grads[i] += sum;
}

REGISTER_KERNEL(conv2d_wgrad_large_f32)
REGISTER_KERNEL(conv2d_wgrad_small_f32)
REGISTER_KERNEL(conv2d_wgrad_any_f32)
REGISTER_KERNEL(conv2d_wgrad_large_bf16)
REGISTER_KERNEL(conv2d_wgrad_small_bf16)
REGISTER_KERNEL(conv2d_wgrad_any_bf16)
REGISTER_KERNEL(conv2d_dbias_f32)
REGISTER_KERNEL(conv2d_dbias_bf16)
REGISTER_KERNEL(conv2d_add_splits_f32)
