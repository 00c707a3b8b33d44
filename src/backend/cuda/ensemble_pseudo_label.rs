//! Launch plans of kernels/ensemble_pseudo_label.cu.
#![allow(unused_variables, missing_docs)]

use super::*;

pub fn forward(
    d: &Cuda,
    core: &Tensor,
    assist: &Tensor,
    size: Size,
    ensemble: &Ensemble,
) -> PseudoLabel<Cuda> {
    todo!()
}
