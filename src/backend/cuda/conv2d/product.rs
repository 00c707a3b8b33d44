//! A convolution as a matrix product `out[m, n] = Σ over k of A[m, k] B[k, n]`, of which a block makes one tile, and the choice
//! of the tile by what a model expects of each (kernels/conv2d.cu says what m, n and k are). Groups are as many products in one
//! launch.

use super::bulk;
use super::plan::{Plan, Sizes, sizes};
use super::stem::Stem;
use super::tile::{Kernels, MULTIPROCESSORS, STEP_BYTES, Tile};
use crate::Result;
use crate::backend::cuda::driver::Launch;
use crate::backend::cuda::memory::Dtype;
use crate::ops::{Conv2d, Shape};

/// Steps along k that a split of the weight's gradient has at least.
const MIN_STEPS: usize = 4;
/// Bytes a nanosecond in which the splits of a weight's gradient are added, as an H200 copies.
const ADD_RATE: f64 = 4300.0;

/// The three products of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Forward: m = positions of y, n = output channels, k = taps and input channels.
    Fprop,
    /// Data gradient: n = input channels, k = taps and output channels, m = positions of x of equal remainders by the stride,
    /// of which there are `stride²` classes, fewer in an image that is smaller than the stride.
    Dgrad,
    /// Weight gradient: m = output channels, n = taps and input channels, k = positions of y, split into whole steps so that
    /// every multiprocessor has work.
    Wgrad,
}

/// One of them.
pub struct Product {
    direction: Direction,
    dtype: Dtype,
    sizes: Sizes,
    m: usize,
    /// Columns of a tap (of all in the data gradient), and taps.
    columns: usize,
    taps: usize,
    depth: usize,
    classes: usize,
    groups: usize,
    /// Whether bulk copies can read the operands.
    bulk: bool,
    /// Where it is a network's first convolution.
    stem: Option<Stem>,
    /// Values of the weight.
    weight_len: usize,
}

impl Product {
    /// The product of `conv` over inputs of shape `x`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] for sizes that 32-bit indices of positions, or groups that blocks cannot hold.
    pub fn new(direction: Direction, conv: &Conv2d, x: Shape, dtype: Dtype) -> Result<Product> {
        let (chunk, part) = (16 / dtype.size(), conv.group(0));
        let taps = conv.kernel * conv.kernel;
        let (cin, cout, positions) = (part.in_channels, part.out_channels, conv.out_shape(x).positions());
        let whole = |v: usize| v.is_multiple_of(chunk);
        let weight = whole(conv.weight.offset);
        let shared = |op, aligned| sizes(op, conv, &part, x, aligned);
        let stride = conv.stride;
        let (sizes, m, columns, column_taps, depth, classes) = match direction {
            Direction::Fprop => {
                let sizes = shared("conv2d_fprop", (whole(cin), whole(taps * cin) && weight))?;
                (sizes, positions, cout, 1, taps * cin, 1)
            }
            Direction::Dgrad => {
                let sizes = shared("conv2d_dgrad", (whole(cout), whole(cin) && weight))?;
                let m = x.n * x.h.div_ceil(stride) * x.w.div_ceil(stride);
                // Each class sees its share of the taps.
                let depth = (taps * cout).div_ceil(stride * stride);
                (sizes, m, cin, 1, depth, stride.min(x.h) * stride.min(x.w))
            }
            Direction::Wgrad => {
                (shared("conv2d_wgrad", (whole(cout), whole(cin)))?, cout, cin, taps, positions, 1)
            }
        };
        let bulk = match direction {
            Direction::Fprop => bulk::takes_fprop(conv, dtype),
            Direction::Dgrad => bulk::takes_dgrad(conv, dtype),
            Direction::Wgrad => bulk::takes_wgrad(conv, dtype),
        };
        let (groups, weight_len) = (conv.groups, conv.weight_len());
        Ok(Product {
            direction,
            dtype,
            sizes,
            m,
            columns,
            taps: column_taps,
            depth,
            classes,
            groups,
            bulk,
            stem: Stem::new(direction, conv, x, dtype),
            weight_len,
        })
    }

