// The block-level matrix multiply-accumulate of two operand tiles in shared memory: bf16 on tensor cores, float by
// FMAs. Accumulators are floats in registers. Operands are K-major where `a_k_major` and `b_k_major` say so, else
// MN-major.
#pragma once

#include "conv2d.cuh"

template <class T, class Tile, bool a_k_major, bool b_k_major> struct BlockMma;

/// Tensor cores: a warp tile is (16 M_PARTS) x 32, of fragments of 16 x 16 (A) and 16 x 8 (B).
template <class Tile, bool a_k_major, bool b_k_major> struct BlockMma<bf16, Tile, a_k_major, b_k_major> {
    static constexpr int WARPS_N = Tile::n / 32, WARPS_M = Tile::threads / 32 / WARPS_N;
    static constexpr int M_PARTS = Tile::m / WARPS_M / 16, N_PARTS = 4;
    static constexpr int A_CHUNKS = a_k_major ? 8 : Tile::m / 8, B_CHUNKS = b_k_major ? 8 : Tile::n / 8;
    float acc[M_PARTS][N_PARTS][4] = {};

    DEVICE static u32 lane() { return threadIdx.x % 32u; }
    DEVICE static u32 warp_m() { return threadIdx.x / 32u / WARPS_N * (16 * M_PARTS); }
    DEVICE static u32 warp_n() { return threadIdx.x / 32u % WARPS_N * 32; }

    /// 16 x 16 of A at row m, slice `slice` of 16 values along k. The four 8 x 8 matrices are (m, k), (m + 8, k), (m, k
    /// + 8), (m + 8, k + 8), in the order of mma's fragment; eight lanes give the row addresses of each.
    DEVICE static void load_a(u32 (&a)[4], const u8* tile, u32 m, u32 slice) {
        u32 l = lane();
        if (a_k_major) {
            ldmatrix_x4(a, chunk_at<A_CHUNKS>(tile, m + l % 16, 2 * slice + l / 16));
        } else {
            u32 k = 16 * slice + l / 16 * 8 + l % 8;
            ldmatrix_x4_trans(a, chunk_at<A_CHUNKS>(tile, k, m / 8 + l / 8 % 2));
        }
    }

    /// 16 x 16 of B at column n: (k, n), (k + 8, n), (k, n + 8), (k + 8, n + 8), two fragments of 16 x 8.
    DEVICE static void load_b(u32 (&b)[4], const u8* tile, u32 n, u32 slice) {
        u32 l = lane();
        if (b_k_major) {
            ldmatrix_x4(b, chunk_at<B_CHUNKS>(tile, n + l / 16 * 8 + l % 8, 2 * slice + l / 8 % 2));
        } else {
            ldmatrix_x4_trans(b, chunk_at<B_CHUNKS>(tile, 16 * slice + l % 16, n / 8 + l / 16));
        }
    }

    DEVICE void step(const u8* a_tile, const u8* b_tile) {
#pragma unroll
        for (u32 slice = 0; slice < DEPTH<bf16> / 16; ++slice) {
            u32 b[N_PARTS / 2][4];
#pragma unroll
            for (int j = 0; j < N_PARTS / 2; ++j) load_b(b[j], b_tile, warp_n() + 16 * j, slice);
#pragma unroll
            for (int i = 0; i < M_PARTS; ++i) {
                u32 a[4];
                load_a(a, a_tile, warp_m() + 16 * i, slice);
#pragma unroll
                for (int j = 0; j < N_PARTS; ++j) {
                    const u32 half[2] = {b[j / 2][2 * (j % 2)], b[j / 2][2 * (j % 2) + 1]};
                    mma_m16n8k16(acc[i][j], a, half);
                }
            }
        }
    }

    /// Writes the accumulators, plus the bias of their column, to the tile in shared memory that write_tile reads.
    /// `bias` may be null; it has `num_n` values.
    template <class O> DEVICE void store_accumulators(u8* shared, const float* bias, u32 num_n) const {
        O* staged = reinterpret_cast<O*>(shared);
        // A lane holds two columns of rows r and r + 8 of each fragment.
        u32 row = warp_m() + lane() / 4, col = warp_n() + lane() % 4 * 2;
#pragma unroll
        for (int j = 0; j < N_PARTS; ++j) {
            u32 c = col + 8 * j;
            float b0 = bias && c < num_n ? bias[c] : 0.0f, b1 = bias && c + 1 < num_n ? bias[c + 1] : 0.0f;
#pragma unroll
            for (int i = 0; i < M_PARTS; ++i) {
                O* to = staged + (row + 16 * i) * STAGED_ROW<Tile> + c;
                const float (&s)[4] = acc[i][j];
                store_pair(to, s[0] + b0, s[1] + b1);
                to += 8 * STAGED_ROW<Tile>;
                store_pair(to, s[2] + b0, s[3] + b1);
            }
        }
    }
};

