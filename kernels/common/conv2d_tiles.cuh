// Tiles of the convolution kernels; `Tile` in src/backend/cuda/conv2d/plan.rs names the same.
#pragma once

#include "conv2d.cuh"

/// Large tiles for reuse, small ones where large ones would be too few to fill the device.
template <class T> struct Tiles;
template <> struct Tiles<bf16> {
    using Large = Tile<128, 128, 256>;
    using Small = Tile<64, 64, 128>;
};
template <> struct Tiles<float> {
    using Large = Tile<128, 64, 256>;
    using Small = Tile<64, 64, 128>;
};

/// Steps of `step` values that cover `depth` values.
DEVICE u32 num_steps(u32 depth, u32 step) { return (depth + step - 1) / step; }
