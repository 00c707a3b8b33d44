// Confidence-weighted cross entropy of the student against pseudo labels read through CutMix (PS-MT, equations 6 and
// 7):
//     positive = sum over passed pixels of confidence * -log p[label] / passed,   passed: confidence >= threshold
//     negative = sum over selected (pixel, class), class != label, of -log(1 - p[class]) / selected,
//                selected: target probability < negative_threshold
//     square   = mean over (pixel, class) of p²
// with p = softmax(up(student)) and the target of teachers.cuh; gradients of each with respect to the student.
//
// student, core, assist [n, h, w, classes]; label bytes, float confidence [n, H, W]; histogram of ten confidence bins;
// confusion matrix of pseudo labels and the student's largest classes over passed pixels. conf_ce has the first term
// only, conf_ce_negative all three as groups with denominators of their own. Both give unscaled sums (fused_loss.cuh);
// loss.cu finishes them.
#include "common/device.cuh"
#include "common/label_loss.cuh"
#include "common/mixed_teachers.cuh"

constexpr int BINS = 10;
/// Lower bound of 1 - p in the logarithm of negative learning; below it the gradient is zero.
constexpr float CLAMP = 1e-7f;

/// Labels and confidences [n, H, W], and how they weigh.
struct Pseudo {
    const u8* label;
    const float* confidence;
    float threshold;
    /// 1: pixels weighted by their confidence, 0: equally.
    i32 weighted;
};

/// Counts a confidence as PyTorch's histc does: floor(10 confidence), 1 in the last bin.
DEVICE void count_bin(u32* bins, float confidence) {
    if (!(confidence >= 0.0f && confidence <= 1.0f)) return;
    u32 bin = u32(confidence * float(BINS));
    atomic_add(&bins[bin < BINS ? bin : BINS - 1], 1u);
}

/// Reads the pseudo label of pixel (y, x) of its source image; returns whether it passed.
DEVICE bool read_pseudo(float& weight, i32& label, u32* bins, const Pseudo& pseudo, const Upsample& u, i32 source,
                        i32 y, i32 x) {
    u64 pixel = (u64(source) * u.full_h + y) * u.full_w + x;
    float confidence = pseudo.confidence[pixel];
    count_bin(bins, confidence);
    bool passed = confidence >= pseudo.threshold;
    weight = !passed ? 0.0f : pseudo.weighted ? confidence : 1.0f;
    label = pseudo.label[pixel];
    label = label < u.classes ? label : u.classes - 1;
    return passed;
}

/// The positive term alone.
template <class T> struct ConfCe : LabelLoss<T> {
    using LabelLoss<T>::ROWS, LabelLoss<T>::u, LabelLoss<T>::counts;
    using typename LabelLoss<T>::State;

    const Pseudo& pseudo;
    const Mix& mix;
    u32* bins;

    DEVICE ConfCe(const Upsample& size, const Staged<Field<T>>& student, const Pseudo& labels, const Mix& boxes,
                  u32* shared, const ConfusionCounter& counter)
        : LabelLoss<T>(size, student, counter), pseudo(labels), mix(boxes), bins(shared) {}

    DEVICE bool read(State& state, const Tile& tile, const Strip<ROWS>& strip, i32) {
        bool any = false;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            state.weight[r] = 0.0f;
            state.label[r] = 0;
            state.counted[r] = false;
            if (!strip.live[r]) continue;
            i32 source = mix.source(u, tile, strip.y + r, strip.x);
            bool passed = read_pseudo(state.weight[r], state.label[r], bins, pseudo, u, source, strip.y + r, strip.x);
            counts[0] += passed ? 1 : 0;
            state.counted[r] = passed;
            any = any || passed;
        }
        return any;
    }
};

