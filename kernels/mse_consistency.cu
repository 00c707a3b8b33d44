// The mean teacher's consistency (Tarvainen and Valpola, 2017): mean over (pixel, class) of (p - q)², p =
// softmax(up(student)), q = softmax of the two teachers' ensemble (teachers.cuh) read through CutMix, and its gradient
//     dstudent = 2 upᵀ(p (d - p·d)) / (n H W classes),   d = p - q.
//
// student, core, assist [n, h, w, classes]. Gives unscaled sums (fused_loss.cuh); loss.cu finishes them.
#include "common/device.cuh"
#include "common/mixed_teachers.cuh"

template <class T> struct MseConsistency : LossDefaults {
    static constexpr int ROWS = 2, GROUPS = 1, SUMS = 1, COUNTS = 0;
    struct State {
        bool own[ROWS];
        Target<ROWS> target;
        /// log2 of the student's sum of powers, p·d.
        float norm[ROWS], dot[ROWS];
    };

    const Upsample& u;
    MixedTeachers<T> logits;
    double sums[SUMS] = {0.0};
    u32 counts[1] = {0};

    DEVICE MseConsistency(const Upsample& size, const MixedTeachers<T>& teachers) : u(size), logits(teachers) {}

    DEVICE i32 sources() const { return 1 + logits.mix.rounds; }
    DEVICE bool stage(const Tile& tile, i32 row, i32 source) { return logits.stage(u, tile, row, source); }
    DEVICE bool read(State& state, const Tile& tile, const Strip<ROWS>& strip, i32 source) {
        return logits.find_own(state.own, u, tile, strip, source);
    }

    /// p and p - q of class `c`.
    DEVICE void difference(float (&p)[ROWS], float (&d)[ROWS], const State& state, const Tile& tile,
                           const Strip<ROWS>& strip, i32 c) const {
        float base, slope;
        cell_line(logits.student.column(u, tile)[c], strip.fx, base, slope);
        state.target.probability(d, logits.core.column(u, tile), logits.assist.column(u, tile), c, strip,
                                 logits.ensemble);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            p[r] = exp2_approx(fmaf(strip.fy[r], slope, base) - state.norm[r]);
            d[r] = p[r] - d[r];
        }
    }
    DEVICE void normalize(State& state, const Tile& tile, const Strip<ROWS>& strip) {
        log_sums(state.norm, logits.student.column(u, tile), u.classes, strip);
        state.target.find(logits.core.column(u, tile), logits.assist.column(u, tile), u.classes, strip,
                          logits.ensemble);
        float square[ROWS] = {};
#pragma unroll
        for (int r = 0; r < ROWS; r++) state.dot[r] = 0.0f;
#pragma unroll 1
        for (i32 c = 0; c < u.classes; c++) {
            float p[ROWS], d[ROWS];
            difference(p, d, state, tile, strip, c);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                square[r] = fmaf(d[r], d[r], square[r]);
                state.dot[r] = fmaf(p[r], d[r], state.dot[r]);
            }
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) sums[0] += state.own[r] ? square[r] : 0.0f;
    }
    DEVICE void gradient(float (&g)[ROWS], const State& state, const Tile& tile, const Strip<ROWS>& strip, int,
                         i32 c) const {
        float p[ROWS], d[ROWS];
        difference(p, d, state, tile, strip, c);
#pragma unroll
        for (int r = 0; r < ROWS; r++) g[r] = state.own[r] ? 2.0f * p[r] * (d[r] - state.dot[r]) : 0.0f;
    }
};

template <class T>
DEVICE void mse_consistency(float* parts, double* sums, const T* student, const T* core, const T* assist,
                            const Ensemble& ensemble, const Mix& mix, const Upsample& u) {
    DYNAMIC_SHARED(unsigned char, memory);
    LossShared shared(memory, u, 3);
    MseConsistency<T> loss(u, MixedTeachers<T>(shared, u, student, core, assist, ensemble, mix));
    fused_loss(loss, parts, sums, nullptr, shared, u, Tile(u));
}

TEACHERS_KERNEL mse_consistency_fwd_bwd_f32(float* parts, double* sums, const float* student, const float* core,
                                            const float* assist, const Ensemble ensemble, const Mix mix,
                                            const Upsample u) {
    mse_consistency(parts, sums, student, core, assist, ensemble, mix, u);
}
TEACHERS_KERNEL mse_consistency_fwd_bwd_bf16(float* parts, double* sums, const bf16* student, const bf16* core,
                                             const bf16* assist, const Ensemble ensemble, const Mix mix,
                                             const Upsample u) {
    mse_consistency(parts, sums, student, core, assist, ensemble, mix, u);
}
REGISTER_KERNEL(mse_consistency_fwd_bwd_f32)
REGISTER_KERNEL(mse_consistency_fwd_bwd_bf16)
