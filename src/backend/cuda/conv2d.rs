//! Launch plans of kernels/conv2d.cu.
#![allow(unused_variables, missing_docs)]

use super::*;

pub fn fprop(d: &Cuda, x: &Tensor, params: &Vector, conv: &Conv2d) -> Tensor {
    todo!()
}

pub fn dgrad(d: &Cuda, dy: &Tensor, params: &Vector, conv: &Conv2d, x_shape: Shape) -> Tensor {
    todo!()
}

pub fn wgrad(d: &Cuda, x: &Tensor, dy: &Tensor, grads: &mut Vector, conv: &Conv2d) {
    todo!()
}
