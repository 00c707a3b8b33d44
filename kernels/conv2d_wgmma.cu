// The convolutions of kernels/conv2d.cu and conv2d_wgrad.cu (which say what they compute) for compute capability 9.0:
// products of warpgroups over tiles that bulk copies bring, activations in bf16. dgrad is that of stride 1, which is a
// convolution of dy with the taps in reverse. Channels of both tensors are multiples of eight; with several groups the
// channels that products sum over are multiples of 64.
//
// `a` reads the activation, as pixels of a bounding box or, where a position reads itself alone, as a matrix; `b` the weight
// or, in wgrad, the input. The tiles are numbered as in conv2d.cu.
#include "common/conv2d_epilogue.cuh"
#include "common/conv2d_product.cuh"
#include "common/conv2d_tiles.cuh"
#include "common/conv2d_wgmma.cuh"

/// Two blocks of the smaller ones are resident, so that one multiplies while the other begins or ends.
using Tile64 = WarpgroupTile<64, 4>;
using Tile128 = WarpgroupTile<128, 3>;
using Tile256 = WarpgroupTile<256, 4>;
/// In pairs, which read a third less.
using Tile256Pair = WarpgroupTile<256, 4, 2>;

/// Steps of 64 channels of all taps.
DEVICE u32 tap_steps(const Conv2dSizes& s, u32 channels) { return s.kernel * s.kernel * num_steps(channels, BOX_ROW); }

/// Runs the pipeline; `finish` is called by the threads that multiply, with the finished product.
template <class Tile, bool across_a, bool across_b, class A, class B, class Finish>
DEVICE void run(const Stages<Tile>& stages, A& a, B& b, u32 steps, Finish finish) {
    stages.init();
    if (threadIdx.x >= Tile::threads) {
        if (elect()) produce(stages, a, b, steps);
        if constexpr (Tile::cluster > 1) cluster_arrive();
    } else {
        WarpgroupProduct<Tile, across_a, across_b> product;
        product.consume(stages, steps);
        if constexpr (Tile::cluster > 1) cluster_arrive();
        finish(product);
    }
    // No block is gone while another one copies to it, or arrives at its barriers.
    if constexpr (Tile::cluster > 1) cluster_wait();
}

template <class Tile>
DEVICE void fprop(bf16* y, const TensorMap& a_map, const TensorMap& b_map, const float* bias, const OutputEnd& end,
                  const Conv2dSizes& s) {
    DYNAMIC_SHARED(u8, shared);
    const Stages<Tile> stages(shared);
    const TilePlace<Tile> tile(s.n_tiles);
    const u32 n_begin = tile.n, m_begin = tile.m, positions = s.n * s.out_h * s.out_w;
    const u32 first_in = blockIdx.z * s.in_channels, first_out = blockIdx.z * s.out_channels;
    PositionColumns a(a_map, s, m_begin, s.out_h, s.out_w, s.stride, -i32(s.padding), first_in, s.in_channels);
    WeightRows<Tile> b(b_map, first_out + n_begin, s.in_channels);
    run<Tile, false, false>(stages, a, b, tap_steps(s, s.in_channels), [&](const auto& product) {
        if (Tile::cluster > 1 && m_begin >= positions) return;
        product.template stage<bf16>(stages.tiles, bias ? bias + first_out + n_begin : nullptr, s.out_channels - n_begin);
        group_sync(CONSUMERS, Tile::threads);
        auto place = [&](u32 row) {
            u32 m = m_begin + row;
            return m < positions ? i64(m) * s.out_pitch + (first_out + n_begin) : i64(-1);
        };
        if (end.form) {
            finish_output<Tile>(y, stages.tiles, end, n_begin, first_out + n_begin, s.out_channels, place);
            return;
        }
        write_tile<Tile>(y, stages.tiles, n_begin, s.out_channels, place);
        if (end.moments) {
            u32 rows = positions - m_begin < u32(Tile::m) ? positions - m_begin : Tile::m;
            tile_moments<Tile, bf16>(end.moments, stages.tiles, rows, m_begin / Tile::m, first_out + n_begin,
                                     s.out_channels - n_begin, s.out_pitch, [] { group_sync(CONSUMERS, Tile::threads); });
        }
    });
}

