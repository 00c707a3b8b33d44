// T-VAT's parts that are not network passes (PS-MT, section 3.2; virtual adversarial training, Miyato et al., 2018).
//     uniform_noise   y[i] = uniform(i) - 0.5, counter-based
//     normalize       y = x + scale d / (norm + 1e-8), the norm over each image, x optional
//     tvat_cotangent  upᵀ(p t - p (p·t)) / k,  p = softmax(up(mean of logits)), t = up(mean of tangents), k decoders
//     kl_gradient     upᵀ(q - p) / (n k),  p, q the softmax of the mean upsampled clean and perturbed logits
// Logits, tangents and results [n, h, w, k, classes], the result the same for each k. The last two give unscaled sums
// (fused_loss.cuh); loss.cu finishes them.
#include "common/device.cuh"
#include "common/fused_loss.cuh"
#include "common/philox.cuh"
#include "common/vector.cuh"

constexpr int THREADS = 256;
/// Added to the norm, as in the reference implementation of PS-MT.
constexpr double NORM_EPS = 1e-8;

template <class T> DEVICE void uniform_noise(T* y, const PhiloxKey& key, u64 len) {
    for (u64 block = grid_thread(); 4 * block < len; block += grid_threads()) {
        u32 words[4];
        float v[4];
        philox_block(words, key, block);
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = philox_unit(words[i]) - 0.5f;
        if (4 * block + 4 <= len) {
            store<4>(y + 4 * block, v);
        } else {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (4 * block + i < len) y[4 * block + i] = from_float<T>(v[i]);
            }
        }
    }
}

KERNEL(256) uniform_noise_f32(float* y, const PhiloxKey key, u64 len) { uniform_noise(y, key, len); }
KERNEL(256) uniform_noise_bf16(bf16* y, const PhiloxKey key, u64 len) { uniform_noise(y, key, len); }
REGISTER_KERNEL(uniform_noise_f32)
REGISTER_KERNEL(uniform_noise_bf16)

/// This thread's sum of squares of its share of an image, `width` values at a time.
template <int width, class T> DEVICE double sum_squares(const T* x, u64 len) {
    double sum = 0.0;
    for (u64 i = grid_thread() * width; i < len; i += grid_threads() * width) {
        float v[width], square = 0.0f;
        load(v, x + i);
#pragma unroll
        for (int k = 0; k < width; k++) square = fmaf(v[k], v[k], square);
        sum += square;
    }
    return sum;
}

/// y = x + factor d for this thread's share of an image; x may be null.
template <int width, class T> DEVICE void scale_values(T* y, const T* x, const T* d, float factor, u64 len) {
    for (u64 i = grid_thread() * width; i < len; i += grid_threads() * width) {
        float v[width], base[width] = {};
        load(v, d + i);
        if (x) load(base, x + i);
#pragma unroll
        for (int k = 0; k < width; k++) v[k] = base[k] + factor * v[k];
        store(y + i, v);
    }
}

/// squares[image][b] = sum of squares of the share of the image that block (b, image) reads.
template <class T> DEVICE void normalize_squares(double* squares, const T* d, u64 image_len) {
    SHARED(double, warps, THREADS / 32);
    const T* x = d + blockIdx.y * image_len;
    double sum = image_len % VECTOR<T> == 0 ? sum_squares<VECTOR<T>>(x, image_len) : sum_squares<1>(x, image_len);
    sum = block_sum<THREADS>(sum, warps);
    if (threadIdx.x == 0) squares[blockIdx.y * gridDim.x + blockIdx.x] = sum;
}

