//! Convolutions: forward, data gradient, weight gradient, and what the first two do to their output on the way.

use super::batch_norm::{self, Norm};
use crate::bench::Trace;
use crate::bench::case::{Case, Draw, Facts, WIDE, Work, dims, result, work};
use psmt_fast::Result;
use psmt_fast::ops::{
    self, Backend, BatchNorm, Conv2d, Conv2dOps, DgradOut, FpropOut, FrozenNorm, NormPass, Onto, OutputEnd,
    Shape, Span,
};

impl Conv2dOps for Trace {
    fn conv2d_fprop(&self, op: &ops::Fprop<'_, Trace>) -> FpropOut<Trace> {
        let (x, conv) = (*op.x, alone(op.conv));
        let end = match &op.end {
            OutputEnd::Plain | OutputEnd::Moments => End::Plain,
            OutputEnd::Norm(norm, residual) => End::Norm(Norm::of(norm.bn, norm.act), residual.is_some()),
            OutputEnd::Tangent(norm, _) => End::Tangent(Norm::of(norm.bn, norm.act)),
        };
        self.note(Fprop { conv, x, end });
        FpropOut { y: conv.out_shape(x), moments: matches!(op.end, OutputEnd::Moments).then_some(()) }
    }
    fn conv2d_dgrad(&self, op: &ops::Dgrad<'_, Trace>) -> DgradOut<Trace> {
        let (x, conv) = (op.x_shape(), alone(op.conv));
        let target = match &op.onto {
            Onto::Input(_) => Target::Input,
            Onto::Add(_) => Target::Add,
            Onto::Norm(NormPass { bn, act, residual, .. }, add) => {
                Target::Norm { norm: Norm::of(bn, *act), residual: *residual, add: add.is_some() }
            }
            Onto::Frozen(norm, _) => Target::Frozen(Norm::of(norm.bn, norm.act)),
        };
        self.note(Dgrad { conv, x, target });
        DgradOut { dx: x, sums: matches!(op.onto, Onto::Norm(..)).then_some(()) }
    }
    fn conv2d_wgrad(&self, x: &Shape, _: &Shape, _: &mut usize, conv: &Conv2d) {
        self.note(Wgrad { conv: alone(conv), x: *x });
    }
}

/// The convolution with its parameters at the start of a vector. Kernels read weights in chunks of up to 16: the remainder of
/// where they begin stays.
fn alone(conv: &Conv2d) -> Conv2d {
    let weight = Span { offset: conv.weight.offset % 16, ..conv.weight };
    let bias = conv.bias.map(|bias| Span { offset: weight.range().end, ..bias });
    Conv2d { weight, bias, ..*conv }
}

/// Length of a vector that ends with the convolution's parameters.
fn num_params(conv: &Conv2d) -> usize {
    conv.bias.unwrap_or(conv.weight).range().end
}

/// Parameters of a convolution, then those of a batch norm of small gradients that [`norm_after`] has placed.
pub(super) fn params_with_norm<B: Backend>(
    draw: &mut Draw<'_, B>,
    conv: &Conv2d,
    bn: &BatchNorm,
) -> B::Vector {
    let mut values = draw.coarse(bn.bias.range().end);
    values[conv.weight.range().end..].iter_mut().for_each(|v| *v *= 0.5);
    values[bn.weight.range()].iter_mut().for_each(|v| *v += 1.0);
    draw.b.upload_vector(&values)
}

/// The batch norm with its parameters after those of `conv`.
pub(super) fn norm_after(conv: &Conv2d, bn: &BatchNorm) -> BatchNorm {
    let at = |place: usize| Span { offset: num_params(conv) + place * bn.channels, len: bn.channels };
    BatchNorm { weight: at(0), bias: at(1), ..*bn }
}

/// A 1x1 convolution of as many channels to as many.
pub(crate) fn pointwise(channels: usize) -> Conv2d {
    Conv2d {
        weight: Span { offset: 0, len: channels * channels },
        bias: None,
        in_channels: channels,
        out_channels: channels,
        groups: 1,
        kernel: 1,
        stride: 1,
        padding: 0,
        dilation: 1,
    }
}

