// What the convolution kernels share: sizes, tiles, counting through several axes, and the pipeline of an implicit matrix
// product out[m, n] = sum over k of A[m, k] B[k, n], whose operands are read from activations and weights as they lie.
//
// A block makes one tile of `out`. The k axis is cut into steps; the two tiles of a step lie in shared memory, three steps
// at a time, so that two are on their way while one is multiplied. A tile is made of chunks of 16 bytes, in rows of
// k (k-contiguous operands: a row for each m or n) or of m or n (a row for each k).
#pragma once

#include "device.cuh"

/// Sizes of a convolution and of its launch; `Sizes` in src/backend/cuda/conv2d/plan.rs is the same.
struct Conv2dSizes {
    u32 n, h, w, in_channels;                    // x, channels of a group
    u32 out_h, out_w, out_channels;              // y, channels of a group
    u32 in_pitch, out_pitch;                     // channels of x and y: of all groups
    u32 kernel, stride, padding, dilation;       // square
    u32 tap_period;                              // taps this far apart reach rows of equal remainder by the stride
    u32 m_tiles, n_tiles;                        // tiles along m (of the largest class, for dgrad) and n
    u32 split_len;                               // wgrad: positions of y a split
    u32 aligned_a, aligned_b;                    // whether all chunks of the operand lie on 16 bytes
};

/// Steps that are in shared memory together.
constexpr int STAGES = 3;
/// Bytes of a step along k in a k-contiguous row: eight chunks, the span of all banks.
constexpr int STEP_BYTES = 128;

/// Block tile: m x n results by `threads` threads.
template <int m_, int n_, int threads_> struct Tile {
    static constexpr int m = m_, n = n_, threads = threads_;
};

/// Values of a chunk.
template <class T> constexpr int CHUNK = 16 / int(sizeof(T));
/// Values along k of a step.
template <class T> constexpr int DEPTH = STEP_BYTES / int(sizeof(T));

/// Where a chunk lies in a tile of `chunks` chunks a row. Rows are a multiple of 128 bytes, so the same chunk of eight
/// consecutive rows would fall on the same banks; exchanging chunks within a row by the row's number spreads them.
template <int chunks, class Byte> DEVICE Byte* chunk_at(Byte* tile, u32 row, u32 chunk) {
    static_assert(chunks % 8 == 0, "a row spans all banks");
    return tile + (row * chunks + (chunk ^ (row & 7u))) * 16u;
}

/// A place along three nested axes, the last fastest.
struct Digits {
    u32 high, mid, low;
};

DEVICE Digits to_digits(u32 i, u32 num_mid, u32 num_low) {
    u32 rest = i / num_low;
    return Digits{rest / num_mid, rest % num_mid, i % num_low};
}

/// `at` moved on by `step`, where both are digits of the same axes.
DEVICE void advance(Digits& at, const Digits& step, u32 num_mid, u32 num_low) {
    at.low += step.low;
    u32 carry = at.low >= num_low;
    at.low -= carry ? num_low : 0u;
    at.mid += step.mid + carry;
    carry = at.mid >= num_mid;
    at.mid -= carry ? num_mid : 0u;
    at.high += step.high + carry;
}

/// One chunk from `p` to shared memory; zeros where not `ok`, in which case `p` is not read.
template <class T> DEVICE void fetch_chunk(u8* slot, const T* p, const T* somewhere, bool ok) {
    copy_async16(slot, ok ? p : somewhere, ok ? 16 : 0);
}

/// Value `e` of the chunk at `slot`, without the asynchronous copy.
template <class T> DEVICE void put(u8* slot, int e, const T* p, bool ok) {
    reinterpret_cast<T*>(slot)[e] = ok ? *p : T{};
}

/// product += the sum over `steps` steps of the tiles that `a` and `b` load one after another.
template <class T, class Tile, class A, class B, class Product>
DEVICE void accumulate(Product& product, A& a, B& b, u32 steps, u8* shared) {
    constexpr u32 A_BYTES = Tile::m * STEP_BYTES, STAGE_BYTES = (Tile::m + Tile::n) * STEP_BYTES;
    for (u32 step = 0; step < u32(STAGES - 1); ++step) {
        if (step < steps) {
            a.load(shared + step * STAGE_BYTES);
            b.load(shared + step * STAGE_BYTES + A_BYTES);
        }
        copy_async_commit();
    }
    u32 reading = 0, writing = (STAGES - 1) * STAGE_BYTES;
    for (u32 step = 0; step < steps; ++step) {
        copy_async_wait<STAGES - 2>();
        // This step's tiles are there for every thread, and every thread is done with the step before, whose place the
        // next loads take.
        block_sync();
        if (step + STAGES - 1 < steps) {
            a.load(shared + writing);
            b.load(shared + writing + A_BYTES);
        }
        copy_async_commit();
        product.step(shared + reading, shared + reading + A_BYTES);
        reading = reading == (STAGES - 1) * STAGE_BYTES ? 0 : reading + STAGE_BYTES;
        writing = writing == (STAGES - 1) * STAGE_BYTES ? 0 : writing + STAGE_BYTES;
    }
    // Only empty groups are left. Every thread is done with the tiles, whose place the results take.
    block_sync();
}

/// Values between two rows of a staged tile: the padding keeps the rows of a fragment on different banks.
template <class Tile> constexpr int STAGED_ROW = Tile::n + 8;

/// Writes a tile that `Product::stage` left in shared memory. `place(row)` is where the tile's row begins in `out`, at
/// column `n_begin`, or -1 where there is none; there are `num_n` columns in all, which are contiguous in `out`.
template <class Tile, class O, class Place>
DEVICE void write_tile(O* out, const u8* shared, u32 n_begin, u32 num_n, Place place) {
    constexpr u32 CHUNKS = Tile::n / CHUNK<O>;
    const bool whole = num_n % CHUNK<O> == 0;
    const O* staged = reinterpret_cast<const O*>(shared);
    for (u32 i = threadIdx.x; i < Tile::m * CHUNKS; i += Tile::threads) {
        u32 row = i / CHUNKS, col = i % CHUNKS * CHUNK<O>;
        i64 begin = place(row);
        if (begin < 0 || n_begin + col >= num_n) continue;
        const O* from = staged + row * STAGED_ROW<Tile> + col;
        O* to = out + begin + col;
        if (whole) {
            *reinterpret_cast<u32x4*>(to) = *reinterpret_cast<const u32x4*>(from);
        } else {
            for (u32 e = 0; e < u32(CHUNK<O>) && n_begin + col + e < num_n; ++e) to[e] = from[e];
        }
    }
}
