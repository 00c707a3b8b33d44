//! Launch plans of kernels/batch_norm.cu.
#![allow(unused_variables, missing_docs)]

use super::*;

pub fn train(
    d: &Cuda,
    x: &Tensor,
    params: &Vector,
    stats: &mut Vector,
    bn: &BatchNorm,
    act: Activation,
    residual: Option<&Tensor>,
) -> (Tensor, Vector) {
    todo!()
}

pub fn eval(
    d: &Cuda,
    x: &Tensor,
    params: &Vector,
    stats: &Vector,
    bn: &BatchNorm,
    act: Activation,
    residual: Option<&Tensor>,
) -> Tensor {
    todo!()
}

pub fn train_bwd(
    d: &Cuda,
    dy: &Tensor,
    x: &Tensor,
    y: &Tensor,
    moments: &Vector,
    params: &Vector,
    grads: &mut Vector,
    bn: &BatchNorm,
    act: Activation,
    residual: bool,
) -> (Tensor, Option<Tensor>) {
    todo!()
}

pub fn eval_bwd(
    d: &Cuda,
    dy: &Tensor,
    x: &Tensor,
    y: &Tensor,
    params: &Vector,
    stats: &Vector,
    grads: &mut Vector,
    bn: &BatchNorm,
    act: Activation,
) -> Tensor {
    todo!()
}

pub fn tangent(
    d: &Cuda,
    t: &Tensor,
    y: &Tensor,
    params: &Vector,
    stats: &Vector,
    bn: &BatchNorm,
    act: Activation,
) -> Tensor {
    todo!()
}
