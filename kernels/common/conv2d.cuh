// What the convolution kernels share: sizes, tiles, mixed-radix indices, and the multistage cp.async mainloop of an
// implicit GEMM out[m, n] = sum over k of A[m, k] B[k, n], whose operands are read from activations and weights in
// place.
//
// A block makes one tile of `out`. The k axis is cut into steps; shared memory holds the operand tiles of three steps
// (pipeline stages), of which two are being copied while one is multiplied. A tile is made of chunks of 16 bytes; its
// rows run along k (K-major: one row for each m or n) or along m or n (MN-major: one row for each k).
#pragma once

#include "device.cuh"

/// Sizes of a convolution and of its launch; `Sizes` in src/backend/cuda/conv2d/plan.rs is the same.
struct Conv2dSizes {
    u32 n, h, w, in_channels;               // x, channels of one group
    u32 out_h, out_w, out_channels;         // y, channels of one group
    u32 in_pitch, out_pitch;                // channels of x and y: of all groups
    u32 kernel, stride, padding, dilation;  // square
    u32 tap_period;                         // taps this far apart read rows that are equal modulo the stride
    u32 m_tiles, n_tiles;                   // tiles along m (of the largest phase, for dgrad) and n
    u32 split_len;                          // wgrad: positions of y per split
    u32 aligned_a, aligned_b;               // whether all chunks of the operand lie on 16 bytes
};

/// Pipeline stages.
constexpr int STAGES = 3;
/// Bytes of a k step in a K-major row: eight chunks, the span of all banks.
constexpr int STEP_BYTES = 128;

/// Block tile: m x n results by `threads` threads.
template <int m_, int n_, int threads_> struct Tile {
    static constexpr int m = m_, n = n_, threads = threads_;
};

/// Values of a chunk.
template <class T> constexpr int CHUNK = 16 / int(sizeof(T));
/// Values along k of a step.
template <class T> constexpr int DEPTH = STEP_BYTES / int(sizeof(T));

/// Address of a chunk in a tile of `chunks` chunks per row, with the 128-byte swizzle: rows are a multiple of 128
/// bytes, so the same chunk of eight consecutive rows would fall on the same banks; XOR by the row's number spreads
/// them.
template <int chunks, class Byte> DEVICE Byte* chunk_at(Byte* tile, u32 row, u32 chunk) {
    static_assert(chunks % 8 == 0, "a row spans all banks");
    return tile + (row * chunks + (chunk ^ (row & 7u))) * 16u;
}

/// An index along three nested axes, the last fastest.
struct Digits {
    u32 high, mid, low;
};

DEVICE Digits to_digits(u32 i, u32 num_mid, u32 num_low) {
    u32 rest = i / num_low;
    return Digits{rest / num_mid, rest % num_mid, i % num_low};
}

/// at += step, both along the same axes.
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

/// Adds to the accumulators of `mma` the products of the operand tiles that `a` and `b` load in `steps` k steps.
template <class T, class Tile, class A, class B, class Mma>
DEVICE void mainloop(Mma& mma, A& a, B& b, u32 steps, u8* shared) {
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
        // This step's tiles have arrived for every thread, and every thread is done with the step before, whose stage
        // the next loads overwrite.
        block_sync();
        if (step + STAGES - 1 < steps) {
            a.load(shared + writing);
            b.load(shared + writing + A_BYTES);
        }
        copy_async_commit();
        mma.step(shared + reading, shared + reading + A_BYTES);
        reading = reading == (STAGES - 1) * STAGE_BYTES ? 0 : reading + STAGE_BYTES;
        writing = writing == (STAGES - 1) * STAGE_BYTES ? 0 : writing + STAGE_BYTES;
    }
    // Only empty groups are left. The epilogue overwrites the stages, which every thread must be done with.
    block_sync();
}

/// Row pitch in values of a finished tile in shared memory: the padding keeps the rows of a fragment on different
/// banks.
template <class Tile> constexpr int STAGED_ROW = Tile::n + 8;

/// Writes a tile that `store_accumulators` left in shared memory. `row_offset(row)` is where the tile's row begins in
/// `out`, at column `n_begin`, or -1 where there is none; there are `num_n` columns in all, which are contiguous in
/// `out`.
template <class Tile, class O, class RowOffset>
DEVICE void write_tile(O* out, const u8* shared, u32 n_begin, u32 num_n, RowOffset row_offset) {
    constexpr u32 CHUNKS = Tile::n / CHUNK<O>;
    const bool whole = num_n % CHUNK<O> == 0;
    const O* staged = reinterpret_cast<const O*>(shared);
    for (u32 i = threadIdx.x; i < Tile::m * CHUNKS; i += Tile::threads) {
        u32 row = i / CHUNKS, col = i % CHUNKS * CHUNK<O>;
        i64 begin = row_offset(row);
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
