// Updates of flat vectors, each one pass over memory. Where a bf16 copy of the parameters exists (`half`), the same
// pass writes it.
//
//   sgd   v = momentum v + g, p += step v with step = -lr; g is the gradient, plus decay p for the first num_decayed;
//         where there is a teacher, also teacher = keep teacher + rest p, and the same of the running statistics
//   copy_spans   to[to_k + i] = from[from_k + i], i < len_k, for each part k; parts do not overlap in `to`
#include "common/vector.cuh"

/// Floats that a thread takes at a time.
constexpr int WIDTH = VECTOR<float>;

struct Sgd {
    float step, momentum, decay;
    /// The teacher's moving average: keep teacher + rest p.
    float keep, rest;
};

/// A flat vector with its bf16 copy; null for none.
struct Copied {
    float* values;
    bf16* half;
};

template <int width>
DEVICE void sgd_run(float* params, float* velocity, bf16* half, const float* grads, const Copied& teacher,
                    u64 num_decayed, const Sgd& sgd, u64 i) {
    float p[width], v[width], g[width];
    load(p, params + i);
    load(v, velocity + i);
    load(g, grads + i);
#pragma unroll
    for (int k = 0; k < width; ++k) {
        if (i + k < num_decayed) g[k] += sgd.decay * p[k];
        v[k] = sgd.momentum * v[k] + g[k];
        p[k] += sgd.step * v[k];
    }
    store(params + i, p);
    store(velocity + i, v);
    if (half) store(half + i, p);
    if (!teacher.values) return;
    float t[width];
    load(t, teacher.values + i);
#pragma unroll
    for (int k = 0; k < width; ++k) t[k] = sgd.keep * t[k] + sgd.rest * p[k];
    store(teacher.values + i, t);
    if (teacher.half) store(teacher.half + i, t);
}

KERNEL(256)
sgd(float* params, float* velocity, bf16* half, const float* grads, const Copied teacher, float* teacher_stats,
    const float* stats, u64 len, u64 num_decayed, u64 num_stats, const Sgd sgd) {
    u64 runs = len / WIDTH;
    for (u64 i = grid_thread(); i < runs; i += grid_threads()) {
        sgd_run<WIDTH>(params, velocity, half, grads, teacher, num_decayed, sgd, i * WIDTH);
    }
    for (u64 i = runs * WIDTH + grid_thread(); i < len; i += grid_threads()) {
        sgd_run<1>(params, velocity, half, grads, teacher, num_decayed, sgd, i);
    }
    for (u64 i = grid_thread(); i < num_stats; i += grid_threads()) {
        teacher_stats[i] = sgd.keep * teacher_stats[i] + sgd.rest * stats[i];
    }
}

/// Most parts per launch.
constexpr int MAX_MOVES = 8;

/// Offsets and lengths of parts in values; `Moves` in src/backend/cuda/optimizer.rs.
struct Moves {
    u64 to[MAX_MOVES], from[MAX_MOVES], len[MAX_MOVES];
};

/// Block y: a part. Parts are not aligned, so values are copied one by one.
KERNEL(256) copy_spans(float* to, bf16* half, const float* from, const Moves moves) {
    u64 first = moves.to[blockIdx.y], source = moves.from[blockIdx.y], len = moves.len[blockIdx.y];
    for (u64 i = grid_thread(); i < len; i += grid_threads()) {
        float v = from[source + i];
        to[first + i] = v;
        if (half) half[first + i] = from_float<bf16>(v);
    }
}
REGISTER_KERNEL(sgd)
REGISTER_KERNEL(copy_spans)
