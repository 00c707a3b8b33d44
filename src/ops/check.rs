//! The checks that the op functions share, of shapes and spans. Must not know what an op computes.

use super::{Activation, Backend, Shape, Size, Span};
use crate::{Error, Result};

/// `x` has at least one value.
pub(super) fn not_empty(op: &'static str, what: &str, x: Shape) -> Result<()> {
    if x.is_empty() {
        return Err(Error::shape(op, format!("{what} with sizes of at least 1"), x.to_string()));
    }
    Ok(())
}

/// `got` is `expected`.
pub(super) fn shape(op: &'static str, what: &str, expected: Shape, got: Shape) -> Result<()> {
    if expected != got {
        return Err(Error::shape(op, format!("{what} {expected}"), got.to_string()));
    }
    Ok(())
}

/// The output size is at least 1 by 1.
pub(super) fn size(op: &'static str, size: Size) -> Result<()> {
    if size.0 == 0 || size.1 == 0 {
        return Err(Error::shape(
            op,
            "an output size of at least 1 by 1",
            format!("{} by {}", size.0, size.1),
        ));
    }
    Ok(())
}

/// Class indices fit into one byte together with the ignored value.
pub(super) fn classes(op: &'static str, num_classes: usize) -> Result<()> {
    if !(1..=255).contains(&num_classes) {
        return Err(Error::shape(op, "1 to 255 classes", num_classes.to_string()));
    }
    Ok(())
}

/// `span` has `len` elements and is inside `vector`.
pub(super) fn span<B: Backend>(
    op: &'static str,
    what: &str,
    span: Span,
    len: usize,
    vector: &B::Vector,
) -> Result<()> {
    let total = B::vector_len(vector);
    if span.len != len || span.offset.checked_add(span.len).is_none_or(|end| end > total) {
        return Err(Error::shape(
            op,
            format!("{what} of {len} elements inside a vector of {total}"),
            format!("{} elements from {}", span.len, span.offset),
        ));
    }
    Ok(())
}

/// The slope is one whose derivative follows from the output's sign.
pub(super) fn slope(op: &'static str, slope: f64) -> Result<()> {
    if !(slope >= 0.0 && slope.is_finite()) {
        return Err(Error::shape(op, "a finite slope of at least 0", slope.to_string()));
    }
    Ok(())
}

/// [`slope`], of an activation.
pub(super) fn activation(op: &'static str, act: Activation) -> Result<()> {
    match act {
        Activation::Identity => Ok(()),
        Activation::LeakyRelu(s) => slope(op, s),
    }
}

/// Logits have at least one position and a number of classes that labels can express.
pub(super) fn logits(op: &'static str, what: &str, x: Shape) -> Result<()> {
    not_empty(op, what, x)?;
    classes(op, x.c)
}