/// Input, output channels, kernel and what is not usual of it.
pub fn conv_text(conv: &Conv2d, x: Shape) -> String {
    let Conv2d { out_channels, kernel, stride, dilation, groups, .. } = *conv;
    let mut text = format!("{} to {out_channels} {kernel}x{kernel}", dims(&x));
    for (what, value) in [("stride", stride), ("dilation", dilation), ("groups", groups)] {
        if value > 1 {
            text += &format!(" {what} {value}");
        }
    }
    if conv.bias.is_some() {
        text += " bias";
    }
    text
}

/// The forward pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Fprop {
    pub conv: Conv2d,
    pub x: Shape,
    pub end: End,
}

/// What is done to the output, as [`OutputEnd`].
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    Plain,
    /// A frozen batch norm, and whether a residual is added before its activation.
    Norm(Norm, bool),
    Tangent(Norm),
}

impl Case for Fprop {
    /// x, the weight, y; the residual, or the output of the batch norm where its activation's slope is read from that.
    fn facts(&self) -> Facts {
        let (name, read, text) = match self.end {
            End::Plain => ("conv2d_fprop", 0, ""),
            End::Norm(_, false) => ("conv2d_fprop_norm", 0, ""),
            End::Norm(_, true) => ("conv2d_fprop_norm", 1, " residual"),
            End::Tangent(norm) => ("conv2d_fprop_tangent", norm.slope(), ""),
        };
        let y = self.conv.out_shape(self.x);
        Facts::new(name, conv_text(&self.conv, self.x) + text)
            .flops(self.conv.flops(self.x))
            .values(self.x.len() + (1 + read) * y.len() + self.conv.weight_len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let (conv, x, y_shape) = (self.conv, draw.tensor(self.x), self.conv.out_shape(self.x));
        match self.end {
            End::Plain => {
                let params = draw.vector(num_params(&conv));
                result("y", move |b| Ok(ops::conv2d_fprop(b, &ops::Fprop::new(&x, &params, &conv))?.y))
            }
            End::Norm(Norm { bn, act }, residual) => {
                let bn = norm_after(&conv, &bn);
                let residual = residual.then(|| draw.tensor(y_shape));
                let (params, stats) = (params_with_norm(draw, &conv, &bn), batch_norm::statistics(draw, &bn));
                result("y", move |b| {
                    let norm = FrozenNorm { stats: &stats, bn: &bn, act };
                    let op = ops::Fprop::new(&x, &params, &conv);
                    let end = OutputEnd::Norm(norm, residual.as_ref());
                    Ok(ops::conv2d_fprop(b, &op.with(end))?.y)
                })
            }
            End::Tangent(Norm { bn, act }) => {
                let bn = norm_after(&conv, &bn);
                let (params, stats) = (params_with_norm(draw, &conv, &bn), batch_norm::statistics(draw, &bn));
                let norm_x = draw.tensor(y_shape);
                let clean = batch_norm::evaluated(draw, &norm_x, &params, &stats, &Norm { bn, act })?;
                result("y", move |b| {
                    let norm = FrozenNorm { stats: &stats, bn: &bn, act };
                    let end = OutputEnd::Tangent(norm, &clean);
                    let op = ops::Fprop::new(&x, &params, &conv);
                    Ok(ops::conv2d_fprop(b, &op.with(end))?.y)
                })
            }
        }
    }
}

/// The data gradient.
#[derive(Clone, Debug, PartialEq)]
pub struct Dgrad {
    pub conv: Conv2d,
    pub x: Shape,
    pub target: Target,
}

/// Where the gradient arrives, as [`Onto`].
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    Input,
    Add,
    /// A batch norm in training, and whether a residual was added before its activation and a gradient has arrived before.
    Norm {
        norm: Norm,
        residual: bool,
        add: bool,
    },
    Frozen(Norm),
}

