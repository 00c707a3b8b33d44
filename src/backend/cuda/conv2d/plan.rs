//! Launch plans of the convolution kernels: sizes, blocks, shared memory, workspace. Plain arithmetic over sizes; `product`
//! chooses the tile.

use super::super::memory::plain_arg;
use super::product::{Direction, Product};
use super::stem;
use super::tile::{Kernels, MULTIPROCESSORS, Tile};
use super::*;

/// Channels and positions that a block of the bias gradient takes side by side, and positions a split at least.
const BIAS_CHANNELS: usize = 32;
const BIAS_LANES: usize = 8;
const BIAS_POSITIONS: usize = 512;
/// Sizes and flat indices of positions are 32-bit numbers with a sign in the kernels.
const LIMIT: usize = 1 << 30;
/// Most blocks along z.
const MAX_GROUPS: usize = (1 << 16) - 1;

/// `Conv2dSizes` of kernels/common/conv2d.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Sizes {
    /// Images.
    pub n: u32,
    /// Rows of x.
    pub h: u32,
    /// Columns of x.
    pub w: u32,
    /// Channels of x in a group.
    pub in_channels: u32,
    /// Rows of y.
    pub out_h: u32,
    /// Columns of y.
    pub out_w: u32,
    /// Channels of y in a group.
    pub out_channels: u32,
    /// Channels of x.
    pub in_pitch: u32,
    /// Channels of y.
    pub out_pitch: u32,
    /// Side of the kernel.
    pub kernel: u32,
    /// Step between outputs.
    pub stride: u32,
    /// Zeros around x.
    pub padding: u32,
    /// Step between taps.
    pub dilation: u32,
    /// Taps this far apart reach rows of equal remainder by the stride.
    pub tap_period: u32,
    /// Tiles along m (of the largest class, for the data gradient).
    pub m_tiles: u32,
    /// Tiles along n.
    pub n_tiles: u32,
    /// Weight gradient: positions of y a split.
    pub split_len: u32,
    /// Whether all 16-byte chunks of A lie on 16 bytes.
    pub aligned_a: u32,
    /// The same of B.
    pub aligned_b: u32,
}

plain_arg!(Sizes);

/// One launch of a convolution kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Which kernel.
    pub tile: Tile,
    /// Its sizes.
    pub sizes: Sizes,
    /// Blocks, threads, shared memory.
    pub launch: Launch,
    /// Weight gradient: number of parts that positions are split into; 1 otherwise.
    pub splits: usize,
    /// Weight gradient: bytes of the splits' sums; 0 otherwise.
    pub workspace_bytes: usize,
}

impl Plan {
    /// Positions whose moments the forward kernel can gather together, each run of them in one tile; none where tiles end with
    /// rows of y.
    pub fn moments_part(&self, y: Shape) -> Option<usize> {
        match self.tile {
            Tile::Stem => y.w.is_multiple_of(stem::SEGMENT).then_some(stem::SEGMENT),
            tile => Some(tile.rows()),
        }
    }

    /// Whether the forward kernel can put its output behind a batch norm: rows of a group are whole chunks.
    pub fn finishes_output(&self, conv: &Conv2d, dtype: Dtype) -> bool {
        let chunk = 16 / dtype.size();
        !matches!(self.tile, Tile::Any | Tile::Stem) && conv.group(0).out_channels.is_multiple_of(chunk)
    }

    /// Whether the data gradient's kernel can add to it and sum it up: rows are whole chunks.
    pub fn finishes(&self) -> bool {
        self.tile != Tile::Any
    }

    /// Tiles of positions that the data gradient's kernel sums up, each by itself.
    pub fn dgrad_parts(&self) -> usize {
        let (m_tiles, n_tiles) = (self.sizes.m_tiles as usize, self.sizes.n_tiles as usize);
        let classes = self.launch.grid[0] as usize / n_tiles / m_tiles.next_multiple_of(self.tile.cluster());
        classes * m_tiles
    }

    /// Tile, blocks and splits in words.
    pub fn describe(&self, dtype: Dtype) -> String {
        let (m, n) = self.tile.size(dtype);
        let blocks: u32 = self.launch.grid.iter().product();
        let splits = if self.splits > 1 { format!(" in {} splits", self.splits) } else { String::new() };
        format!("{} {m}x{n}, {blocks} blocks{splits}", self.tile.name())
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// What all three products of group `part` of `conv` share; `aligned` says so of A and B.
///
/// # Errors
/// As [`fprop`].
pub fn sizes(
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

/// Forward.
///
/// # Errors
/// [`Error::Shape`] for sizes that 32-bit indices of positions, or groups that blocks cannot hold.
pub fn fprop(conv: &Conv2d, x: Shape, kernels: Kernels) -> Result<Plan> {
    Ok(Product::new(Direction::Fprop, conv, x, kernels.dtype)?.plan(kernels))
}

/// Data gradient for an input of shape `x`.
///
/// # Errors
/// As [`fprop`].
pub fn dgrad(conv: &Conv2d, x: Shape, kernels: Kernels) -> Result<Plan> {
    Ok(Product::new(Direction::Dgrad, conv, x, kernels.dtype)?.plan(kernels))
}

/// Weight gradient.
///
/// # Errors
/// As [`fprop`].
pub fn wgrad(conv: &Conv2d, x: Shape, kernels: Kernels) -> Result<Plan> {
    Ok(Product::new(Direction::Wgrad, conv, x, kernels.dtype)?.plan(kernels))
}

/// A launch of the bias gradient's first pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BiasPlan {
    /// Blocks and threads.
    pub launch: Launch,
    /// Positions a split.
    pub split_len: u32,
    /// Number of splits.
    pub splits: usize,
    /// Bytes of the splits' sums.
    pub workspace_bytes: usize,
}

/// Sums over the positions of dy, whose number is below the limit of [`wgrad`].
pub fn dbias(dy: Shape) -> BiasPlan {
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
pub struct AddPlan {
    /// Blocks and threads.
    pub launch: Launch,
    /// Threads that share an element.
    pub lanes: u32,
}

/// Adds `splits` arrays of `len` values: several threads an element where there are many splits.
pub fn add_splits(len: usize, splits: usize) -> AddPlan {
    let lanes = if splits < 16 { 1 } else { 8 };
    AddPlan { launch: Launch::new((len * lanes).div_ceil(256), 256), lanes: lanes as u32 }
}

#[cfg(test)]
mod tests;