/// y = x + scale d / (norm + eps), x may be null; each block adds the `num_squares` sums of its image in the same
/// order.
template <class T>
DEVICE void normalize(T* y, const T* x, const T* d, const double* squares, i32 num_squares, double scale,
                      u64 image_len) {
    SHARED(double, warps, THREADS / 32);
    double sum = 0.0;
    for (i32 i = i32(threadIdx.x); i < num_squares; i += THREADS) sum += squares[blockIdx.y * num_squares + i];
    sum = block_sum<THREADS>(sum, warps);
    float factor = float(scale / (sqrt(sum) + NORM_EPS));
    u64 start = blockIdx.y * image_len;
    const T* base = x ? x + start : nullptr;
    if (image_len % VECTOR<T> == 0) {
        scale_values<VECTOR<T>>(y + start, base, d + start, factor, image_len);
    } else {
        scale_values<1>(y + start, base, d + start, factor, image_len);
    }
}

KERNEL(256) normalize_squares_f32(double* squares, const float* d, u64 image_len) {
    normalize_squares(squares, d, image_len);
}
KERNEL(256) normalize_squares_bf16(double* squares, const bf16* d, u64 image_len) {
    normalize_squares(squares, d, image_len);
}
KERNEL(256)
normalize_f32(float* y, const float* x, const float* d, const double* squares, i32 num_squares, double scale,
              u64 image_len) {
    normalize(y, x, d, squares, num_squares, scale, image_len);
}
KERNEL(256)
normalize_bf16(bf16* y, const bf16* x, const bf16* d, const double* squares, i32 num_squares, double scale,
               u64 image_len) {
    normalize(y, x, d, squares, num_squares, scale, image_len);
}
REGISTER_KERNEL(normalize_squares_f32)
REGISTER_KERNEL(normalize_squares_bf16)
REGISTER_KERNEL(normalize_f32)
REGISTER_KERNEL(normalize_bf16)

/// tvat_cotangent: p t - p (p·t).
template <class T> struct Cotangent : LossDefaults {
    static constexpr int ROWS = 4, GROUPS = 1, SUMS = 0, COUNTS = 0;
    struct State {
        /// log2 of the sum of powers, p·t.
        float norm[ROWS], dot[ROWS];
    };

    const Upsample& u;
    Staged<FieldSum<T>> logits, tangents;
    double sums[1] = {0.0};
    u32 counts[1] = {0};

    DEVICE Cotangent(const Upsample& size, const Staged<FieldSum<T>>& z, const Staged<FieldSum<T>>& t)
        : u(size), logits(z), tangents(t) {}

    DEVICE bool stage(const Tile& tile, i32 row, i32) {
        logits.stage_relative(u, tile, row);
        tangents.stage(u, tile, tile.image, row);
        return true;
    }
    DEVICE bool read(State&, const Tile&, const Strip<ROWS>&, i32) { return true; }
    DEVICE void normalize(State& state, const Tile& tile, const Strip<ROWS>& strip) {
        const Cell *cell = logits.column(u, tile), *tangent = tangents.column(u, tile);
        log_sums(state.norm, cell, u.classes, strip);
#pragma unroll
        for (int r = 0; r < ROWS; r++) state.dot[r] = 0.0f;
#pragma unroll 2
        for (i32 c = 0; c < u.classes; c++) {
            float p[ROWS], t[ROWS];
            evaluate(p, t, state, cell[c], tangent[c], strip);
#pragma unroll
            for (int r = 0; r < ROWS; r++) state.dot[r] = fmaf(p[r], t[r], state.dot[r]);
        }
    }
    DEVICE static void evaluate(float (&p)[ROWS], float (&t)[ROWS], const State& state, const Cell& cell,
                                const Cell& tangent, const Strip<ROWS>& strip) {
        float base, slope, tangent_base, tangent_slope;
        cell_line(cell, strip.fx, base, slope);
        cell_line(tangent, strip.fx, tangent_base, tangent_slope);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            p[r] = exp2_approx(fmaf(strip.fy[r], slope, base) - state.norm[r]);
            t[r] = fmaf(strip.fy[r], tangent_slope, tangent_base);
        }
    }
    DEVICE void gradient(float (&g)[ROWS], const State& state, const Tile& tile, const Strip<ROWS>& strip, int,
                         i32 c) const {
        float p[ROWS], t[ROWS];
        evaluate(p, t, state, logits.column(u, tile)[c], tangents.column(u, tile)[c], strip);
#pragma unroll
        for (int r = 0; r < ROWS; r++) g[r] = p[r] * (t[r] - state.dot[r]);
    }
};

