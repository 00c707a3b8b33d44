use super::{Labels, Real, Tensor};
use crate::backend::cpu::Cpu;
use crate::ops::*;
use crate::rng::Key;

pub fn uniform_noise<T: Real>(shape: Shape, key: Key) -> Tensor<T> { todo!() }
pub fn normalize<T: Real>(d: &Tensor<T>, scale: f64) -> Tensor<T> { todo!() }
pub fn cotangent<T: Real>(logits: &[&Tensor<T>], tangents: &[&Tensor<T>], size: Size) -> Tensor<T> { todo!() }
pub fn kl_gradient<T: Real>(clean: &[&Tensor<T>], perturbed: &[&Tensor<T>], size: Size) -> Tensor<T> { todo!() }
