//! Which convolutions kernels/conv2d_wgmma.cu takes, and the tensor maps with which TMA loads their operands.

use super::tile::Tile;
use crate::backend::cuda::driver::DevicePtr;
use crate::backend::cuda::memory::Dtype;
use crate::backend::cuda::tensor_map::{ROW, TensorMapSpec};
use crate::ops::{Conv2d, Shape};

/// Values in a row of a box.
const BOX: usize = ROW as usize;
/// Values in 16 bytes, the unit in which TMA copies.
const CHUNK: usize = 8;
/// Largest element stride, bounding box corner and im2col offset of a tensor map.
const MAX_STEP: usize = 8;
const MAX_CORNER: usize = 127;
const MAX_OFFSET: usize = 255;

/// `channels` rounded up to whole boxes.
pub(super) fn whole_boxes(channels: usize) -> usize {
    channels.next_multiple_of(BOX)
}

/// Distance from the first tap to the last.
fn reach(conv: &Conv2d) -> usize {
    (conv.kernel - 1) * conv.dilation
}

/// Upper corner of the bounding box of output positions, relative to the last pixel.
fn upper(conv: &Conv2d) -> i32 {
    conv.padding as i32 - reach(conv) as i32
}

/// Whether each output reads one input position, its own: the activation is then the matrix [positions,
/// channels] (`pointwise` in kernels/common/conv2d_wgmma.cuh).
fn pointwise(conv: &Conv2d) -> bool {
    conv.kernel == 1 && conv.stride == 1 && conv.padding == 0
}

/// Whether tensor maps can read both activations; `summed` are the channels of a group along k, whose boxes
/// must not reach into the next group.
fn takes(conv: &Conv2d, dtype: Dtype, summed: usize) -> bool {
    let part = conv.group(0);
    dtype == Dtype::Bf16
        && part.in_channels.is_multiple_of(CHUNK)
        && part.out_channels.is_multiple_of(CHUNK)
        && (conv.groups == 1 || summed.is_multiple_of(BOX))
        && conv.stride <= MAX_STEP
        && conv.padding.max(reach(conv)) <= MAX_CORNER
        && reach(conv) <= MAX_OFFSET
}

/// Whether `conv2d_fprop_wgmma*` takes this.
pub(super) fn takes_fprop(conv: &Conv2d, dtype: Dtype) -> bool {
    takes(conv, dtype, conv.group(0).in_channels)
}

/// Whether `conv2d_dgrad_wgmma*` takes this.
pub(super) fn takes_dgrad(conv: &Conv2d, dtype: Dtype) -> bool {
    conv.stride == 1 && conv.padding <= reach(conv) && takes(conv, dtype, conv.group(0).out_channels)
}

/// Whether `conv2d_wgrad_wgmma*` takes this: it sums over positions.
pub(super) fn takes_wgrad(conv: &Conv2d, dtype: Dtype) -> bool {
    takes(conv, dtype, BOX)
}

/// An activation as the matrix [positions, channels], in boxes of `rows` positions.
fn matrix(at: DevicePtr, x: Shape, rows: usize) -> TensorMapSpec {
    TensorMapSpec::tiled(at, &[x.c, x.positions()], &[x.c], &[BOX, rows])
}

/// What output positions read of x, in columns of `rows` positions.
fn patches(at: DevicePtr, conv: &Conv2d, x: Shape, rows: usize) -> TensorMapSpec {
    if pointwise(conv) {
        return matrix(at, x, rows);
    }
    let bounds = (-(conv.padding as i32), [upper(conv); 2], conv.stride);
    TensorMapSpec::im2col(at, [x.n, x.h, x.w, x.c], bounds, rows)
}

/// The weight [out, taps, in], in boxes of `rows` outputs.
fn weight(at: DevicePtr, conv: &Conv2d, rows: usize) -> TensorMapSpec {
    let (taps, part) = (conv.kernel * conv.kernel, conv.group(0).in_channels);
    TensorMapSpec::tiled(at, &[part, taps, conv.out_channels], &[part, taps * part], &[BOX, 1, rows])
}

/// Tensor maps of x and the weight.
pub(super) fn fprop(
    x: (DevicePtr, Shape),
    weight_at: DevicePtr,
    conv: &Conv2d,
    tile: Tile,
) -> [TensorMapSpec; 2] {
    let (m, n) = tile.size(Dtype::Bf16);
    [patches(x.0, conv, x.1, m), weight(weight_at, conv, n / tile.cluster())]
}

/// Tensor maps of dy and the weight. As a convolution of dy, the taps come in reverse order.
pub(super) fn dgrad(
    dy: (DevicePtr, Shape),
    weight_at: DevicePtr,
    conv: &Conv2d,
    tile: Tile,
) -> [TensorMapSpec; 2] {
    let ((at, y), (m, _)) = (dy, tile.size(Dtype::Bf16));
    let map = if pointwise(conv) {
        matrix(at, y, m)
    } else {
        let padding = conv.padding as i32;
        TensorMapSpec::im2col(at, [y.n, y.h, y.w, y.c], (upper(conv), [-padding; 2], 1), m)
    };
    [map, weight(weight_at, conv, BOX)]
}

/// Tensor maps of dy and x.
pub(super) fn wgrad(x: (DevicePtr, Shape), dy: (DevicePtr, Shape), conv: &Conv2d) -> [TensorMapSpec; 2] {
    [matrix(dy.0, dy.1, BOX), patches(x.0, conv, x.1, BOX)]
}
