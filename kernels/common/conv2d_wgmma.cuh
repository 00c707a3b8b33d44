// The warp-specialised pipeline of convolutions by TMA and WGMMA: one elected thread of the producer warp loads the
// operand tiles of each k step into a stage of shared memory, two consumer warpgroups multiply them. out[m, n] = sum
// over k of A[m, k] B[k, n]; a block makes a tile of 128 x n results, a step is 64 values along k.
#pragma once

#include "conv2d.cuh"
#include "device_sm90.cuh"

/// Block tile of 128 x n results; `threads` are the consumers, the producer is one warp more. The blocks of a cluster
/// make consecutive tiles along m and read the same B: each multicasts its share of B to all. As `Tile` in
/// src/backend/cuda/conv2d/tile.rs.
template <int n_, int stages_, int cluster_ = 1> struct WgmmaTile {
    static constexpr int m = 128, n = n_, threads = 256, stages = stages_, cluster = cluster_;
    static constexpr u32 A_BYTES = m * STEP_BYTES, STAGE_BYTES = (m + n) * STEP_BYTES;
};

/// Boxes of 64 rows of 64 values.
constexpr u32 BOX_BYTES = BOX_ROW * STEP_BYTES;
constexpr u32 CONSUMER_WARPS = 8;
/// Named barrier of the consumers.
constexpr u32 CONSUMERS = 1;

/// Where a block's tile begins; tiles are numbered along n first. The last cluster may have tiles beyond the last one.
template <class Tile> struct TileCoord {
    u32 m, n;
    DEVICE explicit TileCoord(u32 n_tiles)
        : m((blockIdx.x / Tile::cluster / n_tiles * Tile::cluster + blockIdx.x % Tile::cluster) * Tile::m),
          n(blockIdx.x / Tile::cluster % n_tiles * Tile::n) {}
};

/// First of this block's share of the `whole` rows or boxes that all blocks of the cluster read.
template <class Tile> DEVICE u32 cluster_share(u32 whole) {
    if constexpr (Tile::cluster == 1) return 0;
    return cluster_rank() * (whole / Tile::cluster);
}

/// Shared memory of a block: stages of operand tiles, then two mbarriers per stage. The epilogue reuses the stages for
/// the finished tile.
template <class Tile> struct Pipeline {
    u8* tiles;
    u64 *full, *empty;

    DEVICE explicit Pipeline(u8* shared) {
        u32 at = shared_address(shared);
        tiles = shared + ((at + BOX_ALIGN - 1) / BOX_ALIGN * BOX_ALIGN - at);
        full = reinterpret_cast<u64*>(tiles + Tile::stages * Tile::STAGE_BYTES);
        empty = full + Tile::stages;
    }

    DEVICE void init() const {
        if (threadIdx.x == 0) {
            for (int i = 0; i < Tile::stages; ++i) {
                mbarrier_init(&full[i], 1);
                // The consumers of all blocks of the cluster read what this block's producer loads.
                mbarrier_init(&empty[i], CONSUMER_WARPS * Tile::cluster);
            }
            fence_mbarrier_init();
        }
        if constexpr (Tile::cluster == 1) {
            block_sync();
        } else {
            cluster_arrive();
            cluster_wait();
        }
    }
};

/// Loads the operand tiles of `steps` k steps, each as soon as its stage is empty.
template <class Tile, class A, class B> DEVICE void produce(const Pipeline<Tile>& pipeline, A& a, B& b, u32 steps) {
    u32 stage = 0, phase = 0;
    for (u32 step = 0; step < steps; ++step) {
        // In the first round this is the parity of the phase before the first, which counts as completed.
        mbarrier_wait(&pipeline.empty[stage], (phase & 1) ^ 1);
        mbarrier_arrive_expect_tx(&pipeline.full[stage], Tile::STAGE_BYTES);
        u8* tile = pipeline.tiles + stage * Tile::STAGE_BYTES;
        a.load(tile, &pipeline.full[stage]);
        b.load(tile + Tile::A_BYTES, &pipeline.full[stage]);
        if (++stage == Tile::stages) stage = 0, ++phase;
    }
}

