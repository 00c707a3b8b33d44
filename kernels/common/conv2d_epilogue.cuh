// What convolutions do with a finished tile beside writing it: adding what lies in another tensor, and the moments of each
// channel for the batch norm that follows.
#pragma once

#include "conv2d.cuh"
#include "conv2d_product.cuh"

/// x + y of eight or four values each.
template <class T> DEVICE u32x4 add_chunks(u32x4 x, u32x4 y) {
    u32x4 sum;
    const T *a = reinterpret_cast<const T*>(&x), *b = reinterpret_cast<const T*>(&y);
    T* out = reinterpret_cast<T*>(&sum);
#pragma unroll
    for (int e = 0; e < CHUNK<T>; ++e) out[e] = from_float<T>(to_float(a[e]) + to_float(b[e]));
    return sum;
}

/// Adds to a staged tile what `other` holds in its places; `place` as for `write_tile`, which follows after a barrier. Rows
/// are whole chunks.
template <class Tile, class O, class Place>
DEVICE void add_tile(u8* shared, const O* other, u32 n_begin, u32 num_n, Place place) {
    constexpr u32 CHUNKS = Tile::n / CHUNK<O>;
    O* staged = reinterpret_cast<O*>(shared);
    for (u32 i = threadIdx.x; i < Tile::m * CHUNKS; i += Tile::threads) {
        u32 row = i / CHUNKS, col = i % CHUNKS * CHUNK<O>;
        i64 begin = place(row);
        if (begin < 0 || n_begin + col >= num_n) continue;
        u32x4* at = reinterpret_cast<u32x4*>(staged + row * STAGED_ROW<Tile> + col);
        *at = add_chunks<O>(*at, *reinterpret_cast<const u32x4*>(other + begin + col));
    }
}

/// Mean and sum of squared deviations of each channel over the `rows` first rows of a staged tile: partial [parts, 2, pitch],
/// of which this is part `part`, from channel `channel` on; `num_n` channels are left. Sums are of differences from the
/// channel's first value, so nothing large cancels. `sync` is a barrier of the tile's threads.
template <class Tile, class O, class Sync>
DEVICE void tile_moments(double* partial, u8* shared, u32 rows, u32 part, u32 channel, u32 num_n, u32 pitch, Sync sync) {
    constexpr u32 PAIRS = Tile::n / 2, LANES = Tile::threads / PAIRS;
    static_assert(LANES > 0 && Tile::n <= Tile::threads, "a thread for each channel");
    const O* staged = reinterpret_cast<const O*>(shared);
    // Behind the staged tile, where the stages before were.
    float* sums = reinterpret_cast<float*>(shared + Tile::m * STAGED_ROW<Tile> * sizeof(O));
    const u32 pair = threadIdx.x % PAIRS, lane = threadIdx.x / PAIRS;
    const Pair<O> first = *reinterpret_cast<const Pair<O>*>(staged + 2 * pair);
    const float x0 = to_float(first.x), y0 = to_float(first.y);
    float sum_x = 0.0f, sum_y = 0.0f, square_x = 0.0f, square_y = 0.0f;
#pragma unroll 4
    for (u32 row = lane; row < rows; row += LANES) {
        const Pair<O> v = *reinterpret_cast<const Pair<O>*>(staged + row * STAGED_ROW<Tile> + 2 * pair);
        float x = to_float(v.x) - x0, y = to_float(v.y) - y0;
        sum_x += x, sum_y += y, square_x += x * x, square_y += y * y;
    }
    float* mine = sums + 2 * (lane * Tile::n + 2 * pair);
    mine[0] = sum_x, mine[1] = square_x, mine[2] = sum_y, mine[3] = square_y;
    sync();
    const u32 c = threadIdx.x;
    if (c >= Tile::n || c >= num_n) return;
    float sum = 0.0f, square = 0.0f;
    for (u32 l = 0; l < LANES; ++l) sum += sums[2 * (l * Tile::n + c)], square += sums[2 * (l * Tile::n + c) + 1];
    float offset = sum / float(rows), rest = square - sum * offset;
    double* out = partial + u64(part) * 2 * pitch + channel + c;
    out[0] = double(to_float(staged[c])) + double(offset);
    out[pitch] = double(rest > 0.0f ? rest : 0.0f);
}
