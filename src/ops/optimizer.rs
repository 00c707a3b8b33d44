//! Updates of flat vectors: stochastic gradient descent, with the exponential moving average after it, and
//! copies of parts; validated entry points.

use super::{Backend, Device, Sgd, Span, check};
use crate::{Error, Result};

/// A teacher that follows the student by an exponential moving average.
pub struct Teacher<'a, B: Device> {
    /// The teacher's parameters, as many as the student's.
    pub params: &'a mut B::Vector,
    /// The teacher's running statistics.
    pub stats: &'a mut B::Vector,
    /// The student's running statistics, as many as the teacher's.
    pub student_stats: &'a B::Vector,
    /// Decay of the average, from 0 to 1: the weight of the teacher's own value.
    pub keep: f64,
}

/// Arguments of [`sgd`]: one step of stochastic gradient descent, and of a teacher's moving average after it.
pub struct SgdStep<'a, B: Device> {
    /// Parameters, which are updated.
    pub params: &'a mut B::Vector,
    /// Gradients of the parameters.
    pub grads: &'a B::Vector,
    /// Momentum buffer, which is updated; zeros before the first step.
    pub momentum: &'a mut B::Vector,
    /// Learning rate, momentum and weight decay.
    pub spec: &'a Sgd,
    /// A teacher that is updated after the student.
    pub teacher: Option<Teacher<'a, B>>,
}

/// The ops of this family that a device implements. It may assume what the functions of this module validate.
pub trait OptimizerOps: Device {
    /// As [`sgd`].
    fn sgd(&self, op: SgdStep<'_, Self>);
    /// As [`copy_spans`].
    fn copy_spans(&self, to: &mut Self::Vector, from: &Self::Vector, moves: &[(Span, usize)]);
}

fn same_len<B: Backend>(op: &'static str, what: &str, vector: &B::Vector, len: usize) -> Result<()> {
    let got = B::vector_len(vector);
    if got != len {
        return Err(Error::shape(op, format!("{what} of {len} elements"), got.to_string()));
    }
    Ok(())
}

/// g = grads + weight_decay params (the first `num_decayed` only), momentum = momentum·v + g, params -= lr
/// momentum: one step of PyTorch's `SGD`. Then teacher = keep teacher + (1 - keep) student (Tarvainen and
/// Valpola, 2017), of parameters and of running statistics, fused into one pass over memory on a GPU.
///
/// # Errors
/// [`Error::Shape`] where the vectors differ in length or are shorter than `num_decayed`, or `keep` is not
/// within 0 to 1.
pub fn sgd<B: Backend>(b: &B, op: SgdStep<'_, B>) -> Result<()> {
    const OP: &str = "sgd";
    let len = B::vector_len(op.params);
    same_len::<B>(OP, "grads", op.grads, len)?;
    same_len::<B>(OP, "momentum", op.momentum, len)?;
    if op.spec.num_decayed > len {
        let expected = format!("at most {len} decayed parameters");
        return Err(Error::shape(OP, expected, op.spec.num_decayed.to_string()));
    }
    if let Some(teacher) = &op.teacher {
        same_len::<B>(OP, "a teacher", teacher.params, len)?;
        same_len::<B>(OP, "a teacher's statistics", teacher.stats, B::vector_len(teacher.student_stats))?;
        if !(0.0..=1.0).contains(&teacher.keep) {
            return Err(Error::shape(OP, "keep within 0 to 1", teacher.keep.to_string()));
        }
    }
    b.sgd(op);
    Ok(())
}

/// `to[at..at + span.len] = from[span]` for each (span, at) of `moves`; the rest of `to` is unchanged.
///
/// # Errors
/// [`Error::Shape`] where a span or its destination is not within its vector, or destinations overlap.
pub fn copy_spans<B: Backend>(
    b: &B,
    to: &mut B::Vector,
    from: &B::Vector,
    moves: &[(Span, usize)],
) -> Result<()> {
    const OP: &str = "copy_spans";
    let mut places = Vec::with_capacity(moves.len());
    for &(span, at) in moves {
        let place = Span { offset: at, len: span.len };
        check::span::<B>(OP, "a span", span, span.len, from)?;
        check::span::<B>(OP, "a destination", place, span.len, to)?;
        places.push(place);
    }
    places.sort_by_key(|place| (place.offset, place.len));
    if let Some(pair) = places.windows(2).find(|pair| pair[0].range().end > pair[1].offset) {
        let ranges = format!("{:?} and {:?}", pair[0].range(), pair[1].range());
        return Err(Error::shape(OP, "destinations that do not overlap", ranges));
    }
    b.copy_spans(to, from, moves);
    Ok(())
}
