//! 2-D convolution (cross-correlation, as PyTorch's `conv2d`): validated forward, data gradient and weight
//! gradient.
//!
//! y[n, i, j, o] = bias[o] + Σ over (r, s, c) of x[n, i stride - padding + r dilation, j …, c] weight[o, r,
//! s, c], zero outside the image; x `[n, h, w, in]`, weight `[out, kernel, kernel, in / groups]`, y as
//! [`Conv2d::out_shape`]. In one group c runs over all input channels, in several over those of output o's
//! group.

use super::{Backend, Conv2d, Device, FrozenNorm, NormPass, Shape, batch_norm, check};
use crate::{Error, Result};

/// Arguments of [`conv2d_fprop`].
pub struct Fprop<'a, B: Device> {
    /// Input `[n, h, w, in_channels]`.
    pub x: &'a B::Tensor,
    /// Vector with weight and bias.
    pub params: &'a B::Vector,
    /// The layer's sizes and where its values are.
    pub conv: &'a Conv2d,
    /// The epilogue; it rounds as an op of its own would.
    pub end: OutputEnd<'a, B>,
}

/// Epilogue of a forward convolution: what is done to its output before it is written.
pub enum OutputEnd<'a, B: Device> {
    /// Nothing.
    Plain,
    /// The output's moments for [`BatchNormTrain`](super::BatchNormTrain) are computed, on devices that can.
    Moments,
    /// A batch norm with running statistics; the tensor, a residual, is added before its activation.
    Norm(FrozenNorm<'a, B>, Option<&'a B::Tensor>),
    /// Where x is a tangent: the derivative of such a batch norm at its output, the given tensor. The layer
    /// must have no bias, whose tangent is 0.
    Tangent(FrozenNorm<'a, B>, &'a B::Tensor),
}

/// Results of [`conv2d_fprop`].
pub struct FpropOut<B: Device> {
    /// Output, of shape [`Conv2d::out_shape`].
    pub y: B::Tensor,
    /// Moments of the output's channels, where they were requested and the device computes them.
    pub moments: Option<B::Moments>,
}

impl<'a, B: Device> Fprop<'a, B> {
    /// y = x * weight + bias without an epilogue.
    pub fn new(x: &'a B::Tensor, params: &'a B::Vector, conv: &'a Conv2d) -> Self {
        Fprop { x, params, conv, end: OutputEnd::Plain }
    }

    /// The same convolution with the epilogue `end`.
    pub fn with(self, end: OutputEnd<'a, B>) -> Self {
        Fprop { end, ..self }
    }
}

/// Arguments of [`conv2d_dgrad`].
pub struct Dgrad<'a, B: Device> {
    /// Gradient of the output.
    pub dy: &'a B::Tensor,
    /// Vector with the weight.
    pub params: &'a B::Vector,
    /// The layer's sizes and where its values are.
    pub conv: &'a Conv2d,
    /// The epilogue; it rounds as an op of its own would.
    pub onto: Onto<'a, B>,
}

/// Epilogue of a data gradient: what the convolution's input is, and so what is done to the gradient before
/// it is written.
pub enum Onto<'a, B: Device> {
    /// An input of this shape: nothing is done.
    Input(Shape),
    /// An input with another gradient, the given one: both are added.
    Add(&'a B::Tensor),
    /// The output of a batch norm in training. Another gradient of that output, where there is one, is added;
    /// devices that can do so also compute the sums for [`BatchNormTrainBwd`](super::BatchNormTrainBwd).
    Norm(NormPass<'a, B>, Option<&'a B::Tensor>),
    /// The output, the given tensor, of a batch norm with running statistics: the gradient is multiplied by
    /// that norm's derivative and so becomes the gradient of the norm's input.
    Frozen(FrozenNorm<'a, B>, &'a B::Tensor),
}

