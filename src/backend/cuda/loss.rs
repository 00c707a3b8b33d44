//! What the plans of the fused losses share: tiles of kernels/common/fused_loss.cuh, structs that their
//! kernels take by value, and the launch of kernels/loss.cu that finishes each of them.

use super::Cuda;
use super::driver::{DevicePtr, Launch};
use super::memory::{Buffer, Counts, Dtype, Scalar, Tensor, args, plain_arg};
use crate::ops::{Ensemble, Shape, Size};
use bytemuck::{Pod, Zeroable};

/// Rows of cells of a tile. Every tile writes one row of gradients more than it has cells, so few rows cost
/// memory traffic, and many leave multiprocessors idle.
const TILE_CELLS: usize = 4;

/// Most classes whose gradient is reduced at a time.
const CHUNK: usize = 24;

/// Most pixel columns of a tile: the kernels' launch bound.
const COLUMNS: usize = 128;

/// Dynamic shared memory per block that every supported device has next to the static part of the kernels.
const MAX_SHARED: usize = 90 << 10;

/// Bytes of the largest confusion matrix that blocks count in shared memory.
const MAX_CONFUSION: usize = 8 << 10;

/// Most terms of a loss.
const TERMS: usize = 3;

pub(super) const LOG2_E: f64 = std::f64::consts::LOG2_E;

/// `Upsample` of kernels/common/upsample.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(super) struct Upsample {
    images: i32,
    low_h: i32,
    low_w: i32,
    classes: i32,
    full_h: i32,
    full_w: i32,
    columns: i32,
    tile_cells: i32,
    tiles_x: i32,
    tiles_y: i32,
    slots: i32,
    positions: i32,
    chunk: i32,
}

/// `Field` of kernels/common/upsample.cuh.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Field {
    x: DevicePtr,
    factor: f32,
    unused: u32,
}

/// `FieldSum` of kernels/common/upsample.cuh.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct FieldSum {
    x: DevicePtr,
    parts: i32,
    step: i32,
    factor: f32,
    unused: u32,
}

/// `Ensemble` of kernels/common/teachers.cuh.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Teachers {
    gamma: f32,
    rest: f32,
    topk: i32,
}

/// `Mix` of kernels/common/mixed_teachers.cuh.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Boxes {
    boxes: DevicePtr,
    rounds: i32,
    unused: u32,
}

/// `Confusion` of kernels/common/confusion.cuh.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Confusion {
    counts: DevicePtr,
    shared: i32,
    unused: u32,
}

/// One term of a loss: `scale` / max(count, 1) times its sum, and `grad` times that in the gradient.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Term {
    count: DevicePtr,
    value: DevicePtr,
    scale: f64,
    grad: f64,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Terms([Term; TERMS]);

plain_arg!(Upsample, Field, FieldSum, Teachers, Boxes, Confusion, Terms);

impl Field {
    /// Logits times log2(e), for a softmax by powers of two.
    pub(super) fn logits(x: &Tensor) -> Field {
        Field { x: x.buffer.ptr(), factor: LOG2_E as f32, unused: 0 }
    }
}

impl FieldSum {
    /// factor * the sum of `parts` equal parts of the channels of `x`.
    pub(super) fn new(x: &Tensor, parts: usize, factor: f64) -> FieldSum {
        let step = (x.shape.c / parts) as i32;
        FieldSum { x: x.buffer.ptr(), parts: parts as i32, step, factor: factor as f32, unused: 0 }
    }
}

impl Teachers {
    pub(super) fn new(ensemble: &Ensemble) -> Teachers {
        Teachers {
            gamma: ensemble.gamma as f32,
            rest: (1.0 - ensemble.gamma) as f32,
            topk: ensemble.topk.min(usize::from(u8::MAX)) as i32,
        }
    }
}

impl Boxes {
    /// From the buffer and the number of rounds of `cut_mix::mix_buffer`.
    pub(super) fn new((boxes, rounds): &(Buffer, u32)) -> Boxes {
        Boxes { boxes: boxes.ptr(), rounds: *rounds as i32, unused: 0 }
    }
}

