// One kernel for each promise of common/device.cuh, to compare with plain loops: on the emulator, and on a GPU whose
// instructions the wrappers stand for.
#include "common/device.cuh"

constexpr u32 THREADS = 256;

/// y[b, t] = x[b, THREADS - 1 - t] through static shared memory, for two arrays at once: the second holds -x.
KERNEL(256) reverse(float* y, float* minus_y, const float* x) {
    SHARED(float, values, THREADS);
    SHARED(float, negated, THREADS);
    u64 at = blockIdx.x * u64(THREADS) + threadIdx.x;
    values[threadIdx.x] = x[at];
    negated[threadIdx.x] = -x[at];
    block_sync();
    y[at] = values[THREADS - 1 - threadIdx.x];
    minus_y[at] = negated[THREADS - 1 - threadIdx.x];
}

/// sum[b] = sum of x[b, 0..len], warps by shuffles, then the block through dynamic shared memory.
KERNEL(256) block_sum(double* sum, const double* x, u32 len) {
    DYNAMIC_SHARED(double, partial);
    double s = 0.0;
    for (u32 i = threadIdx.x; i < len; i += blockDim.x) s += x[blockIdx.x * u64(len) + i];
    for (int d = 16; d > 0; d /= 2) s += shfl_down(s, d);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = s;
    block_sync();
    if (threadIdx.x == 0) {
        for (u32 w = 1; w < blockDim.x / 32; ++w) s += partial[w];
        sum[blockIdx.x] = s;
    }
}

/// One warp: row r of out[6, 32] is a warp operation on x[32] (32-bit) and x[l] << 32 | l (64-bit).
KERNEL(32) warp_ops(u64* out, const u32* x) {
    u32 lane = threadIdx.x;
    u32 v = x[lane];
    u64 wide = u64(v) << 32 | lane;
    out[lane] = shfl(v, 5);
    out[32 + lane] = shfl_xor(wide, 3);
    out[64 + lane] = shfl_down(v, 7);
    out[96 + lane] = warp_ballot(v % 3 == 0);
    out[128 + lane] = shfl(wide, int(lane * 7));
    out[160 + lane] = float_to_bits(shfl_xor(bits_to_float(v), 16));
}

/// Lanes hand values on through shared memory with nothing but warp_sync: y[t] = x[t] + (x of the next lane), three times.
KERNEL(256) warp_exchange(u32* y, const u32* x) {
    SHARED(u32, values, THREADS);
    u32 t = threadIdx.x, next = t / 32 * 32 + (t + 1) % 32;
    u32 v = x[t];
    for (int i = 0; i < 3; ++i) {
        values[t] = v;
        warp_sync();
        v += values[next];
        warp_sync();
    }
    y[t] = v;
}

/// counts[x % bins] += 1, sum[0] += x, largest[0] = max x.
KERNEL(256) atomics(u32* counts, u64* sum, u32* largest, const u32* x, u32 len, u32 bins) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < len) {
        atomic_add(&counts[x[i] % bins], 1);
        atomic_add(sum, u64(x[i]));
        atomic_max(largest, x[i]);
    }
}

/// y[s, t] = x[s, THREADS - 1 - t] of 16-byte pieces, read by others than copied them, two stages under way. The last
/// piece of a stage is cut to `tail` bytes.
KERNEL(256) copy_pipeline(u32x4* y, const u32x4* x, u32 stages, int tail) {
    DYNAMIC_SHARED(u32x4, ring);
    u32 t = threadIdx.x;
    auto begin = [&](u32 s) {
        if (s < stages) copy_async16(&ring[s % 3 * THREADS + t], &x[s * THREADS + t], t == THREADS - 1 ? tail : 16);
        copy_async_commit();
    };
    begin(0);
    begin(1);
    for (u32 s = 0; s < stages; ++s) {
        copy_async_wait<1>();
        block_sync();
        begin(s + 2);
        y[s * THREADS + t] = ring[s % 3 * THREADS + THREADS - 1 - t];
    }
}

/// What each lane of one warp holds after ldmatrix of the 16x16 matrix x: out[2, 32, 4], plain and transposed.
KERNEL(32) ldmatrix(u32* out, const u16* x) {
    SHARED(u16, tile, 256);
    u32 lane = threadIdx.x;
    for (u32 i = lane; i < 256; i += 32) tile[i] = x[i];
    warp_sync();
    // Matrices in the order top left, bottom left, top right, bottom right.
    const u16* row = &tile[(lane % 16) * 16 + lane / 16 * 8];
    u32 r[4];
    ldmatrix_x4(r, row);
    for (u32 i = 0; i < 4; ++i) out[lane * 4 + i] = r[i];
    ldmatrix_x4_trans(r, row);
    for (u32 i = 0; i < 4; ++i) out[128 + lane * 4 + i] = r[i];
}

/// d[16, 8] = c + a[16, 16] b[16, 8], operands through shared memory and ldmatrix.
KERNEL(32) mma(float* d, const bf16* a, const bf16* b, const float* c) {
    SHARED(bf16, tile_a, 256);
    SHARED(bf16, tile_b, 256);
    u32 lane = threadIdx.x;
    for (u32 i = lane; i < 256; i += 32) {
        tile_a[i] = a[i];
        tile_b[i] = i % 16 < 8 ? b[i / 16 * 8 + i % 16] : bf16{0};
    }
    warp_sync();
    u32 fa[4], fb[4];
    ldmatrix_x4(fa, &tile_a[(lane % 16) * 16 + lane / 16 * 8]);
    // Transposed: the first two matrices are the rows 0 to 7 and 8 to 15 of b.
    ldmatrix_x4_trans(fb, &tile_b[(lane % 16) * 16 + lane / 16 * 8]);
    u32 g = lane / 4, t = lane % 4;
    float acc[4];
    for (u32 q = 0; q < 4; ++q) acc[q] = c[(g + q / 2 * 8) * 8 + 2 * t + q % 2];
    u32 low[2] = {fb[0], fb[1]};
    mma_m16n8k16(acc, fa, low);
    for (u32 q = 0; q < 4; ++q) d[(g + q / 2 * 8) * 8 + 2 * t + q % 2] = acc[q];
}

/// Where a thread is in a grid and a block of three dimensions each: out[flat] = six indices in base 16.
KERNEL(128) indices(u32* out) {
    u32 block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    u32 thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    u32 digits = blockIdx.z << 20 | blockIdx.y << 16 | blockIdx.x << 12;
    out[block * blockDim.x * blockDim.y * blockDim.z + thread] =
        digits | threadIdx.z << 8 | threadIdx.y << 4 | threadIdx.x;
}

REGISTER_KERNEL(reverse)
REGISTER_KERNEL(block_sum)
REGISTER_KERNEL(warp_ops)
REGISTER_KERNEL(warp_exchange)
REGISTER_KERNEL(atomics)
REGISTER_KERNEL(copy_pipeline)
REGISTER_KERNEL(ldmatrix)
REGISTER_KERNEL(mma)
REGISTER_KERNEL(indices)
