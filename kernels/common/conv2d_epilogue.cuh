// Epilogues of convolutions, fused into the kernel that has the finished tile in shared memory. Forward: per-channel
// moments for the batch norm that follows, or that batch norm (with frozen statistics) and its activation, or its
// derivative. Data gradient: adding another gradient, the reduction with which the backward pass of the preceding batch
// norm begins, or the derivative of a frozen batch norm.
#pragma once

#include "batch_norm.cuh"
#include "conv2d.cuh"

/// x + y of one chunk each.
template <class T> DEVICE u32x4 add_chunks(u32x4 x, u32x4 y) {
    u32x4 sum;
    const T *a = reinterpret_cast<const T*>(&x), *b = reinterpret_cast<const T*>(&y);
    T* out = reinterpret_cast<T*>(&sum);
#pragma unroll
    for (int e = 0; e < CHUNK<T>; e += 2) {
        store_pair(out + e, to_float(a[e]) + to_float(b[e]), to_float(a[e + 1]) + to_float(b[e + 1]));
    }
    return sum;
}

/// `FpropEpilogue` in src/backend/cuda/conv2d/epilogue.rs is the same.
struct FpropEpilogue {
    /// Moments of each channel over each tile, [parts, 2, c]; null where they are not wanted.
    double* moments;
    /// Added before the activation; may be null.
    const void* residual;
    /// The batch norm's output in the clean pass, for its derivative.
    const void* y;
    Norm norm;
    float slope;
    u32 form;
};
/// `form`: 0 leaves the output as it is, NORMALISED applies the batch norm and its activation, TANGENT multiplies by
/// their derivative.
constexpr u32 NORMALISED = 1, TANGENT = 2;

/// `DgradEpilogue` in src/backend/cuda/conv2d/epilogue.rs is the same. Null pointers switch a part off.
struct DgradEpilogue {
    /// Added to the gradient, of its shape and type.
    const void* add;
    /// Sums for the backward pass of the batch norm whose output this is the gradient of, [parts, 2, c]: over a tile,
    /// of g and of g (x - mean), where g is the gradient before the activation.
    float* sums;
    /// That batch norm's input, and its output where the activation's sign has to be taken from it.
    const void *x, *y;
    Norm norm;
    float slope;
    /// Whether to multiply by the derivative of that batch norm, which is frozen, and its activation, whose output is
    /// y.
    u32 tangent;
};

template <class V> DEVICE void unpack(float (&values)[CHUNK<V>], u32x4 chunk) {
    const V* v = reinterpret_cast<const V*>(&chunk);
#pragma unroll
    for (int e = 0; e < CHUNK<V>; ++e) values[e] = to_float(v[e]);
}

/// Writes a finished tile like `write_tile`, in the form that `end` asks for. Its columns from `n_begin` to `num_n` are
/// channels from `channel` on; rows are whole chunks.
template <class Tile, class O, class RowOffset>
DEVICE void fprop_epilogue(O* out, const u8* shared, const FpropEpilogue& end, u32 n_begin, u32 channel, u32 num_n,
                           RowOffset row_offset) {
    // A thread keeps one chunk of columns and takes every LANES-th row.
    constexpr u32 WIDTH = CHUNK<O>, CHUNKS = Tile::n / WIDTH, LANES = Tile::threads / CHUNKS;
    static_assert(Tile::threads % CHUNKS == 0, "one chunk of columns per thread");
    const O* staged = reinterpret_cast<const O*>(shared);
    const O *residual = static_cast<const O*>(end.residual), *y = static_cast<const O*>(end.y);
    const u32 col = threadIdx.x % CHUNKS * WIDTH;
    if (n_begin + col >= num_n) return;
    Affine<WIDTH> affine;
    affine.load(end.norm, channel + col);
#pragma unroll 1
    for (u32 row = threadIdx.x / CHUNKS; row < u32(Tile::m); row += LANES) {
        i64 begin = row_offset(row);
        if (begin < 0) continue;
        float v[WIDTH], r[WIDTH] = {};
        load(v, staged + row * STAGED_ROW<Tile> + col);
        if (end.form == TANGENT) {
            norm_activation_bwd(v, y + begin + col, affine, end.slope);
        } else {
            if (residual) load(r, residual + begin + col);
            normalise(v, r, affine, end.slope);
        }
        store(out + begin + col, v);
    }
}

