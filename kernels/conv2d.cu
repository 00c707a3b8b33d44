// 2-D convolution and its data gradient as implicit GEMMs, NHWC activations, weight [out, kernel, kernel, in] with the
// input channels of one group.
//
//   fprop  y[n, i, j, o] = bias[o] + sum over (r, s, c) of
//              x[n, i stride - padding + r dilation, j ..., c] w[o, r, s, c]
//          m = positions of y, n = o, k = (r, s, c)
//   dgrad  dx[n, i, j, c] = sum over (r, s, o) of
//              dy[n, (i + padding - r dilation) / stride, (j ...) ..., o] w[o, r, s, c]
//          over the taps for which the divisions have no remainder; m = positions of x, n = c, k = (r, s, o). A tile
//          holds positions of one phase (equal row and column modulo the stride), which all use the same taps.
//
// `end` is the fused epilogue; it needs aligned channels.
//
// Block x is numbered by tiles of n first, so that neighbours share the activation's rows, then tiles of m, then
// phases. Block z is the group: the same over its channels of x and y and its rows of the weight. Positions, and taps
// times channels, are below 2^31, which the plan checks.
#include "common/conv2d_epilogue.cuh"
#include "common/conv2d_operands.cuh"
#include "common/conv2d_mma.cuh"
#include "common/conv2d_tiles.cuh"

template <class T, class Tile, bool any>
DEVICE void fprop(T* y, const T* x, const T* weight, const float* bias, const FpropEpilogue& end,
                  const Conv2dSizes& s) {
    DYNAMIC_SHARED(u8, shared);
    const u32 n_begin = blockIdx.x % s.n_tiles * Tile::n, m_begin = blockIdx.x / s.n_tiles * Tile::m;
    const u32 depth = s.kernel * s.kernel * s.in_channels;
    const Axis rows = fprop_axis(s, s.h, s.out_h), cols = fprop_axis(s, s.w, s.out_w);

    const u32 first_in = blockIdx.z * s.in_channels, first_out = blockIdx.z * s.out_channels;
    ActivationKMajor<T, Tile, any> a(x, rows, cols, s.n, first_in, s.in_channels, s.in_pitch, m_begin,
                                     s.aligned_a != 0);
    WeightKMajor<T, Tile, any> b(weight, first_out, n_begin, s.out_channels, depth, s.aligned_b != 0);
    BlockMma<T, Tile, true, true> mma;
    mainloop<T, Tile>(mma, a, b, num_steps(depth, DEPTH<T>), shared);

    mma.template store_accumulators<T>(shared, bias ? bias + first_out + n_begin : nullptr, s.out_channels - n_begin);
    block_sync();
    const u32 positions = s.n * s.out_h * s.out_w;
    auto row_offset = [&](u32 row) {
        u32 m = m_begin + row;
        return m < positions ? i64(m) * s.out_pitch + (first_out + n_begin) : i64(-1);
    };
    // Rows that are not whole chunks get their epilogue as ops of their own.
    if (!any && end.form) {
        fprop_epilogue<Tile>(y, shared, end, n_begin, first_out + n_begin, s.out_channels, row_offset);
        return;
    }
    write_tile<Tile>(y, shared, n_begin, s.out_channels, row_offset);
    if (end.moments) {
        u32 rows = positions - m_begin < u32(Tile::m) ? positions - m_begin : Tile::m;
        tile_moments<Tile, T>(end.moments, shared, rows, m_begin / Tile::m, first_out + n_begin,
                              s.out_channels - n_begin, s.out_pitch, [] { block_sync(); });
    }
}

template <class T, class Tile, bool any>
DEVICE void dgrad(T* dx, const T* dy, const T* weight, const DgradEpilogue& end, const Conv2dSizes& s) {
    DYNAMIC_SHARED(u8, shared);
    const u32 n_begin = blockIdx.x % s.n_tiles * Tile::n, tile = blockIdx.x / s.n_tiles;
    const u32 m_begin = tile % s.m_tiles * Tile::m, phase = tile / s.m_tiles;
    const u32 phases_x = s.stride < s.w ? s.stride : s.w, phase_y = phase / phases_x, phase_x = phase % phases_x;
    const Axis rows = dgrad_axis(s, s.h, s.out_h, phase_y), cols = dgrad_axis(s, s.w, s.out_w, phase_x);
    const u32 first_in = blockIdx.z * s.in_channels, first_out = blockIdx.z * s.out_channels;
    // The grid has tiles for the largest phase; this phase has fewer.
    if (m_begin >= s.n * rows.results * cols.results) {
        zero_sums<Tile>(end, tile, n_begin, first_in + n_begin, s.in_channels, s.in_pitch);
        return;
    }

    ActivationKMajor<T, Tile, any> a(dy, rows, cols, s.n, first_out, s.out_channels, s.out_pitch, m_begin,
                                     s.aligned_a != 0);
    WeightMnMajor<T, Tile, any> b(weight, rows, cols, s, first_out, n_begin);
    BlockMma<T, Tile, true, false> mma;
    mainloop<T, Tile>(mma, a, b, num_steps(rows.taps * cols.taps * s.out_channels, DEPTH<T>), shared);

    mma.template store_accumulators<T>(shared, nullptr, 0);
    block_sync();
    auto row_offset = [&](u32 row) {
        Digits at = to_digits(m_begin + row, rows.results, cols.results);
        u32 i = at.mid * s.stride + phase_y, j = at.low * s.stride + phase_x;
        return at.high < s.n ? i64((at.high * s.h + i) * s.w + j) * s.in_pitch + (first_in + n_begin) : i64(-1);
    };
    // Rows that are not whole chunks get their epilogue as ops of their own.
    if (!any && (end.add || end.sums || end.tangent)) {
        dgrad_epilogue<Tile, T>(shared, end, tile, n_begin, first_in + n_begin, s.in_channels, s.in_pitch, row_offset,
                                [] { block_sync(); });
        block_sync();
    }
    write_tile<Tile>(dx, shared, n_begin, s.in_channels, row_offset);
}

