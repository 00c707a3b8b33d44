// The operands of convolutions as implicit GEMMs: each loads the tile of one k step and advances to the next. What lies
// outside the image, the matrix or the split is zero.
//
// With `any`, chunks may be unaligned or hold values of several taps (channel counts that are no multiple of a chunk's
// values) and are then copied value by value. Otherwise a chunk is one cp.async.
#pragma once

#include "conv2d.cuh"

/// How results along one axis of the image read the source: result i and tap t read row
/// i * step + base + t * tap_step of `len` rows, and the tap's place in the kernel is first_tap + t * tap_period.
struct Axis {
    u32 results, len, taps;
    i32 step, base, tap_step;
    u32 first_tap, tap_period;
};

/// fprop: output positions read the input.
DEVICE Axis fprop_axis(const Conv2dSizes& s, u32 len, u32 out_len) {
    return Axis{out_len, len, s.kernel, i32(s.stride), -i32(s.padding), i32(s.dilation), 0, 1};
}

/// dgrad: input positions that are equal modulo the stride (`phase`) read the gradient of the output. Position i =
/// stride a + phase gets from tap r what lies at (i + padding - r dilation) / stride where that is an integer, which it
/// is for every tap_period-th tap. As a function of `a` this is a convolution of stride 1.
DEVICE Axis dgrad_axis(const Conv2dSizes& s, u32 len, u32 out_len, u32 phase) {
    u32 first = 0;
    while (first < s.tap_period && (first * s.dilation) % s.stride != (phase + s.padding) % s.stride) ++first;
    u32 taps = first < s.tap_period && first < s.kernel ? (s.kernel - first + s.tap_period - 1) / s.tap_period : 0;
    i32 base = taps ? (i32(phase + s.padding) - i32(first * s.dilation)) / i32(s.stride) : 0;
    u32 results = (len - phase + s.stride - 1) / s.stride;
    return Axis{results, out_len, taps, 1, base, -i32(s.tap_period * s.dilation / s.stride), first, s.tap_period};
}

/// A of fprop and dgrad, K-major by im2col: row m is a position of the result, k runs over (tap row, tap column,
/// channel) of the source, of whose channels it reads `channels` from `first_channel` on.
template <class T, class Tile, bool any> struct ActivationKMajor {
    static constexpr int STRIDE = Tile::threads / 8, PASSES = Tile::m / STRIDE;
    const T* source;
    Axis y, x;
    u32 first_channel, channels, pitch;
    bool aligned;
    u32 image[PASSES];
    i32 row[PASSES], col[PASSES];
    Digits tap, step;

    DEVICE ActivationKMajor(const T* source, Axis y, Axis x, u32 num_images, u32 first_channel, u32 channels, u32 pitch,
                            u32 m_begin, bool aligned)
        : source(source), y(y), x(x), first_channel(first_channel), channels(channels), pitch(pitch), aligned(aligned) {
        u32 taps = x.taps ? x.taps : 1;
        tap = to_digits(threadIdx.x % 8 * CHUNK<T>, taps, channels);
        step = to_digits(DEPTH<T>, taps, channels);
#pragma unroll
        for (int i = 0; i < PASSES; ++i) {
            Digits at = to_digits(m_begin + threadIdx.x / 8 + i * STRIDE, y.results, x.results);
            image[i] = at.high * y.len * x.len;
            // Far outside the image where there is no such position.
            row[i] = at.high < num_images ? i32(at.mid) * y.step + y.base : -(1 << 30);
            col[i] = i32(at.low) * x.step + x.base;
        }
    }

    /// Address of the value of pass i at `t`; false if it is zero.
    DEVICE bool find(int i, const Digits& t, const T*& at) const {
        i32 r = row[i] + i32(t.high) * y.tap_step, c = col[i] + i32(t.mid) * x.tap_step;
        at = source + u64(image[i] + u32(r) * x.len + u32(c)) * pitch + (first_channel + t.low);
        return t.high < y.taps && x.taps != 0 && u32(r) < y.len && u32(c) < x.len;
    }

    DEVICE void load(u8* tile) {
#pragma unroll
        for (int i = 0; i < PASSES; ++i) {
            u8* slot = chunk_at<8>(tile, threadIdx.x / 8 + i * STRIDE, threadIdx.x % 8);
            const T* at;
            if (!any || aligned) {
                bool ok = find(i, tap, at);
                fetch_chunk(slot, at, source, ok);
            } else {
                Digits t = tap;
                for (int e = 0; e < CHUNK<T>; ++e) {
                    bool ok = find(i, t, at);
                    put(slot, e, at, ok);
                    advance(t, Digits{0, 0, 1}, x.taps ? x.taps : 1, channels);
                }
            }
        }
        advance(tap, step, x.taps ? x.taps : 1, channels);
    }
};

