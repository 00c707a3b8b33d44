// Tiles of the convolution kernels without WGMMA; `Tile` in src/backend/cuda/conv2d/tile.rs has the same sizes.
#pragma once

#include "conv2d.cuh"

/// Large tiles reuse operands more, small ones fill the device where large ones would be too few.
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
