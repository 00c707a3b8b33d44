// The confusion matrix that a fused loss counts along with its gradient: pairs of a pixel's label and its largest
// class.
#pragma once

#include "fused_loss.cuh"

/// Counts [classes, classes], row = label, column = prediction; whether a block counts in shared memory first.
struct Confusion {
    u64* counts;
    i32 shared, unused;
};

/// A thread's counter. Neighbouring pixels of a column mostly agree, so runs of equal pairs are added as one.
struct ConfusionCounter {
    const Confusion& matrix;
    const Upsample& u;
    u32* block;
    /// The last pair in the lower 16 bits, its number of repeats in the upper ones.
    u32 run;

    DEVICE ConfusionCounter(const Confusion& confusion, const LossShared& shared, const Upsample& size)
        : matrix(confusion), u(size), block(reinterpret_cast<u32*>(shared.begin + u.positions + 2)), run(0) {
        if (!matrix.shared) return;
        // fused_loss has barriers between this and the first count.
        for (i32 i = i32(threadIdx.x); i < u.classes * u.classes; i += i32(blockDim.x)) block[i] = 0;
    }

    DEVICE void add(i32 label, i32 prediction) {
        u32 pair = u32(label * u.classes + prediction);
        if (pair != (run & 0xffffu) || run >= 0xffff0000u) {
            flush_run();
            run = pair;
        }
        run += 0x10000u;
    }

    DEVICE void flush_run() {
        u32 pair = run & 0xffffu, times = run >> 16;
        if (times == 0) return;
        if (matrix.shared)
            atomic_add(&block[pair], times);
        else
            atomic_add(&matrix.counts[pair], u64(times));
    }

    /// Adds the block's counts to the matrix; all threads, at the end.
    DEVICE void flush() {
        flush_run();
        if (!matrix.shared) return;
        block_sync();
        for (i32 i = i32(threadIdx.x); i < u.classes * u.classes; i += i32(blockDim.x)) {
            if (block[i] > 0) atomic_add(&matrix.counts[i], u64(block[i]));
        }
    }
};
