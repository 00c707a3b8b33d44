//! Launch plans of kernels/pool.cu.
#![allow(unused_variables, missing_docs)]

use super::*;

pub fn max_pool2d(d: &Cuda, x: &Tensor, spec: &MaxPool2d) -> Tensor {
    todo!()
}

pub fn max_pool2d_bwd(d: &Cuda, dy: &Tensor, x: &Tensor, spec: &MaxPool2d) -> Tensor {
    todo!()
}

pub fn adaptive_avg_pool2d(d: &Cuda, x: &Tensor, size: Size) -> Tensor {
    todo!()
}

pub fn adaptive_avg_pool2d_bwd(d: &Cuda, dy: &Tensor, x_size: Size) -> Tensor {
    todo!()
}
