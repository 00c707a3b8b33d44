//! Updates over flat vectors: stochastic gradient descent, with the exponential moving average behind it, and copies of parts;
//! validated entry points.

use super::{Backend, Device, Sgd, Span, check};
use crate::{Error, Result};

/// A teacher that follows the student.
pub struct Teacher<'a, B: Device> {
    /// Its parameters.
    pub params: &'a mut B::Vector,
    /// Its running statistics.
    pub stats: &'a mut B::Vector,
    /// The student's running statistics.
    pub student_stats: &'a B::Vector,
    /// The share of itself that it keeps.
    pub keep: f64,
}

/// One step of stochastic gradient descent over flat vectors, and of the teacher's average after it.
pub struct SgdStep<'a, B: Device> {
    /// Parameters, which move.
    pub params: &'a mut B::Vector,
    /// Their gradients.
    pub grads: &'a B::Vector,
    /// The momentum; zeros before the first step.
    pub momentum: &'a mut B::Vector,
    /// Rates.
    pub spec: &'a Sgd,
    /// A teacher to be moved after the student.
    pub teacher: Option<Teacher<'a, B>>,
}

/// What a device must be able to do of this family. Input is what the functions of this module have validated.
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

/// g = grads + weight_decay params (the first `num_decayed` only), momentum = momentum·v + g, params -= lr momentum: one
/// step of PyTorch's `SGD`. Then teacher = keep teacher + (1 - keep) student (Tarvainen and Valpola, 2017), of parameters and of
/// running statistics: what ends a step of PS-MT, in one pass over memory on a GPU.
///
/// # Errors
/// [`Error::Shape`] where the vectors differ in length or are shorter than `num_decayed`, or `keep` is not within 0 to 1.
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

/// `to[at..at + span.len] = from[span]` for each (span, at) of `moves`; the rest of `to` stays.
///
/// # Errors
/// [`Error::Shape`] where a span or its place is not within its vector, or places overlap.
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
        check::span::<B>(OP, "a place", place, span.len, to)?;
        places.push(place);
    }
    places.sort_by_key(|place| (place.offset, place.len));
    if let Some(pair) = places.windows(2).find(|pair| pair[0].range().end > pair[1].offset) {
        let ranges = format!("{:?} and {:?}", pair[0].range(), pair[1].range());
        return Err(Error::shape(OP, "places that do not overlap", ranges));
    }
    b.copy_spans(to, from, moves);
    Ok(())
}
