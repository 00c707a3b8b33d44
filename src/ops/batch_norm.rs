//! Batch normalisation with its activation and residual in one op (Ioffe and Szegedy, 2015): validated entry
//! points.
//!
//! y = act(weight (x - mean) / sqrt(var + eps) + bias + residual) per channel, moments over n, h, w. The
//! running variance uses the unbiased variance, so training needs more than one value per channel.

use super::{Activation, Backend, BatchNorm, Device, Shape, check};
use crate::{Error, Result};

/// What the training pass of a batch norm saves for its backward pass.
#[derive(Clone)]
pub struct BatchNormSaved<B: Device> {
    /// `[2 * channels]`: the mean of each channel, then 1 / sqrt(var + eps) of each channel.
    pub moments: B::Vector,
}

/// A batch norm's training pass, as its backward pass needs it.
pub struct NormPass<'a, B: Device> {
    /// Input, NHWC.
    pub x: &'a B::Tensor,
    /// Output, of x's shape.
    pub y: &'a B::Tensor,
    /// Saved moments.
    pub saved: &'a BatchNormSaved<B>,
    /// The layer's channels and where its values are.
    pub bn: &'a BatchNorm,
    /// Activation after the normalisation.
    pub act: Activation,
    /// Whether a residual was added before the activation.
    pub residual: bool,
}

impl<B: Device> Clone for NormPass<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Device> Copy for NormPass<'_, B> {}

/// A batch norm that normalises by its running statistics and does not change them.
pub struct FrozenNorm<'a, B: Device> {
    /// Vector with the running statistics.
    pub stats: &'a B::Vector,
    /// The layer's channels and where its values are.
    pub bn: &'a BatchNorm,
    /// Activation after the normalisation.
    pub act: Activation,
}

impl<B: Device> Clone for FrozenNorm<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Device> Copy for FrozenNorm<'_, B> {}

/// Training-mode batch norm of `x`: the batch's moments, and running = (1 - momentum) running + momentum
/// batch.
pub struct BatchNormTrain<'a, B: Device> {
    /// Input, NHWC.
    pub x: &'a B::Tensor,
    /// Vector with weight and bias.
    pub params: &'a B::Vector,
    /// Vector with the running statistics, which are updated.
    pub stats: &'a mut B::Vector,
    /// The layer's channels and where its values are.
    pub bn: &'a BatchNorm,
    /// Activation after the normalisation.
    pub act: Activation,
    /// Added before the activation, of x's shape.
    pub residual: Option<&'a B::Tensor>,
    /// The moments of `x`, where the convolution that made it computed them ([`FpropOut`](super::FpropOut)).
    pub moments: Option<&'a B::Moments>,
}

/// Batch norm of `x` with running statistics, which do not change.
pub struct BatchNormEval<'a, B: Device> {
    /// Input, NHWC.
    pub x: &'a B::Tensor,
    /// Vector with weight and bias.
    pub params: &'a B::Vector,
    /// The layer and its statistics.
    pub norm: FrozenNorm<'a, B>,
    /// Added before the activation, of x's shape.
    pub residual: Option<&'a B::Tensor>,
}

/// Backward of [`BatchNormTrain`].
pub struct BatchNormTrainBwd<'a, B: Device> {
    /// Gradient of the output.
    pub dy: &'a B::Tensor,
    /// The forward pass.
    pub norm: NormPass<'a, B>,
    /// Vector with weight and bias.
    pub params: &'a B::Vector,
    /// Vector that the gradients of weight and bias are added to.
    pub grads: &'a mut B::Vector,
    /// The gradient sums of `dy`, where the data gradient that made it computed them
    /// ([`DgradOut`](super::DgradOut)).
    pub sums: Option<&'a B::Sums>,
}

