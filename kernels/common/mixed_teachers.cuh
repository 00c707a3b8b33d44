// The teachers' target of pixels that are read through CutMix: a pixel's target comes from its source image, so a block
// makes one pass over a row of cells for each image that its pixels come from, with that image's teachers in shared
// memory.
#pragma once

#include "cut_mix.cuh"
#include "fused_loss.cuh"
#include "teachers.cuh"

/// Launch bounds of the fused losses of three networks' logits: shared memory has room for three blocks.
#define TEACHERS_KERNEL KERNEL_RESIDENT(128, 3)

/// CutMix boxes as in cut_mix.cuh.
struct Mix {
    const i32* boxes;
    i32 rounds;

    /// Image of source `k`: the tile's own, then one per round.
    DEVICE i32 image(const Upsample& u, const Tile& tile, i32 k) const {
        return k == 0 ? tile.image : box(u, tile, k)[4];
    }
    DEVICE const i32* box(const Upsample& u, const Tile& tile, i32 k) const {
        return boxes + (u64(k - 1) * u.images + tile.image) * 5;
    }
    /// Whether source `k` may have pixels among rows y0..y1 of the tile.
    DEVICE bool meets(const Upsample& u, const Tile& tile, i32 k, i32 y0, i32 y1) const {
        if (k == 0) return true;
        const i32* b = box(u, tile, k);
        return b[0] < y1 && b[2] > y0 && b[1] < tile.x0 + tile.columns && b[3] > tile.x0;
    }
    /// Whether source `k` needs a pass: it may have pixels here, and no earlier source is the same image.
    DEVICE bool adds(const Upsample& u, const Tile& tile, i32 k, i32 y0, i32 y1) const {
        if (!meets(u, tile, k, y0, y1)) return false;
        for (i32 j = 0; j < k; j++) {
            if (image(u, tile, j) == image(u, tile, k) && meets(u, tile, j, y0, y1)) return false;
        }
        return true;
    }
    /// The image that pixel (y, x) of the tile's image comes from.
    DEVICE i32 source(const Upsample& u, const Tile& tile, i32 y, i32 x) const {
        return i32(mix_source(boxes, u32(rounds), u32(u.images), u32(tile.image), u32(y), u32(x)));
    }
};

/// Student, core and assistant in shared memory.
template <class T> struct MixedTeachers {
    Staged<Field<T>> student, core, assist;
    Ensemble ensemble;
    Mix mix;

    DEVICE MixedTeachers(const LossShared& shared, const Upsample& u, const T* student_logits, const T* core_logits,
                         const T* assist_logits, const Ensemble& combination, const Mix& boxes)
        : student(Field<T>{student_logits, LOG2_E}, shared, u, 0), core(Field<T>{core_logits, 1.0f}, shared, u, 1),
          assist(Field<T>{assist_logits, 1.0f}, shared, u, 2), ensemble(combination), mix(boxes) {}

    /// Stages the student at source 0, which is always the first, and the teachers at each source.
    DEVICE bool stage(const Upsample& u, const Tile& tile, i32 row, i32 source) {
        Axis ys(u.low_h, u.full_h);
        if (!mix.adds(u, tile, source, ys.first(row), ys.first(row + 1))) return false;
        if (source == 0) student.stage_relative(u, tile, row);
        i32 image = mix.image(u, tile, source);
        core.stage(u, tile, image, row);
        assist.stage(u, tile, image, row);
        return true;
    }
    /// `own`: which pixels of the strip come from the image of `source`; returns whether any does.
    template <int R>
    DEVICE bool find_own(bool (&own)[R], const Upsample& u, const Tile& tile, const Strip<R>& strip, i32 source) const {
        bool any = false;
        i32 image = mix.image(u, tile, source);
#pragma unroll
        for (int r = 0; r < R; r++) {
            own[r] = strip.live[r] && mix.source(u, tile, strip.y + r, strip.x) == image;
            any = any || own[r];
        }
        return any;
    }
};
