use super::{Labels, Real, Tensor};
use crate::backend::cpu::Cpu;
use crate::ops::*;
use crate::rng::Key;

pub fn fprop<T: Real>(x: &Tensor<T>, params: &[T], conv: &Conv2d) -> Tensor<T> { todo!() }
pub fn dgrad<T: Real>(dy: &Tensor<T>, params: &[T], conv: &Conv2d, x_shape: Shape) -> Tensor<T> { todo!() }
pub fn wgrad<T: Real>(x: &Tensor<T>, dy: &Tensor<T>, grads: &mut [T], conv: &Conv2d) { todo!() }
