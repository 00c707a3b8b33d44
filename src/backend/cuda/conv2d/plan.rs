//! Launch plans of the convolution kernels: tiles, blocks, shared memory, workspace. Plain arithmetic over sizes.
//!
//! A convolution is a matrix product `out[m, n] = Σ over k of A[m, k] B[k, n]` (kernels/conv2d.cu says what m, n and k
//! are); a block makes one tile of `out`. Groups are as many products in one launch.

use super::super::memory::plain_arg;
use super::bulk;
use super::tile::{Kernels, MULTIPROCESSORS, STEP_BYTES, Tile};
use super::*;

/// Steps along k that a split has at least.
const MIN_STEPS: usize = 4;
/// Bytes a nanosecond in which the splits of a weight's gradient are added, as an H200 copies.
const ADD_RATE: f64 = 4300.0;
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
    /// Tile, blocks and splits in words.
    pub fn describe(&self, dtype: Dtype) -> String {
        let (m, n) = self.tile.size(dtype);
        let blocks: u32 = self.launch.grid.iter().product();
        let splits = if self.splits > 1 { format!(" in {} splits", self.splits) } else { String::new() };
        format!("{} {m}x{n}, {blocks} blocks{splits}", self.tile.name())
    }
}

/// Values of a 16-byte chunk.
fn chunk(dtype: Dtype) -> usize {
    16 / dtype.size()
}

