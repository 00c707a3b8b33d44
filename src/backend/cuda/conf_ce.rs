//! Launch plans of kernels/conf_ce.cu.
#![allow(unused_variables, missing_docs)]

use super::*;

pub fn forward_backward(
    d: &Cuda,
    student: &Tensor,
    pseudo: &PseudoLabel<Cuda>,
    core: &Tensor,
    assist: &Tensor,
    ensemble: &Ensemble,
    mix: &Mix,
    spec: &ConfCe,
    grad_scale: f64,
) -> ConfCeOut<Cuda> {
    todo!()
}
