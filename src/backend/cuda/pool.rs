//! Launch plans of kernels/pool.cu.

use super::Cuda;
use super::channels::{Rows, THREADS};
use super::driver::Launch;
use super::memory::{Tensor, args};
use crate::ops::{MaxPool2d, PoolOps, Shape, Size};

impl PoolOps for Cuda {
    fn max_pool2d(&self, x: &Tensor, spec: &MaxPool2d) -> Tensor {
        max_pool2d(self, x, spec)
    }
    fn max_pool2d_bwd(&self, dy: &Tensor, x: &Tensor, spec: &MaxPool2d) -> Tensor {
        max_pool2d_bwd(self, dy, x, spec)
    }
    fn adaptive_avg_pool2d(&self, x: &Tensor, size: Size) -> Tensor {
        adaptive_avg_pool2d(self, x, size)
    }
    fn adaptive_avg_pool2d_bwd(&self, dy: &Tensor, x_size: Size) -> Tensor {
        adaptive_avg_pool2d_bwd(self, dy, x_size)
    }
}

const FILE: &str = "pool";

/// A launch for `x` of which a thread takes a run of channels at a time.
fn runs(x: &Tensor) -> Launch {
    Launch::linear(x.shape.len() / x.dtype.vector_width(x.shape.c))
}

/// `MaxPool` of the kernels.
fn sizes(x: Shape, y: Shape, spec: &MaxPool2d) -> [u32; 7] {
    [x.h, x.w, y.h, y.w, spec.kernel, spec.stride, spec.padding].map(|v| v as u32)
}

pub(super) fn max_pool2d(d: &Cuda, x: &Tensor, spec: &MaxPool2d) -> Tensor {
    let y = d.tensor_of(x.dtype, spec.out_shape(x.shape));
    let mut args = args![y, x, x.shape.n as u32, x.shape.c as u32];
    args.push(sizes(x.shape, y.shape, spec));
    d.launch_typed(FILE, "max_pool2d_fwd", x.dtype, runs(&y), args);
    y
}

/// dx: the gradient of each window goes to its first maximum in row order. Finds the maxima again, then
/// gathers.
pub(super) fn max_pool2d_bwd(d: &Cuda, dy: &Tensor, x: &Tensor, spec: &MaxPool2d) -> Tensor {
    let dx = d.tensor_of(x.dtype, x.shape);
    let (n, c) = (x.shape.n as u32, x.shape.c as u32);
    let sizes = sizes(x.shape, dy.shape, spec);
    let at = d.buffer(4 * dy.shape.len());
    let mut args = args![at, x, n, c];
    args.push(sizes);
    d.launch_typed(FILE, "max_pool2d_at", x.dtype, runs(dy), args);
    let mut args = args![dx, dy, at, n, c];
    args.push(sizes);
    d.launch_typed(FILE, "max_pool2d_bwd", x.dtype, runs(&dx), args);
    dx
}

pub(super) fn adaptive_avg_pool2d(d: &Cuda, x: &Tensor, size: Size) -> Tensor {
    sum_bins(d, x, size, true)
}

/// Sum, or mean, over each of `size` adaptive bins. Large bins are divided into parts, whose sums are added
/// in order.
pub(super) fn sum_bins(d: &Cuda, x: &Tensor, size: Size, mean: bool) -> Tensor {
    let Shape { n, h, w, c } = x.shape;
    let y = d.tensor_of(x.dtype, Shape::new(n, size.0, size.1, c));
    let bins = y.shape.positions();
    let rows = Rows::new(x.dtype, c);
    let parts = rows.parts(h.div_ceil(size.0) * w.div_ceil(size.1), bins);
    let sizes = [h, w, size.0, size.1].map(|v| v as u32);
    let partial = d.buffer(4 * bins * parts * c);
    let mut args = args![partial, x, rows.lanes, c as u32];
    args.push(sizes);
    d.launch_typed(FILE, "bin_sum", x.dtype, Launch::grid3([bins * rows.slabs, parts, 1], THREADS), args);
    let mut args = args![y, partial, parts as u32, n as u32, c as u32, u32::from(mean)];
    args.push(sizes);
    d.launch_typed(FILE, "bin_finish", x.dtype, Launch::linear(y.shape.len()), args);
    y
}

/// Gradient with respect to the input of `x_size`.
pub(super) fn adaptive_avg_pool2d_bwd(d: &Cuda, dy: &Tensor, x_size: Size) -> Tensor {
    let Shape { n, h, w, c } = dy.shape;
    let dx = d.tensor_of(dy.dtype, Shape::new(n, x_size.0, x_size.1, c));
    let mut args = args![dx, dy, n as u32, c as u32];
    args.push([x_size.0, x_size.1, h, w].map(|v| v as u32));
    d.launch_typed(FILE, "adaptive_avg_pool2d_bwd", dy.dtype, runs(&dx), args);
    dx
}
