// The bf16 copy of the flat parameters that convolutions of bf16 activations read: out[i] = in[i] rounded to nearest
// even.
#include "common/device.cuh"

/// A thread rounds eight values at a time: 32 bytes in, 16 out. Both arrays are aligned to 16 bytes.
KERNEL(256) round_to_bf16(bf16* out, const float* in, u64 len) {
    const u64 threads = u64(gridDim.x) * blockDim.x, thread = u64(blockIdx.x) * blockDim.x + threadIdx.x;
    for (u64 i = thread * 8; i + 8 <= len; i += threads * 8) {
        f32x4 a = *reinterpret_cast<const f32x4*>(in + i), b = *reinterpret_cast<const f32x4*>(in + i + 4);
        const float v[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
        u32 words[4];
        for (int k = 0; k < 4; ++k) words[k] = round_to_bf16x2(v[2 * k], v[2 * k + 1]);
        *reinterpret_cast<u32x4*>(out + i) = u32x4{words[0], words[1], words[2], words[3]};
    }
    const u64 rest = len / 8 * 8 + thread;
    if (rest < len) out[rest] = from_float<bf16>(in[rest]);
}

REGISTER_KERNEL(round_to_bf16)
