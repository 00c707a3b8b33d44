use super::{Labels, Real, Tensor};
use crate::backend::cpu::Cpu;
use crate::ops::*;
use crate::rng::Key;

pub fn forward_backward<T: Real>(student: &Tensor<T>, core: &Tensor<T>, assist: &Tensor<T>, size: Size, ensemble: &Ensemble, mix: &Mix, grad_scale: f64) -> LossGrad<Cpu<T>> { todo!() }
