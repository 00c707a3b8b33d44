//! 2-D convolution (cross-correlation, as PyTorch's `conv2d`): validated forward, data gradient, weight gradient.
//!
//! y[n, i, j, o] = bias[o] + Σ over (r, s, c) of x[n, i stride - padding + r dilation, j …, c] weight[o, r, s, c], zero
//! outside the image; x `[n, h, w, in]`, weight `[out, kernel, kernel, in / groups]`, y as [`Conv2d::out_shape`]. In one
//! group c runs over all input channels, in several over those of output o's group.

use super::{Backend, BatchNormOps, Conv2d, ElementwiseOps, FrozenNorm, NormPass, Shape, batch_norm, check};
use crate::{Error, Result};

/// What a device must be able to do of this family. Input is what the functions of this module have validated.
pub trait Conv2dOps: BatchNormOps + ElementwiseOps {
    /// y = x * weight + bias.
    fn conv2d_fprop(&self, x: &Self::Tensor, params: &Self::Vector, conv: &Conv2d) -> Self::Tensor;
    /// Gradient with respect to the input of shape `x_shape`.
    fn conv2d_dgrad(
        &self,
        dy: &Self::Tensor,
        params: &Self::Vector,
        conv: &Conv2d,
        x_shape: Shape,
    ) -> Self::Tensor;
    /// [`Backend::conv2d_fprop`], and where the device gathers them on the way, moments of the output for
    /// [`Backend::batch_norm_train_moments`].
    fn conv2d_fprop_moments(
        &self,
        x: &Self::Tensor,
        params: &Self::Vector,
        conv: &Conv2d,
    ) -> (Self::Tensor, Option<Self::Moments>) {
        (self.conv2d_fprop(x, params, conv), None)
    }
    /// [`Backend::conv2d_dgrad`] with the shape of `to`, plus `to`.
    fn conv2d_dgrad_add(
        &self,
        dy: &Self::Tensor,
        params: &Self::Vector,
        conv: &Conv2d,
        to: &Self::Tensor,
    ) -> Self::Tensor {
        self.add(&self.conv2d_dgrad(dy, params, conv, Self::shape(to)), to, 1.0)
    }
    /// [`Backend::conv2d_dgrad`] with the shape of the output of `norm`, plus `add`, and where the device gathers them on the way,
    /// sums for [`Backend::batch_norm_train_bwd_sums`].
    fn conv2d_dgrad_sums(
        &self,
        dy: &Self::Tensor,
        params: &Self::Vector,
        conv: &Conv2d,
        add: Option<&Self::Tensor>,
        norm: &NormPass<'_, Self>,
    ) -> (Self::Tensor, Option<Self::Sums>) {
        let dx = match add {
            Some(to) => self.conv2d_dgrad_add(dy, params, conv, to),
            None => self.conv2d_dgrad(dy, params, conv, Self::shape(norm.x)),
        };
        (dx, None)
    }
    /// [`Backend::batch_norm_eval`] of [`Backend::conv2d_fprop`].
    fn conv2d_fprop_norm(
        &self,
        x: &Self::Tensor,
        params: &Self::Vector,
        conv: &Conv2d,
        norm: &FrozenNorm<'_, Self>,
        residual: Option<&Self::Tensor>,
    ) -> Self::Tensor {
        let z = self.conv2d_fprop(x, params, conv);
        self.batch_norm_eval(&z, params, norm.stats, norm.bn, norm.act, residual)
    }
    /// [`Backend::batch_norm_tangent`] of [`Backend::conv2d_fprop`]: `t` is the tangent of the convolution's input, `y` the
    /// output of `norm` behind it at the clean pass.
    fn conv2d_fprop_tangent(
        &self,
        t: &Self::Tensor,
        y: &Self::Tensor,
        params: &Self::Vector,
        conv: &Conv2d,
        norm: &FrozenNorm<'_, Self>,
    ) -> Self::Tensor {
        let t = self.conv2d_fprop(t, params, conv);
        self.batch_norm_tangent(&t, y, params, norm.stats, norm.bn, norm.act)
    }
    /// [`Backend::batch_norm_tangent`] of [`Backend::conv2d_dgrad`]: the convolution's input is `y`, the output of `norm`.
    fn conv2d_dgrad_tangent(
        &self,
        dy: &Self::Tensor,
        y: &Self::Tensor,
        params: &Self::Vector,
        conv: &Conv2d,
        norm: &FrozenNorm<'_, Self>,
    ) -> Self::Tensor {
        let d = self.conv2d_dgrad(dy, params, conv, Self::shape(y));
        self.batch_norm_tangent(&d, y, params, norm.stats, norm.bn, norm.act)
    }
    /// Adds the gradients of weight and bias to `grads`.
    fn conv2d_wgrad(&self, x: &Self::Tensor, dy: &Self::Tensor, grads: &mut Self::Vector, conv: &Conv2d);
}

