// CutMix as data on the device: `boxes` [rounds][n][5] holds y0, x0, y1, x1 (half open) and the source image.
#pragma once

#include "device.cuh"

/// The image that pixel (y, x) of `image` comes from: that of the last round whose box holds the pixel, else itself.
DEVICE u32 mix_source(const i32* boxes, u32 rounds, u32 n, u32 image, u32 y, u32 x) {
    for (u32 round = rounds; round-- > 0;) {
        const i32* box = boxes + (u64(round) * n + image) * 5;
        if (i32(y) >= box[0] && i32(x) >= box[1] && i32(y) < box[2] && i32(x) < box[3]) return u32(box[4]);
    }
    return image;
}
