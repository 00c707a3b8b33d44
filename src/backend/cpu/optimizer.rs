use super::{Labels, Real, Tensor};
use crate::backend::cpu::Cpu;
use crate::ops::*;
use crate::rng::Key;

pub fn sgd<T: Real>(params: &mut [T], grads: &[T], momentum: &mut [T], spec: &Sgd) { todo!() }
pub fn ema<T: Real>(teacher: &mut [T], student: &[T], keep: f64) { todo!() }
