//! Bilinear resampling with align_corners (as PyTorch's `interpolate`): validated entry points.
//!
//! Output row i reads source row i (h - 1) / (size - 1), 0 where the size is 1; columns alike.

use super::{Backend, Device, Size, check};
use crate::Result;

/// The ops of this family that a device implements. It may assume what the functions of this module validate.
pub trait InterpolateOps: Device {
    /// As [`interpolate`].
    fn interpolate(&self, x: &Self::Tensor, size: Size) -> Self::Tensor;
    /// As [`interpolate_bwd`].
    fn interpolate_bwd(&self, dy: &Self::Tensor, x_size: Size) -> Self::Tensor;
}

/// x `[n, h, w, c]` resampled to `[n, size, c]`.
///
/// # Errors
/// [`crate::Error::Shape`] for an empty x or a size of 0.
pub fn interpolate<B: Backend>(b: &B, x: &B::Tensor, size: Size) -> Result<B::Tensor> {
    const OP: &str = "interpolate";
    check::not_empty(OP, "x", B::shape(x))?;
    check::size(OP, size)?;
    Ok(b.interpolate(x, size))
}

/// dx `[n, x_size, c]` (overwrites): the transposed resampling of [`interpolate`] from `x_size`.
///
/// # Errors
/// [`crate::Error::Shape`] for an empty dy or an `x_size` of 0.
pub fn interpolate_bwd<B: Backend>(b: &B, dy: &B::Tensor, x_size: Size) -> Result<B::Tensor> {
    const OP: &str = "interpolate_bwd";
    check::not_empty(OP, "dy", B::shape(dy))?;
    check::size(OP, x_size)?;
    Ok(b.interpolate_bwd(dy, x_size))
}
