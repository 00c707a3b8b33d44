//! Tiles of the convolution kernels: which there are, what they take, how long a model expects them to run, and the choice by
//! it. Sizes are those of kernels/common/conv2d_tiles.cuh and kernels/conv2d_wgmma.cu.

use super::super::memory::Dtype;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Multiprocessors of the device that the plans have in mind (H100, H200).
pub const MULTIPROCESSORS: usize = 132;
/// Bytes along k of a step.
pub const STEP_BYTES: usize = 128;
/// Steps along k that are in shared memory together, in kernels without warpgroups.
const STAGES: usize = 3;
/// What bulk copies' tiles are aligned to.
const BOX_ALIGN: usize = 1024;

/// Multiply-adds a nanosecond of a multiprocessor: tensor cores by what large bf16 products reach on an H200 (790 TFLOP/s),
/// and 128 lanes of f32 at 1.7 GHz.
const BF16_RATE: f64 = 2990.0;
const F32_RATE: f64 = 218.0;
/// Bytes a nanosecond that a multiprocessor gets of the second-level cache while all of them read: an equal part of 6 TB/s, of the 5 to 7
/// that an H100's cache gives (docs/performance.md).
const CACHE_RATE: f64 = 6000.0 / MULTIPROCESSORS as f64;
/// Nanoseconds until a block's first product runs, and bytes a nanosecond in which a multiprocessor writes its tile.
const START: f64 = 1500.0;
const WRITE_RATE: f64 = 32.0;

/// Which kernels a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernels {
    /// Type of activations.
    pub dtype: Dtype,
    /// Whether those of warpgroups are among them.
    pub warpgroups: bool,
    /// The tile that is taken wherever it fits, whatever the model says.
    pub only: Option<Tile>,
}

impl Kernels {
    /// Whether there are kernels with this tile at all, whatever convolutions they take.
    pub fn has(self, tile: Tile) -> bool {
        !tile.is_wgmma() || (self.warpgroups && self.dtype == Dtype::Bf16)
    }
}

/// Launches of convolutions where one tile is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TileUses {
    /// Those that ran in that tile.
    pub asked: usize,
    /// Those that it does not fit, which ran in another.
    pub others: usize,
}

/// The tile that convolutions run in wherever it fits them, and how many did; clones count together.
#[derive(Clone)]
pub struct ForcedTile {
    pub tile: Tile,
    uses: Arc<[AtomicUsize; 2]>,
}

impl ForcedTile {
    pub fn new(tile: Tile) -> ForcedTile {
        ForcedTile { tile, uses: Arc::default() }
    }

    /// Counts a launch in `tile`.
    pub fn count(&self, tile: Tile) {
        self.uses[usize::from(tile != self.tile)].fetch_add(1, Ordering::Relaxed);
    }

    pub fn uses(&self) -> TileUses {
        let [asked, others] = [0, 1].map(|i| self.uses[i].load(Ordering::Relaxed));
        TileUses { asked, others }
    }
}

/// Which kernel: its tile, and how it reads operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tile {
    /// For reuse.
    Large,
    /// Where large tiles would be too few, or mostly empty.
    Small,
    /// Small tiles, operands that need not be aligned.
    Any,
    /// Products of warpgroups: 128 x 64.
    Wgmma64,
    /// 128 x 128.
    Wgmma128,
    /// 128 x 256.
    Wgmma256,
    /// The same in clusters of two blocks that share their copies of B.
    Wgmma256x2,
    /// Three input channels: 128 positions of a row, 64 outputs.
    Stem,
}

impl Tile {
    /// Those that the model chooses from.
    pub const CHOICES: [Tile; 6] =
        [Tile::Wgmma256x2, Tile::Wgmma256, Tile::Wgmma128, Tile::Wgmma64, Tile::Large, Tile::Small];