template <class Tile>
DEVICE void dgrad(bf16* dx, const TensorMap& a_map, const TensorMap& b_map, const GradientEnd& end, const Conv2dSizes& s) {
    DYNAMIC_SHARED(u8, shared);
    const Stages<Tile> stages(shared);
    const TilePlace<Tile> tile(s.n_tiles);
    const u32 n_begin = tile.n, m_begin = tile.m, positions = s.n * s.h * s.w;
    const u32 first_in = blockIdx.z * s.in_channels, first_out = blockIdx.z * s.out_channels;
    const i32 base = i32(s.padding) - i32((s.kernel - 1) * s.dilation);
    PositionColumns a(a_map, s, m_begin, s.h, s.w, 1, base, first_out, s.out_channels);
    WeightColumns<Tile> b(b_map, s, n_begin, first_out);
    run<Tile, false, true>(stages, a, b, tap_steps(s, s.out_channels), [&](const auto& product) {
        if (Tile::cluster > 1 && m_begin >= positions) return;
        product.template stage<bf16>(stages.tiles, nullptr, 0);
        group_sync(CONSUMERS, Tile::threads);
        auto place = [&](u32 row) {
            u32 m = m_begin + row;
            return m < positions ? i64(m) * s.in_pitch + (first_in + n_begin) : i64(-1);
        };
        if (end.add || end.sums || end.tangent) {
            finish_gradient<Tile, bf16>(stages.tiles, end, m_begin / Tile::m, n_begin, first_in + n_begin, s.in_channels,
                                        s.in_pitch, place, [] { group_sync(CONSUMERS, Tile::threads); });
            group_sync(CONSUMERS, Tile::threads);
        }
        write_tile<Tile>(dx, stages.tiles, n_begin, s.in_channels, place);
    });
}

/// Block y: split. A split is whole steps of positions, and what lies behind the last position is zero.
template <class Tile>
DEVICE void wgrad(float* partial, const TensorMap& a_map, const TensorMap& b_map, const Conv2dSizes& s) {
    DYNAMIC_SHARED(u8, shared);
    const Stages<Tile> stages(shared);
    const TilePlace<Tile> tile(s.n_tiles);
    const u32 first_block = tile.n / BOX_ROW, m_begin = tile.m;
    const u32 positions = s.n * s.out_h * s.out_w, begin = blockIdx.y * s.split_len;
    const u32 end = begin + s.split_len < positions ? begin + s.split_len : positions;
    const u32 first_in = blockIdx.z * s.in_channels, first_out = blockIdx.z * s.out_channels;
    GradientColumns a(a_map, first_out + m_begin, begin);
    PatchColumns<Tile> b(b_map, s, first_block, first_in, begin);
    run<Tile, true, true>(stages, a, b, num_steps(end - begin, BOX_ROW), [&](const auto& product) {
        product.template stage<float>(stages.tiles, nullptr, 0);
        group_sync(CONSUMERS, Tile::threads);
        const TapBlocks blocks(s);
        const float* staged = reinterpret_cast<const float*>(stages.tiles);
        float* out = partial + (u64(blockIdx.y) * gridDim.z + blockIdx.z) * s.out_channels * blocks.taps * s.in_channels;
        for (u32 i = threadIdx.x; i < Tile::m * Tile::n / 4; i += Tile::threads) {
            u32 row = i / (Tile::n / 4), col = i % (Tile::n / 4) * 4, m = m_begin + row;
            u32 tap = blocks.tap(first_block + col / BOX_ROW);
            u32 channel = blocks.channel(first_block + col / BOX_ROW) + col % BOX_ROW;
            if (m >= s.out_channels || tap >= blocks.taps || channel >= s.in_channels) continue;
            float* to = out + (u64(m) * blocks.taps + tap) * s.in_channels + channel;
            *reinterpret_cast<f32x4*>(to) = *reinterpret_cast<const f32x4*>(staged + row * STAGED_ROW<Tile> + col);
        }
    });
}

