// Kernels with one fault each that the emulator must catch; those named `sound` have none. Compiled for the host alone.
#include "common/device.cuh"

constexpr u32 THREADS = 256;

/// y = x reversed within a block.
template <bool barrier> DEVICE void reverse(float* y, const float* x) {
    SHARED(float, values, THREADS);
    values[threadIdx.x] = x[threadIdx.x];
    if (barrier) block_sync();
    y[threadIdx.x] = values[THREADS - 1 - threadIdx.x];
}
KERNEL(256) reverse_sound(float* y, const float* x) { reverse<true>(y, x); }
KERNEL(256) reverse_no_barrier(float* y, const float* x) { reverse<false>(y, x); }

/// The same twice through one array: the second round must not overwrite what others still read.
template <bool barrier> DEVICE void twice(float* y, const float* x) {
    SHARED(float, values, THREADS);
    float v = x[threadIdx.x];
    for (int i = 0; i < 2; ++i) {
        values[threadIdx.x] = v;
        block_sync();
        v = values[(threadIdx.x + 77) % THREADS] + 1.0f;
        if (barrier) block_sync();
    }
    y[threadIdx.x] = v;
}
KERNEL(256) twice_sound(float* y, const float* x) { twice<true>(y, x); }
KERNEL(256) twice_no_barrier(float* y, const float* x) { twice<false>(y, x); }

/// Neighbouring lanes exchange values.
template <bool sync> DEVICE void exchange(float* y, const float* x) {
    SHARED(float, values, THREADS);
    values[threadIdx.x] = x[threadIdx.x];
    if (sync) warp_sync();
    y[threadIdx.x] = values[threadIdx.x ^ 1];
}
KERNEL(256) exchange_sound(float* y, const float* x) { exchange<true>(y, x); }
KERNEL(256) exchange_no_sync(float* y, const float* x) { exchange<false>(y, x); }

/// y = x through an asynchronous copy.
template <bool wait> DEVICE void copy(float* y, const float* x) {
    SHARED(float, values, THREADS);
    u32 t = threadIdx.x;
    if (t < THREADS / 4) copy_async16(&values[4 * t], &x[4 * t], 16);
    copy_async_commit();
    if (wait) copy_async_wait<0>();
    block_sync();
    y[t] = values[t];
}
KERNEL(256) copy_sound(float* y, const float* x) { copy<true>(y, x); }
KERNEL(256) copy_no_wait(float* y, const float* x) { copy<false>(y, x); }

/// y = 2 x.
template <bool guard> DEVICE void scale(float* y, const float* x, u32 len) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (!guard || i < len) y[i] = 2.0f * x[i];
}
KERNEL(256) scale_sound(float* y, const float* x, u32 len) { scale<true>(y, x, len); }
KERNEL(256) scale_no_guard(float* y, const float* x, u32 len) { scale<false>(y, x, len); }
/// Reads one element before the first.
KERNEL(256) scale_before_start(float* y, const float* x, u32 len) {
    u32 i = threadIdx.x;
    if (i < len) y[i] = 2.0f * x[i64(i) - 1];
}
/// Leaves the last element as it was.
KERNEL(256) scale_misses_last(float* y, const float* x, u32 len) { scale<true>(y, x, len - 1); }

/// Writes one element past a static array.
KERNEL(256) shared_overrun(float* y, const float* x) {
    SHARED(float, values, THREADS);
    values[threadIdx.x + 1] = x[threadIdx.x];
    block_sync();
    y[threadIdx.x] = values[threadIdx.x];
}
/// Reads shared memory that nothing has written.
KERNEL(256) shared_unwritten(float* y, const float* x) {
    SHARED(float, values, THREADS);
    if (threadIdx.x > 0) values[threadIdx.x] = x[threadIdx.x];
    block_sync();
    y[threadIdx.x] = values[threadIdx.x];
}