fn valid(op: &'static str, conv: &Conv2d, x: Shape) -> Result<()> {
    if conv.kernel == 0 || conv.stride == 0 || conv.dilation == 0 || conv.out_channels == 0 {
        return Err(Error::shape(
            op,
            "kernel, stride, dilation and out channels of at least 1",
            format!("{conv:?}"),
        ));
    }
    let Conv2d { in_channels, out_channels, groups, .. } = *conv;
    if groups == 0 || !in_channels.is_multiple_of(groups) || !out_channels.is_multiple_of(groups) {
        let expected = format!("groups that divide {in_channels} channels in and {out_channels} out");
        return Err(Error::shape(op, expected, format!("{groups} groups")));
    }
    check::not_empty(op, "x", x)?;
    if x.c != conv.in_channels {
        return Err(Error::shape(op, format!("x with {} channels", conv.in_channels), x.to_string()));
    }
    if conv.out_shape(x).is_empty() {
        let reach = conv.dilation * (conv.kernel - 1) + 1;
        return Err(Error::shape(
            op,
            format!("x that a kernel reaching over {reach} fits into with padding {}", conv.padding),
            x.to_string(),
        ));
    }
    Ok(())
}

fn spans<B: Backend>(op: &'static str, conv: &Conv2d, vector: &B::Vector) -> Result<()> {
    check::span::<B>(op, "weight", conv.weight, conv.weight_len(), vector)?;
    conv.bias.map_or(Ok(()), |bias| check::span::<B>(op, "bias", bias, conv.out_channels, vector))
}

/// y = x * weight + bias, of shape [`Conv2d::out_shape`].
///
/// # Errors
/// [`Error::Shape`] where channels, kernel or spans do not fit.
pub fn conv2d_fprop<B: Backend>(
    b: &B,
    x: &B::Tensor,
    params: &B::Vector,
    conv: &Conv2d,
) -> Result<B::Tensor> {
    const OP: &str = "conv2d_fprop";
    valid(OP, conv, B::shape(x))?;
    spans::<B>(OP, conv, params)?;
    Ok(b.conv2d_fprop(x, params, conv))
}

/// dx of shape `x_shape` from dy (overwrites): the transposed convolution.
///
/// # Errors
/// [`Error::Shape`] where dy is not the output's shape for `x_shape`, or spans do not fit.
pub fn conv2d_dgrad<B: Backend>(
    b: &B,
    dy: &B::Tensor,
    params: &B::Vector,
    conv: &Conv2d,
    x_shape: Shape,
) -> Result<B::Tensor> {
    const OP: &str = "conv2d_dgrad";
    valid(OP, conv, x_shape)?;
    check::shape(OP, "dy", conv.out_shape(x_shape), B::shape(dy))?;
    spans::<B>(OP, conv, params)?;
    Ok(b.conv2d_dgrad(dy, params, conv, x_shape))
}

/// [`conv2d_fprop`], and moments of y for [`batch_norm_train_moments`](super::batch_norm_train_moments) where the device gathers
/// them on the way.
///
/// # Errors
/// As [`conv2d_fprop`].
pub fn conv2d_fprop_moments<B: Backend>(
    b: &B,
    x: &B::Tensor,
    params: &B::Vector,
    conv: &Conv2d,
) -> Result<(B::Tensor, Option<B::Moments>)> {
    const OP: &str = "conv2d_fprop_moments";
    valid(OP, conv, B::shape(x))?;
    spans::<B>(OP, conv, params)?;
    Ok(b.conv2d_fprop_moments(x, params, conv))
}

/// dx from dy as [`conv2d_dgrad`], plus `to` of its shape, each rounded as in two ops.
///
/// # Errors
/// [`Error::Shape`] where dy is not the output's shape for that of `to`, or spans do not fit.
pub fn conv2d_dgrad_add<B: Backend>(
    b: &B,
    dy: &B::Tensor,
    params: &B::Vector,
    conv: &Conv2d,
    to: &B::Tensor,
) -> Result<B::Tensor> {
    const OP: &str = "conv2d_dgrad_add";
    valid(OP, conv, B::shape(to))?;
    check::shape(OP, "dy", conv.out_shape(B::shape(to)), B::shape(dy))?;
    spans::<B>(OP, conv, params)?;
    Ok(b.conv2d_dgrad_add(dy, params, conv, to))
}

