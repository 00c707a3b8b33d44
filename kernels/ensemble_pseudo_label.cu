// Pseudo labels of two teachers (PS-MT, section 3.1): label = first arg max, confidence = max of
// softmax(gamma up(core) + (1 - gamma) a), a = up(assist) at its topk largest classes and up(core) elsewhere.
//
// core, assist [n, h, w, classes] at low resolution; label bytes and float confidences [n, H, W]. Both teachers are
// interpolated on the fly (upsample.cuh), so low-resolution logits are read and five bytes per pixel written.
#include "common/device.cuh"
#include "common/teachers.cuh"

/// Pixels of a strip, limited by registers: each has a sorted list of its largest classes.
constexpr int ROWS = 2;

template <class T>
DEVICE void ensemble_pseudo_label(u8* label, float* confidence, const T* core, const T* assist,
                                  const Ensemble& ensemble, const Upsample& u) {
    DYNAMIC_SHARED(Cell, core_cells);
    Cell* assist_cells = core_cells + u.slots * cell_stride(u);
    Tile tile(u);
    Axis ys(u.low_h, u.full_h);
    const i32 column = tile.slot * cell_stride(u);
    for (i32 row = tile.row0; row < tile.row1; row++) {
        i32 y0 = ys.first(row), y1 = ys.first(row + 1);
        if (y0 == y1) continue;
        block_sync();
        stage_cells(core_cells, Field<T>{core, 1.0f}, nullptr, u, tile, tile.image, row);
        stage_cells(assist_cells, Field<T>{assist, 1.0f}, nullptr, u, tile, tile.image, row);
        block_sync();
        for (i32 y = y0; y < y1; y += ROWS) {
            Strip<ROWS> strip(u, tile, y, y1);
            Target<ROWS> target;
            target.find(core_cells + column, assist_cells + column, u.classes, strip, ensemble);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                if (!strip.live[r]) continue;
                u64 pixel = (u64(tile.image) * u.full_h + strip.y + r) * u.full_w + strip.x;
                label[pixel] = u8(target.label[r]);
                confidence[pixel] = exp2_approx(-target.level[r]);
            }
        }
    }
}

KERNEL(128)
ensemble_pseudo_label_fwd_f32(u8* label, float* confidence, const float* core, const float* assist,
                              const Ensemble ensemble, const Upsample u) {
    ensemble_pseudo_label(label, confidence, core, assist, ensemble, u);
}
KERNEL(128)
ensemble_pseudo_label_fwd_bf16(u8* label, float* confidence, const bf16* core, const bf16* assist,
                               const Ensemble ensemble, const Upsample u) {
    ensemble_pseudo_label(label, confidence, core, assist, ensemble, u);
}
REGISTER_KERNEL(ensemble_pseudo_label_fwd_f32)
REGISTER_KERNEL(ensemble_pseudo_label_fwd_bf16)
