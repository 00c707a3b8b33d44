//! Launch plans of kernels/cut_mix.cu.
#![allow(unused_variables, missing_docs)]

use super::*;

pub fn forward(d: &Cuda, x: &Tensor, mix: &Mix) -> Tensor {
    todo!()
}