/// B of fprop, K-major: the weight as a matrix [rows, depth] from row `first_row` on; row n is an output channel of the
/// group.
template <class T, class Tile, bool any> struct WeightKMajor {
    static constexpr int STRIDE = Tile::threads / 8, PASSES = Tile::n / STRIDE;
    const T* matrix;
    u32 first_row, n_begin, rows, depth, k;
    bool aligned;

    DEVICE WeightKMajor(const T* matrix, u32 first_row, u32 n_begin, u32 rows, u32 depth, bool aligned)
        : matrix(matrix), first_row(first_row), n_begin(n_begin), rows(rows), depth(depth),
          k(threadIdx.x % 8 * CHUNK<T>), aligned(aligned) {}

    DEVICE void load(u8* tile) {
#pragma unroll
        for (int i = 0; i < PASSES; ++i) {
            u32 local = threadIdx.x / 8 + i * STRIDE, n = n_begin + local;
            u8* slot = chunk_at<8>(tile, local, threadIdx.x % 8);
            const T* at = matrix + u64(first_row + n) * depth + k;
            if (!any || aligned) {
                fetch_chunk(slot, at, matrix, n < rows && k < depth);
            } else {
                for (u32 e = 0; e < u32(CHUNK<T>); ++e) put(slot, e, at + e, n < rows && k + e < depth);
            }
        }
        k += DEPTH<T>;
    }
};

/// B of dgrad, MN-major: rows of input channels of the weight [out, kernel, kernel, in], one for each k = (tap row, tap
/// column, output channel), from output `first_channel` on.
template <class T, class Tile, bool any> struct WeightMnMajor {
    static constexpr int CHUNKS = Tile::n / CHUNK<T>, STRIDE = Tile::threads / CHUNKS, PASSES = DEPTH<T> / STRIDE;
    const T* weight;
    u32 first_row, first_col, tap_period, taps_y, taps_x, kernel, in_channels, first_channel, out_channels, n;
    bool aligned;
    Digits tap, step;

    DEVICE WeightMnMajor(const T* weight, const Axis& y, const Axis& x, const Conv2dSizes& s, u32 first_channel,
                         u32 n_begin)
        : weight(weight), first_row(y.first_tap), first_col(x.first_tap), tap_period(s.tap_period), taps_y(y.taps),
          taps_x(x.taps ? x.taps : 1), kernel(s.kernel), in_channels(s.in_channels), first_channel(first_channel),
          out_channels(s.out_channels), n(n_begin + threadIdx.x % CHUNKS * CHUNK<T>), aligned(s.aligned_b != 0) {
        tap = to_digits(threadIdx.x / CHUNKS, taps_x, out_channels);
        step = to_digits(STRIDE, taps_x, out_channels);
    }

    DEVICE void load(u8* tile) {
#pragma unroll
        for (int i = 0; i < PASSES; ++i) {
            u8* slot = chunk_at<CHUNKS>(tile, threadIdx.x / CHUNKS + i * STRIDE, threadIdx.x % CHUNKS);
            u32 place = (first_row + tap.high * tap_period) * kernel + first_col + tap.mid * tap_period;
            const T* at = weight + (u64(first_channel + tap.low) * kernel * kernel + place) * in_channels + n;
            bool ok = tap.high < taps_y;
            if (!any || aligned) {
                fetch_chunk(slot, at, weight, ok && n < in_channels);
            } else {
                for (u32 e = 0; e < u32(CHUNK<T>); ++e) put(slot, e, at + e, ok && n + e < in_channels);
            }
            advance(tap, step, taps_x, out_channels);
        }
    }
};

