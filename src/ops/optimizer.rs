//! Updates over flat vectors: stochastic gradient descent and the exponential moving average; validated entry points.

use super::{Backend, Sgd};
use crate::{Error, Result};

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
    const OP: &str = "sgd";
    let len = B::vector_len(params);
    same_len::<B>(OP, "grads", grads, len)?;
    same_len::<B>(OP, "momentum", momentum, len)?;
    if sgd.num_decayed > len {
        return Err(Error::shape(
            OP,
            format!("at most {len} decayed parameters"),
            sgd.num_decayed.to_string(),
        ));
    }
    b.sgd(params, grads, momentum, sgd);
    Ok(())
}

/// teacher = keep teacher + (1 - keep) student (Tarvainen and Valpola, 2017).
///
/// # Errors
/// [`Error::Shape`] where the vectors differ in length or `keep` is not within 0 to 1.
pub fn ema<B: Backend>(b: &B, teacher: &mut B::Vector, student: &B::Vector, keep: f64) -> Result<()> {
    const OP: &str = "ema";
    same_len::<B>(OP, "student", student, B::vector_len(teacher))?;
    if !(0.0..=1.0).contains(&keep) {
        return Err(Error::shape(OP, "keep within 0 to 1", keep.to_string()));
    }
    b.ema(teacher, student, keep);
    Ok(())
}
