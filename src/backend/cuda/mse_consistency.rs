//! Launch plans of kernels/mse_consistency.cu.
#![allow(unused_variables, missing_docs)]

use super::*;

pub fn forward_backward(
    d: &Cuda,
    student: &Tensor,
    core: &Tensor,
    assist: &Tensor,
    size: Size,
    ensemble: &Ensemble,
    mix: &Mix,
    grad_scale: f64,
) -> LossGrad<Cuda> {
    todo!()
}
