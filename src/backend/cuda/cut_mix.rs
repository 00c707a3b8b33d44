//! Launch plans of kernels/cut_mix.cu, and CutMix as the data that kernels read through common/cut_mix.cuh.

use super::Cuda;
use super::driver::Launch;
use super::memory::{Buffer, Tensor, args};
use crate::ops::{CutMixOps, Mix, Shape};

impl CutMixOps for Cuda {
    fn cut_mix(&self, x: &Tensor, mix: &Mix) -> Tensor {
        let y = self.tensor_of(x.dtype, x.shape);
        let Shape { n, h, w, c } = x.shape;
        let (boxes, rounds) = mix_buffer(self, mix);
        let launch = Launch::linear(x.shape.len() / x.dtype.vector_width(c));
        let args = args![y, x, boxes, rounds, n as u32, h as u32, w as u32, c as u32];
        self.launch_typed(FILE, "cut_mix_fwd", x.dtype, launch, args);
        y
    }
}

const FILE: &str = "cut_mix";

/// `mix` on the device and its number of rounds: `[rounds][n][5]` of y0, x0, y1, x1 and the source image, as
/// `i32`.
pub(super) fn mix_buffer(d: &Cuda, mix: &Mix) -> (Buffer, u32) {
    let rows = mix.boxes.iter().flatten().zip(mix.perm.iter().flatten());
    // Boxes and sources fit: they were validated against images in memory.
    let data: Vec<i32> =
        rows.flat_map(|(&[y0, x0, y1, x1], &image)| [y0, x0, y1, x1, image].map(|v| v as i32)).collect();
    (d.upload_buffer(&data), mix.boxes.len() as u32)
}
