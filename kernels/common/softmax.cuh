// Softmax over the classes at a strip's pixels, from logits scaled by log2(e), so that powers of two serve. Logits are
// interpolated again in each pass over the classes and never kept, so the number of classes is not limited.
#pragma once

#include "upsample.cuh"

/// Below this a sum of powers has lost accuracy to underflow.
constexpr float SMALL_SUM = 0x1p-60f;

/// log2 of the sum over the classes of 2^z at (fx, fy), relative to the largest z there.
DEVICE float log_sum_from_largest(const Cell* cell, i32 classes, float fx, float fy) {
    float base, slope, sum = 0.0f, largest = -INFINITY;
#pragma unroll 1
    for (i32 c = 0; c < classes; c++) {
        cell_line(cell[c], fx, base, slope);
        largest = fmaxf(largest, fmaf(fy, slope, base));
    }
#pragma unroll 1
    for (i32 c = 0; c < classes; c++) {
        cell_line(cell[c], fx, base, slope);
        sum += exp2_approx(fmaf(fy, slope, base) - largest);
    }
    return largest + log2f(sum);
}

/// log2 of the sum over the classes of 2^z, at each pixel; `cell` is the column's, of relative logits (stage_cells with
/// peaks). These are at most 0, and near 0 for the largest class except where the corners of a cell differ by more than
/// the range of floats: there the pixel's own largest class is found first. `each(r, c, z)` is called for every logit.
template <int R, class Each>
DEVICE void log_sums(float (&out)[R], const Cell* cell, i32 classes, const Strip<R>& strip, Each each) {
    float sum[R] = {};
#pragma unroll 2
    for (i32 c = 0; c < classes; c++) {
        float base, slope;
        cell_line(cell[c], strip.fx, base, slope);
        for (int r = 0; r < R; r++) {
            float z = fmaf(strip.fy[r], slope, base);
            each(r, c, z);
            sum[r] += exp2_approx(z);
        }
    }
    for (int r = 0; r < R; r++) {
        if (!(sum[r] > SMALL_SUM))
            out[r] = log_sum_from_largest(cell, classes, strip.fx, strip.fy[r]);
        else
            out[r] = log2f(sum[r]);
    }
}

template <int R> DEVICE void log_sums(float (&out)[R], const Cell* cell, i32 classes, const Strip<R>& strip) {
    log_sums(out, cell, classes, strip, [](int, i32, float) {});
}
