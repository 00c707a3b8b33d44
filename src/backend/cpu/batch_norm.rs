use super::{Labels, Real, Tensor};
use crate::backend::cpu::Cpu;
use crate::ops::*;
use crate::rng::Key;

pub fn train<T: Real>(x: &Tensor<T>, params: &[T], stats: &mut [T], bn: &BatchNorm, act: Activation, residual: Option<&Tensor<T>>) -> (Tensor<T>, Vec<T>) { todo!() }
pub fn eval<T: Real>(x: &Tensor<T>, params: &[T], stats: &[T], bn: &BatchNorm, act: Activation, residual: Option<&Tensor<T>>) -> Tensor<T> { todo!() }
pub fn train_bwd<T: Real>(dy: &Tensor<T>, x: &Tensor<T>, y: &Tensor<T>, moments: &[T], params: &[T], grads: &mut [T], bn: &BatchNorm, act: Activation, residual: bool) -> (Tensor<T>, Option<Tensor<T>>) { todo!() }
pub fn eval_bwd<T: Real>(dy: &Tensor<T>, x: &Tensor<T>, y: &Tensor<T>, params: &[T], stats: &[T], grads: &mut [T], bn: &BatchNorm, act: Activation) -> Tensor<T> { todo!() }
pub fn tangent<T: Real>(t: &Tensor<T>, y: &Tensor<T>, params: &[T], stats: &[T], bn: &BatchNorm, act: Activation) -> Tensor<T> { todo!() }
