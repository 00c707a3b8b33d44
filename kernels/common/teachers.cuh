// The dual-teacher target (PS-MT, section 3.1) at a strip's pixels: logits gamma core + (1 - gamma) a, where a is the
// assistant's logit at its topk largest classes and the core's elsewhere. Of equal logits the lower class comes first;
// cells hold the teachers' logits unscaled, so that rounding does not separate equal ones.
#pragma once

#include "softmax.cuh"

/// How the teachers are combined. A topk of up to SHORT_LIST takes one pass over the classes, a larger one several.
struct Ensemble {
    float gamma, rest;
    i32 topk;
};

constexpr int SHORT_LIST = 8;

/// a and b in descending order.
DEVICE void order(float& a, float& b) {
    float low = fminf(a, b);
    a = fmaxf(a, b);
    b = low;
}

/// Keeps the eight largest of twelve: `top` descending, `v` any four values. Sorts `v`, takes the larger of each pair
/// from the end of one list and the beginning of the other, which leaves a bitonic list, and merges that (Batcher,
/// 1968).
DEVICE void keep_largest(float (&top)[SHORT_LIST], float (&v)[4]) {
    order(v[0], v[1]), order(v[2], v[3]), order(v[0], v[2]), order(v[1], v[3]), order(v[1], v[2]);
#pragma unroll
    for (int i = 0; i < 4; i++) top[4 + i] = fmaxf(top[4 + i], v[3 - i]);
#pragma unroll
    for (int i = 0; i < 4; i++) order(top[i], top[i + 4]);
    order(top[0], top[2]), order(top[1], top[3]), order(top[4], top[6]), order(top[5], top[7]);
    order(top[0], top[1]), order(top[2], top[3]), order(top[4], top[5]), order(top[6], top[7]);
}

