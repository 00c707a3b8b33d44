// The functions of device.cuh for the emulator: each states what the instruction means. A block's threads are
// coroutines; emu_* functions are the scheduler's (tools/emulator/src/), emulated.cpp has the arithmetic of warp
// operations. This text is compiled inside a namespace of the kernel file, so that equal names in two files do not
// clash.
#pragma once

#include <math.h>
#include <string.h>

#define KERNEL(threads) static void
#define KERNEL_RESIDENT(threads, blocks) static void
#define KERNEL_CLUSTER(threads, blocks) static void
#define GRID_CONSTANT
#define DEVICE [[maybe_unused, gnu::always_inline]] inline

#define EMU_PLACE const char *file = __builtin_FILE(), u32 line = __builtin_LINE()

struct EmuDim {
    u32 x, y, z;
};

/// State that the threads of a block share.
struct EmuBlock {
    EmuDim index, dim, grid;
    /// Shared memory: first the dynamic part, then the static arrays.
    unsigned char* shared;
    /// Rank in the cluster.
    u32 rank;
};

/// State of a thread.
struct EmuThread {
    EmuDim index;
    const EmuBlock* block;
};

/// Does a warp operation for all lanes, from the deposit of each.
typedef void (*EmuWarpOp)(void* const (&lanes)[32]);

extern "C" {
extern __thread EmuThread* emu_current;

/// Returns once every thread of the block has arrived.
void emu_block_sync(EmuThread*, const char* file, u32 line);
/// Returns once every lane of the warp has arrived and `op` is done; `orders` says whether it orders memory accesses
/// before it with those after it.
void emu_warp(EmuThread*, EmuWarpOp op, void* deposit, bool orders, const char* file, u32 line);
/// The block's shared array with this key.
void* emu_shared(EmuThread*, const void* key, u64 bytes, u64 align, const char* file, u32 line);
void emu_copy_async16(EmuThread*, void* shared, const void* global, int bytes, const char* file, u32 line);
void emu_copy_commit(EmuThread*);
void emu_copy_wait(EmuThread*, u32 groups);
/// Called before an integer atomic on `bytes` at `p`, in the check build only.
void emu_atomic(EmuThread*, const void* p, u64 bytes);

// In emulated.cpp.
void emu_op_sync(void* const (&lanes)[32]);
void emu_op_shuffle(void* const (&lanes)[32]);
void emu_op_ballot(void* const (&lanes)[32]);
void emu_op_ldmatrix(void* const (&lanes)[32]);
void emu_op_ldmatrix_trans(void* const (&lanes)[32]);
void emu_op_mma_m16n8k16(void* const (&lanes)[32]);
u32 emu_fetch_add32(u32* p, u32 v);
u64 emu_fetch_add64(u64* p, u64 v);
u32 emu_fetch_max32(u32* p, u32 v);
u64 emu_fetch_max64(u64* p, u64 v);
}

#define threadIdx (emu_current->index)
#define blockIdx (emu_current->block->index)
#define blockDim (emu_current->block->dim)
#define gridDim (emu_current->block->grid)

/// A kernel for the launcher: how to call it, and the size of each argument.
struct EmuKernel {
    const char* name;
    void (*invoke)(void* const* args);
    const u32* sizes;
    u32 num_args;
    const EmuKernel* next;
};

/// The kernels of this file.
static const EmuKernel* emu_kernels = nullptr;

template <int... i> struct EmuIndices {};
template <int n, int... i> struct EmuCount : EmuCount<n - 1, n - 1, i...> {};
template <int... i> struct EmuCount<0, i...> {
    typedef EmuIndices<i...> Type;
};

template <class F, F* kernel> struct EmuCall;
template <class... A, void (*kernel)(A...)> struct EmuCall<void(A...), kernel> {
    template <int... i> static void call(void* const* args, EmuIndices<i...>) {
        kernel(*static_cast<const A*>(args[i])...);
    }
    static void invoke(void* const* args) { call(args, typename EmuCount<sizeof...(A)>::Type()); }
    static constexpr u32 sizes[sizeof...(A) + 1] = {sizeof(A)..., 0};
    static constexpr u32 num_args = sizeof...(A);
};

struct EmuRegistrar {
    EmuKernel kernel;
    template <class Call>
    EmuRegistrar(const char* name, Call) : kernel{name, Call::invoke, Call::sizes, Call::num_args, emu_kernels} {
        emu_kernels = &kernel;
    }
};

#define REGISTER_KERNEL(name) static const EmuRegistrar emu_registrar_##name(#name, EmuCall<decltype(name), name>());

