//! The parts of T-VAT (PS-MT, section 3.2; virtual adversarial training, Miyato et al., 2018) that are not network
//! passes: validated entry points. The recipe itself belongs to the method.

use super::{Backend, Shape, Size, check};
use crate::rng::Key;
use crate::{Error, Result};

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

fn pairs<B: Backend>(op: &'static str, x: &[&B::Tensor], other: &[&B::Tensor], size: Size) -> Result<()> {
    let Some(first) = x.first().map(|x| B::shape(x)) else {
        return Err(Error::shape(op, "at least one decoder", "none"));
    };
    if x.len() != other.len() {
        return Err(Error::shape(
            op,
            format!("two tensors for each of {} decoders", x.len()),
            other.len().to_string(),
        ));
    }
    check::logits(op, "logits", first)?;
    x.iter().chain(other).try_for_each(|x| check::shape(op, "logits", first, B::shape(x)))?;
    check::size(op, size)
}

/// upᵀ(p t - p (p·t)) / k with p = softmax(mean of up(logits)), t = mean of up(tangents) over k decoders, each
/// `[n, h, w, classes]` and interpolated to `size`: the cotangent of every decoder's logits in exact T-VAT.
///
/// # Errors
/// [`Error::Shape`] where the tensors differ in shape or number, or the size is 0.
pub fn tvat_cotangent<B: Backend>(
    b: &B,
    logits: &[&B::Tensor],
    tangents: &[&B::Tensor],
    size: Size,
) -> Result<B::Tensor> {
    pairs::<B>("tvat_cotangent", logits, tangents, size)?;
    Ok(b.tvat_cotangent(logits, tangents, size))
}

/// upᵀ(q - p) / (n k), p and q the softmax of the mean upsampled clean and perturbed logits over k decoders: gradient of
/// KL(p ‖ q) / n with respect to each decoder's perturbed logits.
///
/// # Errors
/// [`Error::Shape`] where the tensors differ in shape or number, or the size is 0.
pub fn kl_gradient<B: Backend>(
    b: &B,
    clean: &[&B::Tensor],
    perturbed: &[&B::Tensor],
    size: Size,
) -> Result<B::Tensor> {
    pairs::<B>("kl_gradient", clean, perturbed, size)?;
    Ok(b.kl_gradient(clean, perturbed, size))
}
