//! Batch normalisation with its activation and residual in one op (Ioffe and Szegedy, 2015): validated entry points.
//!
//! y = act(weight (x - mean) / sqrt(var + eps) + bias + residual) a channel, moments over n, h, w. The running variance
//! takes the unbiased variance, so training needs more than one value a channel.

use super::{Activation, Backend, BatchNorm, BatchNormSaved, Device, FrozenNorm, NormPass, Shape, check};
use crate::{Error, Result};

/// What a device must be able to do of this family. Input is what the functions of this module have validated.
pub trait BatchNormOps: Device {
    /// y = act(weight (x - mean) / sqrt(var + eps) + bias + residual) with the batch's moments; moves the running
    /// statistics.
    fn batch_norm_train(
        &self,
        x: &Self::Tensor,
        params: &Self::Vector,
        stats: &mut Self::Vector,
        bn: &BatchNorm,
        act: Activation,
        residual: Option<&Self::Tensor>,
    ) -> (Self::Tensor, BatchNormSaved<Self>);
    /// [`Backend::batch_norm_train`] of a convolution's output with the moments that it left.
    fn batch_norm_train_moments(
        &self,
        x: &Self::Tensor,
        _moments: &Self::Moments,
        params: &Self::Vector,
        stats: &mut Self::Vector,
        bn: &BatchNorm,
        act: Activation,
        residual: Option<&Self::Tensor>,
    ) -> (Self::Tensor, BatchNormSaved<Self>) {
        self.batch_norm_train(x, params, stats, bn, act, residual)
    }
    /// [`Backend::batch_norm_train`] with the running statistics, which stay as they are.
    fn batch_norm_eval(
        &self,
        x: &Self::Tensor,
        params: &Self::Vector,
        stats: &Self::Vector,
        bn: &BatchNorm,
        act: Activation,
        residual: Option<&Self::Tensor>,
    ) -> Self::Tensor;
    /// Backward of [`Backend::batch_norm_train`]: `x` its input, `y` its output. Returns dx, and the gradient of the
    /// residual where `residual` says there was one; adds to `grads`.
    fn batch_norm_train_bwd(
        &self,
        dy: &Self::Tensor,
        x: &Self::Tensor,
        y: &Self::Tensor,
        saved: &BatchNormSaved<Self>,
        params: &Self::Vector,
        grads: &mut Self::Vector,
        bn: &BatchNorm,
        act: Activation,
        residual: bool,
    ) -> (Self::Tensor, Option<Self::Tensor>);
    /// [`Backend::batch_norm_train_bwd`] from a data gradient with the sums that it left.
    fn batch_norm_train_bwd_sums(
        &self,
        dy: &Self::Tensor,
        _sums: &Self::Sums,
        norm: &NormPass<'_, Self>,
        params: &Self::Vector,
        grads: &mut Self::Vector,
    ) -> (Self::Tensor, Option<Self::Tensor>) {
        let NormPass { x, y, saved, bn, act, residual } = *norm;
        self.batch_norm_train_bwd(dy, x, y, saved, params, grads, bn, act, residual)
    }
    /// Backward of [`Backend::batch_norm_eval`] without residual; adds to `grads`.
    fn batch_norm_eval_bwd(
        &self,
        dy: &Self::Tensor,
        x: &Self::Tensor,
        y: &Self::Tensor,
        params: &Self::Vector,
        stats: &Self::Vector,
        grads: &mut Self::Vector,
        bn: &BatchNorm,
        act: Activation,
    ) -> Self::Tensor;
    /// t * act'(y) * weight / sqrt(running_var + eps): the Jacobian of [`Backend::batch_norm_eval`] applied to `t`. It
    /// is diagonal, so the same op is the tangent and the data gradient. `y` is the clean pass's output.
    fn batch_norm_tangent(
        &self,
        t: &Self::Tensor,
        y: &Self::Tensor,
        params: &Self::Vector,
        stats: &Self::Vector,
        bn: &BatchNorm,
        act: Activation,
    ) -> Self::Tensor;
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
            "more than one value a channel for the batch's variance (two images or more, or larger ones)",
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

/// A batch norm with running statistics over an activation of shape `x`.
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

/// y with the batch's moments, `residual` of x's shape; running = (1 - momentum) running + momentum batch.
///
/// # Errors
/// [`Error::Shape`] where shapes or spans do not fit, or a channel has one value only.
pub fn batch_norm_train<B: Backend>(
    b: &B,
    x: &B::Tensor,
    params: &B::Vector,
    stats: &mut B::Vector,
    bn: &BatchNorm,
    act: Activation,
    residual: Option<&B::Tensor>,
) -> Result<(B::Tensor, BatchNormSaved<B>)> {
    batch_norm_train_moments(b, x, None, params, stats, bn, act, residual)
}

/// [`batch_norm_train`] of a convolution's output `x`, with what [`conv2d_fprop_moments`](super::conv2d_fprop_moments) left of it.
///
/// # Errors
/// As [`batch_norm_train`].
pub fn batch_norm_train_moments<B: Backend>(
    b: &B,
    x: &B::Tensor,
    moments: Option<&B::Moments>,
    params: &B::Vector,
    stats: &mut B::Vector,
    bn: &BatchNorm,
    act: Activation,
    residual: Option<&B::Tensor>,
) -> Result<(B::Tensor, BatchNormSaved<B>)> {
    const OP: &str = "batch_norm_train";
    let shape = B::shape(x);
    valid(OP, bn, act, shape)?;
    more_than_one(OP, shape)?;
    residual.map_or(Ok(()), |r| check::shape(OP, "residual", shape, B::shape(r)))?;
    affine::<B>(OP, bn, params)?;
    running::<B>(OP, bn, stats)?;
    Ok(match moments {
        Some(moments) => b.batch_norm_train_moments(x, moments, params, stats, bn, act, residual),
        None => b.batch_norm_train(x, params, stats, bn, act, residual),
    })
}

/// y with the running statistics, `residual` of x's shape.
///
/// # Errors
/// [`Error::Shape`] where shapes or spans do not fit.
pub fn batch_norm_eval<B: Backend>(
    b: &B,
    x: &B::Tensor,
    params: &B::Vector,
    stats: &B::Vector,
    bn: &BatchNorm,
    act: Activation,
    residual: Option<&B::Tensor>,
) -> Result<B::Tensor> {
    const OP: &str = "batch_norm_eval";
    let shape = B::shape(x);
    valid(OP, bn, act, shape)?;
    residual.map_or(Ok(()), |r| check::shape(OP, "residual", shape, B::shape(r)))?;
    affine::<B>(OP, bn, params)?;
    running::<B>(OP, bn, stats)?;
    Ok(b.batch_norm_eval(x, params, stats, bn, act, residual))
}

/// Backward of [`batch_norm_train`], `x` its input and `y` its output. With g = dy act'(y): dbias = Σ g,
/// dweight = Σ g x̂ (both accumulate), dx = weight / sqrt(var + eps) (g - mean g - x̂ mean(g x̂)), dresidual = g.
///
/// # Errors
/// [`Error::Shape`] where shapes or spans do not fit.
pub fn batch_norm_train_bwd<B: Backend>(
    b: &B,
    dy: &B::Tensor,
    x: &B::Tensor,
    y: &B::Tensor,
    saved: &BatchNormSaved<B>,
    params: &B::Vector,
    grads: &mut B::Vector,
    bn: &BatchNorm,
    act: Activation,
    residual: bool,
) -> Result<(B::Tensor, Option<B::Tensor>)> {
    let norm = NormPass { x, y, saved, bn, act, residual };
    batch_norm_train_bwd_sums(b, dy, None, &norm, params, grads)
}

/// [`batch_norm_train_bwd`] from a data gradient `dy`, with what [`conv2d_dgrad_sums`](super::conv2d_dgrad_sums) left of it.
///
/// # Errors
/// As [`batch_norm_train_bwd`].
pub fn batch_norm_train_bwd_sums<B: Backend>(
    b: &B,
    dy: &B::Tensor,
    sums: Option<&B::Sums>,
    norm: &NormPass<'_, B>,
    params: &B::Vector,
    grads: &mut B::Vector,
) -> Result<(B::Tensor, Option<B::Tensor>)> {
    const OP: &str = "batch_norm_train_bwd";
    let NormPass { x, y, saved, bn, act, residual } = *norm;
    pass::<B>(OP, norm)?;
    check::shape(OP, "dy", B::shape(x), B::shape(dy))?;
    affine::<B>(OP, bn, params)?;
    affine::<B>(OP, bn, grads)?;
    Ok(match sums {
        Some(sums) => b.batch_norm_train_bwd_sums(dy, sums, norm, params, grads),
        None => b.batch_norm_train_bwd(dy, x, y, saved, params, grads, bn, act, residual),
    })
}

/// What a training pass left fits together.
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

/// Backward of [`batch_norm_eval`] without residual: dx = g weight / sqrt(running_var + eps); dweight and dbias
/// accumulate.
///
/// # Errors
/// [`Error::Shape`] where shapes or spans do not fit.
pub fn batch_norm_eval_bwd<B: Backend>(
    b: &B,
    dy: &B::Tensor,
    x: &B::Tensor,
    y: &B::Tensor,
    params: &B::Vector,
    stats: &B::Vector,
    grads: &mut B::Vector,
    bn: &BatchNorm,
    act: Activation,
) -> Result<B::Tensor> {
    const OP: &str = "batch_norm_eval_bwd";
    let shape = B::shape(x);
    valid(OP, bn, act, shape)?;
    check::shape(OP, "dy", shape, B::shape(dy))?;
    check::shape(OP, "y", shape, B::shape(y))?;
    affine::<B>(OP, bn, params)?;
    affine::<B>(OP, bn, grads)?;
    running::<B>(OP, bn, stats)?;
    Ok(b.batch_norm_eval_bwd(dy, x, y, params, stats, grads, bn, act))
}

/// t act'(y) weight / sqrt(running_var + eps): tangent and, being diagonal, data gradient of [`batch_norm_eval`], whose
/// output is `y`.
///
/// # Errors
/// [`Error::Shape`] where shapes or spans do not fit.
pub fn batch_norm_tangent<B: Backend>(
    b: &B,
    t: &B::Tensor,
    y: &B::Tensor,
    params: &B::Vector,
    stats: &B::Vector,
    bn: &BatchNorm,
    act: Activation,
) -> Result<B::Tensor> {
    const OP: &str = "batch_norm_tangent";
    valid(OP, bn, act, B::shape(t))?;
    check::shape(OP, "y", B::shape(t), B::shape(y))?;
    affine::<B>(OP, bn, params)?;
    running::<B>(OP, bn, stats)?;
    Ok(b.batch_norm_tangent(t, y, params, stats, bn, act))
}