/// A of wgrad, MN-major: dy [positions, pitch], one row for each position from `begin` to `end`, of the channels from
/// `first_channel` to `end_channel`.
template <class T, class Tile, bool any> struct GradientMnMajor {
    static constexpr int CHUNKS = Tile::m / CHUNK<T>, STRIDE = Tile::threads / CHUNKS, PASSES = DEPTH<T> / STRIDE;
    const T* source;
    u32 end_channel, pitch, m, position, end;
    bool aligned;

    DEVICE GradientMnMajor(const T* source, u32 first_channel, u32 end_channel, u32 pitch, u32 m_begin, u32 begin,
                           u32 end, bool aligned)
        : source(source), end_channel(end_channel), pitch(pitch),
          m(first_channel + m_begin + threadIdx.x % CHUNKS * CHUNK<T>), position(begin + threadIdx.x / CHUNKS),
          end(end), aligned(aligned) {}

    DEVICE void load(u8* tile) {
#pragma unroll
        for (int i = 0; i < PASSES; ++i) {
            u8* slot = chunk_at<CHUNKS>(tile, threadIdx.x / CHUNKS + i * STRIDE, threadIdx.x % CHUNKS);
            const T* at = source + u64(position) * pitch + m;
            bool ok = position < end;
            if (!any || aligned) {
                fetch_chunk(slot, at, source, ok && m < end_channel);
            } else {
                for (u32 e = 0; e < u32(CHUNK<T>); ++e) put(slot, e, at + e, ok && m + e < end_channel);
            }
            position += STRIDE;
        }
    }
};

/// B of wgrad, MN-major by im2col: one row of (tap row, tap column, input channel) for each position of y from `begin`
/// to `end`: what the position reads of x in the group whose channels begin at `first_channel`.
template <class T, class Tile, bool any> struct ActivationMnMajor {
    static constexpr int CHUNKS = Tile::n / CHUNK<T>, STRIDE = Tile::threads / CHUNKS, PASSES = DEPTH<T> / STRIDE;
    const T* source;
    const Conv2dSizes& s;
    u32 first_channel, position, end;
    Digits at, step, tap;

    DEVICE ActivationMnMajor(const T* source, const Conv2dSizes& s, u32 first_channel, u32 n_begin, u32 begin, u32 end)
        : source(source), s(s), first_channel(first_channel), position(begin + threadIdx.x / CHUNKS), end(end) {
        at = to_digits(position, s.out_h, s.out_w);
        step = to_digits(STRIDE, s.out_h, s.out_w);
        tap = to_digits(n_begin + threadIdx.x % CHUNKS * CHUNK<T>, s.kernel, s.in_channels);
    }

    /// Address of the value of this position at `t`; false if it is zero.
    DEVICE bool find(const Digits& t, const T*& p) const {
        i32 row = i32(at.mid * s.stride + t.high * s.dilation) - i32(s.padding);
        i32 col = i32(at.low * s.stride + t.mid * s.dilation) - i32(s.padding);
        p = source + u64((at.high * s.h + u32(row)) * s.w + u32(col)) * s.in_pitch + (first_channel + t.low);
        return position < end && t.high < s.kernel && u32(row) < s.h && u32(col) < s.w;
    }

    DEVICE void load(u8* tile) {
#pragma unroll
        for (int i = 0; i < PASSES; ++i) {
            u8* slot = chunk_at<CHUNKS>(tile, threadIdx.x / CHUNKS + i * STRIDE, threadIdx.x % CHUNKS);
            const T* p;
            if (!any || s.aligned_b) {
                bool ok = find(tap, p);
                fetch_chunk(slot, p, source, ok);
            } else {
                Digits t = tap;
                for (int e = 0; e < CHUNK<T>; ++e) {
                    bool ok = find(t, p);
                    put(slot, e, p, ok);
                    advance(t, Digits{0, 0, 1}, s.kernel, s.in_channels);
                }
            }
            position += STRIDE;
            advance(at, step, s.out_h, s.out_w);
        }
    }
};