/// The target at a strip's pixels, from the columns of the core's and the assistant's cells.
template <int R> struct Target {
    /// The assistant's k-th largest logit. Its logits are used in classes above that, and in classes equal to it up to
    /// `last`.
    float kth[R];
    i32 last[R];
    /// First class of the largest target logit, that logit, log2 of the sum of powers relative to it.
    i32 label[R];
    float largest[R], level[R];

    /// The k-th largest of the assistant, and how many of the k are equal to it.
    DEVICE void find_kth(i32 (&ties)[R], const Cell* assist, i32 classes, const Strip<R>& strip, i32 topk) {
        if (topk >= classes) {
#pragma unroll
            for (int r = 0; r < R; r++) kth[r] = -INFINITY, ties[r] = classes;
        } else if (topk <= SHORT_LIST) {
            find_short(ties, assist, classes, strip, topk);
        } else {
#pragma unroll
            for (int r = 0; r < R; r++) find_long(kth[r], ties[r], assist, classes, strip.fx, strip.fy[r], topk);
        }
    }

    /// topk <= SHORT_LIST: by sorted lists of the largest eight.
    DEVICE void find_short(i32 (&ties)[R], const Cell* assist, i32 classes, const Strip<R>& strip, i32 topk) {
        float top[R][SHORT_LIST];
#pragma unroll
        for (int r = 0; r < R; r++) {
#pragma unroll
            for (int i = 0; i < SHORT_LIST; i++) top[r][i] = -INFINITY;
        }
#pragma unroll 1
        for (i32 c = 0; c < classes; c += 4) {
            float v[R][4];
#pragma unroll
            for (int k = 0; k < 4; k++) {
                // Values past the last class have no effect: there are more than topk classes.
                float base = -INFINITY, slope = 0.0f;
                if (c + k < classes) cell_line(assist[c + k], strip.fx, base, slope);
#pragma unroll
                for (int r = 0; r < R; r++) v[r][k] = fmaf(strip.fy[r], slope, base);
            }
#pragma unroll
            for (int r = 0; r < R; r++) keep_largest(top[r], v[r]);
        }
#pragma unroll
        for (int r = 0; r < R; r++) {
            kth[r] = top[r][0];
            ties[r] = 0;
#pragma unroll
            for (int i = 1; i < SHORT_LIST; i++) kth[r] = i < topk ? top[r][i] : kth[r];
#pragma unroll
            for (int i = 0; i < SHORT_LIST; i++) ties[r] += i < topk && top[r][i] == kth[r] ? 1 : 0;
        }
    }

    /// Any topk: by descending from one value to the next smaller one.
    DEVICE static void find_long(float& kth, i32& ties, const Cell* assist, i32 classes, float fx, float fy, i32 topk) {
        float bound = INFINITY;
        i32 left = topk;
        kth = -INFINITY;
        ties = classes;
        while (left > 0) {
            float next = -INFINITY, base, slope;
            i32 equal = 0;
#pragma unroll 1
            for (i32 c = 0; c < classes; c++) {
                cell_line(assist[c], fx, base, slope);
                float v = fmaf(fy, slope, base);
                if (v < bound || (bound == INFINITY && v == bound)) {
                    equal = v > next ? 1 : v == next ? equal + 1 : equal;
                    next = fmaxf(next, v);
                }
            }
            if (equal == 0) break;  // only NaNs are left
            kth = next;
            ties = left;
            left -= equal;
            bound = next;
        }
    }

    /// Computes all fields.
    DEVICE void find(const Cell* core, const Cell* assist, i32 classes, const Strip<R>& strip,
                     const Ensemble& ensemble) {
        i32 ties[R];
        find_kth(ties, assist, classes, strip, ensemble.topk);
        float sum[R];
#pragma unroll
        for (int r = 0; r < R; r++) {
            largest[r] = -INFINITY;
            sum[r] = 0.0f;
            label[r] = 0;
            last[r] = -1;
        }
#pragma unroll 1
        for (i32 c = 0; c < classes; c++) {
            float base, slope, assist_base, assist_slope;
            cell_line(core[c], strip.fx, base, slope);
            cell_line(assist[c], strip.fx, assist_base, assist_slope);
#pragma unroll
            for (int r = 0; r < R; r++) {
                float z = fmaf(strip.fy[r], slope, base), a = fmaf(strip.fy[r], assist_slope, assist_base);
                bool tied = a == kth[r] && ties[r] > 0;
                ties[r] -= tied ? 1 : 0;
                last[r] = tied ? c : last[r];
                z = blend(z, a, r, c, ensemble);
                // Online softmax: the sum is rescaled where a larger logit comes, so one power per class is enough.
                float power = exp2_approx(-LOG2_E * fabsf(z - largest[r]));
                bool above = z > largest[r];
                sum[r] = above ? fmaf(sum[r], power, 1.0f) : sum[r] + power;
                label[r] = above ? c : label[r];
                largest[r] = above ? z : largest[r];
            }
        }
#pragma unroll
        for (int r = 0; r < R; r++) level[r] = log2f(sum[r]);
    }

    /// The target logit of class `c` from the core's and the assistant's.
    DEVICE float blend(float core, float assist, int r, i32 c, const Ensemble& ensemble) const {
        // A NaN is not below the k-th and so stays visible.
        bool drop = assist < kth[r] || (assist == kth[r] && c > last[r]);
        return drop ? core : fmaf(ensemble.gamma, core, ensemble.rest * assist);
    }

    /// Target probability of class `c` at each pixel.
    DEVICE void probability(float (&q)[R], const Cell* core, const Cell* assist, i32 c, const Strip<R>& strip,
                            const Ensemble& ensemble) const {
        float base, slope, assist_base, assist_slope;
        cell_line(core[c], strip.fx, base, slope);
        cell_line(assist[c], strip.fx, assist_base, assist_slope);
#pragma unroll
        for (int r = 0; r < R; r++) {
            float z = fmaf(strip.fy[r], slope, base), a = fmaf(strip.fy[r], assist_slope, assist_base);
            q[r] = exp2_approx(fmaf(LOG2_E, blend(z, a, r, c, ensemble) - largest[r], -level[r]));
        }
    }
};
