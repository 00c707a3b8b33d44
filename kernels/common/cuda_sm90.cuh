// The functions of device_sm90.cuh for nvcc: PTX of sm_90a.
#pragma once

DEVICE void mbarrier_init(u64* barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count) : "memory");
}
DEVICE void fence_mbarrier_init() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
DEVICE void mbarrier_arrive(u64* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
DEVICE void mbarrier_arrive_expect_tx(u64* barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}
DEVICE u32 cluster_rank() {
    u32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
DEVICE void cluster_arrive() { asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory"); }
DEVICE void cluster_wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }
/// Without .release.cluster, which would compile to a fence of the whole device: WGMMAs that were waited for have read
/// their operands already.
DEVICE void mbarrier_arrive_cluster(u64* barrier, u32 rank) {
    asm volatile(
        "{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [remote];\n}" ::"r"(shared_address(barrier)),
        "r"(rank)
        : "memory");
}
/// try_wait suspends the thread in hardware for a while; most waits take one try.
DEVICE void mbarrier_wait(u64* barrier, u32 parity) {
    u32 done;
    do {
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                     : "=r"(done)
                     : "r"(shared_address(barrier)), "r"(parity)
                     : "memory");
    } while (!done);
}

/// A multicast has a suffix, and the mask of the blocks' ranks as its last operand.
#define MULTICAST ".multicast::cluster"
template <int blocks> constexpr u16 CTA_MASK = u16((1u << blocks) - 1);

template <int blocks = 1> DEVICE void tma_load(void* to, const TensorMap& map, i32 x, i32 y, u64* barrier) {
#define LOAD(suffix, mask)                                                                    \
    "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes" suffix \
    " [%0], [%1, {%2, %3}], [%4]" mask ";" ::"r"(shared_address(to)),                         \
        "l"(&map), "r"(x), "r"(y), "r"(shared_address(barrier))
    if constexpr (blocks == 1) {
        asm volatile(LOAD("", "") : "memory");
    } else {
        asm volatile(LOAD(MULTICAST, ", %5"), "h"(CTA_MASK<blocks>) : "memory");
    }
#undef LOAD
}
template <int blocks = 1> DEVICE void tma_load(void* to, const TensorMap& map, i32 x, i32 y, i32 z, u64* barrier) {
#define LOAD(suffix, mask)                                                                    \
    "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes" suffix \
    " [%0], [%1, {%2, %3, %4}], [%5]" mask ";" ::"r"(shared_address(to)),                     \
        "l"(&map), "r"(x), "r"(y), "r"(z), "r"(shared_address(barrier))
    if constexpr (blocks == 1) {
        asm volatile(LOAD("", "") : "memory");
    } else {
        asm volatile(LOAD(MULTICAST, ", %6"), "h"(CTA_MASK<blocks>) : "memory");
    }
#undef LOAD
}
template <int blocks = 1>
DEVICE void tma_load_im2col(void* to, const TensorMap& map, i32 c, i32 w, i32 h, i32 n, u32 off_w, u32 off_h,
                            u64* barrier) {
#define LOAD(suffix, mask)                                                                      \
    "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes" suffix \
    " [%0], [%1, {%2, %3, %4, %5}], [%6], {%7, %8}" mask ";" ::"r"(shared_address(to)),         \
        "l"(&map), "r"(c), "r"(w), "r"(h), "r"(n), "r"(shared_address(barrier)), "h"(u16(off_w)), "h"(u16(off_h))
    if constexpr (blocks == 1) {
        asm volatile(LOAD("", "") : "memory");
    } else {
        asm volatile(LOAD(MULTICAST, ", %9"), "h"(CTA_MASK<blocks>) : "memory");
    }
#undef LOAD
}

DEVICE bool elect_one() {
    u32 elected;
    asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(elected));
    return elected != 0;
}

template <int count> DEVICE void wgmma_fence_operand(float (&d)[count]) {
#pragma unroll
    for (int i = 0; i < count; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit_group() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int groups> DEVICE void wgmma_wait_group() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(groups) : "memory");
}
template <bool mn_major_a, bool mn_major_b> DEVICE void wgmma_m64k16(float (&d)[32], u64 a, u64 b, bool accumulate) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "
        "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
        "}, %32, %33, p, 1, 1, %35, %36;\n}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
          "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]),
          "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]),
          "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
        : "l"(a), "l"(b), "r"(u32(accumulate)), "n"(int(mn_major_a)), "n"(int(mn_major_b)));
}
template <bool mn_major_a, bool mn_major_b> DEVICE void wgmma_m64k16(float (&d)[64], u64 a, u64 b, bool accumulate) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "
        "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, "
        "%38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, "
        "%56, %57, %58, %59, %60, %61, %62, %63"
        "}, %64, %65, p, 1, 1, %67, %68;\n}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
          "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]),
          "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]),
          "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]),
          "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]),
          "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]),
          "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]),
          "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
        : "l"(a), "l"(b), "r"(u32(accumulate)), "n"(int(mn_major_a)), "n"(int(mn_major_b)));
}
template <int n, bool mn_major_a, bool mn_major_b> DEVICE void wgmma(float (&d)[n / 2], u64 a, u64 b, bool accumulate) {
    wgmma_m64k16<mn_major_a, mn_major_b>(d, a, b, accumulate);
}

DEVICE void named_barrier_sync(u32 id, u32 threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
