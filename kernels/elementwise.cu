// Activations without batch norm, sums and channel ranges of activations.
#include "common/device.cuh"

/// y = x for x > 0, slope x elsewhere.
template <class T> DEVICE void leaky_relu_fwd(T* y, const T* x, float slope, u64 len) {
    for (u64 i = blockIdx.x * u64(blockDim.x) + threadIdx.x; i < len; i += u64(gridDim.x) * blockDim.x) {
        float v = to_float(x[i]);
        y[i] = from_float<T>(v > 0.0f ? v : slope * v);
    }
}

KERNEL(256) leaky_relu_fwd_f32(float* y, const float* x, float slope, u64 len) { leaky_relu_fwd(y, x, slope, len); }
KERNEL(256) leaky_relu_fwd_bf16(bf16* y, const bf16* x, float slope, u64 len) { leaky_relu_fwd(y, x, slope, len); }
REGISTER_KERNEL(leaky_relu_fwd_f32)
REGISTER_KERNEL(leaky_relu_fwd_bf16)
