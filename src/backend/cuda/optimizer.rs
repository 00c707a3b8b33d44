//! Launch plans of kernels/optimizer.cu.
#![allow(unused_variables, missing_docs)]

use super::*;

pub fn sgd(d: &Cuda, params: &mut Vector, grads: &Vector, momentum: &mut Vector, spec: &Sgd) {
    todo!()
}

pub fn ema(d: &Cuda, teacher: &mut Vector, student: &Vector, keep: f64) {
    todo!()
}