    /// Tiles along m and n. Warpgroups make the weight's gradient in whole boxes of each tap's channels.
    fn tiles(&self, tile: Tile) -> (usize, usize) {
        let (tile_m, tile_n) = tile.size(self.dtype);
        let boxes = tile.is_wgmma() && self.direction == Direction::Wgrad;
        let columns = if boxes { bulk::whole_boxes(self.columns) } else { self.columns };
        (self.m.div_ceil(tile_m), (self.taps * columns).div_ceil(tile_n))
    }

    /// Blocks along x: a tile each, those along m in whole clusters.
    fn tile_blocks(&self, tile: Tile) -> usize {
        let (m_tiles, n_tiles) = self.tiles(tile);
        self.classes * m_tiles.next_multiple_of(tile.cluster()) * n_tiles
    }

    /// Blocks of one split.
    fn blocks(&self, tile: Tile) -> usize {
        self.groups * self.tile_blocks(tile)
    }

    /// Splits and values along k of each: of the weight's gradient as many as there is room for at a time.
    fn splits(&self, tile: Tile) -> (usize, usize) {
        if self.direction != Direction::Wgrad {
            return (1, self.depth);
        }
        let step = STEP_BYTES / self.dtype.size();
        let steps = self.depth.div_ceil(step);
        let room = tile.resident().min(2) * MULTIPROCESSORS;
        let steps_each = steps.div_ceil(room.div_ceil(self.blocks(tile)).min(steps.div_ceil(MIN_STEPS)));
        (steps.div_ceil(steps_each), steps_each * step)
    }

    /// The tiles that fit, and the nanoseconds that each is expected to take.
    pub fn times(&self, warpgroups: bool) -> Vec<(Tile, f64)> {
        let aligned = self.sizes.aligned_a == 1 && self.sizes.aligned_b == 1;
        let choices = if aligned { &Tile::CHOICES[..] } else { &[Tile::Stem, Tile::Any] };
        let time = |tile: Tile| {
            if let (Tile::Stem, Some(stem)) = (tile, &self.stem) {
                let (blocks, depth) = stem.work(self.direction);
                return tile.nanoseconds(self.dtype, blocks, depth);
            }
            let (splits, depth) = self.splits(tile);
            let bytes = if self.direction == Direction::Wgrad { 4 * splits * self.weight_len } else { 0 };
            bytes as f64 / ADD_RATE + tile.nanoseconds(self.dtype, self.blocks(tile) * splits, depth)
        };
        let fits = |tile: Tile| match tile {
            Tile::Stem => self.stem.is_some(),
            _ => !tile.is_wgmma() || (warpgroups && self.bulk),
        };
        choices.iter().filter(|&&tile| fits(tile)).map(|&tile| (tile, time(tile))).collect()
    }

    /// The launch, by the tile that is asked for, where it fits, or else the one that the model finds fastest.
    pub fn plan(&self, kernels: Kernels) -> Plan {
        let times = self.times(kernels.warpgroups);
        let asked = times.iter().find(|(tile, _)| Some(*tile) == kernels.only);
        let fastest = || times.iter().min_by(|a, b| a.1.total_cmp(&b.1));
        let tile = asked.or_else(fastest).map_or(Tile::Any, |&(tile, _)| tile);
        if let (Tile::Stem, Some(stem)) = (tile, &self.stem) {
            return stem.plan(self.direction, self.sizes);
        }
        let (m_tiles, n_tiles) = self.tiles(tile);
        let (splits, split_len) = self.splits(tile);
        // Partial sums of the weight's gradient are floats.
        let wgrad = self.direction == Direction::Wgrad;
        let out_size = if wgrad { 4 } else { self.dtype.size() };
        let mut sizes = self.sizes;
        (sizes.m_tiles, sizes.n_tiles) = (m_tiles as u32, n_tiles as u32);
        sizes.split_len = if wgrad { split_len as u32 } else { 0 };
        let launch = Launch::grid3([self.tile_blocks(tile), splits, self.groups], tile.threads());
        Plan {
            tile,
            sizes,
            launch: launch.with_shared(tile.shared_bytes(self.dtype, out_size)),
            splits,
            workspace_bytes: if wgrad { 4 * splits * self.weight_len } else { 0 },
        }
    }
}
