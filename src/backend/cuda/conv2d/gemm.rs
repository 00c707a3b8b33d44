//! A convolution as an implicit GEMM `out[m, n] = Σ over k of A[m, k] B[k, n]`, of which a block makes one
//! tile, and the choice of the tile by a model of its time (kernels/conv2d.cu says what m, n and k are).
//! Groups are as many GEMMs in one launch.

use super::plan::{Direction, Plan, Sizes, sizes};
use super::stem::Stem;
use super::tile::{Kernels, MULTIPROCESSORS, STEP_BYTES, Tile};
use super::tma;
use crate::Result;
use crate::backend::cuda::driver::Launch;
use crate::backend::cuda::memory::Dtype;
use crate::ops::{Conv2d, Shape};

/// Fewest k steps per split of the weight's gradient.
const MIN_STEPS: usize = 4;
/// Bytes per nanosecond at which the splits of a weight's gradient are added: an H200's copy rate.
const ADD_RATE: f64 = 4300.0;

/// One of the GEMMs of a convolution.
pub(super) struct Gemm {
    direction: Direction,
    dtype: Dtype,
    sizes: Sizes,
    m: usize,
    /// Columns of a tap (of all in the data gradient), and taps.
    columns: usize,
    taps: usize,
    depth: usize,
    phases: usize,
    groups: usize,
    /// Whether TMA can load the operands.
    tma: bool,
    /// The plan of conv2d_stem.cu, where it takes this convolution.
    stem: Option<Stem>,
    /// Number of values of the weight.
    weight_len: usize,
}

impl Gemm {
    /// The GEMM of `conv` over inputs of shape `x`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] for sizes that 32-bit indices of positions, or groups that blocks cannot hold.
    pub(super) fn new(direction: Direction, conv: &Conv2d, x: Shape, dtype: Dtype) -> Result<Gemm> {
        let (chunk, part) = (16 / dtype.size(), conv.group(0));
        let taps = conv.kernel * conv.kernel;
        let (cin, cout, positions) = (part.in_channels, part.out_channels, conv.out_shape(x).positions());
        let whole = |v: usize| v.is_multiple_of(chunk);
        let weight = whole(conv.weight.offset);
        let shared = |op, aligned| sizes(op, conv, &part, x, aligned);
        let stride = conv.stride;
        let (sizes, m, columns, column_taps, depth, phases) = match direction {
            Direction::Fprop => {
                let sizes = shared("conv2d_fprop", (whole(cin), whole(taps * cin) && weight))?;
                (sizes, positions, cout, 1, taps * cin, 1)
            }
            Direction::Dgrad => {
                let sizes = shared("conv2d_dgrad", (whole(cout), whole(cin) && weight))?;
                let m = x.n * x.h.div_ceil(stride) * x.w.div_ceil(stride);
                // Each phase uses its share of the taps.
                let depth = (taps * cout).div_ceil(stride * stride);
                (sizes, m, cin, 1, depth, stride.min(x.h) * stride.min(x.w))
            }
            Direction::Wgrad => {
                (shared("conv2d_wgrad", (whole(cout), whole(cin)))?, cout, cin, taps, positions, 1)
            }
        };
        let tma = match direction {
            Direction::Fprop => tma::takes_fprop(conv, dtype),
            Direction::Dgrad => tma::takes_dgrad(conv, dtype),
            Direction::Wgrad => tma::takes_wgrad(conv, dtype),
        };
        let (groups, weight_len) = (conv.groups, conv.weight_len());
        Ok(Gemm {
            direction,
            dtype,
            sizes,
            m,
            columns,
            taps: column_taps,
            depth,
            phases,
            groups,
            tma,
            stem: Stem::new(direction, conv, x, dtype),
            weight_len,
        })
    }

    /// Tiles along m and n. WGMMA tiles of the weight's gradient have whole boxes of each tap's channels.
    fn tiles(&self, tile: Tile) -> (usize, usize) {
        let (tile_m, tile_n) = tile.size(self.dtype);
        let boxes = tile.is_wgmma() && self.direction == Direction::Wgrad;
        let columns = if boxes { tma::whole_boxes(self.columns) } else { self.columns };
        (self.m.div_ceil(tile_m), (self.taps * columns).div_ceil(tile_n))
    }

    /// Blocks along x, one per tile; those along m are whole clusters.
    fn tile_blocks(&self, tile: Tile) -> usize {
        let (m_tiles, n_tiles) = self.tiles(tile);
        self.phases * m_tiles.next_multiple_of(tile.cluster()) * n_tiles
    }

    /// Blocks of one split.
    fn blocks(&self, tile: Tile) -> usize {
        self.groups * self.tile_blocks(tile)
    }

    /// Splits and values along k of each: the weight's gradient has as many as can be resident.
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

    /// The tiles that fit, and the nanoseconds that the model expects of each.
    pub(super) fn times(&self, wgmma: bool) -> Vec<(Tile, f64)> {
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
            _ => !tile.is_wgmma() || (wgmma && self.tma),
        };
        choices.iter().filter(|&&tile| fits(tile)).map(|&tile| (tile, time(tile))).collect()
    }

    /// The launch: by the forced tile where it fits, else by the one that the model finds fastest.
    pub(super) fn plan(&self, kernels: Kernels) -> Plan {
        let times = self.times(kernels.wgmma);
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

/// The launch of one GEMM of `conv` over inputs of shape `x`.
///
/// # Errors
/// As [`Gemm::new`].
pub(super) fn plan(direction: Direction, conv: &Conv2d, x: Shape, kernels: Kernels) -> Result<Plan> {
    Ok(Gemm::new(direction, conv, x, kernels.dtype)?.plan(kernels))
}
