//! Launch plans of kernels/optimizer.cu.

use super::*;

const FILE: &str = "optimizer";

/// Values that a thread takes at a time.
const WIDTH: usize = 4;

/// v = momentum v + g, p -= lr v; g is the gradient, plus weight_decay p for the first `num_decayed` parameters.
pub fn sgd(d: &Cuda, params: &mut Vector, grads: &Vector, momentum: &mut Vector, spec: &Sgd) {
    let len = params.len;
    let mut args = args![
        params.buffer,
        momentum.buffer,
        params.half(),
        grads.buffer,
        len as u64,
        spec.num_decayed as u64
    ];
    args.push([-spec.lr, spec.momentum, spec.weight_decay].map(|v| v as f32));
    d.launch(FILE, "sgd", Launch::linear(len / WIDTH), args);
}

/// teacher = keep teacher + (1 - keep) student.
pub fn ema(d: &Cuda, teacher: &mut Vector, student: &Vector, keep: f64) {
    let len = teacher.len;
    let (keep, rest) = (keep as f32, (1.0 - keep) as f32);
    let args = args![teacher.buffer, teacher.half(), student.buffer, keep, rest, len as u64];
    d.launch(FILE, "ema", Launch::linear(len / WIDTH), args);
}
