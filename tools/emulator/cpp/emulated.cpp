// The arithmetic of warp operations, by the fragment layouts of the PTX ISA (sections on mma.m16n8k16 and ldmatrix).
// Compiled once and without the check build's instrumentation: the lanes have read their own memory before.
#include "types.cuh"

#include "emulated.cuh"

__thread EmuThread* emu_current = nullptr;

template <class T> static T fetch_max(T* p, T v) {
    T old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (old < v && !__atomic_compare_exchange_n(p, &old, v, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}

extern "C" {
/// Where the calling OS thread keeps its current CUDA thread.
EmuThread** emu_current_slot() { return &emu_current; }

void emu_op_sync(void* const (&)[32]) {}

void emu_op_shuffle(void* const (&lanes)[32]) {
    for (u32 i = 0; i < 32; ++i) {
        EmuShuffle* lane = static_cast<EmuShuffle*>(lanes[i]);
        lane->result = static_cast<const EmuShuffle*>(lanes[lane->from < 32 ? lane->from : i])->value;
    }
}

void emu_op_ballot(void* const (&lanes)[32]) {
    u32 votes = 0;
    for (u32 i = 0; i < 32; ++i) votes |= u32(static_cast<const EmuBallot*>(lanes[i])->vote) << i;
    for (u32 i = 0; i < 32; ++i) static_cast<EmuBallot*>(lanes[i])->result = votes;
}

// Lanes 8 m to 8 m + 7 hold the rows of matrix m. Lane i gets from each matrix the values of row i / 4, columns 2 (i %
// 4) and the next.
void emu_op_ldmatrix(void* const (&lanes)[32]) {
    for (u32 m = 0; m < 4; ++m)
        for (u32 i = 0; i < 32; ++i) {
            const EmuRow* from = static_cast<const EmuRow*>(lanes[8 * m + i / 4]);
            memcpy(&static_cast<EmuRow*>(lanes[i])->fragments[m], reinterpret_cast<const u32*>(&from->row) + i % 4, 4);
        }
}

// The same of the transposed matrices: lane i gets column i / 4, rows 2 (i % 4) and the next.
void emu_op_ldmatrix_trans(void* const (&lanes)[32]) {
    for (u32 m = 0; m < 4; ++m)
        for (u32 i = 0; i < 32; ++i) {
            u16 pair[2];
            for (u32 k = 0; k < 2; ++k) {
                const EmuRow* from = static_cast<const EmuRow*>(lanes[8 * m + 2 * (i % 4) + k]);
                memcpy(&pair[k], reinterpret_cast<const u16*>(&from->row) + i / 4, 2);
            }
            memcpy(&static_cast<EmuRow*>(lanes[i])->fragments[m], pair, 4);
        }
}

static float low(u32 pair) { return bits_to_float(pair << 16); }
static float high(u32 pair) { return bits_to_float(pair & 0xffff0000u); }

// With g = lane / 4 and t = lane % 4: a[0] = A(g, 2t..), a[1] = A(g + 8, 2t..), a[2] = A(g, 2t + 8..), a[3] = A(g + 8,
// 2t + 8..); b[0] = B(2t.., g), b[1] = B(2t + 8.., g); d[0], d[1] = D(g, 2t..), d[2], d[3] = D(g + 8, 2t..). The order
// in which the hardware adds is unspecified; here it is that of k.
void emu_op_mma_m16n8k16(void* const (&lanes)[32]) {
    float a[16][16], b[16][8], d[16][8];
    for (u32 i = 0; i < 32; ++i) {
        const EmuMma& lane = *static_cast<const EmuMma*>(lanes[i]);
        u32 g = i / 4, t = i % 4;
        for (u32 q = 0; q < 4; ++q) {
            float* to = &a[g + 8 * (q % 2)][2 * t + 8 * (q / 2)];
            to[0] = low(lane.a[q]);
            to[1] = high(lane.a[q]);
            d[g + 8 * (q / 2)][2 * t + q % 2] = lane.d[q];
        }
        for (u32 q = 0; q < 2; ++q) {
            b[2 * t + 8 * q][g] = low(lane.b[q]);
            b[2 * t + 8 * q + 1][g] = high(lane.b[q]);
        }
    }
    for (u32 row = 0; row < 16; ++row)
        for (u32 k = 0; k < 16; ++k)
            for (u32 col = 0; col < 8; ++col) d[row][col] += a[row][k] * b[k][col];
    for (u32 i = 0; i < 32; ++i) {
        float* to = static_cast<const EmuMma*>(lanes[i])->d;
        for (u32 q = 0; q < 4; ++q) to[q] = d[i / 4 + 8 * (q / 2)][2 * (i % 4) + q % 2];
    }
}

u32 emu_fetch_add32(u32* p, u32 v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
u64 emu_fetch_add64(u64* p, u64 v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
u32 emu_fetch_max32(u32* p, u32 v) { return fetch_max(p, v); }
u64 emu_fetch_max64(u64* p, u64 v) { return fetch_max(p, v); }
}
