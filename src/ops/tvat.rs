//! The parts of T-VAT (PS-MT, section 3.2; virtual adversarial training, Miyato et al., 2018) that are not
//! network passes: validated entry points. The power iteration itself is in `method::tvat`.

use super::{Backend, Device, Shape, Size, check};
use crate::rng::Key;
use crate::{Error, Result};

/// The ops of this family that a device implements. It may assume what the functions of this module validate.
pub trait TvatOps: Device {
    /// As [`uniform_noise`].
    fn uniform_noise(&self, shape: Shape, key: Key) -> Self::Tensor;
    /// As [`normalize`].
    fn normalize(&self, d: &Self::Tensor, scale: f64) -> Self::Tensor;
    /// As [`add_normalized`].
    fn add_normalized(&self, x: &Self::Tensor, d: &Self::Tensor, scale: f64) -> Self::Tensor;
    /// As [`tvat_cotangent`].
    fn tvat_cotangent(
        &self,
        logits: &Self::Tensor,
        tangents: &Self::Tensor,
        decoders: usize,
        size: Size,
    ) -> Self::Tensor;
    /// As [`kl_gradient`].
    fn kl_gradient(
        &self,
        clean: &Self::Tensor,
        perturbed: &Self::Tensor,
        decoders: usize,
        size: Size,
    ) -> Self::Tensor;
}

/// Uniform noise in [-0.5, 0.5) of `shape`: element i (NHWC) is `key.uniform(i) - 0.5`.
///
/// # Errors
/// [`Error::Shape`] for an empty shape.
pub fn uniform_noise<B: Backend>(b: &B, shape: Shape, key: Key) -> Result<B::Tensor> {
    check::not_empty("uniform_noise", "a shape", shape)?;
    Ok(b.uniform_noise(shape, key))
}

/// scale d / (‖d‖ + 1e-8), the norm over each image.
///
/// # Errors
/// [`Error::Shape`] for an empty d or a scale that is not finite.
pub fn normalize<B: Backend>(b: &B, d: &B::Tensor, scale: f64) -> Result<B::Tensor> {
    const OP: &str = "normalize";
    check::not_empty(OP, "d", B::shape(d))?;
    if !scale.is_finite() {
        return Err(Error::shape(OP, "a finite scale", scale.to_string()));
    }
    Ok(b.normalize(d, scale))
}

/// x + scale d / (‖d‖ + 1e-8), the norm over each image of d: noise of length `scale` added to features,
/// fused.
///
/// # Errors
/// [`Error::Shape`] where d is not x's shape, for an empty x or a scale that is not finite.
pub fn add_normalized<B: Backend>(b: &B, x: &B::Tensor, d: &B::Tensor, scale: f64) -> Result<B::Tensor> {
    const OP: &str = "add_normalized";
    check::not_empty(OP, "x", B::shape(x))?;
    check::shape(OP, "d", B::shape(x), B::shape(d))?;
    if !scale.is_finite() {
        return Err(Error::shape(OP, "a finite scale", scale.to_string()));
    }
    Ok(b.add_normalized(x, d, scale))
}

/// Checks two tensors of the logits of `decoders` decoders, concatenated along the channels.
fn pair<B: Backend>(
    op: &'static str,
    x: &B::Tensor,
    other: &B::Tensor,
    decoders: usize,
    size: Size,
) -> Result<()> {
    let shape = B::shape(x);
    if decoders == 0 || !shape.c.is_multiple_of(decoders) {
        let expected = format!("a number of decoders that divides {} channels", shape.c);
        return Err(Error::shape(op, expected, decoders.to_string()));
    }
    check::logits(op, "logits", shape.with_channels(shape.c / decoders))?;
    check::shape(op, "logits", shape, B::shape(other))?;
    check::size(op, size)
}

/// upᵀ(p t - p (p·t)) / k with p = softmax(mean of up(logits)), t = mean of up(tangents) over k decoders,
/// interpolated to `size`: the cotangent of every decoder's logits in exact T-VAT. All three
/// `[n, h, w, k * classes]`, one decoder's classes after the other's; the result is the same in each.
///
/// # Errors
/// [`Error::Shape`] where the tensors differ in shape, `decoders` does not divide their channels, or the size
/// is 0.
pub fn tvat_cotangent<B: Backend>(
    b: &B,
    logits: &B::Tensor,
    tangents: &B::Tensor,
    decoders: usize,
    size: Size,
) -> Result<B::Tensor> {
    pair::<B>("tvat_cotangent", logits, tangents, decoders, size)?;
    Ok(b.tvat_cotangent(logits, tangents, decoders, size))
}

/// upᵀ(q - p) / (n k), p and q the softmax of the mean upsampled clean and perturbed logits over k decoders:
/// gradient of KL(p ‖ q) / n with respect to each decoder's perturbed logits. Shapes as in
/// [`tvat_cotangent`].
///
/// # Errors
/// As [`tvat_cotangent`].
pub fn kl_gradient<B: Backend>(
    b: &B,
    clean: &B::Tensor,
    perturbed: &B::Tensor,
    decoders: usize,
    size: Size,
) -> Result<B::Tensor> {
    pair::<B>("kl_gradient", clean, perturbed, decoders, size)?;
    Ok(b.kl_gradient(clean, perturbed, decoders, size))
}
