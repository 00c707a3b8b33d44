use super::{Labels, Real, Tensor};
use crate::backend::cpu::Cpu;
use crate::ops::*;
use crate::rng::Key;

pub fn forward_backward<T: Real>(student: &Tensor<T>, pseudo: &PseudoLabel<Cpu<T>>, core: &Tensor<T>, assist: &Tensor<T>, ensemble: &Ensemble, mix: &Mix, spec: &ConfCe, grad_scale: f64) -> ConfCeOut<Cpu<T>> { todo!() }
