// The functions of device_sm90.cuh for the emulator, which implements them in wgmma.rs, tma.rs and barriers.rs.
#pragma once

/// A lane's operands of a WGMMA.
struct EmuWgmma {
    EmuThread* thread;
    float* d;
    u64 a, b;
    u32 columns;
    bool mn_major_a, mn_major_b, accumulate;
    u32 line;
};

extern "C" {
void emu_named_barrier_sync(EmuThread*, u32 id, u32 threads, const char* file, u32 line);
void emu_mbarrier_init(EmuThread*, u64* barrier, u32 count, const char* file, u32 line);
void emu_mbarrier_arrive(EmuThread*, u64* barrier, u32 bytes, const char* file, u32 line);
void emu_mbarrier_wait(EmuThread*, u64* barrier, u32 parity, const char* file, u32 line);
void emu_mbarrier_arrive_cluster(EmuThread*, u64* barrier, u32 rank, const char* file, u32 line);
void emu_cluster_arrive(EmuThread*, const char* file, u32 line);
void emu_cluster_wait(EmuThread*, const char* file, u32 line);
void emu_tma_load(EmuThread*, void* to, const TensorMap* map, const i32 (*at)[4], const u32 (*offsets)[2], u64* barrier,
                  u32 ranks, const char* file, u32 line);
void emu_wgmma(EmuWgmma*, const char* file, u32 line);
void emu_wgmma_commit_group(EmuThread*, const char* file, u32 line);
void emu_wgmma_wait_group(EmuThread*, u32 groups, const char* file, u32 line);
}

DEVICE void mbarrier_init(u64* barrier, u32 count, EMU_PLACE) {
    emu_mbarrier_init(emu_current, barrier, count, file, line);
}
DEVICE void fence_mbarrier_init() {}
DEVICE void mbarrier_arrive(u64* barrier, EMU_PLACE) { emu_mbarrier_arrive(emu_current, barrier, 0, file, line); }
DEVICE void mbarrier_arrive_expect_tx(u64* barrier, u32 bytes, EMU_PLACE) {
    emu_mbarrier_arrive(emu_current, barrier, bytes, file, line);
}
DEVICE void mbarrier_wait(u64* barrier, u32 parity, EMU_PLACE) {
    emu_mbarrier_wait(emu_current, barrier, parity, file, line);
}

DEVICE u32 cluster_rank() { return emu_current->block->rank; }
DEVICE void cluster_arrive(EMU_PLACE) { emu_cluster_arrive(emu_current, file, line); }
DEVICE void cluster_wait(EMU_PLACE) { emu_cluster_wait(emu_current, file, line); }
DEVICE void mbarrier_arrive_cluster(u64* barrier, u32 rank, EMU_PLACE) {
    emu_mbarrier_arrive_cluster(emu_current, barrier, rank, file, line);
}

/// Multicast mask of that many blocks; 0 for a load to the own block.
template <int blocks> constexpr u32 CTA_MASK = blocks == 1 ? 0 : (1u << blocks) - 1;

template <int blocks = 1> DEVICE void tma_load(void* to, const TensorMap& map, i32 x, i32 y, u64* barrier, EMU_PLACE) {
    const i32 at[4] = {x, y, 0, 0};
    const u32 offsets[2] = {};
    emu_tma_load(emu_current, to, &map, &at, &offsets, barrier, CTA_MASK<blocks>, file, line);
}
template <int blocks = 1>
DEVICE void tma_load(void* to, const TensorMap& map, i32 x, i32 y, i32 z, u64* barrier, EMU_PLACE) {
    const i32 at[4] = {x, y, z, 0};
    const u32 offsets[2] = {};
    emu_tma_load(emu_current, to, &map, &at, &offsets, barrier, CTA_MASK<blocks>, file, line);
}
template <int blocks = 1>
DEVICE void tma_load_im2col(void* to, const TensorMap& map, i32 c, i32 w, i32 h, i32 n, u32 off_w, u32 off_h,
                            u64* barrier, EMU_PLACE) {
    const i32 at[4] = {c, w, h, n};
    const u32 offsets[2] = {off_w, off_h};
    emu_tma_load(emu_current, to, &map, &at, &offsets, barrier, CTA_MASK<blocks>, file, line);
}

DEVICE bool elect_one(EMU_PLACE) {
    emu_warp(emu_current, emu_op_sync, nullptr, false, file, line);
    return emu_lane() == 0;
}

template <int count> DEVICE void wgmma_fence_operand(float (&)[count]) {}
DEVICE void wgmma_fence() {}
template <int n, bool mn_major_a, bool mn_major_b>
DEVICE void wgmma(float (&d)[n / 2], u64 a, u64 b, bool accumulate, EMU_PLACE) {
    EmuWgmma lane = {emu_current, d, a, b, n, mn_major_a, mn_major_b, accumulate, line};
    emu_wgmma(&lane, file, line);
}
DEVICE void wgmma_commit_group(EMU_PLACE) { emu_wgmma_commit_group(emu_current, file, line); }
template <int groups> DEVICE void wgmma_wait_group(EMU_PLACE) { emu_wgmma_wait_group(emu_current, groups, file, line); }

DEVICE void named_barrier_sync(u32 id, u32 threads, EMU_PLACE) {
    emu_named_barrier_sync(emu_current, id, threads, file, line);
}
