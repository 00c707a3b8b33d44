// The pipeline of convolutions by warpgroups: one thread of the last warp has the tiles of each step copied to shared memory,
// the two warpgroups before multiply them. out[m, n] = sum over k of A[m, k] B[k, n], a tile of 128 x n results a block, 64
// values along k a step. `across` says of a factor that its rows in shared memory run along m or n instead of k.
#pragma once

#include "conv2d.cuh"
#include "device_sm90.cuh"

/// Block tile of 128 x n results; `threads` multiply, one warp more sees to the copies. The blocks of a cluster make tiles that follow
/// one another along m, so that they read the same B: each has its share of that copied to all. As `Tile` in
/// src/backend/cuda/conv2d/tile.rs.
template <int n_, int stages_, int cluster_ = 1> struct WarpgroupTile {
    static constexpr int m = 128, n = n_, threads = 256, stages = stages_, cluster = cluster_;
    static constexpr u32 A_BYTES = m * STEP_BYTES, STAGE_BYTES = (m + n) * STEP_BYTES;
};

/// Boxes of 64 rows of 64 values.
constexpr u32 BOX_BYTES = BOX_ROW * STEP_BYTES;
/// Warps that multiply.
constexpr u32 CONSUMER_WARPS = 8;
/// The barrier of the threads that multiply.
constexpr u32 CONSUMERS = 1;

/// Where a block's tile begins, of tiles that are numbered along n first. The last cluster may have tiles beyond the last one.
template <class Tile> struct TilePlace {
    u32 m, n;
    DEVICE explicit TilePlace(u32 n_tiles)
        : m((blockIdx.x / Tile::cluster / n_tiles * Tile::cluster + blockIdx.x % Tile::cluster) * Tile::m),
          n(blockIdx.x / Tile::cluster % n_tiles * Tile::n) {}
};

/// Where the block's share begins of `whole` rows or boxes that all blocks of the cluster read.
template <class Tile> DEVICE u32 share_of(u32 whole) {
    if constexpr (Tile::cluster == 1) return 0;
    return cluster_rank() * (whole / Tile::cluster);
}

/// Shared memory of a block: stages of tiles, then two mbarriers a stage. The finished tile takes the stages' place.
template <class Tile> struct Stages {
    u8* tiles;
    u64 *full, *empty;

    DEVICE explicit Stages(u8* shared) {
        u32 at = shared_address(shared);
        tiles = shared + ((at + BOX_ALIGN - 1) / BOX_ALIGN * BOX_ALIGN - at);
        full = reinterpret_cast<u64*>(tiles + Tile::stages * Tile::STAGE_BYTES);
        empty = full + Tile::stages;
    }

    DEVICE void init() const {
        if (threadIdx.x == 0) {
            for (int i = 0; i < Tile::stages; ++i) {
                mbarrier_init(&full[i], 1);
                // Others' consumers too read what the own producer copies.
                mbarrier_init(&empty[i], CONSUMER_WARPS * Tile::cluster);
            }
            mbarriers_ready();
        }
        if constexpr (Tile::cluster == 1) {
            block_sync();
        } else {
            cluster_arrive();
            cluster_wait();
        }
    }
};

/// Copies the tiles of `steps` steps one after another, each as soon as its place is free.
template <class Tile, class A, class B> DEVICE void produce(const Stages<Tile>& stages, A& a, B& b, u32 steps) {
    u32 slot = 0, round = 0;
    for (u32 step = 0; step < steps; ++step) {
        // The first round waits for the phase before the first, which counts as over.
        mbarrier_wait(&stages.empty[slot], (round & 1) ^ 1);
        mbarrier_arrive_expect(&stages.full[slot], Tile::STAGE_BYTES);
        u8* tile = stages.tiles + slot * Tile::STAGE_BYTES;
        a.load(tile, &stages.full[slot]);
        b.load(tile + Tile::A_BYTES, &stages.full[slot]);
        if (++slot == Tile::stages) slot = 0, ++round;
    }
}