impl Term {
    /// A term that is divided by count number `idx` of `counts`, if there are any, and whose value goes to
    /// `value`.
    pub(super) fn new(
        count: Option<(&Counts, usize)>,
        value: Option<&Scalar>,
        scale: f64,
        grad: f64,
    ) -> Term {
        let count = count.map_or(DevicePtr(0), |(c, idx)| c.buffer.ptr().offset(8 * idx));
        Term { count, value: value.map_or(DevicePtr(0), |v| v.0.ptr()), scale, grad }
    }
}

/// Tiles of one resampling.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// The kernels' argument.
    pub(super) upsample: Upsample,
    shape: Shape,
    fields: usize,
    /// Copies of the gradient along the channels, one per decoder.
    copies: usize,
}

/// Index of the cell between `from` inputs that output `i` of `to` lies in.
fn cell(i: usize, from: usize, to: usize) -> usize {
    (i * (from - 1) / (to - 1).max(1)).min(from.saturating_sub(2))
}

impl Plan {
    /// Tiles for logits of shape `low` at `size`, for kernels with `fields` fields in shared memory. Of the
    /// column counts that fit, the one with the fewest idle threads, of equal ones the largest.
    pub(super) fn new(low: Shape, size: Size, fields: usize) -> Plan {
        let candidates =
            [4, 8, 16, 32, 64, 96, COLUMNS].map(|columns| Plan::with(low, size, fields, columns));
        let waste = |p: &Plan| p.upsample.tiles_x as usize * p.threads();
        let fitting = candidates.iter().filter(|p| p.loss_shared() <= MAX_SHARED);
        *fitting.rev().min_by_key(|p| waste(p)).unwrap_or(&candidates[0])
    }

    fn with(low: Shape, (full_h, full_w): Size, fields: usize, columns: usize) -> Plan {
        let tiles_x = full_w.div_ceil(columns);
        let cells = |tile: usize| {
            let (first, last) = (tile * columns, ((tile + 1) * columns).min(full_w) - 1);
            cell(last, low.w, full_w) - cell(first, low.w, full_w) + 1
        };
        let cells = (0..tiles_x).map(cells).max().unwrap_or(1);
        let chunks = low.c.div_ceil(CHUNK);
        let upsample = Upsample {
            images: low.n as i32,
            low_h: low.h as i32,
            low_w: low.w as i32,
            classes: low.c as i32,
            full_h: full_h as i32,
            full_w: full_w as i32,
            columns: columns as i32,
            tile_cells: TILE_CELLS as i32,
            tiles_x: tiles_x as i32,
            tiles_y: low.h.saturating_sub(1).max(1).div_ceil(TILE_CELLS) as i32,
            slots: cells.min(columns) as i32,
            positions: cells as i32 + 1,
            chunk: low.c.div_ceil(chunks).next_multiple_of(8) as i32,
        };
        Plan { upsample, shape: low, fields, copies: 1 }
    }

    /// The same with a gradient that is written `copies` times along the channels.
    pub(super) fn repeated(self, copies: usize) -> Plan {
        Plan { copies, ..self }
    }

    fn threads(&self) -> usize {
        (self.upsample.columns as usize).max(32)
    }

    fn blocks(&self) -> usize {
        (self.upsample.tiles_x * self.upsample.tiles_y * self.upsample.images) as usize
    }

    /// Bytes of the cells and the peaks of all fields.
    fn read_shared(&self) -> usize {
        let slots = self.upsample.slots as usize;
        self.fields * slots * (16 * (self.shape.c | 1) + 16)
    }

    /// The same, and the gradients of the columns.
    fn loss_shared(&self) -> usize {
        let pitch = self.upsample.chunk as usize + 4;
        self.read_shared() + 4 * (self.threads() * (2 * pitch + 1) + self.upsample.positions as usize + 2)
    }

    fn grid(&self) -> Launch {
        let u = &self.upsample;
        Launch::grid3([u.tiles_x as usize, u.tiles_y as usize, u.images as usize], self.threads() as u32)
    }