/// All three terms.
template <class T> struct ConfCeNegative : LossDefaults {
    static constexpr int ROWS = 2, GROUPS = 3, SUMS = 3, COUNTS = 2;
    static constexpr int POSITIVE = 0, NEGATIVE = 1, SQUARE = 2;
    struct State {
        LabelCrossEntropy<ROWS> ce;
        bool own[ROWS];
        Target<ROWS> target;
        /// log2 of the student's sum of powers, p·(gradient of the negative term with respect to p), p·p.
        float norm[ROWS], dot[ROWS], square[ROWS];
    };

    const Upsample& u;
    MixedTeachers<T> logits;
    const Pseudo& pseudo;
    u32* bins;
    /// Target probabilities below it are selected; 0 without negative learning, the teachers are then not read.
    float negative_threshold;
    bool square_on;
    ConfusionCounter confusion;
    double sums[SUMS] = {0.0, 0.0, 0.0};
    u32 counts[COUNTS] = {0, 0};

    DEVICE ConfCeNegative(const Upsample& size, const MixedTeachers<T>& teachers, const Pseudo& labels, u32* shared,
                          float threshold, bool square, const ConfusionCounter& counter)
        : u(size), logits(teachers), pseudo(labels), bins(shared), negative_threshold(threshold), square_on(square),
          confusion(counter) {}

    DEVICE bool negative_on() const { return negative_threshold > 0.0f; }
    DEVICE bool has(int group) const { return group == POSITIVE || (group == NEGATIVE ? negative_on() : square_on); }
    DEVICE i32 sources() const { return negative_on() ? 1 + logits.mix.rounds : 1; }
    DEVICE bool stage(const Tile& tile, i32 row, i32 source) {
        if (negative_on()) return logits.stage(u, tile, row, source);
        logits.student.stage_relative(u, tile, row);
        return true;
    }
    DEVICE bool read(State& state, const Tile& tile, const Strip<ROWS>& strip, i32 source) {
        bool any = false;
        i32 image = logits.mix.image(u, tile, source);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            state.ce.weight[r] = 0.0f;
            state.ce.label[r] = 0;
            state.ce.counted[r] = false;
            state.own[r] = false;
            if (!strip.live[r]) continue;
            i32 from = logits.mix.source(u, tile, strip.y + r, strip.x);
            // Without negative learning there is one pass, over all pixels.
            if (negative_on() && from != image) continue;
            state.own[r] = any = true;
            bool passed =
                read_pseudo(state.ce.weight[r], state.ce.label[r], bins, pseudo, u, from, strip.y + r, strip.x);
            counts[0] += passed ? 1 : 0;
            state.ce.counted[r] = passed;
        }
        return any;
    }

    /// p and 1 - p of class `c`, and whether its target probability is below the threshold.
    DEVICE void terms(float (&p)[ROWS], float (&rest)[ROWS], bool (&below)[ROWS], const State& state, const Tile& tile,
                      const Strip<ROWS>& strip, i32 c) const {
        float base, slope, q[ROWS];
        cell_line(logits.student.column(u, tile)[c], strip.fx, base, slope);
        if (negative_on()) {
            state.target.probability(q, logits.core.column(u, tile), logits.assist.column(u, tile), c, strip,
                                     logits.ensemble);
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            p[r] = exp2_approx(fmaf(strip.fy[r], slope, base) - state.norm[r]);
            rest[r] = 1.0f - p[r];
            below[r] = negative_on() && q[r] < negative_threshold;
        }
    }
    DEVICE void normalize(State& state, const Tile& tile, const Strip<ROWS>& strip) {
        const Cell* cell = logits.student.column(u, tile);
        state.ce.log_sums_counting(state.norm, confusion, cell, u.classes, strip);
        sums[POSITIVE] += state.ce.normalize(state.norm, cell, strip);
        if (negative_on()) {
            state.target.find(logits.core.column(u, tile), logits.assist.column(u, tile), u.classes, strip,
                              logits.ensemble);
        }
        // One logarithm per pixel, of the product over its classes: at most one p is close to 1, so it stays above
        // CLAMP / 4.
        float product[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) product[r] = 1.0f, state.dot[r] = 0.0f, state.square[r] = 0.0f;
#pragma unroll 1
        for (i32 c = 0; c < u.classes; c++) {
            float p[ROWS], rest[ROWS];
            bool below[ROWS];
            terms(p, rest, below, state, tile, strip, c);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                state.square[r] = fmaf(p[r], p[r], state.square[r]);
                counts[1] += state.own[r] && below[r] ? 1 : 0;
                if (!below[r] || c == state.ce.label[r]) continue;
                product[r] *= rest[r] < CLAMP ? CLAMP : rest[r];
                state.dot[r] += rest[r] >= CLAMP ? p[r] / rest[r] : 0.0f;
            }
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            if (!state.own[r]) continue;
            sums[NEGATIVE] -= logf(product[r]);
            sums[SQUARE] += square_on ? state.square[r] : 0.0f;
        }
    }
    DEVICE void gradient(float (&g)[ROWS], const State& state, const Tile& tile, const Strip<ROWS>& strip, int group,
                         i32 c) const {
        if (group == POSITIVE) {
            state.ce.gradient(g, logits.student.column(u, tile), c, strip);
            return;
        }
        float p[ROWS], rest[ROWS];
        bool below[ROWS];
        terms(p, rest, below, state, tile, strip, c);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            bool learns = below[r] && c != state.ce.label[r] && rest[r] >= CLAMP;
            float slope =
                group == NEGATIVE ? (learns ? 1.0f / rest[r] : 0.0f) - state.dot[r] : 2.0f * (p[r] - state.square[r]);
            g[r] = state.own[r] ? p[r] * slope : 0.0f;
        }
    }
    DEVICE void subtract_onehot(float* above, float* below, const State& state, const Strip<ROWS>& strip, int group,
                                i32 first, i32 end) const {
        if (group == POSITIVE) state.ce.subtract_onehot(above, below, first, end, strip);
    }
};

