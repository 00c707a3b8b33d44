//! Updates over flat vectors: stochastic gradient descent, with the exponential moving average behind it, and copies of parts;
//! validated entry points.

use super::{Backend, Device, Sgd, Span, Teacher, check};
use crate::{Error, Result};

/// What a device must be able to do of this family. Input is what the functions of this module have validated.
pub trait OptimizerOps: Device {
    /// One step of [`Sgd`] over flat vectors.
    fn sgd(&self, params: &mut Self::Vector, grads: &Self::Vector, momentum: &mut Self::Vector, sgd: &Sgd);
    /// [`Backend::sgd`], then teacher = keep teacher + (1 - keep) student, of parameters and of running statistics.
    fn sgd_ema(
        &self,
        params: &mut Self::Vector,
        grads: &Self::Vector,
        momentum: &mut Self::Vector,
        sgd: &Sgd,
        teacher: Teacher<'_, Self>,
    );
    /// `to[at..at + span.len] = from[span]` for each (span, at).
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
/// step of PyTorch's `SGD`. A zero momentum vector is the first step.
///
/// # Errors
/// [`Error::Shape`] where the vectors differ in length or are shorter than `num_decayed`.
pub fn sgd<B: Backend>(
    b: &B,
    params: &mut B::Vector,
    grads: &B::Vector,
    momentum: &mut B::Vector,
    sgd: &Sgd,
) -> Result<()> {
    valid_sgd::<B>("sgd", params, grads, momentum, sgd)?;
    b.sgd(params, grads, momentum, sgd);
    Ok(())
}

/// [`sgd`], then teacher = keep teacher + (1 - keep) student (Tarvainen and Valpola, 2017), of parameters and of running
/// statistics: what ends a step of PS-MT, in one pass over memory on a GPU.
///
/// # Errors
/// Those of [`sgd`], and where the teacher's vectors are not as long as the student's or `keep` is not within 0 to 1.
pub fn sgd_ema<B: Backend>(
    b: &B,
    params: &mut B::Vector,
    grads: &B::Vector,
    momentum: &mut B::Vector,
    sgd: &Sgd,
    teacher: Teacher<'_, B>,
) -> Result<()> {
    const OP: &str = "sgd_ema";
    valid_sgd::<B>(OP, params, grads, momentum, sgd)?;
    same_len::<B>(OP, "a teacher", teacher.params, B::vector_len(params))?;
    same_len::<B>(OP, "a teacher's statistics", teacher.stats, B::vector_len(teacher.student_stats))?;
    if !(0.0..=1.0).contains(&teacher.keep) {
        return Err(Error::shape(OP, "keep within 0 to 1", teacher.keep.to_string()));
    }
    b.sgd_ema(params, grads, momentum, sgd, teacher);
    Ok(())
}

fn valid_sgd<B: Backend>(
    op: &'static str,
    params: &B::Vector,
    grads: &B::Vector,
    momentum: &B::Vector,
    sgd: &Sgd,
) -> Result<()> {
    let len = B::vector_len(params);
    same_len::<B>(op, "grads", grads, len)?;
    same_len::<B>(op, "momentum", momentum, len)?;
    if sgd.num_decayed > len {
        let expected = format!("at most {len} decayed parameters");
        return Err(Error::shape(op, expected, sgd.num_decayed.to_string()));
    }
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