    /// Launch of a kernel that only evaluates logits at pixels.
    pub(super) fn read(&self) -> Launch {
        self.grid().with_shared(self.read_shared())
    }

    /// Launch of a fused loss.
    pub(super) fn loss(&self) -> Launch {
        self.grid().with_shared(self.loss_shared())
    }

    /// Bytes in which a block counts a confusion matrix; 0 where it counts in global memory, as the matrix
    /// would reduce the resident blocks.
    fn confusion_shared(&self) -> usize {
        let bytes = 4 * self.shape.c * self.shape.c;
        if bytes <= MAX_CONFUSION && self.loss_shared() + bytes <= MAX_SHARED { bytes } else { 0 }
    }

    /// Launch of a fused loss that counts a confusion matrix, and its argument for that.
    pub(super) fn loss_counting(&self, confusion: &Counts) -> (Launch, Confusion) {
        let bytes = self.confusion_shared();
        let confusion = Confusion { counts: confusion.buffer.ptr(), shared: i32::from(bytes > 0), unused: 0 };
        (self.grid().with_shared(self.loss_shared() + bytes), confusion)
    }

    /// Memory for the blocks' gradients and sums of `terms` terms.
    pub(super) fn workspace(&self, d: &Cuda, terms: usize) -> Workspace {
        let part = (TILE_CELLS + 1) * self.upsample.positions as usize * self.shape.c.next_multiple_of(4);
        Workspace {
            parts: d.buffer(4 * self.blocks() * terms * part),
            sums: d.buffer(8 * self.blocks() * terms),
        }
    }

    /// The gradient, of type `dtype`, from the blocks' parts; writes the terms' values, and the first count
    /// to `passed`.
    pub(super) fn finish(
        &self,
        d: &Cuda,
        workspace: &Workspace,
        dtype: Dtype,
        terms: &[Term],
        passed: Option<&Scalar>,
    ) -> Tensor {
        let out = d.tensor_of(dtype, self.shape.with_channels(self.copies * self.shape.c));
        let mut all = [Term::zeroed(); TERMS];
        all[..terms.len()].copy_from_slice(terms);
        let tables = 2 * self.shape.w + self.upsample.tiles_x as usize;
        let launch = Launch::new(self.shape.n * self.shape.h, 256).with_shared(4 * tables);
        let Workspace { parts, sums } = workspace;
        let (groups, copies) = (terms.len() as i32, self.copies as i32);
        let args = args![out, passed, parts, sums, groups, copies, Terms(all), self.upsample];
        d.launch_typed("loss", "loss_finish", dtype, launch, args);
        out
    }
}

/// What blocks of a fused loss write for kernels/loss.cu.
pub(super) struct Workspace {
    /// Unscaled gradients of each block.
    pub(super) parts: Buffer,
    /// Loss sums of each block.
    pub(super) sums: Buffer,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fit_and_waste_little() {
        let plan = |h, w, c, size, fields| Plan::new(Shape::new(8, h, w, c), size, fields);
        let p = plan(128, 128, 21, (512, 512), 1);
        assert_eq!((p.upsample.columns, p.upsample.tiles_x, p.upsample.tiles_y), (128, 4, 32));
        assert!(p.loss_shared() + p.confusion_shared() <= 45 << 10, "{}", p.loss_shared());
        assert_eq!(p.confusion_shared(), 4 * 21 * 21);
        assert_eq!(plan(128, 128, 150, (512, 512), 1).confusion_shared(), 0);
        assert_eq!(plan(80, 80, 21, (320, 320), 1).upsample.columns, 64);
        for fields in 1..=3 {
            for (w, full) in [(128, 512), (1, 513), (512, 512), (513, 40), (2048, 7), (193, 769)] {
                for c in [1, 2, 21, 150, 255] {
                    let p = plan(3, w, c, (9, full), fields);
                    assert!(
                        p.loss_shared() <= MAX_SHARED,
                        "{fields} fields, {w} to {full}, {c} classes: {p:?}"
                    );
                    assert!(p.upsample.chunk as usize * c.div_ceil(p.upsample.chunk as usize) >= c);
                }
            }
        }
    }
}
