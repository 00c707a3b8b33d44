// The first convolution of a network, which reads three channels: forward and the weight's gradient in bf16 on tensor
// cores, for kernels whose rows of taps hold 9 or 21 values (3x3 and 7x7 of three channels), any stride, dilation 1, 64
// outputs at a time. Its data gradient is not needed in training and left to conv2d.cu.
//
// In NHWC the values of a row of taps are contiguous, and those of neighbouring positions lie `stride` pixels apart. A
// block takes a segment of 128 positions of one row of y: the rows of x that they read are loaded to shared memory
// once, without im2col, and fragments are read from there, one row of taps after another. Its values are padded to 16
// or 32 along k, where the weight is zero (in wgrad: where sums are not written), so what the padding reads has no
// effect unless it is NaN or infinite.
#include "common/conv2d_epilogue.cuh"
#include "common/conv2d_mma.cuh"

constexpr u32 SEGMENT = 128, OUTPUTS = 64, CHANNELS = 3, WARPS = 8;
using StemTile = Tile<SEGMENT, OUTPUTS, 32 * WARPS>;

/// Sizes that depend on the kernel: values of a row of taps, and the same padded to multiples of the k16 of mma.
template <int kernel> struct Taps {
    static constexpr u32 len = kernel * CHANNELS, depth = (len + 15) / 16 * 16;
};

/// Values of x in shared memory for each row of taps: those of the segment and what the padding of the last reads.
template <int kernel> DEVICE u32 row_len(const Conv2dSizes& s) {
    return ((SEGMENT - 1) * s.stride * CHANNELS + Taps<kernel>::depth + 1) / 2 * 2;
}

/// A segment of 128 positions of a row of y.
struct Segment {
    u32 image, row, col;
    DEVICE Segment(u32 index, const Conv2dSizes& s) {
        u32 per_row = (s.out_w + SEGMENT - 1) / SEGMENT;
        Digits at = to_digits(index, s.out_h, per_row);
        image = at.high, row = at.mid, col = at.low * SEGMENT;
    }
    /// Positions that are in the image.
    DEVICE u32 count(const Conv2dSizes& s) const { return s.out_w - col < SEGMENT ? s.out_w - col : SEGMENT; }
    DEVICE u64 first(const Conv2dSizes& s) const { return (u64(image) * s.out_h + row) * s.out_w + col; }
};

/// Loads the rows of x that a segment reads; what lies outside the image is zero.
template <int kernel> DEVICE void load_rows(bf16* rows, const bf16* x, const Segment& at, const Conv2dSizes& s) {
    const u32 len = row_len<kernel>(s);
    const i32 first = (i32(at.col * s.stride) - i32(s.padding)) * i32(CHANNELS), end = i32(s.w * CHANNELS);
    for (u32 r = 0; r < kernel; ++r) {
        i32 row = i32(at.row * s.stride + r) - i32(s.padding);
        const bf16* from = x + (i64(at.image) * s.h + row) * end;
        for (u32 i = threadIdx.x; i < len; i += StemTile::threads) {
            i32 at_x = first + i32(i);
            bool inside = u32(row) < s.h && at_x >= 0 && at_x < end;
            rows[r * len + i] = inside ? from[at_x] : bf16{0};
        }
    }
}

/// Two neighbouring values; the first may have an odd index, so they are not one aligned word.
DEVICE u32 pair(const bf16* at) { return at[0].bits | u32(at[1].bits) << 16; }

/// Row pitch of the weight in shared memory: padded so that eight rows fall on different banks.
template <int kernel> constexpr u32 WEIGHT_ROW = kernel * Taps<kernel>::depth + 8;