/// A consumer warpgroup: 64 rows of the tile. `mn_major_*`: rows of the operand's tile run along m or n instead of k.
template <class Tile, bool mn_major_a, bool mn_major_b> struct WgmmaMainloop {
    static constexpr int WIDTH = Tile::n < 128 ? Tile::n : 128, PARTS = Tile::n / WIDTH;
    /// From one k16 slice to the next in a descriptor's units of 16 bytes: 16 rows (MN-major) or 32 bytes of a row
    /// (K-major).
    static constexpr u64 STEP_A = mn_major_a ? 128 : 2, STEP_B = mn_major_b ? 128 : 2;
    float acc[PARTS][WIDTH / 2];

    /// Issues the WGMMAs of one k step as one group; those of the first step overwrite the accumulators.
    DEVICE void issue(const Pipeline<Tile>& pipeline, u32 stage, u32 parity, bool accumulate) {
        mbarrier_wait(&pipeline.full[stage], parity);
        const u8* tile = pipeline.tiles + stage * Tile::STAGE_BYTES;
        // Rows 64 apart are 64 rows of 128 bytes apart, or the next box.
        u64 a = matrix_descriptor(tile + threadIdx.x / 128 * BOX_BYTES, BOX_BYTES, BOX_ALIGN);
        u64 b = matrix_descriptor(tile + Tile::A_BYTES, BOX_BYTES, BOX_ALIGN);
        fence_accumulators();
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; ++k) {
#pragma unroll
            for (int part = 0; part < PARTS; ++part) {
                u64 b_part = b + part * (WIDTH * STEP_BYTES / 16);
                wgmma<WIDTH, mn_major_a, mn_major_b>(acc[part], a + k * STEP_A, b_part + k * STEP_B,
                                                     accumulate || k > 0);
            }
        }
        wgmma_commit_group();
    }

    /// WGMMA writes the accumulators asynchronously, and the wait for it does not name them as operands.
    DEVICE void fence_accumulators() {
#pragma unroll
        for (int part = 0; part < PARTS; ++part) wgmma_fence_operand(acc[part]);
    }

    /// The mainloop over `steps` k steps, one or more. A stage is released once the WGMMAs that read it have completed:
    /// one group stays in flight while the next is issued.
    DEVICE void consume(const Pipeline<Tile>& pipeline, u32 steps) {
        issue(pipeline, 0, 0, false);
        u32 stage = 0, phase = 0;
        for (u32 step = 1; step < steps; ++step) {
            u32 previous = stage;
            if (++stage == Tile::stages) stage = 0, ++phase;
            issue(pipeline, stage, phase & 1, true);
            wgmma_wait_group<1>();
            if constexpr (Tile::cluster == 1) {
                if (threadIdx.x % 32 == 0) mbarrier_arrive(&pipeline.empty[previous]);
            } else {
                if (threadIdx.x % 32 < Tile::cluster)
                    mbarrier_arrive_cluster(&pipeline.empty[previous], threadIdx.x % 32);
            }
        }
        wgmma_wait_group<0>();
        fence_accumulators();
        // The epilogue overwrites the stages, which every consumer must be done with.
        named_barrier_sync(CONSUMERS, Tile::threads);
    }

    /// Writes the accumulators, plus the bias of their column, to the tile in shared memory that write_tile reads.
    /// `bias` may be null; it has `num_n` values.
    template <class O> DEVICE void store_accumulators(u8* shared, const float* bias, u32 num_n) const {
        u32 row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
#pragma unroll
            for (int j = 0; j < WIDTH / 8; ++j) {
                u32 c = part * WIDTH + 8 * j + threadIdx.x % 4 * 2;
                float b0 = bias && c < num_n ? bias[c] : 0.0f, b1 = bias && c + 1 < num_n ? bias[c + 1] : 0.0f;
                const float* s = &acc[part][4 * j];
                O* to = reinterpret_cast<O*>(shared) + row * STAGED_ROW<Tile> + c;
                store_pair(to, s[0] + b0, s[1] + b1);
                to += 8 * STAGED_ROW<Tile>;
                store_pair(to, s[2] + b0, s[3] + b1);
            }
        }
    }
};

/// Whether each output reads one input position, its own: the activation is then the matrix [positions, channels].
DEVICE bool pointwise(const Conv2dSizes& s) { return s.kernel == 1 && s.stride == 1 && s.padding == 0; }

/// A of fprop and dgrad, K-major by im2col: a step is 64 channels of one tap at 128 positions.
struct TmaActivationKMajor {
    const TensorMap& map;
    const bool matrix;
    const u32 kernel, dilation, first_channel, channels;
    u32 begin;
    i32 w, h, n;
    u32 tap_row = 0, tap_col = 0, channel = 0;

    /// The positions from `begin` on of images of `rows` x `cols`; the first tap of position 0 reads row and column
    /// `base`.
    DEVICE TmaActivationKMajor(const TensorMap& map, const Conv2dSizes& s, u32 begin, u32 rows, u32 cols, u32 stride,
                               i32 base, u32 first_channel, u32 channels)
        : map(map), matrix(pointwise(s)), kernel(s.kernel), dilation(s.dilation), first_channel(first_channel),
          channels(channels), begin(begin) {
        Digits at = to_digits(begin, rows, cols);
        w = i32(at.low * stride) + base, h = i32(at.mid * stride) + base, n = i32(at.high);
    }

    DEVICE void load(u8* to, u64* barrier) {
        i32 c = i32(first_channel + channel);
        if (matrix) {
            tma_load(to, map, c, i32(begin), barrier);
        } else {
            tma_load_im2col(to, map, c, w, h, n, tap_col * dilation, tap_row * dilation, barrier);
        }
        channel += BOX_ROW;
        if (channel < channels) return;
        channel = 0;
        if (++tap_col == kernel) tap_col = 0, ++tap_row;
    }
};