/// Applies `end` to a finished data gradient in shared memory; `row_offset` as for `write_tile`, which follows after a
/// barrier. The tile is part `part` of the sums; its columns from `n_begin` to `num_n` are channels from `channel` on,
/// of `pitch` in all. Rows are whole chunks. `sync` is a barrier of the tile's threads.
template <class Tile, class O, class RowOffset, class Sync>
DEVICE void dgrad_epilogue(u8* shared, const DgradEpilogue& end, u32 part, u32 n_begin, u32 channel, u32 num_n,
                           u32 pitch, RowOffset row_offset, Sync sync) {
    // A thread keeps one chunk of columns and takes every LANES-th row.
    constexpr u32 WIDTH = CHUNK<O>, CHUNKS = Tile::n / WIDTH, LANES = Tile::threads / CHUNKS;
    constexpr u32 STAGED_BYTES = Tile::m * STAGED_ROW<Tile> * sizeof(O),
                  SUMS_BYTES = LANES * Tile::n * 2 * sizeof(float);
    static_assert(Tile::threads % CHUNKS == 0, "one chunk of columns per thread");
    static_assert(STAGED_BYTES + SUMS_BYTES <= STAGES * STEP_BYTES * (Tile::m + Tile::n),
                  "fits where the pipeline stages were");
    O* staged = reinterpret_cast<O*>(shared);
    const O *add = static_cast<const O*>(end.add), *x = static_cast<const O*>(end.x), *y = static_cast<const O*>(end.y);
    const u32 col = threadIdx.x % CHUNKS * WIDTH, lane = threadIdx.x / CHUNKS;
    const bool inside = n_begin + col < num_n, sums = end.sums != nullptr;
    float sum[WIDTH] = {}, dot[WIDTH] = {};
    Affine<WIDTH> affine;
    if ((sums || end.tangent) && inside) affine.load(end.norm, channel + col);
#pragma unroll 2
    for (u32 row = lane; row < u32(Tile::m); row += LANES) {
        i64 begin = row_offset(row);
        if (begin < 0 || !inside) continue;
        u32x4* at = reinterpret_cast<u32x4*>(staged + row * STAGED_ROW<Tile> + col);
        u32x4 gradient = *at;
        if (add) {
            gradient = add_chunks<O>(gradient, *reinterpret_cast<const u32x4*>(add + begin + col));
            *at = gradient;
        }
        float g[WIDTH], v[WIDTH];
        if (end.tangent) {
            unpack<O>(g, gradient);
            norm_activation_bwd(g, y + begin + col, affine, end.slope);
            store(reinterpret_cast<O*>(at), g);
        }
        if (!sums) continue;
        unpack<O>(g, gradient);
        unpack<O>(v, *reinterpret_cast<const u32x4*>(x + begin + col));
        if (y) {
            activation_bwd(g, y + begin + col, end.slope);
        } else {
            activation_bwd_from_x(g, v, affine, end.slope);
        }
#pragma unroll
        for (u32 k = 0; k < WIDTH; ++k) {
            sum[k] += g[k];
            dot[k] += g[k] * (v[k] - affine.mean[k]);
        }
    }
    if (!sums) return;
    float* lanes = reinterpret_cast<float*>(shared + STAGED_BYTES);
#pragma unroll
    for (u32 k = 0; k < WIDTH; ++k) {
        lanes[lane * Tile::n + col + k] = sum[k];
        lanes[(LANES + lane) * Tile::n + col + k] = dot[k];
    }
    sync();
    for (u32 i = threadIdx.x; i < 2 * u32(Tile::n); i += Tile::threads) {
        u32 c = i % Tile::n, which = i / Tile::n;
        if (n_begin + c >= num_n) continue;
        float total = 0.0f;
        for (u32 l = 0; l < LANES; ++l) total += lanes[(which * LANES + l) * Tile::n + c];
        end.sums[(u64(part) * 2 + which) * pitch + channel + c] = total;
    }
}

/// The sums of a tile without rows.
template <class Tile>
DEVICE void zero_sums(const DgradEpilogue& end, u32 part, u32 n_begin, u32 channel, u32 num_n, u32 pitch) {
    if (!end.sums) return;
    for (u32 i = threadIdx.x; i < 2 * u32(Tile::n); i += Tile::threads) {
        u32 c = i % Tile::n;
        if (n_begin + c < num_n) end.sums[(u64(part) * 2 + i / Tile::n) * pitch + channel + c] = 0.0f;
    }
}

/// Mean and sum of squared deviations of each channel over the first `rows` rows of a finished tile: partial [parts, 2,
/// pitch], of which this is part `part`, from channel `channel` on; `num_n` channels are left. Sums are of differences
/// from the channel's first value, so nothing large cancels. `sync` is a barrier of the tile's threads.
template <class Tile, class O, class Sync>
DEVICE void tile_moments(double* partial, u8* shared, u32 rows, u32 part, u32 channel, u32 num_n, u32 pitch,
                         Sync sync) {
    constexpr u32 PAIRS = Tile::n / 2, LANES = Tile::threads / PAIRS;
    static_assert(LANES > 0 && Tile::n <= Tile::threads, "one thread per channel");
    const O* staged = reinterpret_cast<const O*>(shared);
    // After the tile, in what is left of the pipeline stages.
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