/// kl_gradient: q - p.
template <class T> struct KlGradient : LossDefaults {
    static constexpr int ROWS = 4, GROUPS = 1, SUMS = 0, COUNTS = 0;
    struct State {
        /// log2 of the sums of powers.
        float clean[ROWS], perturbed[ROWS];
    };

    const Upsample& u;
    Staged<FieldSum<T>> clean, perturbed;
    double sums[1] = {0.0};
    u32 counts[1] = {0};

    DEVICE KlGradient(const Upsample& size, const Staged<FieldSum<T>>& p, const Staged<FieldSum<T>>& q)
        : u(size), clean(p), perturbed(q) {}

    DEVICE bool stage(const Tile& tile, i32 row, i32) {
        clean.stage_relative(u, tile, row);
        perturbed.stage_relative(u, tile, row);
        return true;
    }
    DEVICE bool read(State&, const Tile&, const Strip<ROWS>&, i32) { return true; }
    DEVICE void normalize(State& state, const Tile& tile, const Strip<ROWS>& strip) {
        log_sums(state.clean, clean.column(u, tile), u.classes, strip);
        log_sums(state.perturbed, perturbed.column(u, tile), u.classes, strip);
    }
    DEVICE void gradient(float (&g)[ROWS], const State& state, const Tile& tile, const Strip<ROWS>& strip, int,
                         i32 c) const {
        float p_base, p_slope, q_base, q_slope;
        cell_line(clean.column(u, tile)[c], strip.fx, p_base, p_slope);
        cell_line(perturbed.column(u, tile)[c], strip.fx, q_base, q_slope);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            g[r] = exp2_approx(fmaf(strip.fy[r], q_slope, q_base) - state.perturbed[r]) -
                   exp2_approx(fmaf(strip.fy[r], p_slope, p_base) - state.clean[r]);
        }
    }
};

/// Runs one of the two losses over fields `x` and `y`.
template <class Loss, class T>
DEVICE void fused_pair(float* parts, const FieldSum<T>& x, const FieldSum<T>& y, const Upsample& u) {
    DYNAMIC_SHARED(unsigned char, memory);
    LossShared shared(memory, u, 2);
    Loss loss(u, Staged<FieldSum<T>>(x, shared, u, 0), Staged<FieldSum<T>>(y, shared, u, 1));
    fused_loss(loss, parts, nullptr, nullptr, shared, u, Tile(u));
}

LOSS_KERNEL tvat_cotangent_f32(float* parts, const FieldSum<float> logits, const FieldSum<float> tangents,
                               const Upsample u) {
    fused_pair<Cotangent<float>>(parts, logits, tangents, u);
}
LOSS_KERNEL tvat_cotangent_bf16(float* parts, const FieldSum<bf16> logits, const FieldSum<bf16> tangents,
                                const Upsample u) {
    fused_pair<Cotangent<bf16>>(parts, logits, tangents, u);
}
LOSS_KERNEL kl_gradient_f32(float* parts, const FieldSum<float> clean, const FieldSum<float> perturbed,
                            const Upsample u) {
    fused_pair<KlGradient<float>>(parts, clean, perturbed, u);
}
LOSS_KERNEL kl_gradient_bf16(float* parts, const FieldSum<bf16> clean, const FieldSum<bf16> perturbed,
                             const Upsample u) {
    fused_pair<KlGradient<bf16>>(parts, clean, perturbed, u);
}
REGISTER_KERNEL(tvat_cotangent_f32)
REGISTER_KERNEL(tvat_cotangent_bf16)
REGISTER_KERNEL(kl_gradient_f32)
REGISTER_KERNEL(kl_gradient_bf16)
