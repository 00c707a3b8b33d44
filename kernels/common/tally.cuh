// The confusion matrix that a fused loss counts beside its gradient: pairs of a pixel's label and the student's largest class.
#pragma once

#include "fold.cuh"

/// Counts [classes, classes], row = label, column = prediction; whether a block counts in shared memory first.
struct Confusion {
    u64* counts;
    i32 shared, unused;
};

/// A thread's count. Neighbouring pixels of a column mostly agree, so runs of equal pairs are added as one.
struct Tally {
    u64* counts;
    u32* block;
    i32 classes;
    u32 pair, run;

    DEVICE Tally(const Confusion& confusion, const LossShared& shared, const Upsample& u)
        : counts(confusion.counts), block(nullptr), classes(u.classes), pair(0), run(0) {
        if (!confusion.shared) return;
        block = reinterpret_cast<u32*>(shared.begin + u.positions + 2);
        // The barriers before the first pixels come between this and the first count.
        for (i32 i = i32(threadIdx.x); i < classes * classes; i += i32(blockDim.x)) block[i] = 0;
    }

    DEVICE void add(i32 label, i32 prediction) {
        u32 next = u32(label * classes + prediction);
        if (next != pair) {
            flush_run();
            pair = next;
        }
        run++;
    }

    DEVICE void flush_run() {
        if (run > 0 && block) atomic_add(&block[pair], run);
        if (run > 0 && !block) atomic_add(&counts[pair], u64(run));
        run = 0;
    }

    /// Adds the block's counts to the matrix; all threads, at the end.
    DEVICE void flush() {
        flush_run();
        if (!block) return;
        block_sync();
        for (i32 i = i32(threadIdx.x); i < classes * classes; i += i32(blockDim.x)) {
            if (block[i] > 0) atomic_add(&counts[i], u64(block[i]));
        }
    }
};
