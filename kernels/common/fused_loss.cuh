// The skeleton of every fused loss: for each row of cells of a block's tile, stage the logits in shared memory,
// evaluate the loss at each pixel, and apply the transpose of the bilinear upsampling to its gradient, so that neither
// full-resolution logits nor their gradient exist.
//
// A thread reduces its column's pixels between two low rows to one value per class for the row above and one for the
// row below; other threads then sum each low position's columns in shared memory, in order. A low position at a tile
// border gets contributions from each tile: every block writes its own rectangle of unscaled float gradients,
// parts[block][group][tile_cells + 1][positions][classes rounded up to 4]; loss.cu adds them up, scales them by
// denominators that are known by then, and rounds once. Nothing depends on the order of blocks.
#pragma once

#include "reduce.cuh"
#include "softmax.cuh"

/// Launch bounds of the fused losses: with some 20 classes shared memory has room for five blocks.
#define LOSS_KERNEL KERNEL_RESIDENT(128, 5)

/// Shared memory of a block; loss.rs computes its size. Cells and peaks of each field, then the gradients of the
/// columns.
struct LossShared {
    Cell* cells;
    /// Gradients of each column for the low row above and below, and the column's fraction within its cell.
    float *above, *below, *peaks, *frac_x;
    /// begin[k]: first pixel column of cell column tile.cell0 - 1 + k, within the tile.
    i32* begin;
    /// Floats from one column to the next: 4 modulo 8, so that 16-byte accesses of neighbouring columns spread over all
    /// banks.
    i32 pitch;

    DEVICE LossShared(unsigned char* memory, const Upsample& u, int fields) {
        pitch = u.chunk + 4;
        cells = reinterpret_cast<Cell*>(memory);
        peaks = reinterpret_cast<float*>(cells + fields * u.slots * cell_stride(u));
        above = peaks + fields * 4 * u.slots;
        below = above + blockDim.x * pitch;
        frac_x = below + blockDim.x * pitch;
        begin = reinterpret_cast<i32*>(frac_x + blockDim.x);
    }
};

/// A field's cells in shared memory.
template <class F> struct Staged {
    F field;
    Cell* cells;
    float* peaks;
    /// The low row whose peaks the cells above it have left in `peaks`; -1 for none.
    i32 held;

    DEVICE Staged(const F& logits, const LossShared& shared, const Upsample& u, int idx) {
        field = logits;
        cells = shared.cells + idx * u.slots * cell_stride(u);
        peaks = shared.peaks + idx * 4 * u.slots;
        held = -1;
    }

    /// Stages the cells below low row `row` of the tile's own image, relative to each position's largest class;
    /// contains a barrier.
    DEVICE void stage_relative(const Upsample& u, const Tile& tile, i32 row) {
        find_peaks(peaks, field, u, tile, tile.image, row, held != row);
        held = row + 1;
        block_sync();
        stage_cells(cells, field, peaks, u, tile, tile.image, row);
    }

    /// Stages the cells below low row `row` of `image` as they are.
    DEVICE void stage(const Upsample& u, const Tile& tile, i32 image, i32 row) {
        stage_cells(cells, field, nullptr, u, tile, image, row);
    }

    /// This thread's column of cells.
    DEVICE const Cell* column(const Upsample& u, const Tile& tile) const { return cells + tile.slot * cell_stride(u); }
};

/// Sum over the block in a fixed order, in thread 0.
template <class V> DEVICE V block_total(V v) {
    SHARED(V, warps, 32);
    v = warp_sum(v);
    block_sync();
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = v;
    block_sync();
    V total = 0;
    for (u32 w = 0; w < blockDim.x / 32; w++) total += warps[w];
    return total;
}

