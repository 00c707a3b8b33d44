// Softmax over the classes at a strip's pixels, from logits in powers of two (scaled by log2(e)), and the weighted cross
// entropy that several losses share. Classes are passed over as often as needed and never kept, so their number is free.
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
/// peaks). These are at most 0 and near 0 for the largest class, save where the corners of a cell disagree by more than
/// the range of floats: there the pixel's own largest class is found first.
/// `each(r, c, z)` sees every logit.
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
        if (!(sum[r] > SMALL_SUM)) out[r] = log_sum_from_largest(cell, classes, strip.fx, strip.fy[r]);
        else out[r] = log2f(sum[r]);
    }
}

template <int R> DEVICE void log_sums(float (&out)[R], const Cell* cell, i32 classes, const Strip<R>& strip) {
    log_sums(out, cell, classes, strip, [](int, i32, float) {});
}

/// Weighted cross entropy at a strip's pixels against one class each.
template <int R> struct Picked {
    /// 0 where the pixel does not count; its label is then any class.
    float weight[R];
    i32 label[R];
    /// log2(sum of powers / weight), so that 2^(z - level) is weight times probability.
    float level[R];
    /// Whether the pixel is in the confusion matrix.
    bool counted[R];

    /// log_sums, and a count of the label and the largest class, of equal ones the first, of each counted pixel.
    template <class Tally>
    DEVICE void log_sums_counting(float (&norm)[R], Tally& tally, const Cell* cell, i32 classes,
                                  const Strip<R>& strip) const {
        float largest[R];
        i32 best[R];
        for (int r = 0; r < R; r++) largest[r] = -INFINITY, best[r] = 0;
        log_sums(norm, cell, classes, strip, [&](int r, i32 c, float z) {
            if (z > largest[r]) largest[r] = z, best[r] = c;
        });
        for (int r = 0; r < R; r++) {
            if (counted[r]) tally.add(label[r], best[r]);
        }
    }

    /// Finds `level`; returns the sum over the pixels of weight * -log softmax[label].
    DEVICE double normalize(const float (&norm)[R], const Cell* cell, const Strip<R>& strip) {
        double loss = 0.0;
        for (int r = 0; r < R; r++) {
            level[r] = norm[r] - log2f(weight[r]);
            if (weight[r] == 0.0f) continue;
            float base, slope;
            cell_line(cell[label[r]], strip.fx, base, slope);
            loss += weight[r] * (LN_2 * (norm[r] - fmaf(strip.fy[r], slope, base)));
        }
        return loss;
    }

    /// weight * softmax of one class at each pixel; what pick subtracts is the rest of the gradient.
    DEVICE void gradient(float (&g)[R], const Cell* cell, i32 c, const Strip<R>& strip) const {
        float base, slope;
        cell_line(cell[c], strip.fx, base, slope);
        for (int r = 0; r < R; r++) g[r] = exp2_approx(fmaf(strip.fy[r], slope, base) - level[r]);
    }

    /// Subtracts the weight of each pixel at its label from the column's folded gradients `here` and `next` of the
    /// classes from `first` to `end`.
    DEVICE void pick(float* here, float* next, i32 first, i32 end, const Strip<R>& strip) const {
        for (int r = 0; r < R; r++) {
            if (!strip.live[r] || weight[r] == 0.0f || label[r] < first || label[r] >= end) continue;
            here[label[r] - first] -= (1.0f - strip.fy[r]) * weight[r];
            next[label[r] - first] -= strip.fy[r] * weight[r];
        }
    }
};