/// Clears the block's bins.
DEVICE void clear_bins(u32* bins) {
    if (threadIdx.x < BINS) bins[threadIdx.x] = 0;
    block_sync();
}

/// Adds the block's bins to the histogram.
DEVICE void flush_bins(u64* histogram, const u32* bins) {
    block_sync();
    if (threadIdx.x < BINS && bins[threadIdx.x] > 0) atomic_add(&histogram[threadIdx.x], u64(bins[threadIdx.x]));
}

template <class T>
DEVICE void conf_ce(float* parts, double* sums, u64* counts, u64* histogram, const Confusion& confusion,
                    const T* student, const Pseudo& pseudo, const Mix& mix, const Upsample& u) {
    DYNAMIC_SHARED(unsigned char, memory);
    SHARED(u32, bins, BINS);
    clear_bins(bins);
    LossShared shared(memory, u, 1);
    ConfCe<T> loss(u, Staged<Field<T>>(Field<T>{student, LOG2_E}, shared, u, 0), pseudo, mix, bins,
                   ConfusionCounter(confusion, shared, u));
    fused_loss(loss, parts, sums, counts, shared, u, Tile(u));
    loss.confusion.flush();
    flush_bins(histogram, bins);
}

LOSS_KERNEL conf_ce_fwd_bwd_f32(float* parts, double* sums, u64* counts, u64* histogram, const Confusion confusion,
                                const float* student, const Pseudo pseudo, const Mix mix, const Upsample u) {
    conf_ce(parts, sums, counts, histogram, confusion, student, pseudo, mix, u);
}
LOSS_KERNEL conf_ce_fwd_bwd_bf16(float* parts, double* sums, u64* counts, u64* histogram, const Confusion confusion,
                                 const bf16* student, const Pseudo pseudo, const Mix mix, const Upsample u) {
    conf_ce(parts, sums, counts, histogram, confusion, student, pseudo, mix, u);
}
REGISTER_KERNEL(conf_ce_fwd_bwd_f32)
REGISTER_KERNEL(conf_ce_fwd_bwd_bf16)

template <class T>
DEVICE void conf_ce_negative(float* parts, double* sums, u64* counts, u64* histogram, const Confusion& confusion,
                             const T* student, const T* core, const T* assist, const Pseudo& pseudo,
                             const Ensemble& ensemble, const Mix& mix, float negative_threshold, i32 square,
                             const Upsample& u) {
    DYNAMIC_SHARED(unsigned char, memory);
    SHARED(u32, bins, BINS);
    clear_bins(bins);
    LossShared shared(memory, u, 3);
    ConfCeNegative<T> loss(u, MixedTeachers<T>(shared, u, student, core, assist, ensemble, mix), pseudo, bins,
                           negative_threshold, square != 0, ConfusionCounter(confusion, shared, u));
    fused_loss(loss, parts, sums, counts, shared, u, Tile(u));
    loss.confusion.flush();
    flush_bins(histogram, bins);
}

TEACHERS_KERNEL conf_ce_negative_fwd_bwd_f32(float* parts, double* sums, u64* counts, u64* histogram,
                                             const Confusion confusion, const float* student, const float* core,
                                             const float* assist, const Pseudo pseudo, const Ensemble ensemble,
                                             const Mix mix, float negative_threshold, i32 square, const Upsample u) {
    conf_ce_negative(parts, sums, counts, histogram, confusion, student, core, assist, pseudo, ensemble, mix,
                     negative_threshold, square, u);
}
TEACHERS_KERNEL conf_ce_negative_fwd_bwd_bf16(float* parts, double* sums, u64* counts, u64* histogram,
                                              const Confusion confusion, const bf16* student, const bf16* core,
                                              const bf16* assist, const Pseudo pseudo, const Ensemble ensemble,
                                              const Mix mix, float negative_threshold, i32 square, const Upsample u) {
    conf_ce_negative(parts, sums, counts, histogram, confusion, student, core, assist, pseudo, ensemble, mix,
                     negative_threshold, square, u);
}
REGISTER_KERNEL(conf_ce_negative_fwd_bwd_f32)
REGISTER_KERNEL(conf_ce_negative_fwd_bwd_bf16)