DEVICE u32 block_number() { return (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x; }

/// Classes of a row of `parts`.
DEVICE i32 padded_classes(const Upsample& u) { return (u.classes + 3) / 4 * 4; }

/// Transposes the interpolation along x: sums the columns' gradients for each low position, classes from `first` on,
/// and adds them to rows `row` and `row + 1` of the block's part.
DEVICE void reduce_columns(float* part, const LossShared& shared, const Upsample& u, const Tile& tile, i32 row,
                           i32 first, i32 quads) {
    i32 padded = padded_classes(u);
#pragma unroll 1
    for (i32 task = i32(threadIdx.x); task < (tile.cells + 1) * quads; task += i32(blockDim.x)) {
        i32 position = task / quads, quad = task - position * quads;
        i32 start = shared.begin[position], middle = shared.begin[position + 1], end = shared.begin[position + 2];
        if (start == end) continue;
        f32x4 h = {0.0f, 0.0f, 0.0f, 0.0f}, n = h;
#pragma unroll 2
        for (i32 x = start; x < end; x++) {
            // Columns up to `middle` lie in the cell before the position, the others in the one that begins at it.
            float fx = shared.frac_x[x], w = x < middle ? fx : 1.0f - fx;
            i32 at = x * shared.pitch + 4 * quad;
            f32x4 a = *reinterpret_cast<const f32x4*>(shared.above + at);
            f32x4 b = *reinterpret_cast<const f32x4*>(shared.below + at);
            h.x = fmaf(w, a.x, h.x), h.y = fmaf(w, a.y, h.y), h.z = fmaf(w, a.z, h.z), h.w = fmaf(w, a.w, h.w);
            n.x = fmaf(w, b.x, n.x), n.y = fmaf(w, b.y, n.y), n.z = fmaf(w, b.z, n.z), n.w = fmaf(w, b.w, n.w);
        }
        f32x4* upper = reinterpret_cast<f32x4*>(part + (u64(row) * u.positions + position) * padded + first + 4 * quad);
        f32x4* lower = upper + u64(u.positions) * padded / 4;
        f32x4 a = *upper, b = *lower;
        a.x += h.x, a.y += h.y, a.z += h.z, a.w += h.w;
        b.x += n.x, b.y += n.y, b.z += n.z, b.w += n.w;
        *upper = a, *lower = b;
    }
}

/// Defaults of a Loss: one gradient, one pass over a row of cells, no labels.
struct LossDefaults {
    DEVICE bool has(int) const { return true; }
    DEVICE i32 sources() const { return 1; }
    template <class State, class Strip>
    DEVICE void subtract_onehot(float*, float*, const State&, const Strip&, int, i32, i32) const {}
};

/// Runs `loss` over the block's tile. Writes the block's `parts`, its sums to sums[block][Loss::SUMS], and adds its
/// counts to counts[Loss::COUNTS]. A Loss is a LossDefaults that has
///   ROWS, GROUPS, SUMS, COUNTS   pixels of a strip, gradients with denominators of their own, sums, counts
///   State                        its registers for a strip
///   sums, counts                 this thread's
///   has(group)                   whether a group's gradient is wanted, the same for all threads
///   sources()                    how often a row of cells is passed over, each time for other pixels
///   stage(tile, row, source)     fills shared memory, all threads; false (for all) where no pixel needs it
///   read(state, tile, strip, source)         inputs of the pixels; whether any counts
///   normalize(state, tile, strip)            softmax denominators, and the loss
///   gradient(g, state, tile, strip, group, c)            at each pixel, of class c
///   subtract_onehot(above, below, state, strip, group, first, end)   the label's part, on the reduced column
template <class Loss>
DEVICE void fused_loss(Loss& loss, float* parts, double* sums, u64* counts, const LossShared& shared, const Upsample& u,
                       const Tile& tile) {
    constexpr int R = Loss::ROWS;
    Axis xs(u.low_w, u.full_w), ys(u.low_h, u.full_h);
    u64 part_len = u64(u.tile_cells + 1) * u.positions * padded_classes(u);
    parts += block_number() * Loss::GROUPS * part_len;
#pragma unroll 1
    for (u64 i = threadIdx.x; i < Loss::GROUPS * part_len; i += blockDim.x) parts[i] = 0.0f;
#pragma unroll 1
    for (i32 k = i32(threadIdx.x); k < tile.cells + 3; k += i32(blockDim.x)) {
        i32 column = xs.first(tile.cell0 - 1 + k) - tile.x0;
        shared.begin[k] = column < 0 ? 0 : column < tile.columns ? column : tile.columns;
    }
    shared.frac_x[threadIdx.x] = tile.fx;
    float* above = shared.above + threadIdx.x * shared.pitch;
    float* below = shared.below + threadIdx.x * shared.pitch;

    for (i32 row = tile.row0; row < tile.row1; row++) {
        i32 y0 = ys.first(row), y1 = ys.first(row + 1);
        if (y0 == y1) continue;
        for (i32 source = 0; source < loss.sources(); source++) {
            block_sync();
            if (!loss.stage(tile, row, source)) continue;
            block_sync();
            for (i32 y = y0; y < y1; y += R) {
                Strip<R> strip(u, tile, y, y1);
                typename Loss::State state;
                bool busy = warp_ballot(loss.read(state, tile, strip, source)) != 0;
                if (busy) loss.normalize(state, tile, strip);
                for (int group = 0; group < Loss::GROUPS; group++) {
                    if (!loss.has(group)) continue;
                    for (i32 first = 0; first < u.classes; first += u.chunk) {
                        i32 end = first + u.chunk < u.classes ? first + u.chunk : u.classes;
                        for (i32 c = first; c < end; c += 4) {
                            float h[4] = {}, n[4] = {};
                            for (int k = 0; k < 4; k++) {
                                if (!busy || c + k >= end) continue;
                                float g[R];
                                loss.gradient(g, state, tile, strip, group, c + k);
                                for (int r = 0; r < R; r++) {
                                    h[k] = fmaf(strip.live[r] ? 1.0f - strip.fy[r] : 0.0f, g[r], h[k]);
                                    n[k] = fmaf(strip.fy[r], g[r], n[k]);
                                }
                            }
                            *reinterpret_cast<f32x4*>(above + c - first) = f32x4{h[0], h[1], h[2], h[3]};
                            *reinterpret_cast<f32x4*>(below + c - first) = f32x4{n[0], n[1], n[2], n[3]};
                        }
                        if (busy) loss.subtract_onehot(above, below, state, strip, group, first, end);
                        block_sync();
                        reduce_columns(parts + group * part_len, shared, u, tile, row - tile.row0, first,
                                       (end - first + 3) / 4);
                        block_sync();
                    }
                }
            }
        }
    }
    for (int k = 0; k < Loss::SUMS; k++) {
        double total = block_total(loss.sums[k]);
        if (threadIdx.x == 0) sums[block_number() * Loss::SUMS + k] = total;
    }
    for (int k = 0; k < Loss::COUNTS; k++) {
        u32 total = block_total(loss.counts[k]);
        if (threadIdx.x == 0) atomic_add(&counts[k], u64(total));
    }
}
