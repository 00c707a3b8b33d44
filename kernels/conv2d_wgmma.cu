// The convolutions of kernels/conv2d.cu and conv2d_wgrad.cu (which define what is computed) for compute capability 9.0,
// by TMA and WGMMA, activations in bf16. dgrad has stride 1 only, where it is a convolution of dy with the taps in
// reverse order. Channels of both tensors are multiples of eight; with several groups the channels that are summed over
// are multiples of 64.
//
// `a` loads the activation (im2col, or tiled as a matrix where a position reads itself alone), `b` the weight or, in
// wgrad, the input. The tiles are numbered as in conv2d.cu.
#include "common/conv2d_epilogue.cuh"
#include "common/conv2d_tiles.cuh"
#include "common/conv2d_wgmma.cuh"

/// Two blocks of the smaller ones are resident, so that one multiplies during the other's prologue or epilogue.
using Tile64 = WgmmaTile<64, 4>;
using Tile128 = WgmmaTile<128, 3>;
using Tile256 = WgmmaTile<256, 4>;
/// In clusters of two, which load a third less.
using Tile256Pair = WgmmaTile<256, 4, 2>;

/// K steps of 64 channels over all taps.
DEVICE u32 tap_steps(const Conv2dSizes& s, u32 channels) { return s.kernel * s.kernel * num_steps(channels, BOX_ROW); }

/// Runs the pipeline; the consumers call `epilogue` with their accumulators.
template <class Tile, bool mn_major_a, bool mn_major_b, class A, class B, class Epilogue>
DEVICE void run(const Pipeline<Tile>& pipeline, A& a, B& b, u32 steps, Epilogue epilogue) {
    pipeline.init();
    if (threadIdx.x >= Tile::threads) {
        if (elect_one()) produce(pipeline, a, b, steps);
        if constexpr (Tile::cluster > 1) cluster_arrive();
    } else {
        WgmmaMainloop<Tile, mn_major_a, mn_major_b> mainloop;
        mainloop.consume(pipeline, steps);
        if constexpr (Tile::cluster > 1) cluster_arrive();
        epilogue(mainloop);
    }
    // No block may exit while another one multicasts to it or arrives at its mbarriers.
    if constexpr (Tile::cluster > 1) cluster_wait();
}

template <class Tile>
DEVICE void fprop(bf16* y, const TensorMap& a_map, const TensorMap& b_map, const float* bias, const FpropEpilogue& end,
                  const Conv2dSizes& s) {
    DYNAMIC_SHARED(u8, shared);
    const Pipeline<Tile> pipeline(shared);
    const TileCoord<Tile> tile(s.n_tiles);
    const u32 n_begin = tile.n, m_begin = tile.m, positions = s.n * s.out_h * s.out_w;
    const u32 first_in = blockIdx.z * s.in_channels, first_out = blockIdx.z * s.out_channels;
    TmaActivationKMajor a(a_map, s, m_begin, s.out_h, s.out_w, s.stride, -i32(s.padding), first_in, s.in_channels);
    TmaWeightKMajor<Tile> b(b_map, first_out + n_begin, s.in_channels);
    run<Tile, false, false>(pipeline, a, b, tap_steps(s, s.in_channels), [&](const auto& mainloop) {
        if (Tile::cluster > 1 && m_begin >= positions) return;
        mainloop.template store_accumulators<bf16>(pipeline.tiles, bias ? bias + first_out + n_begin : nullptr,
                                                   s.out_channels - n_begin);
        named_barrier_sync(CONSUMERS, Tile::threads);
        auto row_offset = [&](u32 row) {
            u32 m = m_begin + row;
            return m < positions ? i64(m) * s.out_pitch + (first_out + n_begin) : i64(-1);
        };
        if (end.form) {
            fprop_epilogue<Tile>(y, pipeline.tiles, end, n_begin, first_out + n_begin, s.out_channels, row_offset);
            return;
        }
        write_tile<Tile>(y, pipeline.tiles, n_begin, s.out_channels, row_offset);
        if (end.moments) {
            u32 rows = positions - m_begin < u32(Tile::m) ? positions - m_begin : Tile::m;
            tile_moments<Tile, bf16>(end.moments, pipeline.tiles, rows, m_begin / Tile::m, first_out + n_begin,
                                     s.out_channels - n_begin, s.out_pitch,
                                     [] { named_barrier_sync(CONSUMERS, Tile::threads); });
        }
    });
}

