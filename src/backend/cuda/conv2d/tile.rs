//! Tiles of the convolution kernels: their sizes, resources, and a model of their time. Sizes are those of
//! kernels/common/conv2d_tiles.cuh and kernels/conv2d_wgmma.cu.

use crate::backend::cuda::memory::Dtype;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Multiprocessors of the devices that the model describes (H100, H200).
pub(super) const MULTIPROCESSORS: usize = 132;
/// Bytes of a k step.
pub(super) const STEP_BYTES: usize = 128;
/// Pipeline stages of kernels without WGMMA.
const STAGES: usize = 3;
/// Alignment of operand tiles with 128-byte swizzle.
const BOX_ALIGN: usize = 1024;

/// Multiply-adds per nanosecond and multiprocessor: what large bf16 GEMMs reach on an H200 (790 TFLOP/s), and
/// 128 lanes of f32 at 1.7 GHz.
const BF16_RATE: f64 = 2990.0;
const F32_RATE: f64 = 218.0;
/// Bytes per nanosecond that a multiprocessor gets from the L2 cache while all of them read: an equal share
/// of 6 TB/s, between the 5 and 7 of an H100 (docs/performance.md).
const CACHE_RATE: f64 = 6000.0 / MULTIPROCESSORS as f64;
/// Nanoseconds of a block's prologue, and bytes per nanosecond of its epilogue.
const START: f64 = 1500.0;
const WRITE_RATE: f64 = 32.0;

/// Which kernels a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kernels {
    pub(super) dtype: Dtype,
    /// Whether it has TMA and WGMMA.
    pub(super) wgmma: bool,
    /// The forced tile, taken wherever it fits.
    pub only: Option<Tile>,
}

impl Kernels {
    /// Whether there are kernels with this tile at all, whatever convolutions they take.
    pub(super) fn has(self, tile: Tile) -> bool {
        !tile.is_wgmma() || (self.wgmma && self.dtype == Dtype::Bf16)
    }
}

/// Launches of convolutions while a tile is forced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TileUses {
    /// Launches in that tile.
    pub asked: usize,
    /// Launches in another, as it did not fit.
    pub others: usize,
}

/// The tile that convolutions run in wherever it fits them, and how many did; clones count together.
#[derive(Clone)]
pub(crate) struct ForcedTile {
    pub tile: Tile,
    uses: Arc<[AtomicUsize; 2]>,
}

impl ForcedTile {
    pub(crate) fn new(tile: Tile) -> ForcedTile {
        ForcedTile { tile, uses: Arc::default() }
    }

    /// Counts a launch in `tile`.
    pub(crate) fn count(&self, tile: Tile) {
        self.uses[usize::from(tile != self.tile)].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn uses(&self) -> TileUses {
        let [asked, others] = [0, 1].map(|i| self.uses[i].load(Ordering::Relaxed));
        TileUses { asked, others }
    }
}

/// Which kernel: its tile, and how it reads operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tile {
    /// Large, for operand reuse.
    Large,
    /// Where large tiles would be too few, or mostly empty.
    Small,
    /// Small tiles, operands that need not be aligned.
    Any,
    /// TMA and WGMMA, 128 x 64.
    Wgmma64,
    /// TMA and WGMMA, 128 x 128.
    Wgmma128,
    /// TMA and WGMMA, 128 x 256.
    Wgmma256,
    /// The same in clusters of two blocks that multicast B.
    Wgmma256x2,
    /// Three input channels: 128 positions of a row, 64 outputs.
    Stem,
}

impl Tile {
    /// The tiles that the model chooses from for aligned operands.
    pub const CHOICES: [Tile; 6] =
        [Tile::Wgmma256x2, Tile::Wgmma256, Tile::Wgmma128, Tile::Wgmma64, Tile::Large, Tile::Small];

    /// Part of the kernel's name, and the name in `--tile`.
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

    /// Whether it uses TMA and WGMMA.
    pub(super) fn is_wgmma(self) -> bool {
        matches!(self, Tile::Wgmma64 | Tile::Wgmma128 | Tile::Wgmma256 | Tile::Wgmma256x2)
    }

    /// Blocks of a cluster, whose tiles are consecutive along m.
    pub(super) fn cluster(self) -> usize {
        if self == Tile::Wgmma256x2 { 2 } else { 1 }
    }

    /// Results along m and n.
    pub(super) fn size(self, dtype: Dtype) -> (usize, usize) {
        match (self, dtype) {
            (Tile::Large, Dtype::F32) => (128, 64),
            (Tile::Large, Dtype::Bf16) => (128, 128),
            (Tile::Small | Tile::Any, _) => (64, 64),
            (Tile::Wgmma64 | Tile::Stem, _) => (128, 64),
            (Tile::Wgmma128, _) => (128, 128),
            (Tile::Wgmma256 | Tile::Wgmma256x2, _) => (128, 256),
        }
    }

    /// Results along m, which do not depend on the type.
    pub(super) fn rows(self) -> usize {
        self.size(Dtype::Bf16).0
    }

    /// Threads per block.
    pub(super) fn threads(self) -> u32 {
        match self {
            Tile::Large | Tile::Stem => 256,
            Tile::Small | Tile::Any => 128,
            // Two consumer warpgroups and a producer warp.
            _ => 288,
        }
    }

    fn stages(self) -> usize {
        if matches!(self, Tile::Wgmma64 | Tile::Wgmma256 | Tile::Wgmma256x2) { 4 } else { STAGES }
    }

    /// Bytes of shared memory: the pipeline stages, which the finished tile overwrites in the end (its rows
    /// are eight values longer), and for TMA room to align and two mbarriers per stage.
    pub(super) fn shared_bytes(self, dtype: Dtype, out_size: usize) -> usize {
        let (m, n) = self.size(dtype);
        let bytes = (self.stages() * STEP_BYTES * (m + n)).max(out_size * m * (n + 8));
        if self.is_wgmma() { bytes + BOX_ALIGN + 16 * self.stages() } else { bytes }
    }

    /// Resident blocks per multiprocessor.
    pub(super) fn resident(self) -> usize {
        match self {
            Tile::Wgmma256 | Tile::Wgmma256x2 => 1,
            Tile::Small | Tile::Any => 4,
            _ => 2,
        }
    }

    /// Share of the multiprocessor's rate that the mainloop is expected to reach where operands arrive in
    /// time: WGMMA reads shared memory once, mma goes through registers, and narrow tiles load more per
    /// multiply-add.
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

    /// Expected nanoseconds of `blocks` blocks with `depth` values along k: for the blocks of a
    /// multiprocessor, one after another, the longer of arithmetic and operand loads, and for each wave of
    /// resident ones a prologue and an epilogue.
    pub(super) fn nanoseconds(self, dtype: Dtype, blocks: usize, depth: usize) -> f64 {
        let (m, n) = self.size(dtype);
        let rate = if dtype == Dtype::Bf16 { BF16_RATE } else { F32_RATE } * self.share(dtype);
        let loaded = (m + n / self.cluster()) * depth * dtype.size();
        let mainloop = ((m * n * depth) as f64 / rate).max(loaded as f64 / CACHE_RATE);
        let ends = START + (m * n * dtype.size()) as f64 / WRITE_RATE;
        let waves = blocks.div_ceil(MULTIPROCESSORS * self.resident());
        blocks.div_ceil(MULTIPROCESSORS) as f64 * mainloop + waves as f64 * ends
    }
}
