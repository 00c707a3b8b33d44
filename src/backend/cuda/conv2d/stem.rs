//! Launches of kernels/conv2d_stem.cu: the first convolution of a network, which reads three channels.

use super::plan::{Direction, Plan, Sizes};
use super::tile::{MULTIPROCESSORS, Tile};
use crate::backend::cuda::driver::Launch;
use crate::backend::cuda::memory::Dtype;
use crate::ops::{Conv2d, Shape};

/// Positions of a segment of a row of y, and outputs of a block.
const SEGMENT: usize = 128;
const OUTPUTS: usize = 64;
const CHANNELS: usize = 3;
const WARPS: usize = 8;
/// Bytes of a value.
const VALUE: usize = 2;

/// Sizes of a convolution that these kernels take.
#[derive(Clone, Copy)]
pub(super) struct Stem {
    segments: usize,
    output_tiles: usize,
    kernel: usize,
    stride: usize,
    weight_len: usize,
}

impl Stem {
    /// `conv` over inputs of shape `x`; none if it is for other kernels.
    pub(super) fn new(direction: Direction, conv: &Conv2d, x: Shape, dtype: Dtype) -> Option<Stem> {
        let fits = direction != Direction::Dgrad
            && dtype == Dtype::Bf16
            && conv.in_channels == CHANNELS
            && conv.groups == 1
            && conv.dilation == 1
            && [3, 7].contains(&conv.kernel)
            && conv.out_channels.is_multiple_of(8);
        let y = conv.out_shape(x);
        fits.then(|| Stem {
            segments: y.n * y.h * y.w.div_ceil(SEGMENT),
            output_tiles: conv.out_channels.div_ceil(OUTPUTS),
            kernel: conv.kernel,
            stride: conv.stride,
            weight_len: conv.weight_len(),
        })
    }

    /// Values of a row of taps, padded to multiples of the k16 of mma.
    fn depth(&self) -> usize {
        (self.kernel * CHANNELS).next_multiple_of(16)
    }

    /// Bytes of the rows of x that a segment reads.
    fn row_bytes(&self) -> usize {
        VALUE * self.kernel * ((SEGMENT - 1) * self.stride * CHANNELS + self.depth()).next_multiple_of(2)
    }

    /// Splits of the weight's gradient and the segments of each.
    fn splits(&self) -> (usize, usize) {
        let room = (2 * MULTIPROCESSORS).div_ceil(self.output_tiles).min(self.segments);
        let each = self.segments.div_ceil(room);
        (self.segments.div_ceil(each), each)
    }

    /// Blocks, and values along k of each.
    pub(super) fn work(&self, direction: Direction) -> (usize, usize) {
        match direction {
            Direction::Wgrad => {
                let (splits, each) = self.splits();
                // A segment has as many multiply-adds per row of taps as 64 outputs of a GEMM of that depth.
                (splits * self.output_tiles, each * self.kernel * self.depth())
            }
            _ => (self.segments * self.output_tiles, self.kernel * self.depth()),
        }
    }

    pub(super) fn plan(&self, direction: Direction, sizes: Sizes) -> Plan {
        let mut plan =
            Plan { tile: Tile::Stem, sizes, launch: Launch::new(1, 1), splits: 1, workspace_bytes: 0 };
        let (blocks, shared) = if direction == Direction::Wgrad {
            let (splits, each) = self.splits();
            (plan.splits, plan.sizes.split_len) = (splits, each as u32);
            plan.workspace_bytes = 4 * splits * self.weight_len;
            // Warps that share a row of taps add their sums through shared memory.
            let sums = if WARPS / self.kernel > 1 { 4 * OUTPUTS * self.kernel * self.depth() } else { 0 };
            (splits, (VALUE * SEGMENT * OUTPUTS + self.row_bytes()).max(sums))
        } else {
            let weight = VALUE * OUTPUTS * (self.kernel * self.depth() + 8);
            // The finished tile overwrites the operands; after it the sums of its moments, two floats for
            // each of 8 x 64 columns.
            let tile = VALUE * SEGMENT * (OUTPUTS + 8) + 4 * 2 * WARPS * OUTPUTS;
            (self.segments, (weight + self.row_bytes()).max(tile))
        };
        let launch = Launch::grid3([blocks, self.output_tiles, 1], (32 * WARPS) as u32);
        plan.launch = launch.with_shared(shared);
        plan
    }
}