impl Case for Dgrad {
    /// dy, the weight, dx; what is added; the batch norm's input, and its output where the activation's slope is read from
    /// that.
    fn facts(&self) -> Facts {
        let mut text = conv_text(&self.conv, self.x);
        let (name, read) = match self.target {
            Target::Input => ("conv2d_dgrad", 0),
            Target::Add => ("conv2d_dgrad_add", 1),
            Target::Norm { norm, residual, add } => {
                text += if add { " add" } else { "" };
                text += if residual { " residual" } else { "" };
                let slope = if residual { norm.slope() } else { 0 };
                ("conv2d_dgrad_sums", 1 + slope + usize::from(add))
            }
            Target::Frozen(norm) => ("conv2d_dgrad_tangent", norm.slope()),
        };
        let y = self.conv.out_shape(self.x);
        Facts::new(name, text)
            .flops(self.conv.flops(self.x))
            .values((1 + read) * self.x.len() + y.len() + self.conv.weight_len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let (conv, x_shape) = (self.conv, self.x);
        let dy = draw.tensor(conv.out_shape(x_shape));
        match self.target {
            Target::Input => {
                let params = draw.vector(num_params(&conv));
                result("dx", move |b| {
                    Ok(ops::conv2d_dgrad(b, &ops::Dgrad::new(&dy, &params, &conv, x_shape))?.dx)
                })
            }
            Target::Add => {
                let (params, other) = (draw.vector(num_params(&conv)), draw.tensor(x_shape));
                result("dx", move |b| {
                    let op = ops::Dgrad { dy: &dy, params: &params, conv: &conv, onto: Onto::Add(&other) };
                    Ok(ops::conv2d_dgrad(b, &op)?.dx)
                })
            }
            Target::Norm { norm: Norm { bn, act }, residual, add } => {
                let bn = norm_after(&conv, &bn);
                let add = add.then(|| draw.tensor(x_shape));
                let params = params_with_norm(draw, &conv, &bn);
                let pass = batch_norm::trained(draw, x_shape, &params, Norm { bn, act }, residual)?;
                result("dx", move |b| {
                    let onto = Onto::Norm(pass.as_pass(), add.as_ref());
                    let op = ops::Dgrad { dy: &dy, params: &params, conv: &conv, onto };
                    Ok(ops::conv2d_dgrad(b, &op)?.dx)
                })
            }
            Target::Frozen(Norm { bn, act }) => {
                let bn = norm_after(&conv, &bn);
                let (params, stats) = (params_with_norm(draw, &conv, &bn), batch_norm::statistics(draw, &bn));
                let norm_x = draw.tensor(x_shape);
                let clean = batch_norm::evaluated(draw, &norm_x, &params, &stats, &Norm { bn, act })?;
                result("dx", move |b| {
                    let onto = Onto::Frozen(FrozenNorm { stats: &stats, bn: &bn, act }, &clean);
                    let op = ops::Dgrad { dy: &dy, params: &params, conv: &conv, onto };
                    Ok(ops::conv2d_dgrad(b, &op)?.dx)
                })
            }
        }
    }
}

/// The weight gradient.
#[derive(Clone, Debug, PartialEq)]
pub struct Wgrad {
    pub conv: Conv2d,
    pub x: Shape,
}

impl Case for Wgrad {
    /// x and dy; gradients are read and written.
    fn facts(&self) -> Facts {
        Facts::new("conv2d_wgrad", conv_text(&self.conv, self.x))
            .flops(self.conv.flops(self.x))
            .values(self.x.len() + self.conv.out_shape(self.x).len())
            .bytes(2 * WIDE * self.conv.weight_len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let conv = self.conv;
        let (x, dy) = (draw.tensor(self.x), draw.tensor(conv.out_shape(self.x)));
        let mut grads = draw.b.zeros(num_params(&conv));
        work(move |b, out| {
            ops::conv2d_wgrad(b, &x, &dy, &mut grads, &conv)?;
            out.updated(b, "grads", &grads);
            Ok(())
        })
    }
}