/// y = x * weight + bias. Block x: segments; block y: 64 outputs. `moments` may be null, and is where rows of y are no
/// whole segments.
template <int kernel>
DEVICE void fprop(bf16* y, const bf16* x, const bf16* weight, const float* bias, double* moments, const Conv2dSizes& s,
                  u8* shared) {
    constexpr u32 LEN = Taps<kernel>::len, DEPTH_K = Taps<kernel>::depth;
    bf16* weights = reinterpret_cast<bf16*>(shared);
    bf16* rows = weights + OUTPUTS * WEIGHT_ROW<kernel>;
    const u32 len = row_len<kernel>(s), first_out = blockIdx.y * OUTPUTS, outputs = s.out_channels - first_out;
    const Segment at(blockIdx.x, s);
    for (u32 i = threadIdx.x; i < OUTPUTS * kernel * DEPTH_K; i += StemTile::threads) {
        u32 k = i % DEPTH_K, r = i / DEPTH_K % kernel, o = i / DEPTH_K / kernel;
        bool inside = k < LEN && o < outputs;
        weights[o * WEIGHT_ROW<kernel> + r * DEPTH_K + k] =
            inside ? weight[(u64(first_out + o) * kernel + r) * LEN + k] : bf16{0};
    }
    load_rows<kernel>(rows, x, at, s);
    block_sync();

    const u32 lane = threadIdx.x % 32, group = lane / 4, two = lane % 4 * 2, position = threadIdx.x / 32 * 16 + group;
    float sums[OUTPUTS / 8][4] = {};
#pragma unroll
    for (u32 r = 0; r < kernel; ++r) {
#pragma unroll
        for (u32 k = 0; k < DEPTH_K; k += 16) {
            const bf16* low = rows + r * len + position * s.stride * CHANNELS + k + two;
            const bf16* high = low + 8 * s.stride * CHANNELS;
            const u32 a[4] = {pair(low), pair(high), pair(low + 8), pair(high + 8)};
#pragma unroll
            for (u32 j = 0; j < OUTPUTS / 8; ++j) {
                const bf16* w = weights + (8 * j + group) * WEIGHT_ROW<kernel> + r * DEPTH_K + k + two;
                const u32 b[2] = {*reinterpret_cast<const u32*>(w), *reinterpret_cast<const u32*>(w + 8)};
                mma_m16n8k16(sums[j], a, b);
            }
        }
    }
    // The finished tile overwrites the operands.
    block_sync();
    bf16* staged = reinterpret_cast<bf16*>(shared);
#pragma unroll
    for (u32 j = 0; j < OUTPUTS / 8; ++j) {
        u32 c = 8 * j + two;
        float b0 = bias && c < outputs ? bias[first_out + c] : 0.0f;
        float b1 = bias && c + 1 < outputs ? bias[first_out + c + 1] : 0.0f;
        bf16* to = staged + position * STAGED_ROW<StemTile> + c;
        store_pair(to, sums[j][0] + b0, sums[j][1] + b1);
        to += 8 * STAGED_ROW<StemTile>;
        store_pair(to, sums[j][2] + b0, sums[j][3] + b1);
    }
    block_sync();
    const u32 count = at.count(s);
    write_tile<StemTile>(y, shared, first_out, s.out_channels, [&](u32 row) {
        return row < count ? i64((at.first(s) + row) * s.out_channels + first_out) : i64(-1);
    });
    if (moments) {
        tile_moments<StemTile, bf16>(moments, shared, count, blockIdx.x, first_out, outputs, s.out_channels,
                                     [] { block_sync(); });
    }
}

