//! Launch plans of kernels/interpolate.cu.

use super::Cuda;
use super::driver::Launch;
use super::memory::{Tensor, args};
use crate::ops::{InterpolateOps, Shape, Size};

impl InterpolateOps for Cuda {
    fn interpolate(&self, x: &Tensor, size: Size) -> Tensor {
        let Shape { n, h, w, c } = x.shape;
        let y = self.tensor_of(x.dtype, Shape::new(n, size.0, size.1, c));
        let launch = Launch::linear(y.shape.len() / x.dtype.vector_width(c));
        let args = args![y, x, n as u32, h as u32, w as u32, size.0 as u32, size.1 as u32, c as u32];
        self.launch_typed(FILE, "interpolate_fwd", x.dtype, launch, args);
        y
    }
    fn interpolate_bwd(&self, dy: &Tensor, x_size: Size) -> Tensor {
        let Shape { n, h, w, c } = dy.shape;
        let dx = self.tensor_of(dy.dtype, Shape::new(n, x_size.0, x_size.1, c));
        let folded = self.buffer(4 * n * x_size.0 * w * c);
        let launch = |len: usize, inner: usize| Launch::linear(len / dy.dtype.vector_width(inner));
        self.launch_typed(
            FILE,
            "interpolate_bwd_rows",
            dy.dtype,
            launch(n * x_size.0 * w * c, w * c),
            args![folded, dy, n as u64, x_size.0 as u32, h as u32, (w * c) as u32],
        );
        self.launch_typed(
            FILE,
            "interpolate_bwd_columns",
            dy.dtype,
            launch(dx.shape.len(), c),
            args![dx, folded, (n * x_size.0) as u64, x_size.1 as u32, w as u32, c as u32],
        );
        dx
    }
}

const FILE: &str = "interpolate";
