// Search for values that are not finite: watch[0] = max(watch[0], key - i) for the smallest i of each thread where x[i]
// is not. The key is larger for earlier places of the network, so the maximum is the first place and index.
#include "common/vector.cuh"

/// Whether any of the values is infinite or not a number.
template <int width> DEVICE bool any_non_finite(const float (&v)[width]) {
    bool found = false;
#pragma unroll
    for (int k = 0; k < width; ++k) found |= (float_to_bits(v[k]) & 0x7f800000u) == 0x7f800000u;
    return found;
}

template <class T> DEVICE void non_finite(u64* watch, const T* x, u64 len, u64 key) {
    constexpr int width = VECTOR<T>;
    // Larger than any index.
    u64 first = ~u64(0);
    const u64 runs = len / width;
    for (u64 i = grid_thread(); i < runs && first > len; i += grid_threads()) {
        float v[width];
        load(v, x + i * width);
        if (!any_non_finite(v)) continue;
        for (int k = width - 1; k >= 0; --k) {
            float one[1] = {to_float(x[i * width + k])};
            if (any_non_finite(one)) first = i * width + k;
        }
    }
    const u64 last = runs * width + grid_thread();
    if (last < len && first > len) {
        float one[1] = {to_float(x[last])};
        if (any_non_finite(one)) first = last;
    }
    if (first < len) atomic_max(watch, key - first);
}

KERNEL(256) non_finite_f32(u64* watch, const float* x, u64 len, u64 key) { non_finite(watch, x, len, key); }
KERNEL(256) non_finite_bf16(u64* watch, const bf16* x, u64 len, u64 key) { non_finite(watch, x, len, key); }
REGISTER_KERNEL(non_finite_f32)
REGISTER_KERNEL(non_finite_bf16)
