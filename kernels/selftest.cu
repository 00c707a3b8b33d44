// Kernels that exercise each function of common/device.cuh, compared with plain loops and golden values
// (tools/lab/src/check/selftest/) on the emulator and on GPUs.
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

/// One warp: row r of out[12, 32] is a warp operation on x[32] (32-bit) and x[l] << 32 | l (64-bit).
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
    out[192 + lane] = shfl_down(wide, 9);
    out[224 + lane] = shfl_xor(v, 31);
    // Lane numbers wrap around at 32.
    out[256 + lane] = shfl(v, int(lane * 5 + 40));
    out[288 + lane] = warp_ballot(true);
    out[320 + lane] = warp_ballot(false);
    out[352 + lane] = u64(shfl_down(double(v), 1));
}

/// Lanes exchange values through shared memory with warp_sync alone: y[t] = x[t] + (x of the next lane), three times.
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

/// counts[x % bins] += 1, sum[0] += x, largest[0] = max x, widest[0] = max of x % 16 and then x.
KERNEL(256) atomics(u32* counts, u64* sum, u32* largest, u64* widest, const u32* x, u32 len, u32 bins) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < len) {
        atomic_add(&counts[x[i] % bins], 1);
        atomic_add(sum, u64(x[i]));
        atomic_max(largest, x[i]);
        atomic_max(widest, u64(x[i] % 16) << 32 | x[i]);
    }
}

/// y[s, t] = x[s, THREADS - 1 - t] of 16-byte pieces, read by other threads than those that copied them, two stages in
/// flight. The last piece of a stage is cut to `tail` bytes.
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

/// y[t] = the first t % 17 bytes of x[t], then zeros. Where there are none the source is x + THREADS, past the end.
KERNEL(256) copy_bytes(u32x4* y, const u32x4* x) {
    SHARED(u32x4, pieces, THREADS);
    u32 t = threadIdx.x;
    int bytes = int(t % 17);
    pieces[t] = u32x4{~0u, ~0u, ~0u, ~0u};
    copy_async16(&pieces[t], bytes == 0 ? x + THREADS : x + t, bytes);
    copy_async_commit();
    copy_async_wait<0>();
    y[t] = pieces[t];
}

/// y = x [3, THREADS] reversed within rows, one group of copies per row: each is read as soon as only later groups may
/// be in flight.
KERNEL(256) copy_groups(u32x4* y, const u32x4* x) {
    SHARED(u32x4, rows, 3 * THREADS);
    u32 t = threadIdx.x, reversed = THREADS - 1 - t;
    for (u32 row = 0; row < 3; ++row) {
        copy_async16(&rows[row * THREADS + t], &x[row * THREADS + t], 16);
        copy_async_commit();
    }
    copy_async_wait<2>();
    block_sync();
    y[t] = rows[reversed];
    copy_async_wait<1>();
    block_sync();
    y[THREADS + t] = rows[THREADS + reversed];
    copy_async_wait<0>();
    block_sync();
    y[2 * THREADS + t] = rows[2 * THREADS + reversed];
}

/// y = 2^x.
KERNEL(256) exp2_sweep(float* y, const float* x, u32 len) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < len) y[i] = exp2_approx(x[i]);
}

/// Bits of floats: y unchanged, half rounded to bf16, back that bf16 as a float, pairs the value and the next one
/// (after the last the first) packed as bf16x2.
KERNEL(256) convert(u32* y, u16* half, u32* back, u32* pairs, const u32* x, u32 len) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < len) {
        float v = bits_to_float(x[i]);
        bf16 rounded = from_float<bf16>(v);
        y[i] = float_to_bits(from_float<float>(to_float(v)));
        half[i] = rounded.bits;
        back[i] = float_to_bits(to_float(rounded));
        pairs[i] = round_to_bf16x2(v, bits_to_float(x[i + 1 < len ? i + 1 : 0]));
    }
}

/// Row r of out[4, len]: a b + c rounded once, then square root, its inverse, and binary logarithm of a.
KERNEL(256) functions(float* out, const float* a, const float* b, const float* c, u32 len) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < len) {
        out[i] = fmaf(a[i], b[i], c[i]);
        out[len + i] = sqrtf(a[i]);
        out[2 * u64(len) + i] = rsqrtf(a[i]);
        out[3 * u64(len) + i] = log2f(a[i]);
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

/// blockIdx and threadIdx of three dimensions each: out[flat] = six indices in base 16.
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
REGISTER_KERNEL(copy_bytes)
REGISTER_KERNEL(copy_groups)
REGISTER_KERNEL(exp2_sweep)
REGISTER_KERNEL(convert)
REGISTER_KERNEL(functions)
REGISTER_KERNEL(ldmatrix)
REGISTER_KERNEL(mma)
REGISTER_KERNEL(indices)