// The address of a static variable is the array's key, as each instance of a template has its own.
#define SHARED(T, name, count)           \
    static char emu_key_##name;          \
    T(&name)                             \
    [count] = *static_cast<T(*)[count]>( \
        emu_shared(emu_current, &emu_key_##name, sizeof(T[count]), alignof(T), __FILE__, __LINE__))
#define DYNAMIC_SHARED(T, name) T* const name = reinterpret_cast<T*>(emu_current->block->shared)

constexpr u32 FULL_WARP = 0xffffffffu;

DEVICE void block_sync(EMU_PLACE) { emu_block_sync(emu_current, file, line); }
DEVICE void warp_sync(EMU_PLACE) { emu_warp(emu_current, emu_op_sync, nullptr, true, file, line); }

/// A lane's value for a shuffle, and its result.
struct EmuShuffle {
    u64 value, result;
    /// The source lane; the lane itself where that is beyond the warp.
    u32 from;
};

template <class T> DEVICE T emu_shuffle(T v, u32 from, const char* file, u32 line) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 32 or 64 bits");
    EmuShuffle lane = {0, 0, from};
    memcpy(&lane.value, &v, sizeof(T));
    emu_warp(emu_current, emu_op_shuffle, &lane, false, file, line);
    memcpy(&v, &lane.result, sizeof(T));
    return v;
}

DEVICE u32 emu_lane() {
    const EmuDim &i = threadIdx, &n = blockDim;
    return (i.x + n.x * (i.y + n.y * i.z)) % 32;
}

template <class T> DEVICE T shfl(T v, int lane, EMU_PLACE) { return emu_shuffle(v, u32(lane) % 32, file, line); }
template <class T> DEVICE T shfl_xor(T v, int mask, EMU_PLACE) {
    return emu_shuffle(v, emu_lane() ^ u32(mask), file, line);
}
template <class T> DEVICE T shfl_down(T v, int delta, EMU_PLACE) {
    return emu_shuffle(v, emu_lane() + u32(delta), file, line);
}

struct EmuBallot {
    bool vote;
    u32 result;
};

DEVICE u32 warp_ballot(bool p, EMU_PLACE) {
    EmuBallot lane = {p, 0};
    emu_warp(emu_current, emu_op_ballot, &lane, false, file, line);
    return lane.result;
}

#ifdef EMULATOR_CHECKED
#define EMU_ATOMIC(p) emu_atomic(emu_current, p, sizeof(*p))
#else
#define EMU_ATOMIC(p)
#endif

// Blocks run in parallel, so these are atomic on the host too.
DEVICE void atomic_add(u32* p, u32 v) {
    EMU_ATOMIC(p);
    emu_fetch_add32(p, v);
}
DEVICE void atomic_add(u64* p, u64 v) {
    EMU_ATOMIC(p);
    emu_fetch_add64(p, v);
}
DEVICE void atomic_max(u32* p, u32 v) {
    EMU_ATOMIC(p);
    emu_fetch_max32(p, v);
}
DEVICE void atomic_max(u64* p, u64 v) {
    EMU_ATOMIC(p);
    emu_fetch_max64(p, v);
}

DEVICE u32 float_to_bits(float v) {
    u32 bits;
    memcpy(&bits, &v, 4);
    return bits;
}
DEVICE float bits_to_float(u32 bits) {
    float v;
    memcpy(&v, &bits, 4);
    return v;
}

/// Exact where the instruction is within 2 ulp; results below the smallest normal number become 0 as there.
DEVICE float exp2_approx(float v) {
    float y = exp2f(v);
    return y < 0x1p-126f ? 0.0f : y;
}

DEVICE u32 emu_round_to_bf16(float v) {
    u32 bits = float_to_bits(v);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fffu;
    return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}
DEVICE u32 round_to_bf16x2(float low, float high) { return emu_round_to_bf16(low) | emu_round_to_bf16(high) << 16; }

/// Shared memory begins at 0.
DEVICE u32 shared_address(const void* p) {
    return u32(static_cast<const unsigned char*>(p) - emu_current->block->shared);
}

DEVICE void copy_async16(void* shared, const void* global, int bytes, EMU_PLACE) {
    emu_copy_async16(emu_current, shared, global, bytes, file, line);
}
DEVICE void copy_async_commit() { emu_copy_commit(emu_current); }
template <int groups> DEVICE void copy_async_wait() { emu_copy_wait(emu_current, groups); }

/// A lane's row of eight 16-bit values, which the lane itself has read, and its fragments as the result.
struct EmuRow {
    u32x4 row;
    u32* fragments;
};

DEVICE void ldmatrix_x4(u32 (&r)[4], const void* shared, EMU_PLACE) {
    EmuRow lane = {*static_cast<const u32x4*>(shared), r};
    emu_warp(emu_current, emu_op_ldmatrix, &lane, false, file, line);
}
DEVICE void ldmatrix_x4_trans(u32 (&r)[4], const void* shared, EMU_PLACE) {
    EmuRow lane = {*static_cast<const u32x4*>(shared), r};
    emu_warp(emu_current, emu_op_ldmatrix_trans, &lane, false, file, line);
}

/// A lane's fragments.
struct EmuMma {
    float* d;
    const u32 *a, *b;
};

DEVICE void mma_m16n8k16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2], EMU_PLACE) {
    EmuMma lane = {d, a, b};
    emu_warp(emu_current, emu_op_mma_m16n8k16, &lane, false, file, line);
}

// Functions that CUDA has and C++ lacks.
DEVICE float rsqrtf(float v) { return 1.0f / sqrtf(v); }
template <class T> DEVICE T min(T a, T b) { return b < a ? b : a; }
template <class T> DEVICE T max(T a, T b) { return a < b ? b : a; }