/// The sums of a warpgroup: 64 rows of the tile.
template <class Tile, bool across_a, bool across_b> struct WarpgroupProduct {
    static constexpr int WIDTH = Tile::n < 128 ? Tile::n : 128, PARTS = Tile::n / WIDTH;
    /// From depth to depth of a product, in 16 bytes: 16 rows, or 32 bytes of a row.
    static constexpr u64 STEP_A = across_a ? 128 : 2, STEP_B = across_b ? 128 : 2;
    float sums[PARTS][WIDTH / 2];

    /// Begins the products of the step that lies at `slot`; those of the first step of all do not add.
    DEVICE void multiply(const Stages<Tile>& stages, u32 slot, u32 parity, bool accumulate) {
        mbarrier_wait(&stages.full[slot], parity);
        const u8* tile = stages.tiles + slot * Tile::STAGE_BYTES;
        // Rows 64 apart are 64 rows of 128 bytes apart, or the next box.
        u64 a = factor(tile + threadIdx.x / 128 * BOX_BYTES, BOX_BYTES, BOX_ALIGN);
        u64 b = factor(tile + Tile::A_BYTES, BOX_BYTES, BOX_ALIGN);
        hold();
        product_fence();
#pragma unroll
        for (int k = 0; k < 4; ++k) {
#pragma unroll
            for (int part = 0; part < PARTS; ++part) {
                u64 b_part = b + part * (WIDTH * STEP_BYTES / 16);
                product<WIDTH, across_a, across_b>(sums[part], a + k * STEP_A, b_part + k * STEP_B, accumulate || k > 0);
            }
        }
        product_commit();
    }

    /// Sums are not there, or not yet added to, before this; the wait that makes them so does not name them.
    DEVICE void hold() {
#pragma unroll
        for (int part = 0; part < PARTS; ++part) product_hold(sums[part]);
    }

    /// The sum of `steps` steps, one or more; each place is given back once the products that read it are over.
    DEVICE void consume(const Stages<Tile>& stages, u32 steps) {
        multiply(stages, 0, 0, false);
        u32 slot = 0, round = 0;
        for (u32 step = 1; step < steps; ++step) {
            u32 before = slot;
            if (++slot == Tile::stages) slot = 0, ++round;
            multiply(stages, slot, round & 1, true);
            // The products of the step before are over.
            product_wait<1>();
            if constexpr (Tile::cluster == 1) {
                if (threadIdx.x % 32 == 0) mbarrier_arrive(&stages.empty[before]);
            } else {
                if (threadIdx.x % 32 < Tile::cluster) mbarrier_arrive_at(&stages.empty[before], threadIdx.x % 32);
            }
        }
        product_wait<0>();
        hold();
        // Every warp is done with the tiles, whose place the results take.
        group_sync(CONSUMERS, Tile::threads);
    }

    /// Sums, plus the bias of their column, to a staged tile. `bias` may be null; it has `num_n` values.
    template <class O> DEVICE void stage(u8* shared, const float* bias, u32 num_n) const {
        u32 row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
#pragma unroll
            for (int j = 0; j < WIDTH / 8; ++j) {
                u32 c = part * WIDTH + 8 * j + threadIdx.x % 4 * 2;
                float b0 = bias && c < num_n ? bias[c] : 0.0f, b1 = bias && c + 1 < num_n ? bias[c + 1] : 0.0f;
                const float* s = &sums[part][4 * j];
                O* to = reinterpret_cast<O*>(shared) + row * STAGED_ROW<Tile> + c;
                store_pair(to, s[0] + b0, s[1] + b1);
                to += 8 * STAGED_ROW<Tile>;
                store_pair(to, s[2] + b0, s[3] + b1);
            }
        }
    }
};

/// Whether a position reads itself alone, so that positions are the rows of a matrix.
DEVICE bool pointwise(const Conv2dSizes& s) { return s.kernel == 1 && s.stride == 1 && s.padding == 0; }

/// A of fprop and dgrad: 128 positions, 64 channels of a tap a step, taps and then channels. `tap` is where it is.
struct PositionColumns {
    const TensorMap& map;
    const bool matrix;
    const u32 kernel, dilation, first_channel, channels;
    u32 begin;
    i32 w, h, n;
    u32 tap_row = 0, tap_col = 0, channel = 0;

    /// The positions from `begin` on of images of `rows` x `cols`; the first tap of position 0 lies at `base`.
    DEVICE PositionColumns(const TensorMap& map, const Conv2dSizes& s, u32 begin, u32 rows, u32 cols, u32 stride,
                           i32 base, u32 first_channel, u32 channels)
        : map(map), matrix(pointwise(s)), kernel(s.kernel), dilation(s.dilation), first_channel(first_channel),
          channels(channels), begin(begin) {
        Digits at = to_digits(begin, rows, cols);
        w = i32(at.low * stride) + base, h = i32(at.mid * stride) + base, n = i32(at.high);
    }

    DEVICE void load(u8* to, u64* barrier) {
        i32 c = i32(first_channel + channel);
        if (matrix) {
            bulk_load(to, map, c, i32(begin), barrier);
        } else {
            bulk_load_im2col(to, map, c, w, h, n, tap_col * dilation, tap_row * dilation, barrier);
        }
        channel += BOX_ROW;
        if (channel < channels) return;
        channel = 0;
        if (++tap_col == kernel) tap_col = 0, ++tap_row;
    }
};

