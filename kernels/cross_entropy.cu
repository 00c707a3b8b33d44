// Cross entropy on low-resolution logits, and online hard example mining (Shrivastava et al., 2016).
//
//     loss = mean over kept pixels of -log softmax(up(logits))[target],   dlogits = upᵀ(softmax - onehot) / kept
//
// logits [n, h, w, classes], target [n, H, W] bytes, 255 is ignored. cross_entropy_fwd_bwd gives unscaled sums
// (fused_loss.cuh); loss.cu finishes them. The confusion matrix is that of all labelled pixels.
//
// OHEM keeps the pixels whose true-class probability is at most max(threshold, k-th smallest), where ignored pixels
// count as 1: ohem_probability computes the probabilities, ohem_histogram and ohem_select find the k-th smallest by
// radix selection over the bits of the floats (those of non-negative floats are ordered as the floats are).
#include "common/device.cuh"
#include "common/label_loss.cuh"

/// Reads the targets, of which OHEM keeps some.
template <class T> struct CrossEntropy : LabelLoss<T> {
    using LabelLoss<T>::ROWS, LabelLoss<T>::u, LabelLoss<T>::counts;
    using typename LabelLoss<T>::State;

    const u8* target;
    /// OHEM's probabilities and their bound; null where all labelled pixels count.
    const float *probability, *bound;

    DEVICE CrossEntropy(const Upsample& size, const Staged<Field<T>>& logits, const u8* labels, const float* p,
                        const float* limit, const ConfusionCounter& counter)
        : LabelLoss<T>(size, logits, counter), target(labels), probability(p), bound(limit) {}

    DEVICE bool read(State& state, const Tile& tile, const Strip<ROWS>& strip, i32) {
        bool any = false;
        for (int r = 0; r < ROWS; r++) {
            state.weight[r] = 0.0f;
            state.label[r] = 0;
            state.counted[r] = false;
            if (!strip.live[r]) continue;
            u64 pixel = (u64(tile.image) * u.full_h + strip.y + r) * u.full_w + strip.x;
            i32 label = target[pixel];
            if (label >= u.classes) continue;
            state.label[r] = label;
            state.counted[r] = any = true;
            // A NaN must reach the loss, where it is reported.
            if (probability && probability[pixel] > *bound) continue;
            state.weight[r] = 1.0f;
            counts[0]++;
        }
        return any;
    }
};

template <class T>
DEVICE void cross_entropy(float* parts, double* sums, u64* kept, const Field<T>& logits, const u8* target,
                          const float* probability, const float* bound, const Confusion& confusion, const Upsample& u) {
    DYNAMIC_SHARED(unsigned char, memory);
    LossShared shared(memory, u, 1);
    CrossEntropy<T> loss(u, Staged<Field<T>>(logits, shared, u, 0), target, probability, bound,
                         ConfusionCounter(confusion, shared, u));
    fused_loss(loss, parts, sums, kept, shared, u, Tile(u));
    loss.confusion.flush();
}

LOSS_KERNEL cross_entropy_fwd_bwd_f32(float* parts, double* sums, u64* kept, const Field<float> logits,
                                      const u8* target, const float* probability, const float* bound,
                                      const Confusion confusion, const Upsample u) {
    cross_entropy(parts, sums, kept, logits, target, probability, bound, confusion, u);
}
LOSS_KERNEL cross_entropy_fwd_bwd_bf16(float* parts, double* sums, u64* kept, const Field<bf16> logits,
                                       const u8* target, const float* probability, const float* bound,
                                       const Confusion confusion, const Upsample u) {
    cross_entropy(parts, sums, kept, logits, target, probability, bound, confusion, u);
}
REGISTER_KERNEL(cross_entropy_fwd_bwd_f32)
REGISTER_KERNEL(cross_entropy_fwd_bwd_bf16)

constexpr int THREADS = 256;
/// Digits of the radix selection, from the highest: 11 bits (the sign is 0), then twice 10.
constexpr int BINS = 2048;
constexpr int LEVELS = 3;

/// State of the radix selection between its launches.
struct Selection {
    /// Bits of the k-th smallest probability above the current digit, and its rank, from 1, among those that share
    /// them.
    u32 prefix, rank;
    /// max(threshold, k-th smallest); infinite where fewer than k pixels are labelled.
    float bound;
    u32 unused;
};

DEVICE u32 digit_shift(i32 level) { return level == 0 ? 20 : level == 1 ? 10 : 0; }

/// Adds a probability to the block's bins if it shares the prefix.
DEVICE void count_digit(u32* bins, float p, u32 prefix, i32 level) {
    // All NaNs become one that is above every number.
    u32 bits = p == p ? float_to_bits(p) : 0x7fffffffu;
    u32 shift = digit_shift(level);
    if (level == 0 || bits >> (shift + 10) == prefix)
        atomic_add(&bins[(bits >> shift) & (level == 0 ? 2047u : 1023u)], 1u);
}

DEVICE void clear_bins(u32* bins) {
    for (i32 i = i32(threadIdx.x); i < BINS; i += i32(blockDim.x)) bins[i] = 0;
    block_sync();
}

