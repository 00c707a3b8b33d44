//! Launch plans of kernels/tvat.cu.
#![allow(unused_variables, missing_docs)]

use super::*;

pub fn uniform_noise(d: &Cuda, shape: Shape, key: Key) -> Tensor {
    todo!()
}

pub fn normalize(d: &Cuda, x: &Tensor, scale: f64) -> Tensor {
    todo!()
}

pub fn cotangent(d: &Cuda, logits: &[&Tensor], tangents: &[&Tensor], size: Size) -> Tensor {
    todo!()
}

pub fn kl_gradient(d: &Cuda, clean: &[&Tensor], perturbed: &[&Tensor], size: Size) -> Tensor {
    todo!()
}
