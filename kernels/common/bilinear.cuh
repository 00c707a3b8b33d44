// Coordinates of bilinear resampling with align_corners along one axis: output i lies at i (from - 1) / (to - 1) of the
// inputs, at 0 where `to` is 1. Integer part and fraction are computed in integers, so both ends are exact. The product
// of the two lengths must be below 2^32.
#pragma once

#include "device.cuh"

/// An output is in[lo] + frac (in[hi] - in[lo]).
struct Tap {
    u32 lo, hi;
    float frac;
};

/// Where output `i` of `to` lies between `from` inputs. `lo` never decreases with `i`; `hi` follows it, or is `lo`
/// where there is one input.
DEVICE Tap bilinear_tap(u32 i, u32 from, u32 to) {
    u32 num = from - 1, den = to > 1 ? to - 1 : 1;
    u32 last = from > 2 ? from - 2 : 0;
    u32 lo = i * num / den;
    lo = lo < last ? lo : last;
    return Tap{lo, lo + 1 < from ? lo + 1 : lo, float(i * num - lo * den) / float(den)};
}

/// The first output with `lo` of at least `j`, for j up to `from`. So outputs first(j)..first(j + 1) give 1 - frac of
/// their gradient to input j, and outputs first(j - 1)..first(j) give it frac.
DEVICE u32 bilinear_first(u32 j, u32 from, u32 to) {
    if (j == 0) return 0;
    if (j + 1 >= from) return to;
    u32 num = from - 1, den = to > 1 ? to - 1 : 1;
    u32 first = (j * den + num - 1) / num;
    return first < to ? first : to;
}

/// The value between four inputs: a, b left and right in the upper row, c, d in the lower; rows are blended first.
DEVICE float bilinear_value(float a, float b, float c, float d, float fy, float fx) {
    float left = a + fy * (c - a), right = b + fy * (d - b);
    return left + fx * (right - left);
}
