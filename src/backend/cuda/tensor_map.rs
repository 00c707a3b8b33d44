//! Tensor maps: descriptors with which TMA loads boxes of a tensor of 16-bit values to shared memory, 128
//! bytes per row, in the 128-byte swizzle; what lies outside the tensor is zero. Must not know ops.

use super::device_ptr::DevicePtr;

/// Values in a row of a box.
pub const ROW: u32 = 64;
/// Bytes of a value.
const VALUE: u64 = 2;

/// An encoded tensor map, as kernels take it.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct TensorMap(pub [u64; 16]);

/// The content of a tensor map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct TensorMapSpec {
    /// The first value.
    pub base: DevicePtr,
    /// Sizes in values, innermost first.
    pub dims: [u64; 4],
    /// Bytes from one index to the next, from the second axis on.
    pub strides: [u64; 3],
    /// Axes, 2 to 4.
    pub rank: u32,
    /// 1: im2col mode, columns of pixels of a bounding box of `[c, w, h, n]`; 0: tiled mode, boxes.
    pub im2col: u32,
    /// Sizes of the box, of which the first is [`ROW`]; in im2col mode channels and pixels.
    pub extent: [u32; 4],
    /// im2col, for w and h: lower corner of the bounding box, relative to the first pixel.
    pub lower: [i32; 2],
    /// im2col: upper corner, relative to the last pixel.
    pub upper: [i32; 2],
    /// im2col: step from pixel to pixel.
    pub step: [u32; 2],
    /// Zero.
    pub reserved: [u32; 4],
}

impl TensorMapSpec {
    /// Boxes of `extent` values of a tensor whose sizes and strides (of all axes but the first) these are.
    pub fn tiled(base: DevicePtr, dims: &[usize], strides: &[usize], extent: &[usize]) -> TensorMapSpec {
        let mut spec = TensorMapSpec { base, dims: [1; 4], rank: dims.len() as u32, ..Default::default() };
        spec.extent = [1; 4];
        dims.iter().zip(&mut spec.dims).for_each(|(&from, to)| *to = from as u64);
        strides.iter().zip(&mut spec.strides).for_each(|(&from, to)| *to = VALUE * from as u64);
        extent.iter().zip(&mut spec.extent).for_each(|(&from, to)| *to = from as u32);
        spec
    }

    /// im2col mode: columns of `pixels` pixels of an NHWC tensor of sizes `[n, h, w, c]`. The bounding box
    /// has its lower corner, the same for both axes, its upper corner for h and w, and the step between
    /// pixels.
    pub fn im2col(
        base: DevicePtr,
        [n, h, w, c]: [usize; 4],
        (lower, upper, step): (i32, [i32; 2], usize),
        pixels: usize,
    ) -> TensorMapSpec {
        let dims = [c, w, h, n].map(|v| v as u64);
        TensorMapSpec {
            base,
            dims,
            strides: [c, c * w, c * w * h].map(|v| VALUE * v as u64),
            rank: 4,
            im2col: 1,
            extent: [ROW, pixels as u32, 0, 0],
            lower: [lower; 2],
            upper: [upper[1], upper[0]],
            step: [step as u32; 2],
            reserved: [0; 4],
        }
    }

    /// Rows of 128 bytes that a load brings.
    pub fn rows(&self) -> usize {
        if self.im2col == 1 {
            self.extent[1] as usize
        } else {
            self.extent[1..self.rank as usize].iter().map(|&v| v as usize).product()
        }
    }

    /// Why the hardware does not take this; `None` if it does.
    pub fn fault(&self) -> Option<String> {
        let rank = self.rank as usize;
        let wrong = |what: &str| Some(format!("no tensor map can have this {what}: {self:?}"));
        if !(2..=4).contains(&rank) || (self.im2col == 1 && rank != 4) {
            return wrong("rank");
        }
        if self.base.0 == 0 || !self.base.0.is_multiple_of(16) {
            return wrong("address");
        }
        if self.dims[..rank].iter().any(|&v| v == 0 || v > 1 << 32) {
            return wrong("size");
        }
        if self.strides[..rank - 1].iter().any(|&v| !v.is_multiple_of(16) || v >= 1 << 40) {
            return wrong("stride");
        }
        let extent = if self.im2col == 1 { &self.extent[..1] } else { &self.extent[..rank] };
        if extent.iter().any(|&v| !(1..=256).contains(&v)) || self.extent[0] != ROW {
            return wrong("box");
        }
        if self.im2col == 1 {
            let corners = self.lower.iter().chain(&self.upper);
            if corners.into_iter().any(|v| !(-128..128).contains(v)) {
                return wrong("bounding box");
            }
            let steps = self.step.iter().all(|v| (1..=8).contains(v));
            if !steps || !(1..=1024).contains(&self.extent[1]) {
                return wrong("column");
            }
        }
        None
    }
}
