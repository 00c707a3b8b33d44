//! Convolutions: forward, data gradient, weight gradient, and what the first two do to their output on the
//! way.

use super::batch_norm::{self, Norm};
use crate::bench::Trace;
use crate::bench::case::{Case, Draw, Facts, WIDE, Work, dims, result, work};
use crate::check::fixture::{Array, swap_inner};
use crate::check::gradcheck::{Claim, Claimant, Exact, Problem, dot, narrow, normals, take, upload};
use crate::check::run_op::Run;
use psmt_fast::Result;
use psmt_fast::ops::{
    self, Backend, BatchNorm, Conv2d, Conv2dOps, DgradOut, FpropOut, FrozenNorm, NormPass, Onto, OutputEnd,
    Shape, Span,
};
use psmt_fast::rng::Stream;
use serde::Deserialize;

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

/// The convolution with its parameters at the start of a vector. Kernels read weights in chunks of up to 16:
/// the remainder of where they begin stays.
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

/// The [`OutputEnd`] of a forward pass.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    Plain,
    /// A frozen batch norm, and whether a residual is added before its activation.
    Norm(Norm, bool),
    Tangent(Norm),
}

impl Case for Fprop {
    /// x, the weight, y; the residual, or the output of the batch norm where its activation's slope is read
    /// from that.
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

/// What the gradient arrives at, as [`Onto`].
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    Input,
    Add,
    /// A batch norm in training, and whether a residual was added before its activation and a gradient has
    /// arrived before.
    Norm {
        norm: Norm,
        residual: bool,
        add: bool,
    },
    Frozen(Norm),
}

impl Case for Dgrad {
    /// dy, the weight, dx; what is added; the batch norm's input, and its output where the activation's slope
    /// is read from that.
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConvAttrs {
    stride: u32,
    padding: u32,
    dilation: u32,
    #[serde(default = "one_group")]
    groups: u32,
}

fn one_group() -> u32 {
    1
}

pub(super) fn fixture<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let ConvAttrs { stride, padding, dilation, groups } = run.attrs()?;
    let ([out_channels, group_channels, kernel, kernel_w], weight) = run.fixture.f32("weight")?;
    if kernel != kernel_w || kernel == 0 || stride == 0 || dilation == 0 {
        let what = "a square kernel, stride and dilation of at least 1";
        let found = format!("kernel {kernel} by {kernel_w}, stride {stride}, dilation {dilation}");
        return Err(psmt_fast::Error::shape("conv2d", what, found));
    }
    let taps = kernel * kernel;
    let mut params = swap_inner(weight, out_channels, group_channels, taps);
    let weight_span = Span { offset: 0, len: params.len() };
    let mut bias = None;
    if run.fixture.inputs.contains_key("bias") {
        bias = Some(Span { offset: params.len(), len: out_channels });
        params.extend_from_slice(run.values("bias", out_channels)?);
    }
    let conv = Conv2d {
        weight: weight_span,
        bias,
        in_channels: group_channels.saturating_mul(groups as usize),
        out_channels,
        groups: groups as usize,
        kernel,
        stride: stride as usize,
        padding: padding as usize,
        dilation: dilation as usize,
    };
    let x = run.tensor("x")?;
    // Before the forward pass: the file bounds the size of dy, and so that of y, but nothing bounds the
    // padding.
    let dy = run.tensor_of("dy", conv.out_shape(B::shape(&x)))?;
    let params = run.b.upload_vector(&params);
    let y = ops::conv2d_fprop(run.b, &ops::Fprop::new(&x, &params, &conv))?.y;
    let dx = ops::conv2d_dgrad(run.b, &ops::Dgrad::new(&dy, &params, &conv, B::shape(&x)))?.dx;
    let mut grads = run.b.zeros(B::vector_len(&params));
    ops::conv2d_wgrad(run.b, &x, &dy, &mut grads, &conv)?;
    run.put_layer(&y, &dx);
    let grads = run.b.download_vector(&grads);
    let dweight = swap_inner(&grads[weight_span.range()], out_channels, taps, group_channels);
    run.put("dweight", Array::f32([out_channels, group_channels, kernel, kernel], dweight));
    if let Some(bias) = bias {
        run.put_vector("dbias", &grads[bias.range()]);
    }
    Ok(())
}

pub(super) fn problems<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for (x_shape, out_channels, groups, kernel, stride, padding, dilation, with_bias) in [
        (Shape::new(2, 5, 6, 3), 4, 1, 3, 2, 1, 1, true),
        (Shape::new(1, 5, 4, 3), 2, 1, 1, 1, 0, 1, false),
        (Shape::new(2, 7, 7, 5), 7, 1, 3, 1, 1, 1, true),
        (Shape::new(1, 9, 8, 2), 3, 1, 3, 1, 4, 4, true),
        // Only the middle tap ever meets the image.
        (Shape::new(1, 3, 3, 2), 3, 1, 3, 1, 6, 6, false),
        (Shape::new(2, 7, 9, 1), 2, 1, 7, 2, 3, 1, false),
        (Shape::new(1, 7, 8, 2), 2, 1, 2, 3, 0, 1, true),
        (Shape::new(2, 5, 7, 3), 4, 1, 1, 2, 0, 1, false),
        (Shape::new(2, 5, 6, 6), 4, 2, 3, 1, 1, 1, true),
        (Shape::new(1, 7, 5, 6), 9, 3, 3, 2, 2, 2, false),
        (Shape::new(2, 4, 3, 4), 4, 4, 1, 1, 0, 1, true),
    ] {
        let len = out_channels * kernel * kernel * x_shape.c / groups;
        let conv = Conv2d {
            weight: Span { offset: 0, len },
            bias: with_bias.then_some(Span { offset: len, len: out_channels }),
            in_channels: x_shape.c,
            out_channels,
            groups,
            kernel,
            stride,
            padding,
            dilation,
        };
        let num_params = len + if with_bias { out_channels } else { 0 };
        let point = normals(rng, x_shape.len() + num_params);
        let dy = normals(rng, conv.out_shape(x_shape).len());

        let (x, params) = point.split_at(x_shape.len());
        let (x, params) = (upload(b, x_shape, x), b.upload_vector(&narrow(params)));
        let dy_tensor = upload(b, conv.out_shape(x_shape), &dy);
        let dx = ops::conv2d_dgrad(b, &ops::Dgrad::new(&dy_tensor, &params, &conv, x_shape))?.dx;
        let mut grads = b.zeros(num_params);
        ops::conv2d_wgrad(b, &x, &dy_tensor, &mut grads, &conv)?;
        let gradient = [b.values(&dx), b.vector_values(&grads)].concat();
        problems.push(Problem {
            case: format!(
                "x {x_shape}, {out_channels} of {kernel}x{kernel}, {groups} groups, stride {stride}, \
                 padding {padding}, dilation {dilation}"
            ),
            point,
            value: Box::new(move |mut p| {
                let x = take(&mut p, x_shape);
                Ok(dot(
                    ops::conv2d_fprop(&Exact::new(), &ops::Fprop::new(&x, &p.to_vec(), &conv))?.y.data(),
                    &dy,
                ))
            }),
            claim: Claim::Gradient(gradient),
        });
    }
    Ok(problems)
}