/// B of fprop, K-major: rows of the weight [out, taps, in] from output `first` on, k in the order of
/// TmaActivationKMajor.
template <class Tile> struct TmaWeightKMajor {
    const TensorMap& map;
    const u32 share, first, channels;
    u32 tap = 0, channel = 0;

    DEVICE TmaWeightKMajor(const TensorMap& map, u32 first, u32 channels)
        : map(map), share(cluster_share<Tile>(Tile::n)), first(first + share), channels(channels) {}

    DEVICE void load(u8* to, u64* barrier) {
        tma_load<Tile::cluster>(to + share * STEP_BYTES, map, i32(channel), i32(tap), i32(first), barrier);
        channel += BOX_ROW;
        if (channel >= channels) channel = 0, ++tap;
    }
};

/// B of dgrad, MN-major: the weight's input channels from `n_begin` on; taps in reverse order, as a convolution of dy.
template <class Tile> struct TmaWeightMnMajor {
    static constexpr u32 BOXES = Tile::n / BOX_ROW / Tile::cluster;
    const TensorMap& map;
    const u32 box, n_begin, first_channel, channels;
    u32 tap, channel = 0;

    DEVICE TmaWeightMnMajor(const TensorMap& map, const Conv2dSizes& s, u32 n_begin, u32 first_channel)
        : map(map), box(cluster_share<Tile>(Tile::n / BOX_ROW)), n_begin(n_begin), first_channel(first_channel),
          channels(s.out_channels), tap(s.kernel * s.kernel - 1) {}

    DEVICE void load(u8* to, u64* barrier) {
#pragma unroll
        for (u32 j = 0; j < BOXES; ++j) {
            i32 n = i32(n_begin + (box + j) * BOX_ROW), k = i32(first_channel + channel);
            tma_load<Tile::cluster>(to + (box + j) * BOX_BYTES, map, n, i32(tap), k, barrier);
        }
        channel += BOX_ROW;
        if (channel >= channels) channel = 0, --tap;
    }
};

/// A of wgrad, MN-major: 128 channels of dy; a step is 64 positions.
struct TmaGradientMnMajor {
    const TensorMap& map;
    const u32 first;
    u32 position;

    DEVICE TmaGradientMnMajor(const TensorMap& map, u32 first, u32 begin) : map(map), first(first), position(begin) {}

    DEVICE void load(u8* to, u64* barrier) {
        tma_load(to, map, i32(first), i32(position), barrier);
        tma_load(to + BOX_BYTES, map, i32(first + BOX_ROW), i32(position), barrier);
        position += BOX_ROW;
    }
};

/// The n axis of wgrad in blocks of 64 input channels of one tap; a tile has Tile::n / 64 of them.
struct TapBlocks {
    u32 per_tap, taps;
    DEVICE explicit TapBlocks(const Conv2dSizes& s)
        : per_tap((s.in_channels + BOX_ROW - 1) / BOX_ROW), taps(s.kernel * s.kernel) {}
    /// The tap of block i, which is beyond the last one in the last tile, and its first channel.
    DEVICE u32 tap(u32 i) const { return i / per_tap; }
    DEVICE u32 channel(u32 i) const { return i % per_tap * BOX_ROW; }
};

/// B of wgrad, MN-major by im2col: what 64 positions per step read of x, for the tile's blocks of channels.
template <class Tile> struct TmaActivationMnMajor {
    static constexpr u32 BLOCKS = Tile::n / BOX_ROW / Tile::cluster;
    const TensorMap& map;
    const bool matrix;
    const u32 box, out_h, out_w, stride;
    const i32 padding;
    u32 position, row[BLOCKS], col[BLOCKS], channel[BLOCKS];

    DEVICE TmaActivationMnMajor(const TensorMap& map, const Conv2dSizes& s, u32 first_block, u32 first_channel,
                                u32 begin)
        : map(map), matrix(pointwise(s)), box(cluster_share<Tile>(Tile::n / BOX_ROW)), out_h(s.out_h), out_w(s.out_w),
          stride(s.stride), padding(i32(s.padding)), position(begin) {
        TapBlocks blocks(s);
#pragma unroll
        for (u32 j = 0; j < BLOCKS; ++j) {
            // A block beyond the last tap loads the first one; its results are not written.
            u32 tap = blocks.tap(first_block + box + j);
            tap = tap < blocks.taps ? tap : 0;
            row[j] = tap / s.kernel * s.dilation, col[j] = tap % s.kernel * s.dilation;
            channel[j] = first_channel + blocks.channel(first_block + box + j);
        }
    }

    DEVICE void load(u8* to, u64* barrier) {
        Digits at = to_digits(position, out_h, out_w);
        i32 w = i32(at.low * stride) - padding, h = i32(at.mid * stride) - padding;
#pragma unroll
        for (u32 j = 0; j < BLOCKS; ++j) {
            u8* slot = to + (box + j) * BOX_BYTES;
            if (matrix) {
                tma_load<Tile::cluster>(slot, map, i32(channel[j]), i32(position), barrier);
            } else {
                tma_load_im2col<Tile::cluster>(slot, map, i32(channel[j]), w, h, i32(at.high), col[j], row[j], barrier);
            }
        }
        position += BOX_ROW;
    }
};