/// B of fprop: rows of the weight [out, taps, in] from `first` on, in the order of `PositionColumns`.
template <class Tile> struct WeightRows {
    const TensorMap& map;
    const u32 share, first, channels;
    u32 tap = 0, channel = 0;

    DEVICE WeightRows(const TensorMap& map, u32 first, u32 channels)
        : map(map), share(share_of<Tile>(Tile::n)), first(first + share), channels(channels) {}

    DEVICE void load(u8* to, u64* barrier) {
        bulk_load<Tile::cluster>(to + share * STEP_BYTES, map, i32(channel), i32(tap), i32(first), barrier);
        channel += BOX_ROW;
        if (channel >= channels) channel = 0, ++tap;
    }
};

/// B of dgrad: the weight across, input channels from `n_begin` on; taps come in reverse, as seen from the input.
template <class Tile> struct WeightColumns {
    static constexpr u32 BOXES = Tile::n / BOX_ROW / Tile::cluster;
    const TensorMap& map;
    const u32 box, n_begin, first_channel, channels;
    u32 tap, channel = 0;

    DEVICE WeightColumns(const TensorMap& map, const Conv2dSizes& s, u32 n_begin, u32 first_channel)
        : map(map), box(share_of<Tile>(Tile::n / BOX_ROW)), n_begin(n_begin), first_channel(first_channel), channels(s.out_channels),
          tap(s.kernel * s.kernel - 1) {}

    DEVICE void load(u8* to, u64* barrier) {
#pragma unroll
        for (u32 j = 0; j < BOXES; ++j) {
            i32 n = i32(n_begin + (box + j) * BOX_ROW), k = i32(first_channel + channel);
            bulk_load<Tile::cluster>(to + (box + j) * BOX_BYTES, map, n, i32(tap), k, barrier);
        }
        channel += BOX_ROW;
        if (channel >= channels) channel = 0, --tap;
    }
};

/// A of wgrad: 128 channels of dy, 64 positions a step.
struct GradientColumns {
    const TensorMap& map;
    const u32 first;
    u32 position;

    DEVICE GradientColumns(const TensorMap& map, u32 first, u32 begin) : map(map), first(first), position(begin) {}

    DEVICE void load(u8* to, u64* barrier) {
        bulk_load(to, map, i32(first), i32(position), barrier);
        bulk_load(to + BOX_BYTES, map, i32(first + BOX_ROW), i32(position), barrier);
        position += BOX_ROW;
    }
};

/// Blocks of 64 input channels of a tap: the columns of the weight's gradient, of which a tile has a few.
struct TapBlocks {
    u32 per_tap, taps;
    DEVICE explicit TapBlocks(const Conv2dSizes& s)
        : per_tap((s.in_channels + BOX_ROW - 1) / BOX_ROW), taps(s.kernel * s.kernel) {}
    /// The tap of block i, which is beyond the last one in the last tile, and its first channel.
    DEVICE u32 tap(u32 i) const { return i / per_tap; }
    DEVICE u32 channel(u32 i) const { return i % per_tap * BOX_ROW; }
};

/// B of wgrad: what 64 positions a step read of x, for the tile's blocks of channels.
template <class Tile> struct PatchColumns {
    static constexpr u32 BLOCKS = Tile::n / BOX_ROW / Tile::cluster;
    const TensorMap& map;
    const bool matrix;
    const u32 box, out_h, out_w, stride;
    const i32 padding;
    u32 position, row[BLOCKS], col[BLOCKS], channel[BLOCKS];

    DEVICE PatchColumns(const TensorMap& map, const Conv2dSizes& s, u32 first_block, u32 first_channel, u32 begin)
        : map(map), matrix(pointwise(s)), box(share_of<Tile>(Tile::n / BOX_ROW)), out_h(s.out_h), out_w(s.out_w), stride(s.stride), padding(i32(s.padding)),
          position(begin) {
        TapBlocks blocks(s);
#pragma unroll
        for (u32 j = 0; j < BLOCKS; ++j) {
            // A block too many is loaded as the first tap and written nowhere.
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
            u8* there = to + (box + j) * BOX_BYTES;
            if (matrix) {
                bulk_load<Tile::cluster>(there, map, i32(channel[j]), i32(position), barrier);
            } else {
                bulk_load_im2col<Tile::cluster>(there, map, i32(channel[j]), w, h, i32(at.high), col[j], row[j], barrier);
            }
        }
        position += BOX_ROW;
    }
};
