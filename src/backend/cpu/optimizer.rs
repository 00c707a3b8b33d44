//! Updates of flat vectors: stochastic gradient descent, the exponential moving average and copies of parts,
//! each one pass over memory.

use super::{Cpu, Real};
use crate::ops::{OptimizerOps, Sgd, SgdStep, Span};
use rayon::prelude::*;

impl<T: Real> OptimizerOps for Cpu<T> {
    fn sgd(&self, op: SgdStep<'_, Self>) {
        sgd(op.params, op.grads, op.momentum, op.spec);
        if let Some(teacher) = op.teacher {
            ema(teacher.params, op.params, teacher.keep);
            ema(teacher.stats, teacher.student_stats, teacher.keep);
        }
    }
    fn copy_spans(&self, to: &mut Vec<T>, from: &Vec<T>, moves: &[(Span, usize)]) {
        for &(span, at) in moves {
            let chunks =
                to[at..at + span.len].par_chunks_mut(CHUNK).zip(from[span.range()].par_chunks(CHUNK));
            chunks.for_each(|(to, from)| to.copy_from_slice(from));
        }
    }
}

/// Elements of one task.
const CHUNK: usize = 1 << 15;

/// v = momentum v + g, p -= lr v; g is the gradient, plus weight_decay p for the first `num_decayed`
/// parameters.
fn sgd<T: Real>(params: &mut [T], grads: &[T], momentum: &mut [T], spec: &Sgd) {
    let split = spec.num_decayed.min(params.len());
    let (lr, keep) = (T::from_f64(-spec.lr), T::from_f64(spec.momentum));
    let (decayed, plain) = params.split_at_mut(split);
    let (velocity, plain_velocity) = momentum.split_at_mut(split);
    let step = |params: &mut [T], grads: &[T], velocity: &mut [T], decay: T| {
        let chunks = params.par_chunks_mut(CHUNK).zip(grads.par_chunks(CHUNK));
        chunks.zip(velocity.par_chunks_mut(CHUNK)).for_each(|((params, grads), velocity)| {
            for ((p, &g), v) in params.iter_mut().zip(grads).zip(velocity) {
                *v = keep.mul_add(*v, decay.mul_add(*p, g));
                *p = lr.mul_add(*v, *p);
            }
        });
    };
    step(decayed, &grads[..split], velocity, T::from_f64(spec.weight_decay));
    step(plain, &grads[split..], plain_velocity, T::ZERO);
}

/// teacher = keep teacher + (1 - keep) student.
fn ema<T: Real>(teacher: &mut [T], student: &[T], keep: f64) {
    let (keep, rest) = (T::from_f64(keep), T::from_f64(1.0 - keep));
    teacher.par_chunks_mut(CHUNK).zip(student.par_chunks(CHUNK)).for_each(|(teacher, student)| {
        for (t, &s) in teacher.iter_mut().zip(student) {
            *t = keep.mul_add(*t, rest * s);
        }
    });
}