KERNEL(256)
conv2d_fprop_large_f32(float* y, const float* x, const float* weight, const float* bias,
                       const GRID_CONSTANT FpropEpilogue end, const GRID_CONSTANT Conv2dSizes s) {
    fprop<float, Tiles<float>::Large, false>(y, x, weight, bias, end, s);
}
KERNEL(128)
conv2d_fprop_small_f32(float* y, const float* x, const float* weight, const float* bias,
                       const GRID_CONSTANT FpropEpilogue end, const GRID_CONSTANT Conv2dSizes s) {
    fprop<float, Tiles<float>::Small, false>(y, x, weight, bias, end, s);
}
KERNEL(128)
conv2d_fprop_any_f32(float* y, const float* x, const float* weight, const float* bias,
                     const GRID_CONSTANT FpropEpilogue end, const GRID_CONSTANT Conv2dSizes s) {
    fprop<float, Tiles<float>::Small, true>(y, x, weight, bias, end, s);
}
// Shared memory of a multiprocessor holds two blocks.
KERNEL_RESIDENT(256, 2)
conv2d_fprop_large_bf16(bf16* y, const bf16* x, const bf16* weight, const float* bias,
                        const GRID_CONSTANT FpropEpilogue end, const GRID_CONSTANT Conv2dSizes s) {
    fprop<bf16, Tiles<bf16>::Large, false>(y, x, weight, bias, end, s);
}
KERNEL(128)
conv2d_fprop_small_bf16(bf16* y, const bf16* x, const bf16* weight, const float* bias,
                        const GRID_CONSTANT FpropEpilogue end, const GRID_CONSTANT Conv2dSizes s) {
    fprop<bf16, Tiles<bf16>::Small, false>(y, x, weight, bias, end, s);
}
KERNEL(128)
conv2d_fprop_any_bf16(bf16* y, const bf16* x, const bf16* weight, const float* bias,
                      const GRID_CONSTANT FpropEpilogue end, const GRID_CONSTANT Conv2dSizes s) {
    fprop<bf16, Tiles<bf16>::Small, true>(y, x, weight, bias, end, s);
}

KERNEL(256)
conv2d_dgrad_large_f32(float* dx, const float* dy, const float* weight, const DgradEpilogue end, const Conv2dSizes s) {
    dgrad<float, Tiles<float>::Large, false>(dx, dy, weight, end, s);
}
// Shared memory of a multiprocessor holds four blocks.
KERNEL_RESIDENT(128, 4)
conv2d_dgrad_small_f32(float* dx, const float* dy, const float* weight, const DgradEpilogue end, const Conv2dSizes s) {
    dgrad<float, Tiles<float>::Small, false>(dx, dy, weight, end, s);
}
KERNEL(128)
conv2d_dgrad_any_f32(float* dx, const float* dy, const float* weight, const DgradEpilogue end, const Conv2dSizes s) {
    dgrad<float, Tiles<float>::Small, true>(dx, dy, weight, end, s);
}
KERNEL_RESIDENT(256, 2)
conv2d_dgrad_large_bf16(bf16* dx, const bf16* dy, const bf16* weight, const DgradEpilogue end, const Conv2dSizes s) {
    dgrad<bf16, Tiles<bf16>::Large, false>(dx, dy, weight, end, s);
}
KERNEL(128)
conv2d_dgrad_small_bf16(bf16* dx, const bf16* dy, const bf16* weight, const DgradEpilogue end, const Conv2dSizes s) {
    dgrad<bf16, Tiles<bf16>::Small, false>(dx, dy, weight, end, s);
}
KERNEL(128)
conv2d_dgrad_any_bf16(bf16* dx, const bf16* dy, const bf16* weight, const DgradEpilogue end, const Conv2dSizes s) {
    dgrad<bf16, Tiles<bf16>::Small, true>(dx, dy, weight, end, s);
}

REGISTER_KERNEL(conv2d_fprop_large_f32)
REGISTER_KERNEL(conv2d_fprop_small_f32)
REGISTER_KERNEL(conv2d_fprop_any_f32)
REGISTER_KERNEL(conv2d_fprop_large_bf16)
REGISTER_KERNEL(conv2d_fprop_small_bf16)
REGISTER_KERNEL(conv2d_fprop_any_bf16)
REGISTER_KERNEL(conv2d_dgrad_large_f32)
REGISTER_KERNEL(conv2d_dgrad_small_f32)
REGISTER_KERNEL(conv2d_dgrad_any_f32)
REGISTER_KERNEL(conv2d_dgrad_large_bf16)
REGISTER_KERNEL(conv2d_dgrad_small_bf16)
REGISTER_KERNEL(conv2d_dgrad_any_bf16)