    /// Part of the kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Tile::Large => "large",
            Tile::Small => "small",
            Tile::Any => "any",
            Tile::Wgmma64 => "wgmma64",
            Tile::Wgmma128 => "wgmma128",
            Tile::Wgmma256 => "wgmma256",
            Tile::Wgmma256x2 => "wgmma256x2",
            Tile::Stem => "stem",
        }
    }

    /// Whether warpgroups multiply what bulk copies bring.
    pub fn is_wgmma(self) -> bool {
        matches!(self, Tile::Wgmma64 | Tile::Wgmma128 | Tile::Wgmma256 | Tile::Wgmma256x2)
    }

    /// Blocks of a cluster, whose tiles follow one another along m.
    pub fn cluster(self) -> usize {
        if self == Tile::Wgmma256x2 { 2 } else { 1 }
    }

    /// Results along m and n.
    pub fn size(self, dtype: Dtype) -> (usize, usize) {
        match (self, dtype) {
            (Tile::Large, Dtype::F32) => (128, 64),
            (Tile::Large, Dtype::Bf16) => (128, 128),
            (Tile::Small | Tile::Any, _) => (64, 64),
            (Tile::Wgmma64 | Tile::Stem, _) => (128, 64),
            (Tile::Wgmma128, _) => (128, 128),
            (Tile::Wgmma256 | Tile::Wgmma256x2, _) => (128, 256),
        }
    }

    /// Results along m, whatever the type.
    pub fn rows(self) -> usize {
        self.size(Dtype::Bf16).0
    }

    /// Threads a block.
    pub fn threads(self) -> u32 {
        match self {
            Tile::Large | Tile::Stem => 256,
            Tile::Small | Tile::Any => 128,
            // Two warpgroups that multiply, one warp that sees to the copies.
            _ => 288,
        }
    }

    fn stages(self) -> usize {
        if matches!(self, Tile::Wgmma64 | Tile::Wgmma256 | Tile::Wgmma256x2) { 4 } else { STAGES }
    }

    /// Bytes of shared memory: the steps under way, whose place the finished tile takes in the end (its rows are eight values
    /// longer), and for bulk copies room to align and two mbarriers a step.
    pub fn shared_bytes(self, dtype: Dtype, out_size: usize) -> usize {
        let (m, n) = self.size(dtype);
        let bytes = (self.stages() * STEP_BYTES * (m + n)).max(out_size * m * (n + 8));
        if self.is_wgmma() { bytes + BOX_ALIGN + 16 * self.stages() } else { bytes }
    }

    /// Blocks that a multiprocessor holds at a time.
    pub fn resident(self) -> usize {
        match self {
            Tile::Wgmma256 | Tile::Wgmma256x2 => 1,
            Tile::Small | Tile::Any => 4,
            _ => 2,
        }
    }

    /// Share of the multiprocessor's rate that its inner loop is expected to reach where operands come in time: products of
    /// warpgroups read shared memory once, those of warps go through registers, and narrow tiles fetch more for each product.
    fn share(self, dtype: Dtype) -> f64 {
        match (self, dtype) {
            (Tile::Large, Dtype::Bf16) => 0.6,
            (Tile::Small, Dtype::Bf16) => 0.4,
            (Tile::Large, Dtype::F32) => 0.8,
            (Tile::Small, Dtype::F32) => 0.65,
            (Tile::Any, _) => 0.1,
            (Tile::Stem, _) => 0.25,
            (Tile::Wgmma64, _) => 0.55,
            (Tile::Wgmma128, _) => 0.75,
            (Tile::Wgmma256 | Tile::Wgmma256x2, _) => 0.85,
        }
    }

    /// Nanoseconds that `blocks` blocks with `depth` values along k are expected to take: blocks that follow one another on a
    /// multiprocessor, each for as long as its products or its copies of operands take, and for each round of resident ones the time
    /// until its first product and that to write its tile.
    pub fn nanoseconds(self, dtype: Dtype, blocks: usize, depth: usize) -> f64 {
        let (m, n) = self.size(dtype);
        let rate = if dtype == Dtype::Bf16 { BF16_RATE } else { F32_RATE } * self.share(dtype);
        let copied = (m + n / self.cluster()) * depth * dtype.size();
        let product = ((m * n * depth) as f64 / rate).max(copied as f64 / CACHE_RATE);
        let ends = START + (m * n * dtype.size()) as f64 / WRITE_RATE;
        let rounds = blocks.div_ceil(MULTIPROCESSORS * self.resident());
        blocks.div_ceil(MULTIPROCESSORS) as f64 * product + rounds as f64 * ends
    }
}
