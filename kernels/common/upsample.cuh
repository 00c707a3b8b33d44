// Full-resolution logits (bilinear, align_corners) that are evaluated on the fly and never stored.
//
// Between four neighbouring positions of the low resolution a logit is a polynomial in the fractions (fx, fy),
//     z = a + fx b + fy (c + fx d),
// so a block keeps four coefficients per class of one row of such cells in shared memory ([cell][class], from NHWC
// logits) and a thread evaluates them at its pixels: a strip of up to R pixels of one column between two low rows.
// Lanes of a warp are neighbouring columns, so most of them read the same cell. A block's tile is `columns` pixel
// columns by `tile_cells` rows of cells.
#pragma once

#include "bilinear.cuh"
#include "device.cuh"

/// Logits of a softmax are mostly staged times log2(e), so that powers of two serve.
constexpr float LOG2_E = 1.44269504088896341f;
constexpr float LN_2 = 0.693147180559945309f;

/// Sizes of a resampling and of its tiles; the plan in loss.rs fills it.
struct Upsample {
    /// Images, rows and columns in, classes, rows and columns out.
    i32 images, low_h, low_w, classes, full_h, full_w;
    /// Pixel columns and rows of cells of a tile, tiles along x and y.
    i32 columns, tile_cells, tiles_x, tiles_y;
    /// Maximum over tiles of the columns of cells kept, and of the low columns that the pixels touch.
    i32 slots, positions;
    /// Classes whose gradient is reduced at a time, a multiple of 8.
    i32 chunk;
};

/// Where `to` outputs lie between `from` inputs.
struct Axis {
    u32 from, to;

    DEVICE Axis(i32 inputs, i32 outputs) : from(u32(inputs)), to(u32(outputs)) {}
    /// Gaps between inputs, one where there is one input.
    DEVICE i32 cells() const { return from > 1 ? i32(from) - 1 : 1; }
    /// The gap that an output lies in.
    DEVICE i32 cell(i32 output) const { return i32(bilinear_tap(u32(output), from, to).lo); }
    DEVICE float frac(i32 output) const { return bilinear_tap(u32(output), from, to).frac; }
    /// First output whose gap is at least `cell`.
    DEVICE i32 first(i32 cell) const { return cell > 0 ? i32(bilinear_first(u32(cell), from, to)) : 0; }
};

/// A block's part of the image and a thread's column in it.
struct Tile {
    i32 image;
    /// First pixel column, number of pixel columns.
    i32 x0, columns;
    /// First cell column, number of cell columns that the pixels lie in; columns of cells kept in shared memory: these,
    /// or one per pixel column where the output is so much smaller that it skips cells.
    i32 cell0, cells, slots;
    /// Rows of cells.
    i32 row0, row1;
    /// This thread's pixel column (the last one for threads beyond), whether it has one, its cell and place in it.
    i32 x;
    bool live;
    i32 slot;
    float fx;

    DEVICE Tile(const Upsample& u) {
        Axis xs(u.low_w, u.full_w), ys(u.low_h, u.full_h);
        image = i32(blockIdx.z);
        x0 = i32(blockIdx.x) * u.columns;
        columns = u.full_w - x0 < u.columns ? u.full_w - x0 : u.columns;
        cell0 = xs.cell(x0);
        cells = xs.cell(x0 + columns - 1) - cell0 + 1;
        slots = cells < columns ? cells : columns;
        row0 = i32(blockIdx.y) * u.tile_cells;
        row1 = row0 + u.tile_cells < ys.cells() ? row0 + u.tile_cells : ys.cells();
        live = i32(threadIdx.x) < columns;
        i32 column = live ? i32(threadIdx.x) : columns - 1;
        x = x0 + column;
        fx = xs.frac(x);
        slot = cells <= columns ? xs.cell(x) - cell0 : column;
    }

    /// Cell column that `slot` keeps.
    DEVICE i32 cell_of(const Upsample& u, i32 slot) const {
        return cells <= columns ? cell0 + slot : Axis(u.low_w, u.full_w).cell(x0 + slot);
    }
};

/// A thread's pixels: rows y .. y + R of column x, as far as they lie in one row of cells.
template <int R> struct Strip {
    i32 y, x;
    float fx;
    /// Fraction between the low rows; 0 where not live.
    float fy[R];
    bool live[R];

    DEVICE Strip(const Upsample& u, const Tile& tile, i32 first, i32 end) {
        Axis ys(u.low_h, u.full_h);
        y = first;
        x = tile.x;
        fx = tile.fx;
        for (int r = 0; r < R; r++) {
            live[r] = tile.live && first + r < end;
            fy[r] = first + r < end ? ys.frac(first + r) : 0.0f;
        }
    }
};