/// Half of the block never comes to the barrier.
KERNEL(256) divergent_barrier(float* y, const float* x) {
    if (threadIdx.x < THREADS / 2) block_sync();
    y[threadIdx.x] = x[threadIdx.x];
}
/// Threads wait at two barriers at once.
KERNEL(256) two_barriers(float* y, const float* x) {
    if (threadIdx.x % 2 == 0)
        block_sync();
    else
        block_sync();
    y[threadIdx.x] = x[threadIdx.x];
}
/// A thread is gone before the others' barrier.
KERNEL(256) early_return(float* y, const float* x) {
    if (threadIdx.x == 100) return;
    y[threadIdx.x] = x[threadIdx.x];
    block_sync();
}
/// Half of each warp shuffles.
KERNEL(256) partial_shuffle(float* y, const float* x) {
    float v = x[threadIdx.x];
    if (threadIdx.x % 2 == 0) v = shfl_down(v, 2);
    y[threadIdx.x] = v;
}
/// Every lane shuffles, but not all in the same place.
KERNEL(256) two_shuffles(float* y, const float* x) {
    float v = x[threadIdx.x];
    if (threadIdx.x % 2 == 0)
        v = shfl_down(v, 2);
    else
        v = shfl_down(v, 4);
    y[threadIdx.x] = v;
}
/// In a warp of fewer than 32 threads.
KERNEL(256) any_shuffle(float* y, const float* x) { y[threadIdx.x] = shfl_xor(x[threadIdx.x], 1); }

/// Two threads of a block write the same element.
KERNEL(256) global_race(float* y, const float* x) { y[threadIdx.x / 2] = x[threadIdx.x]; }
/// Two blocks write the same element.
KERNEL(256) block_race(float* y, const float* x) { y[threadIdx.x] = x[threadIdx.x] + float(blockIdx.x); }
/// A plain update where an atomic is needed.
KERNEL(256) plain_count(u32* count, const float* x) { *count += x[threadIdx.x] > 0.0f; }

/// Divides integers by x, which may be zero.
KERNEL(32) divide(u32* y, const u32* x) { y[threadIdx.x] = 100u / x[threadIdx.x]; }
/// Calls itself without end.
static u32 deep(volatile u32* p, u32 n) {
    volatile u32 frame[64];
    frame[n % 64] = *p;
    return n == 0xffffffffu ? 0 : deep(p, n + 1) + frame[n % 64];
}
KERNEL(32) recurse(u32* y) { y[threadIdx.x] = deep(y, 0); }
/// More static shared memory than there is.
KERNEL(32) large_shared(u32* y) {
    SHARED(u32, values, 13000);
    values[threadIdx.x] = threadIdx.x;
    y[threadIdx.x] = values[threadIdx.x];
}
/// An asynchronous copy from an address that is no multiple of 16.
KERNEL(32) crooked_copy(float* y, const float* x) {
    SHARED(float, values, 128);
    copy_async16(&values[4 * threadIdx.x], &x[4 * threadIdx.x + 1], 16);
    copy_async_commit();
    copy_async_wait<0>();
    y[threadIdx.x] = values[4 * threadIdx.x];
}

REGISTER_KERNEL(reverse_sound)
REGISTER_KERNEL(reverse_no_barrier)
REGISTER_KERNEL(twice_sound)
REGISTER_KERNEL(twice_no_barrier)
REGISTER_KERNEL(exchange_sound)
REGISTER_KERNEL(exchange_no_sync)
REGISTER_KERNEL(copy_sound)
REGISTER_KERNEL(copy_no_wait)
REGISTER_KERNEL(scale_sound)
REGISTER_KERNEL(scale_no_guard)
REGISTER_KERNEL(scale_before_start)
REGISTER_KERNEL(scale_misses_last)
REGISTER_KERNEL(shared_overrun)
REGISTER_KERNEL(shared_unwritten)
REGISTER_KERNEL(divergent_barrier)
REGISTER_KERNEL(two_barriers)
REGISTER_KERNEL(early_return)
REGISTER_KERNEL(partial_shuffle)
REGISTER_KERNEL(two_shuffles)
REGISTER_KERNEL(any_shuffle)
REGISTER_KERNEL(global_race)
REGISTER_KERNEL(block_race)
REGISTER_KERNEL(plain_count)
REGISTER_KERNEL(divide)
REGISTER_KERNEL(recurse)
REGISTER_KERNEL(large_shared)
REGISTER_KERNEL(crooked_copy)