/// partial[split, o, taps] = the sum over the split's segments. Block x: splits of `split_len` segments; block y: 64
/// outputs. A warp makes one row of taps, and where there are enough warps, of one part of the positions.
template <int kernel>
DEVICE void wgrad(float* partial, const bf16* x, const bf16* dy, const Conv2dSizes& s, u8* shared) {
    constexpr u32 LEN = Taps<kernel>::len, DEPTH_K = Taps<kernel>::depth, PARTS = WARPS / kernel;
    constexpr u32 M_PARTS = OUTPUTS / 16, N_PARTS = DEPTH_K / 8, CHUNKS = OUTPUTS / 8;
    u8* gradient = shared;
    bf16* rows = reinterpret_cast<bf16*>(shared + SEGMENT * OUTPUTS * sizeof(bf16));
    const u32 len = row_len<kernel>(s), first_out = blockIdx.y * OUTPUTS, outputs = s.out_channels - first_out;
    const u32 segments = s.n * s.out_h * ((s.out_w + SEGMENT - 1) / SEGMENT);
    const u32 begin = blockIdx.x * s.split_len, end = begin + s.split_len < segments ? begin + s.split_len : segments;
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, tap_row = warp % kernel, part = warp / kernel;
    float sums[M_PARTS][N_PARTS][4] = {};
    for (u32 index = begin; index < end; ++index) {
        const Segment at(index, s);
        const u32 count = at.count(s);
        // The segment before has been read.
        block_sync();
        load_rows<kernel>(rows, x, at, s);
        for (u32 i = threadIdx.x; i < SEGMENT * CHUNKS; i += StemTile::threads) {
            u32 row = i / CHUNKS, chunk = i % CHUNKS;
            const bf16* from = dy + (at.first(s) + row) * s.out_channels + first_out + chunk * 8;
            fetch_chunk(chunk_at<CHUNKS>(gradient, row, chunk), from, dy, row < count && chunk * 8 < outputs);
        }
        copy_async_commit();
        copy_async_wait<0>();
        block_sync();
        if (part < PARTS) {
            for (u32 k = part * 16; k < SEGMENT; k += 16 * PARTS) {
                u32 b[N_PARTS][2];
#pragma unroll
                for (u32 j = 0; j < N_PARTS; ++j) {
                    // Value lane / 4 of positions 2 (lane % 4) and the next, and of those eight further on.
                    const u32 step = s.stride * CHANNELS;
                    const bf16* from = rows + tap_row * len + (k + lane % 4 * 2) * step + 8 * j + lane / 4;
                    b[j][0] = from[0].bits | u32(from[step].bits) << 16;
                    b[j][1] = from[8 * step].bits | u32(from[9 * step].bits) << 16;
                }
#pragma unroll
                for (u32 i = 0; i < M_PARTS; ++i) {
                    u32 a[4];
                    u32 row = k + lane / 16 * 8 + lane % 8;
                    ldmatrix_x4_trans(a, chunk_at<CHUNKS>(gradient, row, 2 * i + lane / 8 % 2));
#pragma unroll
                    for (u32 j = 0; j < N_PARTS; ++j) mma_m16n8k16(sums[i][j], a, b[j]);
                }
            }
        }
    }
    // The parts of the positions are added in their order.
    float* out = partial + u64(blockIdx.x) * s.out_channels * kernel * LEN;
    float* others = reinterpret_cast<float*>(shared);
    for (u32 turn = PARTS; turn-- > 0;) {
        block_sync();
        if (part == turn) {
#pragma unroll
            for (u32 i = 0; i < M_PARTS; ++i) {
#pragma unroll
                for (u32 j = 0; j < N_PARTS; ++j) {
#pragma unroll
                    for (u32 q = 0; q < 4; ++q) {
                        u32 o = 16 * i + lane / 4 + q / 2 * 8, k = 8 * j + lane % 4 * 2 + q % 2;
                        float* sum = others + (o * kernel + tap_row) * DEPTH_K + k;
                        float value = turn == PARTS - 1 ? sums[i][j][q] : sums[i][j][q] + *sum;
                        if (turn > 0) {
                            *sum = value;
                        } else if (o < outputs && k < LEN) {
                            out[(u64(first_out + o) * kernel + tap_row) * LEN + k] = value;
                        }
                    }
                }
            }
        }
    }
}

KERNEL(256)
conv2d_stem_fprop3_bf16(bf16* y, const bf16* x, const bf16* weight, const float* bias, double* moments,
                        const Conv2dSizes s) {
    DYNAMIC_SHARED(u8, shared);
    fprop<3>(y, x, weight, bias, moments, s, shared);
}
KERNEL(256)
conv2d_stem_fprop7_bf16(bf16* y, const bf16* x, const bf16* weight, const float* bias, double* moments,
                        const Conv2dSizes s) {
    DYNAMIC_SHARED(u8, shared);
    fprop<7>(y, x, weight, bias, moments, s, shared);
}
KERNEL(256) conv2d_stem_wgrad3_bf16(float* partial, const bf16* x, const bf16* dy, const Conv2dSizes s) {
    DYNAMIC_SHARED(u8, shared);
    wgrad<3>(partial, x, dy, s, shared);
}
KERNEL(256) conv2d_stem_wgrad7_bf16(float* partial, const bf16* x, const bf16* dy, const Conv2dSizes s) {
    DYNAMIC_SHARED(u8, shared);
    wgrad<7>(partial, x, dy, s, shared);
}

REGISTER_KERNEL(conv2d_stem_fprop3_bf16)
REGISTER_KERNEL(conv2d_stem_fprop7_bf16)
REGISTER_KERNEL(conv2d_stem_wgrad3_bf16)
REGISTER_KERNEL(conv2d_stem_wgrad7_bf16)