KERNEL_RESIDENT(288, 2)
conv2d_fprop_wgmma64_bf16(bf16* y, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b, const float* bias,
                          const GRID_CONSTANT OutputEnd end, const GRID_CONSTANT Conv2dSizes s) {
    fprop<Tile64>(y, a, b, bias, end, s);
}
KERNEL_RESIDENT(288, 2)
conv2d_fprop_wgmma128_bf16(bf16* y, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b, const float* bias,
                           const GRID_CONSTANT OutputEnd end, const GRID_CONSTANT Conv2dSizes s) {
    fprop<Tile128>(y, a, b, bias, end, s);
}
KERNEL(288)
conv2d_fprop_wgmma256_bf16(bf16* y, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b, const float* bias,
                           const GRID_CONSTANT OutputEnd end, const GRID_CONSTANT Conv2dSizes s) {
    fprop<Tile256>(y, a, b, bias, end, s);
}
KERNEL_CLUSTER(288, 2)
conv2d_fprop_wgmma256x2_bf16(bf16* y, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b, const float* bias,
                             const GRID_CONSTANT OutputEnd end, const GRID_CONSTANT Conv2dSizes s) {
    fprop<Tile256Pair>(y, a, b, bias, end, s);
}
KERNEL_RESIDENT(288, 2)
conv2d_dgrad_wgmma64_bf16(bf16* dx, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b,
                          const GRID_CONSTANT GradientEnd end, const GRID_CONSTANT Conv2dSizes s) {
    dgrad<Tile64>(dx, a, b, end, s);
}
KERNEL_RESIDENT(288, 2)
conv2d_dgrad_wgmma128_bf16(bf16* dx, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b,
                           const GRID_CONSTANT GradientEnd end, const GRID_CONSTANT Conv2dSizes s) {
    dgrad<Tile128>(dx, a, b, end, s);
}
KERNEL(288)
conv2d_dgrad_wgmma256_bf16(bf16* dx, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b,
                           const GRID_CONSTANT GradientEnd end, const GRID_CONSTANT Conv2dSizes s) {
    dgrad<Tile256>(dx, a, b, end, s);
}
KERNEL_CLUSTER(288, 2)
conv2d_dgrad_wgmma256x2_bf16(bf16* dx, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b,
                             const GRID_CONSTANT GradientEnd end, const GRID_CONSTANT Conv2dSizes s) {
    dgrad<Tile256Pair>(dx, a, b, end, s);
}
KERNEL_RESIDENT(288, 2)
conv2d_wgrad_wgmma64_bf16(float* partial, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b,
                          const GRID_CONSTANT Conv2dSizes s) {
    wgrad<Tile64>(partial, a, b, s);
}
KERNEL_RESIDENT(288, 2)
conv2d_wgrad_wgmma128_bf16(float* partial, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b,
                           const GRID_CONSTANT Conv2dSizes s) {
    wgrad<Tile128>(partial, a, b, s);
}
KERNEL(288)
conv2d_wgrad_wgmma256_bf16(float* partial, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b,
                           const GRID_CONSTANT Conv2dSizes s) {
    wgrad<Tile256>(partial, a, b, s);
}
KERNEL_CLUSTER(288, 2)
conv2d_wgrad_wgmma256x2_bf16(float* partial, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b,
                             const GRID_CONSTANT Conv2dSizes s) {
    wgrad<Tile256Pair>(partial, a, b, s);
}

REGISTER_KERNEL(conv2d_fprop_wgmma64_bf16)
REGISTER_KERNEL(conv2d_fprop_wgmma128_bf16)
REGISTER_KERNEL(conv2d_fprop_wgmma256_bf16)
REGISTER_KERNEL(conv2d_fprop_wgmma256x2_bf16)
REGISTER_KERNEL(conv2d_dgrad_wgmma64_bf16)
REGISTER_KERNEL(conv2d_dgrad_wgmma128_bf16)
REGISTER_KERNEL(conv2d_dgrad_wgmma256_bf16)
REGISTER_KERNEL(conv2d_dgrad_wgmma256x2_bf16)
REGISTER_KERNEL(conv2d_wgrad_wgmma64_bf16)
REGISTER_KERNEL(conv2d_wgrad_wgmma128_bf16)
REGISTER_KERNEL(conv2d_wgrad_wgmma256_bf16)
REGISTER_KERNEL(conv2d_wgrad_wgmma256x2_bf16)
