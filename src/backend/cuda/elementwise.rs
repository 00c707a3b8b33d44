//! Launch plans of kernels/elementwise.cu, and sums over positions.

use super::driver::Launch;
use super::memory::{Tensor, args};
use super::{Cuda, pool};
use crate::ops::{ElementwiseOps, Shape};

impl ElementwiseOps for Cuda {
    fn leaky_relu(&self, x: &Tensor, slope: f64) -> Tensor {
        leaky_relu(self, x, slope)
    }
    fn leaky_relu_bwd(&self, dy: &Tensor, x: &Tensor, slope: f64) -> Tensor {
        leaky_relu_bwd(self, dy, x, slope)
    }
    fn concat(&self, parts: &[&Tensor]) -> Tensor {
        concat(self, parts)
    }
    fn slice_channels(&self, x: &Tensor, offset: usize, len: usize) -> Tensor {
        slice_channels(self, x, offset, len)
    }
    fn add(&self, x: &Tensor, y: &Tensor, alpha: f64) -> Tensor {
        add(self, x, y, alpha)
    }
    fn sum_positions(&self, x: &Tensor) -> Tensor {
        sum_positions(self, x)
    }
}

const FILE: &str = "elementwise";

/// A launch for `len` values of which a thread takes `width` at a time.
fn runs(len: usize, width: usize) -> Launch {
    Launch::linear(len / width)
}

/// y = x for x > 0, slope x elsewhere.
pub(super) fn leaky_relu(d: &Cuda, x: &Tensor, slope: f64) -> Tensor {
    let y = d.tensor_of(x.dtype, x.shape);
    let len = x.shape.len();
    let launch = runs(len, 16 / x.dtype.size());
    d.launch_typed(FILE, "leaky_relu_fwd", x.dtype, launch, args![y, x, slope as f32, len as u64]);
    y
}

/// dx from dy and the input or the output.
pub(super) fn leaky_relu_bwd(d: &Cuda, dy: &Tensor, x: &Tensor, slope: f64) -> Tensor {
    let dx = d.tensor_of(x.dtype, x.shape);
    let len = x.shape.len();
    let launch = runs(len, 16 / x.dtype.size());
    d.launch_typed(FILE, "leaky_relu_bwd", x.dtype, launch, args![dx, dy, x, slope as f32, len as u64]);
    dx
}

/// Copies `len` channels at every position: from channel `from` of `x` to channel `to` of `y`.
fn copy_channels(d: &Cuda, (y, to): (&Tensor, usize), (x, from): (&Tensor, usize), len: usize) {
    let positions = x.shape.positions();
    let numbers = [len, y.shape.c, to, x.shape.c, from];
    let aligned = numbers.iter().all(|&v| x.dtype.vector_width(v) > 1);
    let launch = runs(positions * len, if aligned { 16 / x.dtype.size() } else { 1 });
    let [len, y_c, to, x_c, from] = numbers.map(|v| v as u32);
    let args = args![y, x, positions as u64, len, y_c, to, x_c, from];
    d.launch_typed(FILE, "copy_channels", x.dtype, launch, args);
}

/// Channels of all parts, one after another.
pub(super) fn concat(d: &Cuda, parts: &[&Tensor]) -> Tensor {
    let c = parts.iter().map(|p| p.shape.c).sum();
    let first = parts[0];
    let y = d.tensor_of(first.dtype, first.shape.with_channels(c));
    let mut offset = 0;
    for part in parts {
        copy_channels(d, (&y, offset), (part, 0), part.shape.c);
        offset += part.shape.c;
    }
    y
}

pub(super) fn slice_channels(d: &Cuda, x: &Tensor, offset: usize, len: usize) -> Tensor {
    let y = d.tensor_of(x.dtype, x.shape.with_channels(len));
    copy_channels(d, (&y, 0), (x, offset), len);
    y
}

/// x + alpha y; where y has one position per image it is added at every position of that image.
pub(super) fn add(d: &Cuda, x: &Tensor, y: &Tensor, alpha: f64) -> Tensor {
    let out = d.tensor_of(x.dtype, x.shape);
    let Shape { n, h, w, c } = x.shape;
    let len = x.shape.len();
    if x.shape == y.shape {
        let launch = runs(len, 16 / x.dtype.size());
        d.launch_typed(FILE, "add_fwd", x.dtype, launch, args![out, x, y, alpha as f32, len as u64]);
    } else {
        let launch = runs(len, x.dtype.vector_width(c));
        let args = args![out, x, y, alpha as f32, n as u32, (h * w) as u32, c as u32];
        d.launch_typed(FILE, "add_broadcast_fwd", x.dtype, launch, args);
    }
    out
}

/// Sum over the positions of each image: the sum over a single bin.
pub(super) fn sum_positions(d: &Cuda, x: &Tensor) -> Tensor {
    pool::sum_bins(d, x, (1, 1), false)
}
