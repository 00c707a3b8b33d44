// The second pass of every fused loss: what the blocks of fused_loss.cuh wrote becomes the low-resolution gradient and
// the loss terms.
//
//     out [images, low_h, low_w, copies, classes] =
//         sum over terms of scale grad / max(count, 1) * (sum over tiles of parts)
//     value = scale / max(count, 1) * (sum over blocks of sums)
//
// Denominators are counts that the loss kernel left on the device. One block per low row; the first also adds up the
// terms.
#include "common/device.cuh"
#include "common/fused_loss.cuh"

constexpr int THREADS = 256;
constexpr int MAX_TERMS = 3;

/// One term of a loss; null pointers where it has no count or its value is not wanted.
struct Term {
    const u64* count;
    double* value;
    double scale, grad;

    DEVICE double denominator() const { return count && *count > 1 ? double(*count) : 1.0; }
};

struct Terms {
    Term term[MAX_TERMS];
};

/// Adds sums[block][terms] over the blocks for each term, by one block; `passed` gets the first count.
DEVICE void add_terms(double* passed, const double* sums, i32 blocks, i32 groups, const Terms& terms) {
    SHARED(double, warps, THREADS / 32);
#pragma unroll
    for (int k = 0; k < MAX_TERMS; k++) {
        if (k >= groups || !terms.term[k].value) continue;
        double sum = 0.0;
        for (i32 block = i32(threadIdx.x); block < blocks; block += THREADS) sum += sums[i64(block) * groups + k];
        sum = block_sum<THREADS>(sum, warps);
        if (threadIdx.x == 0) *terms.term[k].value = terms.term[k].scale * sum / terms.term[k].denominator();
    }
    if (threadIdx.x == 0 && passed) *passed = double(*terms.term[0].count);
}

template <class T>
DEVICE void loss_finish(T* out, double* passed, const float* parts, const double* sums, i32 groups, i32 copies,
                        const Terms& terms, const Upsample& u) {
    // First and last tile that contribute to a low column, and each tile's first cell column.
    DYNAMIC_SHARED(i32, first_tile);
    i32* last_tile = first_tile + u.low_w;
    i32* first_cell = last_tile + u.low_w;
    Axis xs(u.low_w, u.full_w), ys(u.low_h, u.full_h);
    i32 blocks = u.tiles_x * u.tiles_y * u.images;
    if (blockIdx.x == 0) add_terms(passed, sums, blocks, groups, terms);
    for (i32 i = i32(threadIdx.x); i < u.low_w; i += THREADS) {
        i32 begin = xs.first(i - 1), end = xs.first(i + 1);
        first_tile[i] = begin / u.columns;
        last_tile[i] = begin == end ? -1 : (end - 1) / u.columns;
    }
    for (i32 t = i32(threadIdx.x); t < u.tiles_x; t += THREADS) first_cell[t] = xs.cell(t * u.columns);
    block_sync();

    float factor[MAX_TERMS] = {};
#pragma unroll
    for (int k = 0; k < MAX_TERMS; k++) {
        if (k >= groups) continue;
        const Term& term = terms.term[k];
        factor[k] = float(term.scale * term.grad / term.denominator());
    }
    i32 image = i32(blockIdx.x) / u.low_h, row = i32(blockIdx.x) - image * u.low_h;
    i32 padded = padded_classes(u);
    i64 line = i64(u.positions) * padded, part = (u.tile_cells + 1) * line;
    i32 first_y = (row > 0 ? row - 1 : 0) / u.tile_cells;
    i32 last_y = (row < ys.cells() ? row : ys.cells() - 1) / u.tile_cells;
    i32 column = i32(threadIdx.x) / u.classes, c = i32(threadIdx.x) - column * u.classes;
    i32 column_step = THREADS / u.classes, class_step = THREADS - column_step * u.classes;
    T* y = out + i64(blockIdx.x) * u.low_w * copies * u.classes;
    while (column < u.low_w) {
        float value = 0.0f;
        for (i32 ty = first_y; ty <= last_y; ty++) {
            for (i32 tx = first_tile[column]; tx <= last_tile[column]; tx++) {
                i64 block = (i64(image) * u.tiles_y + ty) * u.tiles_x + tx;
                const float* at = parts + block * groups * part + (row - ty * u.tile_cells) * line +
                                  i64(column - first_cell[tx]) * padded + c;
#pragma unroll
                for (int k = 0; k < MAX_TERMS; k++) {
                    if (k < groups) value = fmaf(factor[k], at[k * part], value);
                }
            }
        }
        T* to = y + i64(column) * copies * u.classes + c;
#pragma unroll 1
        for (i32 k = 0; k < copies; k++) to[k * u.classes] = from_float<T>(value);
        column += column_step;
        c += class_step;
        if (c >= u.classes) {
            c -= u.classes;
            column++;
        }
    }
}

KERNEL(256)
loss_finish_f32(float* out, double* passed, const float* parts, const double* sums, i32 groups, i32 copies,
                const Terms terms, const Upsample u) {
    loss_finish(out, passed, parts, sums, groups, copies, terms, u);
}
KERNEL(256)
loss_finish_bf16(bf16* out, double* passed, const float* parts, const double* sums, i32 groups, i32 copies,
                 const Terms terms, const Upsample u) {
    loss_finish(out, passed, parts, sums, groups, copies, terms, u);
}
REGISTER_KERNEL(loss_finish_f32)
REGISTER_KERNEL(loss_finish_bf16)
