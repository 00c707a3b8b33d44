//! Launch plans of the convolution kernels as plain data: sizes, blocks, shared memory, workspace. `gemm` and
//! `stem` make them.

use super::tile::{MULTIPROCESSORS, Tile};
use crate::backend::cuda::driver::Launch;
use crate::backend::cuda::memory::{Dtype, plain_arg};
use crate::ops::{Conv2d, Shape};
use crate::{Error, Result};

/// The three GEMMs of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Forward: m = positions of y, n = output channels, k = taps and input channels.
    Fprop,
    /// Data gradient: n = input channels, k = taps and output channels, m = positions of x that are equal
    /// modulo the stride, of which there are `stride²` phases, fewer in an image that is smaller than the
    /// stride.
    Dgrad,
    /// Weight gradient: m = output channels, n = taps and input channels, k = positions of y, split into
    /// whole steps so that every multiprocessor has work.
    Wgrad,
}

/// Channels and positions that a block of the bias gradient reads at a time, and the fewest positions per
/// split.
const BIAS_CHANNELS: usize = 32;
const BIAS_LANES: usize = 8;
const BIAS_POSITIONS: usize = 512;
/// Sizes and flat indices of positions are signed 32-bit numbers in the kernels.
const LIMIT: usize = 1 << 30;
/// Most blocks along z.
const MAX_GROUPS: usize = (1 << 16) - 1;

/// `Conv2dSizes` of kernels/common/conv2d.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Sizes {
    pub(super) n: u32,
    pub(super) h: u32,
    pub(super) w: u32,
    /// Channels of x in one group.
    pub(super) in_channels: u32,
    pub(super) out_h: u32,
    pub(super) out_w: u32,
    /// Channels of y in one group.
    pub(super) out_channels: u32,
    /// Channels of x and y in all groups.
    pub(super) in_pitch: u32,
    pub(super) out_pitch: u32,
    pub(super) kernel: u32,
    pub(super) stride: u32,
    pub(super) padding: u32,
    pub(super) dilation: u32,
    /// Taps this far apart read rows that are equal modulo the stride.
    pub(super) tap_period: u32,
    /// Tiles along m (of the largest phase, for the data gradient).
    pub(super) m_tiles: u32,
    pub(super) n_tiles: u32,
    /// Weight gradient: positions of y per split.
    pub(super) split_len: u32,
    /// Whether all 16-byte chunks of A are aligned.
    pub(super) aligned_a: u32,
    /// The same of B.
    pub(super) aligned_b: u32,
}

plain_arg!(Sizes);

/// One launch of a convolution kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) tile: Tile,
    pub(super) sizes: Sizes,
    pub(super) launch: Launch,
    /// Weight gradient: number of parts that positions are split into; 1 otherwise.
    pub(super) splits: usize,
    /// Weight gradient: bytes of the splits' sums; 0 otherwise.
    pub(super) workspace_bytes: usize,
}

impl Plan {
    /// Positions per part of the moments that the forward kernel can reduce, one tile each; none where tiles
    /// end early at the end of a row of y.
    pub(super) fn moments_part(&self, y: Shape) -> Option<usize> {
        let rows = self.tile.rows();
        (self.tile != Tile::Stem || y.w.is_multiple_of(rows)).then_some(rows)
    }

    /// Whether the forward kernel can fuse a frozen batch norm: rows of a group are whole chunks.
    pub(super) fn fuses_norm(&self, conv: &Conv2d, dtype: Dtype) -> bool {
        let chunk = 16 / dtype.size();
        !matches!(self.tile, Tile::Any | Tile::Stem) && conv.group(0).out_channels.is_multiple_of(chunk)
    }

    /// Whether the data gradient's kernel can fuse its epilogue: rows are whole chunks.
    pub(super) fn fuses_dgrad_epilogue(&self) -> bool {
        self.tile != Tile::Any
    }

