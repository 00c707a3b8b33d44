//! Fixtures of layers: forward, then backward from `dy`.

use super::Run;
use crate::check::fixture::{Array, swap_inner};
use psmt_fast::Result;
use psmt_fast::ops::{self, Activation, Backend, BatchNorm, Conv2d, MaxPool2d, Span};
use serde::Deserialize;

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

pub(super) fn conv2d<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
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
    // Before the forward pass: the file bounds the size of dy, and so that of y, but nothing bounds the padding.
    let dy = run.tensor_of("dy", conv.out_shape(B::shape(&x)))?;
    let params = run.b.upload_vector(&params);
    let y = ops::conv2d_fprop(run.b, &ops::Fprop::new(&x, &params, &conv))?.y;
    let dx = ops::conv2d_dgrad(run.b, &ops::Dgrad::new(&dy, &params, &conv, B::shape(&x)))?.dx;
    let mut grads = run.b.zeros(B::vector_len(&params));
    ops::conv2d_wgrad(run.b, &x, &dy, &mut grads, &conv)?;
    run.put_tensor("y", &y);
    run.put_tensor("dx", &dx);
    let grads = run.b.download_vector(&grads);
    let dweight = swap_inner(&grads[weight_span.range()], out_channels, taps, group_channels);
    run.put("dweight", Array::f32([out_channels, group_channels, kernel, kernel], dweight));
    if let Some(bias) = bias {
        run.put_vector("dbias", &grads[bias.range()]);
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchNormAttrs {
    training: bool,
    momentum: f64,
    eps: f64,
}

pub(super) fn batch_norm<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let BatchNormAttrs { training, momentum, eps } = run.attrs()?;
    let x = run.tensor("x")?;
    let dy = run.tensor_of("dy", B::shape(&x))?;
    let channels = B::shape(&x).c;
    let (first, second) = (Span { offset: 0, len: channels }, Span { offset: channels, len: channels });
    let bn = BatchNorm {
        weight: first,
        bias: second,
        running_mean: first,
        running_var: second,
        channels,
        momentum,
        eps,
    };
    let pair = |a: &str, b: &str| -> Result<B::Vector> {
        Ok(run.b.upload_vector(&[run.values(a, channels)?, run.values(b, channels)?].concat()))
    };
    let params = pair("weight", "bias")?;
    let mut stats = pair("running_mean", "running_var")?;
    let mut grads = run.b.zeros(2 * channels);
    let act = Activation::Identity;
    let (y, dx) = if training {
        let (y, saved) = ops::batch_norm_train(
            run.b,
            ops::BatchNormTrain {
                x: &x,
                params: &params,
                stats: &mut stats,
                bn: &bn,
                act,
                residual: None,
                moments: None,
            },
        )?;
        let (dx, _) = ops::batch_norm_train_bwd(
            run.b,
            ops::BatchNormTrainBwd {
                dy: &dy,
                norm: ops::NormPass { x: &x, y: &y, saved: &saved, bn: &bn, act, residual: false },
                params: &params,
                grads: &mut grads,
                sums: None,
            },
        )?;
        (y, dx)
    } else {
        let y = ops::batch_norm_eval(
            run.b,
            &ops::BatchNormEval {
                x: &x,
                params: &params,
                norm: ops::FrozenNorm { stats: &stats, bn: &bn, act },
                residual: None,
            },
        )?;
        let dx = ops::batch_norm_eval_bwd(
            run.b,
            ops::BatchNormEvalBwd {
                dy: &dy,
                x: &x,
                y: &y,
                params: &params,
                grads: &mut grads,
                norm: ops::FrozenNorm { stats: &stats, bn: &bn, act },
            },
        )?;
        (y, dx)
    };
    run.put_tensor("y", &y);
    run.put_tensor("dx", &dx);
    let (grads, stats) = (run.b.download_vector(&grads), run.b.download_vector(&stats));
    for (name, values) in [
        ("dweight", &grads[first.range()]),
        ("dbias", &grads[second.range()]),
        ("running_mean", &stats[first.range()]),
        ("running_var", &stats[second.range()]),
    ] {
        run.put_vector(name, values);
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PoolAttrs {
    kernel: u32,
    stride: u32,
    padding: u32,
}

pub(super) fn max_pool2d<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let PoolAttrs { kernel, stride, padding } = run.attrs()?;
    let pool = MaxPool2d { kernel: kernel as usize, stride: stride as usize, padding: padding as usize };
    let (x, dy) = (run.tensor("x")?, run.tensor("dy")?);
    let y = ops::max_pool2d(run.b, &x, &pool)?;
    let dx = ops::max_pool2d_bwd(run.b, &dy, &x, &pool)?;
    run.put_tensor("y", &y);
    run.put_tensor("dx", &dx);
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SizeAttrs {
    size: [usize; 2],
}

pub(super) fn interpolate<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let x = run.tensor("x")?;
    let shape = B::shape(&x);
    let (h, w) = run.size(shape.n, run.attrs::<SizeAttrs>()?.size)?;
    let dy = run.tensor_of("dy", psmt_fast::ops::Shape { h, w, ..shape })?;
    let y = ops::interpolate(run.b, &x, (h, w))?;
    let dx = ops::interpolate_bwd(run.b, &dy, (shape.h, shape.w))?;
    run.put_tensor("y", &y);
    run.put_tensor("dx", &dx);
    Ok(())
}

pub(super) fn adaptive_avg_pool2d<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let x = run.tensor("x")?;
    let shape = B::shape(&x);
    let (h, w) = run.size(shape.n, run.attrs::<SizeAttrs>()?.size)?;
    let dy = run.tensor_of("dy", psmt_fast::ops::Shape { h, w, ..shape })?;
    let y = ops::adaptive_avg_pool2d(run.b, &x, (h, w))?;
    let dx = ops::adaptive_avg_pool2d_bwd(run.b, &dy, (shape.h, shape.w))?;
    run.put_tensor("y", &y);
    run.put_tensor("dx", &dx);
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SlopeAttrs {
    slope: f64,
}

pub(super) fn leaky_relu<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let SlopeAttrs { slope } = run.attrs()?;
    let (x, dy) = (run.tensor("x")?, run.tensor("dy")?);
    let y = ops::leaky_relu(run.b, &x, slope)?;
    let dx = ops::leaky_relu_bwd(run.b, &dy, &x, slope)?;
    run.put_tensor("y", &y);
    run.put_tensor("dx", &dx);
    Ok(())
}
