//! 2-D convolution (cross-correlation, as PyTorch's `conv2d`): validated forward, data gradient, weight gradient.
//!
//! y[n, i, j, o] = bias[o] + Σ over (r, s, c) of x[n, i stride - padding + r dilation, j …, c] weight[o, r, s, c], zero
//! outside the image; x `[n, h, w, in]`, weight `[out, kernel, kernel, in / groups]`, y as [`Conv2d::out_shape`]. In one
//! group c runs over all input channels, in several over those of output o's group.

use super::{Backend, Conv2d, Device, FrozenNorm, NormPass, Shape, batch_norm, check};
use crate::{Error, Result};

/// A forward convolution, and what is done to its output.
pub struct Fprop<'a, B: Device> {
    /// Input.
    pub x: &'a B::Tensor,
    /// Vector with weight and bias.
    pub params: &'a B::Vector,
    /// The layer.
    pub conv: &'a Conv2d,
    /// What is done to the output before it is written, rounded as in an op of its own.
    pub end: OutputEnd<'a, B>,
}

/// What a forward convolution does to its output.
pub enum OutputEnd<'a, B: Device> {
    /// Nothing.
    Plain,
    /// Where the device gathers them on the way, moments for [`BatchNormTrain`](super::BatchNormTrain).
    Moments,
    /// A batch norm with running statistics, and what is added before its activation.
    Norm(FrozenNorm<'a, B>, Option<&'a B::Tensor>),
    /// For a tangent as input: the derivative of such a batch norm, whose output at the clean pass is given. A bias, which does not
    /// move, is left out of the layer.
    Tangent(FrozenNorm<'a, B>, &'a B::Tensor),
}

/// What a forward convolution gives.
pub struct FpropOut<B: Device> {
    /// Output.
    pub y: B::Tensor,
    /// Moments of its channels, where they were asked for and the device gathers them.
    pub moments: Option<B::Moments>,
}

impl<'a, B: Device> Fprop<'a, B> {
    /// y = x * weight + bias.
    pub fn new(x: &'a B::Tensor, params: &'a B::Vector, conv: &'a Conv2d) -> Self {
        Fprop { x, params, conv, end: OutputEnd::Plain }
    }

    /// The same with something done to the output.
    pub fn with(self, end: OutputEnd<'a, B>) -> Self {
        Fprop { end, ..self }
    }
}

/// A convolution's data gradient, and what is done to it.
pub struct Dgrad<'a, B: Device> {
    /// Gradient of the output.
    pub dy: &'a B::Tensor,
    /// Vector with the weight.
    pub params: &'a B::Vector,
    /// The layer.
    pub conv: &'a Conv2d,
    /// Where the gradient arrives.
    pub onto: Onto<'a, B>,
}

/// Where a data gradient arrives: what is done to it before it is written, rounded as in an op of its own.
pub enum Onto<'a, B: Device> {
    /// At an input of this shape.
    Input(Shape),
    /// At an input that another gradient has reached, to which it is added.
    Add(&'a B::Tensor),
    /// At the output of a batch norm in training, where all has arrived then, with what has arrived before; the device may gather sums
    /// for [`BatchNormTrainBwd`](super::BatchNormTrainBwd) on the way.
    Norm(NormPass<'a, B>, Option<&'a B::Tensor>),
    /// At the given output of a batch norm with running statistics, and through it.
    Frozen(FrozenNorm<'a, B>, &'a B::Tensor),
}

/// What a data gradient gives.
pub struct DgradOut<B: Device> {
    /// Gradient of the input.
    pub dx: B::Tensor,
    /// Sums of it, where the device gathers them.
    pub sums: Option<B::Sums>,
}

impl<'a, B: Device> Dgrad<'a, B> {
    /// dx of shape `x_shape`.
    pub fn new(dy: &'a B::Tensor, params: &'a B::Vector, conv: &'a Conv2d, x_shape: Shape) -> Self {
        Dgrad { dy, params, conv, onto: Onto::Input(x_shape) }
    }

    /// The same arriving elsewhere.
    pub fn onto(self, onto: Onto<'a, B>) -> Self {
        Dgrad { onto, ..self }
    }

    /// Shape of the input.
    pub fn x_shape(&self) -> Shape {
        match &self.onto {
            Onto::Input(shape) => *shape,
            Onto::Add(to) => B::shape(to),
            Onto::Norm(norm, _) => B::shape(norm.x),
            Onto::Frozen(_, y) => B::shape(y),
        }
    }
}

/// What a device must be able to do of this family. Input is what the functions of this module have validated.
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

/// y = x * weight + bias, of shape [`Conv2d::out_shape`], with what its end does to it.
///
/// # Errors
/// [`Error::Shape`] where channels, kernel or spans do not fit, nor what the end reads.
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

/// dx from dy (overwrites): the transposed convolution, with what is done where it arrives.
///
/// # Errors
/// [`Error::Shape`] where dy is not the output's shape for the input's, or spans do not fit, nor what it arrives at.
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
