// CutMix of images [n, h, w, c]: y[i, row, column] is that pixel of the image that mix_source gives.
#include "common/cut_mix.cuh"
#include "common/vector.cuh"

template <int width, class T>
DEVICE void cut_mix_rows(T* y, const T* x, const i32* boxes, u32 rounds, u32 n, u32 h, u32 w, u32 c) {
    u32 groups = c / width;
    u64 count = u64(n) * h * w * groups;
    for (u64 i = grid_thread(); i < count; i += grid_threads()) {
        u64 rest = i;
        u32 group = split(rest, groups), column = split(rest, w), row = split(rest, h);
        u64 source = mix_source(boxes, rounds, n, u32(rest), row, column);
        const T* from = x + ((source * h + row) * w + column) * c + group * width;
        store_pack<width>(y + i * width, load_pack<width>(from));
    }
}

template <class T> DEVICE void cut_mix_fwd(T* y, const T* x, const i32* boxes, u32 rounds, u32 n, u32 h, u32 w, u32 c) {
    with_width<T>(c, [=](auto width) { cut_mix_rows<width>(y, x, boxes, rounds, n, h, w, c); });
}

KERNEL(256) cut_mix_fwd_f32(float* y, const float* x, const i32* boxes, u32 rounds, u32 n, u32 h, u32 w, u32 c) {
    cut_mix_fwd(y, x, boxes, rounds, n, h, w, c);
}
KERNEL(256) cut_mix_fwd_bf16(bf16* y, const bf16* x, const i32* boxes, u32 rounds, u32 n, u32 h, u32 w, u32 c) {
    cut_mix_fwd(y, x, boxes, rounds, n, h, w, c);
}
REGISTER_KERNEL(cut_mix_fwd_f32)
REGISTER_KERNEL(cut_mix_fwd_bf16)