DEVICE void flush_bins(u32* histogram, const u32* bins) {
    block_sync();
    for (i32 i = i32(threadIdx.x); i < BINS; i += i32(blockDim.x)) {
        if (bins[i] > 0) atomic_add(&histogram[i], bins[i]);
    }
}

/// softmax(up(logits))[target] of every pixel, 1 where it has no label; counts the labels and the highest digits.
template <class T>
DEVICE void ohem_probability(float* probability, u64* labelled, u32* histogram, const Field<T>& logits,
                             const u8* target, const Upsample& u) {
    constexpr int R = 4;
    DYNAMIC_SHARED(unsigned char, memory);
    SHARED(u32, bins, BINS);
    LossShared shared(memory, u, 1);
    Staged<Field<T>> staged(logits, shared, u, 0);
    Tile tile(u);
    Axis ys(u.low_h, u.full_h);
    const Cell* cell = staged.column(u, tile);
    u32 count = 0;
    clear_bins(bins);
    for (i32 row = tile.row0; row < tile.row1; row++) {
        i32 y0 = ys.first(row), y1 = ys.first(row + 1);
        if (y0 == y1) continue;
        block_sync();
        staged.stage_relative(u, tile, row);
        block_sync();
        for (i32 y = y0; y < y1; y += R) {
            Strip<R> strip(u, tile, y, y1);
            float norm[R];
            log_sums(norm, cell, u.classes, strip);
#pragma unroll
            for (int r = 0; r < R; r++) {
                if (!strip.live[r]) continue;
                u64 pixel = (u64(tile.image) * u.full_h + strip.y + r) * u.full_w + strip.x;
                i32 label = target[pixel];
                float p = 1.0f;
                if (label < u.classes) {
                    float base, slope;
                    cell_line(cell[label], strip.fx, base, slope);
                    p = exp2_approx(fmaf(strip.fy[r], slope, base) - norm[r]);
                    // Rounding must not lift it above the 1 of ignored pixels.
                    p = p > 1.0f ? 1.0f : p;
                    count++;
                }
                probability[pixel] = p;
                count_digit(bins, p, 0, 0);
            }
        }
    }
    flush_bins(histogram, bins);
    count = block_total(count);
    if (threadIdx.x == 0) atomic_add(labelled, u64(count));
}

KERNEL(128)
ohem_probability_f32(float* probability, u64* labelled, u32* histogram, const Field<float> logits, const u8* target,
                     const Upsample u) {
    ohem_probability(probability, labelled, histogram, logits, target, u);
}
KERNEL(128)
ohem_probability_bf16(float* probability, u64* labelled, u32* histogram, const Field<bf16> logits, const u8* target,
                      const Upsample u) {
    ohem_probability(probability, labelled, histogram, logits, target, u);
}
REGISTER_KERNEL(ohem_probability_f32)
REGISTER_KERNEL(ohem_probability_bf16)

/// Counts the digits of one level among the probabilities that share the prefix.
KERNEL(256)
ohem_histogram(u32* histogram, const float* probability, const Selection* selection, i32 level, u64 pixels) {
    SHARED(u32, bins, BINS);
    clear_bins(bins);
    u32 prefix = selection->prefix;
    for (u64 i = blockIdx.x * u64(THREADS) + threadIdx.x; i < pixels; i += u64(gridDim.x) * THREADS) {
        count_digit(bins, probability[i], prefix, level);
    }
    flush_bins(histogram, bins);
}
REGISTER_KERNEL(ohem_histogram)

/// One block: appends the digit of rank `rank` to the prefix and clears the histogram for the next level; after the
/// last level it sets the bound. `min_kept` is the rank at level 0.
KERNEL(256)
ohem_select(Selection* selection, u32* histogram, const u64* labelled, i32 level, u32 min_kept, float threshold) {
    constexpr int PER_THREAD = BINS / THREADS;
    SHARED(u32, counts, THREADS);
    u32 prefix = level == 0 ? 0 : selection->prefix, rank = level == 0 ? min_kept : selection->rank;
    u32 bins[PER_THREAD], mine = 0, before = 0;
#pragma unroll
    for (int i = 0; i < PER_THREAD; i++) {
        bins[i] = histogram[threadIdx.x * PER_THREAD + i];
        mine += bins[i];
    }
    counts[threadIdx.x] = mine;
    block_sync();
    for (u32 t = 0; t < threadIdx.x; t++) before += counts[t];
    bool found = before < rank && rank <= before + mine;
#pragma unroll
    for (int i = 0; i < PER_THREAD; i++) {
        histogram[threadIdx.x * PER_THREAD + i] = 0;
        if (found && before < rank && rank <= before + bins[i]) {
            u32 digit = threadIdx.x * PER_THREAD + i;
            selection->prefix = level == 0 ? digit : prefix << 10 | digit;
            selection->rank = rank - before;
        }
        before += bins[i];
    }
    block_sync();
    if (level == LEVELS - 1 && threadIdx.x == 0) {
        float kth = bits_to_float(selection->prefix);
        selection->bound = *labelled < min_kept ? INFINITY : fmaxf(kth, threshold);
    }
}
REGISTER_KERNEL(ohem_select)