/// What is interpolated: factor * x, [images, low_h, low_w, classes].
template <class T> struct Field {
    const T* x;
    float factor;

    /// Values from one position to the next.
    DEVICE i32 pitch(const Upsample& u) const { return u.classes; }
    DEVICE float at(u64 i) const { return factor * to_float(x[i]); }
};

/// factor * the sum over `parts` of x [images, low_h, low_w, parts, classes]; `step` is the number of classes.
template <class T> struct FieldSum {
    const T* x;
    i32 parts, step;
    float factor;

    DEVICE i32 pitch(const Upsample&) const { return parts * step; }
    DEVICE float at(u64 i) const {
        float sum = to_float(x[i]);
#pragma unroll 1
        for (i32 k = 1; k < parts; k++) sum += to_float(x[i + k * step]);
        return factor * sum;
    }
};

/// Coefficients of z in a cell.
typedef f32x4 Cell;

/// Cells from one slot to the next: odd, so that equal classes of neighbouring slots lie in different banks.
DEVICE i32 cell_stride(const Upsample& u) { return u.classes | 1; }

/// z at column fraction fx as a line in fy.
DEVICE void cell_line(const Cell& cell, float fx, float& base, float& slope) {
    base = fmaf(fx, cell.y, cell.x);
    slope = fmaf(fx, cell.w, cell.z);
}

/// The largest class of each position around the cells between low rows `row` and `row + 1`:
/// peaks[row & 1][side][slot], side 0 and 1 the columns at and after the cell. The first row's are found only where
/// `both` asks for it.
template <class F>
DEVICE void find_peaks(float* peaks, const F& field, const Upsample& u, const Tile& tile, i32 image, i32 row,
                       bool both) {
#pragma unroll 1
    for (i32 task = i32(threadIdx.x); task < (both ? 4 : 2) * tile.slots; task += i32(blockDim.x)) {
        i32 corner = task / tile.slots, slot = task - corner * tile.slots;
        i32 side = corner & 1, y = corner < 2 ? row + 1 : row;
        i32 column = tile.cell_of(u, slot) + side;
        column = column < u.low_w ? column : u.low_w - 1;
        u64 at = ((u64(image) * u.low_h + (y < u.low_h ? y : row)) * u.low_w + column) * field.pitch(u);
        float peak = field.at(at);
        for (i32 c = 1; c < u.classes; c++) peak = fmaxf(peak, field.at(at + c));
        peaks[((y & 1) * 2 + side) * u.slots + slot] = peak;
    }
}

/// Fills the cells between low rows `row` and `row + 1` of `image`. With `peaks` (from find_peaks, else null) each
/// position's values are taken relative to its largest: softmax stays as it is, and no interpolated value is above 0.
template <class F>
DEVICE void stage_cells(Cell* cells, const F& field, const float* peaks, const Upsample& u, const Tile& tile, i32 image,
                        i32 row) {
    i32 classes = u.classes, tasks = tile.slots * classes;
    i32 below = row + 1 < u.low_h ? row + 1 : row;
    i32 pitch = field.pitch(u);
    u64 stride = u64(u.low_w) * pitch;
    u64 top = (u64(image) * u.low_h + row) * stride, bottom = (u64(image) * u.low_h + below) * stride;
    // Consecutive threads take consecutive classes; a step is one division less than computing slot and class again.
    i32 slot = i32(threadIdx.x) / classes, c = i32(threadIdx.x) - slot * classes;
    i32 slot_step = i32(blockDim.x) / classes, class_step = i32(blockDim.x) - slot_step * classes;
#pragma unroll 1
    for (i32 task = i32(threadIdx.x); task < tasks; task += i32(blockDim.x)) {
        i32 left = tile.cell_of(u, slot);
        i32 right = left + 1 < u.low_w ? left + 1 : left;
        u64 l = u64(left) * pitch + c, r = u64(right) * pitch + c;
        float v00 = field.at(top + l), v01 = field.at(top + r);
        float v10 = field.at(bottom + l), v11 = field.at(bottom + r);
        if (peaks) {
            const float *above = peaks + (row & 1) * 2 * u.slots + slot,
                        *under = peaks + (~row & 1) * 2 * u.slots + slot;
            v00 -= above[0];
            v01 -= above[u.slots];
            v10 -= under[0];
            v11 -= under[u.slots];
        }
        Cell cell;
        cell.x = v00;
        cell.y = v01 - v00;
        cell.z = v10 - v00;
        cell.w = (v11 - v10) - cell.y;
        cells[slot * cell_stride(u) + c] = cell;
        slot += slot_step;
        c += class_step;
        if (c >= classes) {
            c -= classes;
            slot++;
        }
    }
}