/// dx from dy as [`conv2d_dgrad`], plus `add` where that is given, for a convolution whose input is the output of `norm`; and
/// sums for [`batch_norm_train_bwd_sums`](super::batch_norm_train_bwd_sums) where the device gathers them on the way.
///
/// # Errors
/// As [`conv2d_dgrad_add`], and where `norm` does not fit together.
pub fn conv2d_dgrad_sums<B: Backend>(
    b: &B,
    dy: &B::Tensor,
    params: &B::Vector,
    conv: &Conv2d,
    add: Option<&B::Tensor>,
    norm: &NormPass<'_, B>,
) -> Result<(B::Tensor, Option<B::Sums>)> {
    const OP: &str = "conv2d_dgrad_sums";
    let shape = B::shape(norm.x);
    valid(OP, conv, shape)?;
    check::shape(OP, "dy", conv.out_shape(shape), B::shape(dy))?;
    add.map_or(Ok(()), |add| check::shape(OP, "add", shape, B::shape(add)))?;
    spans::<B>(OP, conv, params)?;
    batch_norm::pass::<B>(OP, norm)?;
    batch_norm::affine::<B>(OP, norm.bn, params)?;
    Ok(b.conv2d_dgrad_sums(dy, params, conv, add, norm))
}

/// act(norm(x * weight + bias) + residual) with the running statistics, each rounded as in two ops.
///
/// # Errors
/// As [`conv2d_fprop`], and where `norm` or the residual do not fit.
pub fn conv2d_fprop_norm<B: Backend>(
    b: &B,
    x: &B::Tensor,
    params: &B::Vector,
    conv: &Conv2d,
    norm: &FrozenNorm<'_, B>,
    residual: Option<&B::Tensor>,
) -> Result<B::Tensor> {
    const OP: &str = "conv2d_fprop_norm";
    valid(OP, conv, B::shape(x))?;
    spans::<B>(OP, conv, params)?;
    let y = conv.out_shape(B::shape(x));
    batch_norm::frozen::<B>(OP, norm, params, y)?;
    residual.map_or(Ok(()), |r| check::shape(OP, "residual", y, B::shape(r)))?;
    Ok(b.conv2d_fprop_norm(x, params, conv, norm, residual))
}

/// The tangent of [`conv2d_fprop_norm`] without residual for the tangent `t` of its input; `y` is its output at the clean pass. A
/// bias, which does not move, is left out of `conv`.
///
/// # Errors
/// As [`conv2d_fprop_norm`].
pub fn conv2d_fprop_tangent<B: Backend>(
    b: &B,
    t: &B::Tensor,
    y: &B::Tensor,
    params: &B::Vector,
    conv: &Conv2d,
    norm: &FrozenNorm<'_, B>,
) -> Result<B::Tensor> {
    const OP: &str = "conv2d_fprop_tangent";
    valid(OP, conv, B::shape(t))?;
    spans::<B>(OP, conv, params)?;
    check::shape(OP, "y", conv.out_shape(B::shape(t)), B::shape(y))?;
    batch_norm::frozen::<B>(OP, norm, params, B::shape(y))?;
    Ok(b.conv2d_fprop_tangent(t, y, params, conv, norm))
}

/// dx from dy as [`conv2d_dgrad`], brought through `norm` with running statistics, whose output `y` is the convolution's input:
/// the gradient of that batch norm's input.
///
/// # Errors
/// As [`conv2d_dgrad`], and where `norm` does not fit.
pub fn conv2d_dgrad_tangent<B: Backend>(
    b: &B,
    dy: &B::Tensor,
    y: &B::Tensor,
    params: &B::Vector,
    conv: &Conv2d,
    norm: &FrozenNorm<'_, B>,
) -> Result<B::Tensor> {
    const OP: &str = "conv2d_dgrad_tangent";
    valid(OP, conv, B::shape(y))?;
    check::shape(OP, "dy", conv.out_shape(B::shape(y)), B::shape(dy))?;
    spans::<B>(OP, conv, params)?;
    batch_norm::frozen::<B>(OP, norm, params, B::shape(y))?;
    Ok(b.conv2d_dgrad_tangent(dy, y, params, conv, norm))
}

/// Adds dweight and, where there is a bias, dbias = Σ dy to `grads` (accumulates).
///
/// # Errors
/// [`Error::Shape`] where x, dy and the convolution do not fit, or spans do not.
pub fn conv2d_wgrad<B: Backend>(
    b: &B,
    x: &B::Tensor,
    dy: &B::Tensor,
    grads: &mut B::Vector,
    conv: &Conv2d,
) -> Result<()> {
    const OP: &str = "conv2d_wgrad";
    valid(OP, conv, B::shape(x))?;
    check::shape(OP, "dy", conv.out_shape(B::shape(x)), B::shape(dy))?;
    spans::<B>(OP, conv, grads)?;
    b.conv2d_wgrad(x, dy, grads, conv);
    Ok(())
}
