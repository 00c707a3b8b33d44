use super::{Labels, Real, Tensor};
use crate::backend::cpu::Cpu;
use crate::ops::*;
use crate::rng::Key;

pub fn max_pool2d<T: Real>(x: &Tensor<T>, spec: &MaxPool2d) -> Tensor<T> { todo!() }
pub fn max_pool2d_bwd<T: Real>(dy: &Tensor<T>, x: &Tensor<T>, spec: &MaxPool2d) -> Tensor<T> { todo!() }
pub fn adaptive_avg_pool2d<T: Real>(x: &Tensor<T>, size: Size) -> Tensor<T> { todo!() }
pub fn adaptive_avg_pool2d_bwd<T: Real>(dy: &Tensor<T>, x_size: Size) -> Tensor<T> { todo!() }