/// Results of [`conv2d_dgrad`].
pub struct DgradOut<B: Device> {
    /// Gradient of the input, after the epilogue.
    pub dx: B::Tensor,
    /// Sums of `dx`, where the epilogue is [`Onto::Norm`] and the device computes them.
    pub sums: Option<B::Sums>,
}

impl<'a, B: Device> Dgrad<'a, B> {
    /// dx of shape `x_shape` without an epilogue.
    pub fn new(dy: &'a B::Tensor, params: &'a B::Vector, conv: &'a Conv2d, x_shape: Shape) -> Self {
        Dgrad { dy, params, conv, onto: Onto::Input(x_shape) }
    }

    /// The same gradient with the epilogue `onto`.
    pub fn onto(self, onto: Onto<'a, B>) -> Self {
        Dgrad { onto, ..self }
    }

    /// Shape of the convolution's input.
    pub fn x_shape(&self) -> Shape {
        match &self.onto {
            Onto::Input(shape) => *shape,
            Onto::Add(to) => B::shape(to),
            Onto::Norm(norm, _) => B::shape(norm.x),
            Onto::Frozen(_, y) => B::shape(y),
        }
    }
}

/// The ops of this family that a device implements. It may assume what the functions of this module validate.
pub trait Conv2dOps: Device {
    /// As [`conv2d_fprop`].
    fn conv2d_fprop(&self, op: &Fprop<'_, Self>) -> FpropOut<Self>;
    /// As [`conv2d_dgrad`].
    fn conv2d_dgrad(&self, op: &Dgrad<'_, Self>) -> DgradOut<Self>;
    /// As [`conv2d_wgrad`].
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

/// y = x * weight + bias, of shape [`Conv2d::out_shape`], after the epilogue.
///
/// # Errors
/// [`Error::Shape`] where channels, kernel, spans or what the epilogue reads do not fit.
pub fn conv2d_fprop<B: Backend>(b: &B, op: &Fprop<'_, B>) -> Result<FpropOut<B>> {
    const OP: &str = "conv2d_fprop";
    let &Fprop { params, conv, .. } = op;
    valid(OP, conv, B::shape(op.x))?;
    spans::<B>(OP, conv, params)?;
    let y = conv.out_shape(B::shape(op.x));
    match &op.end {
        OutputEnd::Plain | OutputEnd::Moments => {}
        OutputEnd::Norm(norm, residual) => {
            batch_norm::frozen::<B>(OP, norm, params, y)?;
            residual.map_or(Ok(()), |r| check::shape(OP, "residual", y, B::shape(r)))?;
        }
        OutputEnd::Tangent(norm, clean) => {
            check::shape(OP, "y", y, B::shape(clean))?;
            batch_norm::frozen::<B>(OP, norm, params, y)?;
        }
    }
    Ok(b.conv2d_fprop(op))
}

/// dx from dy (overwrites): the transposed convolution, after the epilogue.
///
/// # Errors
/// [`Error::Shape`] where dy is not of the output's shape, or spans or what the epilogue reads do not fit.
pub fn conv2d_dgrad<B: Backend>(b: &B, op: &Dgrad<'_, B>) -> Result<DgradOut<B>> {
    const OP: &str = "conv2d_dgrad";
    let (&Dgrad { params, conv, .. }, shape) = (op, op.x_shape());
    valid(OP, conv, shape)?;
    check::shape(OP, "dy", conv.out_shape(shape), B::shape(op.dy))?;
    spans::<B>(OP, conv, params)?;
    match &op.onto {
        Onto::Input(_) | Onto::Add(_) => {}
        Onto::Norm(norm, add) => {
            add.map_or(Ok(()), |add| check::shape(OP, "add", shape, B::shape(add)))?;
            batch_norm::pass::<B>(OP, norm)?;
            batch_norm::affine::<B>(OP, norm.bn, params)?;
        }
        Onto::Frozen(norm, _) => batch_norm::frozen::<B>(OP, norm, params, shape)?,
    }
    Ok(b.conv2d_dgrad(op))
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