/// FMAs: a thread tile is 8 x 4. Its rows are strided over the block tile where the operand is K-major, so that
/// neighbouring threads read neighbouring rows; else they are runs of 4.
template <class Tile, bool a_k_major, bool b_k_major> struct BlockMma<float, Tile, a_k_major, b_k_major> {
    static constexpr int THREADS_M = Tile::threads / 16;
    static constexpr int A_CHUNKS = a_k_major ? 8 : Tile::m / 4, B_CHUNKS = b_k_major ? 8 : Tile::n / 4;
    static_assert(Tile::m == 8 * THREADS_M && Tile::n == 64, "8 x 4 results per thread");
    float acc[8][4] = {};

    /// Loads four values along k of the `count` rows of thread `thread` of `threads`: `values[i][k]`.
    template <int count, int chunks, bool k_major>
    DEVICE static void load(float (&values)[count][4], const u8* tile, u32 four, u32 thread, u32 threads) {
#pragma unroll
        for (int i = 0; i < count; ++i) {
            u32 row = k_major ? thread + threads * i : 4 * four + i % 4;
            u32 chunk = k_major ? four : thread + i / 4 * threads;
            f32x4 v = *reinterpret_cast<const f32x4*>(chunk_at<chunks>(tile, row, chunk));
            if (k_major) {
                values[i][0] = v.x, values[i][1] = v.y, values[i][2] = v.z, values[i][3] = v.w;
            } else {
                int first = i / 4 * 4, k = i % 4;
                values[first][k] = v.x, values[first + 1][k] = v.y, values[first + 2][k] = v.z;
                values[first + 3][k] = v.w;
            }
        }
    }

    /// Index in the block tile of row or column i of `thread`.
    template <bool k_major> DEVICE static u32 index(int i, u32 thread, u32 threads) {
        return k_major ? thread + threads * i : 4 * (thread + i / 4 * threads) + i % 4;
    }

    DEVICE void step(const u8* a_tile, const u8* b_tile) {
        u32 thread_m = threadIdx.x / 16, thread_n = threadIdx.x % 16;
#pragma unroll 2
        for (u32 four = 0; four < DEPTH<float> / 4; ++four) {
            float a[8][4], b[4][4];
            load<4, B_CHUNKS, b_k_major>(b, b_tile, four, thread_n, 16);
            load<8, A_CHUNKS, a_k_major>(a, a_tile, four, thread_m, THREADS_M);
#pragma unroll
            for (int k = 0; k < 4; ++k) {
#pragma unroll
                for (int i = 0; i < 8; ++i) {
#pragma unroll
                    for (int j = 0; j < 4; ++j) acc[i][j] += a[i][k] * b[j][k];
                }
            }
        }
    }

    /// As above.
    template <class O> DEVICE void store_accumulators(u8* shared, const float* bias, u32 num_n) const {
        O* staged = reinterpret_cast<O*>(shared);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            u32 col = index<b_k_major>(j, threadIdx.x % 16, 16);
            float add = bias && col < num_n ? bias[col] : 0.0f;
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                u32 row = index<a_k_major>(i, threadIdx.x / 16, THREADS_M);
                staged[row * STAGED_ROW<Tile> + col] = from_float<O>(acc[i][j] + add);
            }
        }
    }
};