    /// Parts of the sums of the data gradient's epilogue, one per tile of positions.
    pub(super) fn dgrad_parts(&self) -> usize {
        let (m_tiles, n_tiles) = (self.sizes.m_tiles as usize, self.sizes.n_tiles as usize);
        let phases = self.launch.grid[0] as usize / n_tiles / m_tiles.next_multiple_of(self.tile.cluster());
        phases * m_tiles
    }

    pub(super) fn describe(&self, dtype: Dtype) -> String {
        let (m, n) = self.tile.size(dtype);
        let blocks: u32 = self.launch.grid.iter().product();
        let splits = if self.splits > 1 { format!(" in {} splits", self.splits) } else { String::new() };
        format!("{} {m}x{n}, {blocks} blocks{splits}", self.tile.name())
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The sizes that all three kernels of group `part` of `conv` share; `aligned`: whether A and B are.
///
/// # Errors
/// [`Error::Shape`] for sizes beyond 32-bit indices of positions, or more groups than a grid has blocks along
/// z.
pub(super) fn sizes(
    op: &'static str,
    conv: &Conv2d,
    part: &Conv2d,
    x: Shape,
    aligned: (bool, bool),
) -> Result<Sizes> {
    let y = conv.out_shape(x);
    let reach = conv.kernel * conv.dilation + conv.padding + conv.stride + x.h.max(x.w);
    let columns = conv.kernel * conv.kernel * part.in_channels.max(part.out_channels);
    let largest = x.positions().max(y.positions()).max(reach).max(columns).max(x.c).max(y.c);
    if largest >= LIMIT || conv.groups > MAX_GROUPS {
        let expected = format!("sizes below {LIMIT} and at most {MAX_GROUPS} groups");
        return Err(Error::shape(op, expected, format!("{conv:?} of {x}")));
    }
    // All below the limit.
    let narrow = |v: usize| v as u32;
    Ok(Sizes {
        n: narrow(x.n),
        h: narrow(x.h),
        w: narrow(x.w),
        in_channels: narrow(part.in_channels),
        out_h: narrow(y.h),
        out_w: narrow(y.w),
        out_channels: narrow(part.out_channels),
        in_pitch: narrow(x.c),
        out_pitch: narrow(y.c),
        kernel: narrow(conv.kernel),
        stride: narrow(conv.stride),
        padding: narrow(conv.padding),
        dilation: narrow(conv.dilation),
        tap_period: narrow(conv.stride / gcd(conv.stride, conv.dilation)),
        aligned_a: aligned.0.into(),
        aligned_b: aligned.1.into(),
        ..Sizes::default()
    })
}

/// A launch of the bias gradient's first pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BiasPlan {
    pub(super) launch: Launch,
    /// Positions per split.
    pub(super) split_len: u32,
    pub(super) splits: usize,
    /// Bytes of the splits' sums.
    pub(super) workspace_bytes: usize,
}

/// The sums over the positions of dy, whose number was checked by [`sizes`].
pub(super) fn dbias(dy: Shape) -> BiasPlan {
    let tiles = dy.c.div_ceil(BIAS_CHANNELS);
    let most = dy.positions().div_ceil(BIAS_POSITIONS);
    let split_len = dy.positions().div_ceil((2 * MULTIPROCESSORS).div_ceil(tiles).min(most));
    let splits = dy.positions().div_ceil(split_len);
    BiasPlan {
        launch: Launch::grid3([tiles, splits, 1], (BIAS_CHANNELS * BIAS_LANES) as u32),
        split_len: split_len as u32,
        splits,
        workspace_bytes: 4 * splits * dy.c,
    }
}

/// A launch that adds splits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AddPlan {
    pub(super) launch: Launch,
    /// Threads that share an element.
    pub(super) lanes: u32,
}

/// The sum of `splits` arrays of `len` values: several threads per element where there are many splits.
pub(super) fn add_splits(len: usize, splits: usize) -> AddPlan {
    let lanes = if splits < 16 { 1 } else { 8 };
    AddPlan { launch: Launch::new((len * lanes).div_ceil(256), 256), lanes: lanes as u32 }
}
