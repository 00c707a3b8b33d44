//! Leaky ReLU, channel concatenation and slices, (broadcast) addition and its backward: validated entry
//! points.

use super::{Backend, Device, Shape, check};
use crate::{Error, Result};

/// The ops of this family that a device implements. It may assume what the functions of this module validate.
pub trait ElementwiseOps: Device {
    /// As [`leaky_relu`].
    fn leaky_relu(&self, x: &Self::Tensor, slope: f64) -> Self::Tensor;
    /// As [`leaky_relu_bwd`].
    fn leaky_relu_bwd(&self, dy: &Self::Tensor, x: &Self::Tensor, slope: f64) -> Self::Tensor;
    /// As [`concat()`].
    fn concat(&self, parts: &[&Self::Tensor]) -> Self::Tensor;
    /// As [`slice_channels`].
    fn slice_channels(&self, x: &Self::Tensor, offset: usize, len: usize) -> Self::Tensor;
    /// As [`add`].
    fn add(&self, x: &Self::Tensor, y: &Self::Tensor, alpha: f64) -> Self::Tensor;
    /// As [`sum_positions`].
    fn sum_positions(&self, x: &Self::Tensor) -> Self::Tensor;
}

/// y = x for x > 0, `slope` x elsewhere (slope 0 is ReLU).
///
/// # Errors
/// [`Error::Shape`] for an empty x or a negative slope.
pub fn leaky_relu<B: Backend>(b: &B, x: &B::Tensor, slope: f64) -> Result<B::Tensor> {
    const OP: &str = "leaky_relu";
    check::not_empty(OP, "x", B::shape(x))?;
    check::slope(OP, slope)?;
    Ok(b.leaky_relu(x, slope))
}

/// dx = dy where x > 0, `slope` dy elsewhere; `x` may also be the output, whose sign is the same.
///
/// # Errors
/// [`Error::Shape`] where dy is not x's shape, or for a negative slope.
pub fn leaky_relu_bwd<B: Backend>(b: &B, dy: &B::Tensor, x: &B::Tensor, slope: f64) -> Result<B::Tensor> {
    const OP: &str = "leaky_relu_bwd";
    check::not_empty(OP, "x", B::shape(x))?;
    check::shape(OP, "dy", B::shape(x), B::shape(dy))?;
    check::slope(OP, slope)?;
    Ok(b.leaky_relu_bwd(dy, x, slope))
}

/// Channels of all parts one after another: `[n, h, w, Σ c]` from parts `[n, h, w, c]`.
///
/// # Errors
/// [`Error::Shape`] for no parts or parts of different n, h, w.
pub fn concat<B: Backend>(b: &B, parts: &[&B::Tensor]) -> Result<B::Tensor> {
    const OP: &str = "concat";
    let Some(first) = parts.first().map(|p| B::shape(p)) else {
        return Err(Error::shape(OP, "at least one part", "none"));
    };
    for part in parts {
        let part = B::shape(part);
        check::not_empty(OP, "part", part)?;
        check::shape(OP, "part", first.with_channels(part.c), part)?;
    }
    Ok(b.concat(parts))
}

/// Channels `offset..offset + len` of x, `[n, h, w, len]`; backward of [`concat()`].
///
/// # Errors
/// [`Error::Shape`] where x has no such channels.
pub fn slice_channels<B: Backend>(b: &B, x: &B::Tensor, offset: usize, len: usize) -> Result<B::Tensor> {
    const OP: &str = "slice_channels";
    let shape = B::shape(x);
    check::not_empty(OP, "x", shape)?;
    if len == 0 || offset.checked_add(len).is_none_or(|end| end > shape.c) {
        return Err(Error::shape(
            OP,
            format!("{len} channels from {offset}, at least one"),
            shape.to_string(),
        ));
    }
    Ok(b.slice_channels(x, offset, len))
}

/// x + alpha y, y of x's shape or `[n, 1, 1, c]` (then broadcast over the positions of its image).
///
/// # Errors
/// [`Error::Shape`] for any other y.
pub fn add<B: Backend>(b: &B, x: &B::Tensor, y: &B::Tensor, alpha: f64) -> Result<B::Tensor> {
    const OP: &str = "add";
    let (x_shape, y_shape) = (B::shape(x), B::shape(y));
    check::not_empty(OP, "x", x_shape)?;
    let broadcast = Shape::new(x_shape.n, 1, 1, x_shape.c);
    if y_shape != x_shape && y_shape != broadcast {
        return Err(Error::shape(OP, format!("y {x_shape} or {broadcast}"), y_shape.to_string()));
    }
    Ok(b.add(x, y, alpha))
}

/// Sum over the positions of each image, `[n, 1, 1, c]`: backward of the broadcast in [`add`].
///
/// # Errors
/// [`Error::Shape`] for an empty x.
pub fn sum_positions<B: Backend>(b: &B, x: &B::Tensor) -> Result<B::Tensor> {
    check::not_empty("sum_positions", "x", B::shape(x))?;
    Ok(b.sum_positions(x))
}
