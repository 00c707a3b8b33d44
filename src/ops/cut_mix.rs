//! CutMix of images (Yun et al., 2019; French et al., 2020): validated entry point.

use super::{Backend, Device, Mix, check};
use crate::Result;

/// The ops of this family that a device implements. It may assume what the functions of this module validate.
pub trait CutMixOps: Device {
    /// As [`cut_mix`].
    fn cut_mix(&self, x: &Self::Tensor, mix: &Mix) -> Self::Tensor;
}

/// Pixel (y, x) of image i is taken from image [`Mix::source`]`(i, y, x)`; x `[n, h, w, c]`.
///
/// # Errors
/// [`crate::Error::Shape`] where boxes or sources do not fit x.
pub fn cut_mix<B: Backend>(b: &B, x: &B::Tensor, mix: &Mix) -> Result<B::Tensor> {
    let shape = B::shape(x);
    check::not_empty("cut_mix", "x", shape)?;
    mix.validate(shape.n, (shape.h, shape.w))?;
    Ok(b.cut_mix(x, mix))
}