template <class Tile>
DEVICE void dgrad(bf16* dx, const TensorMap& a_map, const TensorMap& b_map, const DgradEpilogue& end,
                  const Conv2dSizes& s) {
    DYNAMIC_SHARED(u8, shared);
    const Pipeline<Tile> pipeline(shared);
    const TileCoord<Tile> tile(s.n_tiles);
    const u32 n_begin = tile.n, m_begin = tile.m, positions = s.n * s.h * s.w;
    const u32 first_in = blockIdx.z * s.in_channels, first_out = blockIdx.z * s.out_channels;
    const i32 base = i32(s.padding) - i32((s.kernel - 1) * s.dilation);
    TmaActivationKMajor a(a_map, s, m_begin, s.h, s.w, 1, base, first_out, s.out_channels);
    TmaWeightMnMajor<Tile> b(b_map, s, n_begin, first_out);
    run<Tile, false, true>(pipeline, a, b, tap_steps(s, s.out_channels), [&](const auto& mainloop) {
        if (Tile::cluster > 1 && m_begin >= positions) return;
        mainloop.template store_accumulators<bf16>(pipeline.tiles, nullptr, 0);
        named_barrier_sync(CONSUMERS, Tile::threads);
        auto row_offset = [&](u32 row) {
            u32 m = m_begin + row;
            return m < positions ? i64(m) * s.in_pitch + (first_in + n_begin) : i64(-1);
        };
        if (end.add || end.sums || end.tangent) {
            dgrad_epilogue<Tile, bf16>(pipeline.tiles, end, m_begin / Tile::m, n_begin, first_in + n_begin,
                                       s.in_channels, s.in_pitch, row_offset,
                                       [] { named_barrier_sync(CONSUMERS, Tile::threads); });
            named_barrier_sync(CONSUMERS, Tile::threads);
        }
        write_tile<Tile>(dx, pipeline.tiles, n_begin, s.in_channels, row_offset);
    });
}

/// Block y: split. A split is whole steps of positions; what lies after the last position is zero.
template <class Tile>
DEVICE void wgrad(float* partial, const TensorMap& a_map, const TensorMap& b_map, const Conv2dSizes& s) {
    DYNAMIC_SHARED(u8, shared);
    const Pipeline<Tile> pipeline(shared);
    const TileCoord<Tile> tile(s.n_tiles);
    const u32 first_block = tile.n / BOX_ROW, m_begin = tile.m;
    const u32 positions = s.n * s.out_h * s.out_w, begin = blockIdx.y * s.split_len;
    const u32 end = begin + s.split_len < positions ? begin + s.split_len : positions;
    const u32 first_in = blockIdx.z * s.in_channels, first_out = blockIdx.z * s.out_channels;
    TmaGradientMnMajor a(a_map, first_out + m_begin, begin);
    TmaActivationMnMajor<Tile> b(b_map, s, first_block, first_in, begin);
    run<Tile, true, true>(pipeline, a, b, num_steps(end - begin, BOX_ROW), [&](const auto& mainloop) {
        mainloop.template store_accumulators<float>(pipeline.tiles, nullptr, 0);
        named_barrier_sync(CONSUMERS, Tile::threads);
        const TapBlocks blocks(s);
        const float* staged = reinterpret_cast<const float*>(pipeline.tiles);
        float* out =
            partial + (u64(blockIdx.y) * gridDim.z + blockIdx.z) * s.out_channels * blocks.taps * s.in_channels;
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
                          const GRID_CONSTANT FpropEpilogue end, const GRID_CONSTANT Conv2dSizes s) {
    fprop<Tile64>(y, a, b, bias, end, s);
}
KERNEL_RESIDENT(288, 2)
conv2d_fprop_wgmma128_bf16(bf16* y, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b, const float* bias,
                           const GRID_CONSTANT FpropEpilogue end, const GRID_CONSTANT Conv2dSizes s) {
    fprop<Tile128>(y, a, b, bias, end, s);
}
KERNEL(288)
conv2d_fprop_wgmma256_bf16(bf16* y, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b, const float* bias,
                           const GRID_CONSTANT FpropEpilogue end, const GRID_CONSTANT Conv2dSizes s) {
    fprop<Tile256>(y, a, b, bias, end, s);
}
KERNEL_CLUSTER(288, 2)
conv2d_fprop_wgmma256x2_bf16(bf16* y, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b,
                             const float* bias, const GRID_CONSTANT FpropEpilogue end,
                             const GRID_CONSTANT Conv2dSizes s) {
    fprop<Tile256Pair>(y, a, b, bias, end, s);
}
KERNEL_RESIDENT(288, 2)
conv2d_dgrad_wgmma64_bf16(bf16* dx, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b,
                          const GRID_CONSTANT DgradEpilogue end, const GRID_CONSTANT Conv2dSizes s) {
    dgrad<Tile64>(dx, a, b, end, s);
}
KERNEL_RESIDENT(288, 2)
conv2d_dgrad_wgmma128_bf16(bf16* dx, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b,
                           const GRID_CONSTANT DgradEpilogue end, const GRID_CONSTANT Conv2dSizes s) {
    dgrad<Tile128>(dx, a, b, end, s);
}
KERNEL(288)
conv2d_dgrad_wgmma256_bf16(bf16* dx, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b,
                           const GRID_CONSTANT DgradEpilogue end, const GRID_CONSTANT Conv2dSizes s) {
    dgrad<Tile256>(dx, a, b, end, s);
}
KERNEL_CLUSTER(288, 2)
conv2d_dgrad_wgmma256x2_bf16(bf16* dx, const GRID_CONSTANT TensorMap a, const GRID_CONSTANT TensorMap b,
                             const GRID_CONSTANT DgradEpilogue end, const GRID_CONSTANT Conv2dSizes s) {
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