/// Backward of [`BatchNormEval`] without residual.
pub struct BatchNormEvalBwd<'a, B: Device> {
    /// Gradient of the output.
    pub dy: &'a B::Tensor,
    /// Input of the forward pass.
    pub x: &'a B::Tensor,
    /// Output of the forward pass.
    pub y: &'a B::Tensor,
    /// Vector with weight and bias.
    pub params: &'a B::Vector,
    /// Vector that the gradients of weight and bias are added to.
    pub grads: &'a mut B::Vector,
    /// The layer and its statistics.
    pub norm: FrozenNorm<'a, B>,
}

/// The Jacobian of [`BatchNormEval`] applied to `t`.
pub struct BatchNormTangent<'a, B: Device> {
    /// Tangent of the input, or gradient of the output.
    pub t: &'a B::Tensor,
    /// Output of the clean pass.
    pub y: &'a B::Tensor,
    /// Vector with weight and bias.
    pub params: &'a B::Vector,
    /// The layer and its statistics.
    pub norm: FrozenNorm<'a, B>,
}

/// The ops of this family that a device implements. It may assume what the functions of this module validate.
pub trait BatchNormOps: Device {
    /// As [`batch_norm_train`].
    fn batch_norm_train(&self, op: BatchNormTrain<'_, Self>) -> (Self::Tensor, BatchNormSaved<Self>);
    /// As [`batch_norm_eval`].
    fn batch_norm_eval(&self, op: &BatchNormEval<'_, Self>) -> Self::Tensor;
    /// As [`batch_norm_train_bwd`].
    fn batch_norm_train_bwd(&self, op: BatchNormTrainBwd<'_, Self>) -> (Self::Tensor, Option<Self::Tensor>);
    /// As [`batch_norm_eval_bwd`].
    fn batch_norm_eval_bwd(&self, op: BatchNormEvalBwd<'_, Self>) -> Self::Tensor;
    /// As [`batch_norm_tangent`].
    fn batch_norm_tangent(&self, op: &BatchNormTangent<'_, Self>) -> Self::Tensor;
}

fn valid(op: &'static str, bn: &BatchNorm, act: Activation, x: Shape) -> Result<()> {
    check::not_empty(op, "x", x)?;
    if x.c != bn.channels {
        return Err(Error::shape(op, format!("x with {} channels", bn.channels), x.to_string()));
    }
    check::activation(op, act)
}

fn more_than_one(op: &'static str, x: Shape) -> Result<()> {
    if x.positions() < 2 {
        return Err(Error::shape(
            op,
            "more than one value per channel for the batch's variance (two images or more, or larger ones)",
            x.to_string(),
        ));
    }
    Ok(())
}

pub(super) fn affine<B: Backend>(op: &'static str, bn: &BatchNorm, vector: &B::Vector) -> Result<()> {
    check::span::<B>(op, "weight", bn.weight, bn.channels, vector)?;
    check::span::<B>(op, "bias", bn.bias, bn.channels, vector)
}

fn running<B: Backend>(op: &'static str, bn: &BatchNorm, stats: &B::Vector) -> Result<()> {
    check::span::<B>(op, "running_mean", bn.running_mean, bn.channels, stats)?;
    check::span::<B>(op, "running_var", bn.running_var, bn.channels, stats)
}

/// Checks a batch norm with running statistics over an activation of shape `x`.
pub(super) fn frozen<B: Backend>(
    op: &'static str,
    norm: &FrozenNorm<'_, B>,
    params: &B::Vector,
    x: Shape,
) -> Result<()> {
    valid(op, norm.bn, norm.act, x)?;
    affine::<B>(op, norm.bn, params)?;
    running::<B>(op, norm.bn, norm.stats)
}

/// y = act(weight (x - mean) / sqrt(var + eps) + bias + residual), and what the backward pass needs.
///
/// # Errors
/// [`Error::Shape`] where shapes or spans do not fit, or a channel has one value only.
pub fn batch_norm_train<B: Backend>(
    b: &B,
    op: BatchNormTrain<'_, B>,
) -> Result<(B::Tensor, BatchNormSaved<B>)> {
    const OP: &str = "batch_norm_train";
    let shape = B::shape(op.x);
    valid(OP, op.bn, op.act, shape)?;
    more_than_one(OP, shape)?;
    op.residual.map_or(Ok(()), |r| check::shape(OP, "residual", shape, B::shape(r)))?;
    affine::<B>(OP, op.bn, op.params)?;
    running::<B>(OP, op.bn, op.stats)?;
    Ok(b.batch_norm_train(op))
}

/// y = act(weight (x - running_mean) / sqrt(running_var + eps) + bias + residual).
///
/// # Errors
/// [`Error::Shape`] where shapes or spans do not fit.
pub fn batch_norm_eval<B: Backend>(b: &B, op: &BatchNormEval<'_, B>) -> Result<B::Tensor> {
    const OP: &str = "batch_norm_eval";
    let shape = B::shape(op.x);
    frozen::<B>(OP, &op.norm, op.params, shape)?;
    op.residual.map_or(Ok(()), |r| check::shape(OP, "residual", shape, B::shape(r)))?;
    Ok(b.batch_norm_eval(op))
}

/// With g = dy act'(y): dbias = Σ g, dweight = Σ g x̂ (both accumulate); returns dx = weight / sqrt(var +
/// eps) (g - mean g - x̂ mean(g x̂)) and, where there was a residual, its gradient g.
///
/// # Errors
/// [`Error::Shape`] where shapes or spans do not fit.
pub fn batch_norm_train_bwd<B: Backend>(
    b: &B,
    op: BatchNormTrainBwd<'_, B>,
) -> Result<(B::Tensor, Option<B::Tensor>)> {
    const OP: &str = "batch_norm_train_bwd";
    pass::<B>(OP, &op.norm)?;
    check::shape(OP, "dy", B::shape(op.norm.x), B::shape(op.dy))?;
    affine::<B>(OP, op.norm.bn, op.params)?;
    affine::<B>(OP, op.norm.bn, op.grads)?;
    Ok(b.batch_norm_train_bwd(op))
}

/// Checks that the parts of a training pass fit together.
pub(super) fn pass<B: Backend>(op: &'static str, norm: &NormPass<'_, B>) -> Result<()> {
    let shape = B::shape(norm.x);
    valid(op, norm.bn, norm.act, shape)?;
    more_than_one(op, shape)?;
    check::shape(op, "y", shape, B::shape(norm.y))?;
    let (moments, expected) = (B::vector_len(&norm.saved.moments), 2 * norm.bn.channels);
    match moments == expected {
        true => Ok(()),
        false => Err(Error::shape(op, format!("{expected} saved moments"), moments.to_string())),
    }
}

/// With g = dy act'(y): returns dx = g weight / sqrt(running_var + eps); dweight and dbias accumulate.
///
/// # Errors
/// [`Error::Shape`] where shapes or spans do not fit.
pub fn batch_norm_eval_bwd<B: Backend>(b: &B, op: BatchNormEvalBwd<'_, B>) -> Result<B::Tensor> {
    const OP: &str = "batch_norm_eval_bwd";
    let shape = B::shape(op.x);
    frozen::<B>(OP, &op.norm, op.params, shape)?;
    check::shape(OP, "dy", shape, B::shape(op.dy))?;
    check::shape(OP, "y", shape, B::shape(op.y))?;
    affine::<B>(OP, op.norm.bn, op.grads)?;
    Ok(b.batch_norm_eval_bwd(op))
}

/// t act'(y) weight / sqrt(running_var + eps): tangent and, being diagonal, data gradient of
/// [`batch_norm_eval`].
///
/// # Errors
/// [`Error::Shape`] where shapes or spans do not fit.
pub fn batch_norm_tangent<B: Backend>(b: &B, op: &BatchNormTangent<'_, B>) -> Result<B::Tensor> {
    const OP: &str = "batch_norm_tangent";
    let shape = B::shape(op.t);
    frozen::<B>(OP, &op.norm, op.params, shape)?;
    check::shape(OP, "y", shape, B::shape(op.y))?;
    Ok(b.batch_norm_tangent(op))
}
