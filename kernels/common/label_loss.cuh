// Weighted cross entropy against one label per pixel, on full-resolution logits that are interpolated on the fly: the
// part that cross_entropy.cu and conf_ce.cu share.
#pragma once

#include "confusion.cuh"

/// Weighted cross entropy at a strip's pixels.
template <int R> struct LabelCrossEntropy {
    /// 0 where the pixel does not count; its label is then any class.
    float weight[R];
    i32 label[R];
    /// log2(sum of powers / weight), so that 2^(z - level) is weight times probability.
    float level[R];
    /// Whether the pixel is in the confusion matrix.
    bool counted[R];

    /// log_sums; adds the label and the largest class (the first of equal ones) of each counted pixel to the confusion
    /// matrix.
    DEVICE void log_sums_counting(float (&norm)[R], ConfusionCounter& confusion, const Cell* cell, i32 classes,
                                  const Strip<R>& strip) const {
        float largest[R];
        i32 best[R];
        for (int r = 0; r < R; r++) largest[r] = -INFINITY, best[r] = 0;
        log_sums(norm, cell, classes, strip, [&](int r, i32 c, float z) {
            if (z > largest[r]) largest[r] = z, best[r] = c;
        });
        for (int r = 0; r < R; r++) {
            if (counted[r]) confusion.add(label[r], best[r]);
        }
    }

    /// Computes `level`; returns the sum over the pixels of weight * -log softmax[label].
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

    /// weight * softmax of one class at each pixel: the gradient but for weight * onehot(label), which subtract_onehot
    /// adds.
    DEVICE void gradient(float (&g)[R], const Cell* cell, i32 c, const Strip<R>& strip) const {
        float base, slope;
        cell_line(cell[c], strip.fx, base, slope);
        for (int r = 0; r < R; r++) g[r] = exp2_approx(fmaf(strip.fy[r], slope, base) - level[r]);
    }

    /// Subtracts weight * onehot(label) of each pixel from the column's gradients `above` and `below` of the classes
    /// from `first` to `end`.
    DEVICE void subtract_onehot(float* above, float* below, i32 first, i32 end, const Strip<R>& strip) const {
        for (int r = 0; r < R; r++) {
            if (!strip.live[r] || weight[r] == 0.0f || label[r] < first || label[r] >= end) continue;
            above[label[r] - first] -= (1.0f - strip.fy[r]) * weight[r];
            below[label[r] - first] -= strip.fy[r] * weight[r];
        }
    }
};

/// A fused loss (fused_loss.cuh) that is this cross entropy alone; a loss derives from it and adds `read`.
template <class T> struct LabelLoss : LossDefaults {
    static constexpr int ROWS = 4, GROUPS = 1, SUMS = 1, COUNTS = 1;
    typedef LabelCrossEntropy<ROWS> State;

    const Upsample& u;
    Staged<Field<T>> logits;
    ConfusionCounter confusion;
    double sums[SUMS] = {0.0};
    u32 counts[COUNTS] = {0};

    DEVICE LabelLoss(const Upsample& size, const Staged<Field<T>>& staged, const ConfusionCounter& counter)
        : u(size), logits(staged), confusion(counter) {}

    DEVICE bool stage(const Tile& tile, i32 row, i32) {
        logits.stage_relative(u, tile, row);
        return true;
    }
    DEVICE void normalize(State& state, const Tile& tile, const Strip<ROWS>& strip) {
        const Cell* cell = logits.column(u, tile);
        float norm[ROWS];
        state.log_sums_counting(norm, confusion, cell, u.classes, strip);
        sums[0] += state.normalize(norm, cell, strip);
    }
    DEVICE void gradient(float (&g)[ROWS], const State& state, const Tile& tile, const Strip<ROWS>& strip, int,
                         i32 c) const {
        state.gradient(g, logits.column(u, tile), c, strip);
    }
    DEVICE void subtract_onehot(float* above, float* below, const State& state, const Strip<ROWS>& strip, int,
                                i32 first, i32 end) const {
        state.subtract_onehot(above, below, first, end, strip);
    }
};
