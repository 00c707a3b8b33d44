use super::{Labels, Real, Tensor};
use crate::backend::cpu::Cpu;
use crate::ops::*;
use crate::rng::Key;

pub fn cross_entropy<T: Real>(logits: &Tensor<T>, target: &Labels, grad_scale: f64) -> LossGrad<Cpu<T>> { todo!() }
pub fn ohem_cross_entropy<T: Real>(logits: &Tensor<T>, target: &Labels, ohem: &Ohem, grad_scale: f64) -> LossGrad<Cpu<T>> { todo!() }