/// Values along k of a step.
fn depth(dtype: Dtype) -> usize {
    STEP_BYTES / dtype.size()
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// What all three products of group `part` of `conv` share; `aligned` says so of A and B.
fn sizes(op: &'static str, conv: &Conv2d, part: &Conv2d, x: Shape, aligned: (bool, bool)) -> Result<Sizes> {
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

/// The plan of `out[m, n]` of each of `groups`, of `classes` such products of at most m rows in one launch.
fn plan(
    mut sizes: Sizes,
    tile: Tile,
    dtype: Dtype,
    (m, n): (usize, usize),
    classes: usize,
    groups: usize,
) -> Plan {
    let (tile_m, tile_n) = tile.size(dtype);
    let (m_tiles, n_tiles) = (m.div_ceil(tile_m), n.div_ceil(tile_n));
    (sizes.m_tiles, sizes.n_tiles) = (m_tiles as u32, n_tiles as u32);
    let launch = Launch::grid3([classes * m_tiles * n_tiles, 1, groups], tile.threads());
    let launch = launch.with_shared(tile.shared_bytes(dtype, dtype.size()));
    Plan { tile, sizes, launch, splits: 1, workspace_bytes: 0 }
}

/// The tile for m x n results of depth `k` in `parts` independent parts.
fn choose(
    sizes: &Sizes,
    kernels: Kernels,
    bulk: bool,
    (m, n, k): (usize, usize, usize),
    parts: usize,
) -> Tile {
    if sizes.aligned_a == 0 || sizes.aligned_b == 0 {
        return Tile::Any;
    }
    Tile::fastest(kernels, bulk, |tile| {
        let (tile_m, tile_n) = tile.size(kernels.dtype);
        tile.nanoseconds(kernels.dtype, m.div_ceil(tile_m) * n.div_ceil(tile_n) * parts, k)
    })
}

/// Forward: m = positions of y, n = output channels, k = taps and input channels.
///
/// # Errors
/// [`Error::Shape`] for sizes that 32-bit indices of positions, or groups that blocks cannot hold.
pub fn fprop(conv: &Conv2d, x: Shape, kernels: Kernels) -> Result<Plan> {
    let dtype = kernels.dtype;
    let (chunk, part, groups) = (chunk(dtype), conv.group(0), conv.groups);
    let columns = conv.kernel * conv.kernel * part.in_channels;
    let b = columns.is_multiple_of(chunk) && conv.weight.offset.is_multiple_of(chunk);
    let sizes = sizes("conv2d_fprop", conv, &part, x, (part.in_channels.is_multiple_of(chunk), b))?;
    let (m, n) = (conv.out_shape(x).positions(), part.out_channels);
    let tile = choose(&sizes, kernels, bulk::takes_fprop(conv, dtype), (m, n, columns), groups);
    Ok(plan(sizes, tile, dtype, (m, n), 1, groups))
}

/// Data gradient for an input of shape `x`: n = input channels, k = taps and output channels, m = positions of x of equal
/// remainders by the stride, of which there are `stride²` classes, fewer in an image that is smaller than the stride.
///
/// # Errors
/// As [`fprop`].
pub fn dgrad(conv: &Conv2d, x: Shape, kernels: Kernels) -> Result<Plan> {
    let dtype = kernels.dtype;
    let (chunk, part, groups) = (chunk(dtype), conv.group(0), conv.groups);
    let b = part.in_channels.is_multiple_of(chunk) && conv.weight.offset.is_multiple_of(chunk);
    let sizes = sizes("conv2d_dgrad", conv, &part, x, (part.out_channels.is_multiple_of(chunk), b))?;
    let classes = conv.stride.min(x.h) * conv.stride.min(x.w);
    let (m, n) = (x.n * x.h.div_ceil(conv.stride) * x.w.div_ceil(conv.stride), part.in_channels);
    // Each class sees its share of the taps.
    let k = (conv.kernel * conv.kernel * part.out_channels).div_ceil(conv.stride * conv.stride);
    let tile = choose(&sizes, kernels, bulk::takes_dgrad(conv, dtype), (m, n, k), classes * groups);
    Ok(plan(sizes, tile, dtype, (m, n), classes, groups))
}

/// Weight gradient: m = output channels, n = taps and input channels, k = positions of y, split into whole steps so that
/// every multiprocessor has work. Kernels of warpgroups count the input channels of each tap in whole boxes.
///
/// # Errors
/// As [`fprop`].
pub fn wgrad(conv: &Conv2d, x: Shape, kernels: Kernels) -> Result<Plan> {
    let dtype = kernels.dtype;
    let (chunk, part, groups) = (chunk(dtype), conv.group(0), conv.groups);
    let aligned = (part.out_channels.is_multiple_of(chunk), part.in_channels.is_multiple_of(chunk));
    let sizes = sizes("conv2d_wgrad", conv, &part, x, aligned)?;
    let positions = conv.out_shape(x).positions();
    let most = positions.div_ceil(depth(dtype)).div_ceil(MIN_STEPS);
    let taps = conv.kernel * conv.kernel;
    let results = |tile: Tile| {
        let columns = if tile.is_wgmma() { bulk::whole_boxes(part.in_channels) } else { part.in_channels };
        (part.out_channels, taps * columns)
    };
    // Splits, and the steps of each: as many as there is room for at a time.
    let split = |tile: Tile| {
        let ((tile_m, tile_n), (m, n)) = (tile.size(dtype), results(tile));
        let tiles = m.div_ceil(tile_m) * n.div_ceil(tile_n) * groups;
        let steps = positions.div_ceil(depth(dtype));
        let steps_each = steps.div_ceil((tile.resident().min(2) * MULTIPROCESSORS).div_ceil(tiles).min(most));
        (tiles, steps.div_ceil(steps_each), steps_each)
    };
    let tile = if sizes.aligned_a == 0 || sizes.aligned_b == 0 {
        Tile::Any
    } else {
        Tile::fastest(kernels, bulk::takes_wgrad(conv, dtype), |tile| {
            let (tiles, splits, steps_each) = split(tile);
            let add = (4 * splits * conv.weight_len()) as f64 / ADD_RATE;
            add + tile.nanoseconds(dtype, tiles * splits, steps_each * depth(dtype))
        })
    };
    let mut plan = plan(sizes, tile, dtype, results(tile), 1, groups);
    let (_, splits, steps_each) = split(tile);
    plan.splits = splits;
    plan.sizes.split_len = (steps_each * depth(dtype)) as u32;
    plan.launch.grid[1] = plan.splits as u32;
    plan.launch = plan.launch.with_shared(plan.tile.shared_bytes(dtype, 4));
    plan.workspace_bytes = 4 * plan.splits * conv.weight_len();
    Ok(plan)
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
