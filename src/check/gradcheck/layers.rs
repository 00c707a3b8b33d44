//! Gradient checks of layers. The function is always ⟨dy, y⟩ with a drawn dy.

use super::{Claim, Device, Function, Problem, dot, normals, take, tensor};
use crate::Result;
use crate::backend::cpu::Tensor;
use crate::ops::{self, Activation, BatchNorm, Conv2d, MaxPool2d, RELU, Shape, Size, Span};
use crate::rng::Stream;

pub(super) fn conv2d(rng: &mut Stream) -> Result<Vec<Problem>> {
    let b = Device::new();
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

        let mut params = point.as_slice();
        let x = take(&mut params, x_shape);
        let dy_tensor = tensor(conv.out_shape(x_shape), &dy);
        let params = params.to_vec();
        let dx = ops::conv2d_dgrad(&b, &dy_tensor, &params, &conv, x_shape)?;
        let mut grads = vec![0.0; num_params];
        ops::conv2d_wgrad(&b, &x, &dy_tensor, &mut grads, &conv)?;
        problems.push(Problem {
            case: format!("x {x_shape}, {out_channels} of {kernel}x{kernel}, {groups} groups, stride {stride}, padding {padding}, dilation {dilation}"),
            point,
            value: Box::new(move |mut p| {
                let x = take(&mut p, x_shape);
                Ok(dot(ops::conv2d_fprop(&b, &x, &p.to_vec(), &conv)?.data(), &dy))
            }),
            claim: Claim::Gradient([dx.data(), &grads].concat()),
        });
    }
    Ok(problems)
}

fn batch_norm(channels: usize) -> BatchNorm {
    let (first, second) = (Span { offset: 0, len: channels }, Span { offset: channels, len: channels });
    BatchNorm {
        weight: first,
        bias: second,
        running_mean: first,
        running_var: second,
        channels,
        momentum: 0.1,
        eps: 1e-5,
    }
}

/// Running means, then variances away from 0.
fn statistics(rng: &mut Stream, channels: usize) -> Vec<f64> {
    let mut stats = normals(rng, channels);
    stats.extend((0..channels).map(|_| f64::from(rng.range(0.5, 1.5))));
    stats
}

pub(super) fn batch_norm_train(rng: &mut Stream) -> Result<Vec<Problem>> {
    let b = Device::new();
    let mut problems = Vec::new();
    for (shape, act, with_residual) in [
        (Shape::new(2, 3, 4, 5), Activation::Identity, false),
        (Shape::new(3, 2, 1, 7), RELU, false),
        (Shape::new(2, 4, 3, 3), RELU, true),
        (Shape::new(2, 3, 3, 2), Activation::LeakyRelu(0.01), false),
        (Shape::new(1, 3, 5, 4), Activation::LeakyRelu(0.2), true),
        (Shape::new(2, 1, 1, 3), Activation::Identity, false),
    ] {
        let c = shape.c;
        let bn = batch_norm(c);
        let point = normals(rng, shape.len() + 2 * c + if with_residual { shape.len() } else { 0 });
        let stats = statistics(rng, c);
        let dy = normals(rng, shape.len());

        let split = move |mut p: &[f64]| -> (Tensor<f64>, Vec<f64>, Option<Tensor<f64>>) {
            let x = take(&mut p, shape);
            (x, p[..2 * c].to_vec(), with_residual.then(|| tensor(shape, &p[2 * c..])))
        };
        let (x, params, residual) = split(&point);
        let (y, saved) =
            ops::batch_norm_train(&b, &x, &params, &mut stats.clone(), &bn, act, residual.as_ref())?;
        let mut grads = vec![0.0; 2 * c];
        let (dx, dresidual) = ops::batch_norm_train_bwd(
            &b,
            &tensor(shape, &dy),
            &x,
            &y,
            &saved,
            &params,
            &mut grads,
            &bn,
            act,
            with_residual,
        )?;
        let mut gradient = [dx.data(), &grads].concat();
        gradient.extend(dresidual.iter().flat_map(|r| r.data()));
        problems.push(Problem {
            case: format!("x {shape}, {act:?}{}", if with_residual { ", residual" } else { "" }),
            point,
            value: Box::new(move |p| {
                let (x, params, residual) = split(p);
                let mut stats = stats.clone();
                let (y, _) = ops::batch_norm_train(&b, &x, &params, &mut stats, &bn, act, residual.as_ref())?;
                Ok(dot(y.data(), &dy))
            }),
            claim: Claim::Gradient(gradient),
        });
    }
    Ok(problems)
}

/// ⟨dy, batch_norm_eval⟩ over x and, with `params_move`, the parameters (else those of `params`).
fn eval_value(
    shape: Shape,
    act: Activation,
    stats: Vec<f64>,
    dy: Vec<f64>,
    params: Option<Vec<f64>>,
) -> Function {
    let bn = batch_norm(shape.c);
    Box::new(move |mut p| {
        let x = take(&mut p, shape);
        let params = params.clone().unwrap_or_else(|| p.to_vec());
        Ok(dot(ops::batch_norm_eval(&Device::new(), &x, &params, &stats, &bn, act, None)?.data(), &dy))
    })
}

const EVAL_CASES: [(Shape, Activation); 3] = [
    (Shape::new(2, 3, 4, 5), Activation::Identity),
    (Shape::new(1, 2, 3, 7), RELU),
    (Shape::new(3, 1, 1, 4), Activation::LeakyRelu(0.01)),
];

pub(super) fn batch_norm_eval(rng: &mut Stream) -> Result<Vec<Problem>> {
    let b = Device::new();
    let mut problems = Vec::new();
    for (shape, act) in EVAL_CASES {
        let bn = batch_norm(shape.c);
        let point = normals(rng, shape.len() + 2 * shape.c);
        let stats = statistics(rng, shape.c);
        let dy = normals(rng, shape.len());
        let mut params = point.as_slice();
        let x = take(&mut params, shape);
        let params = params.to_vec();
        let y = ops::batch_norm_eval(&b, &x, &params, &stats, &bn, act, None)?;
        let mut grads = vec![0.0; 2 * shape.c];
        let dy_tensor = tensor(shape, &dy);
        let dx = ops::batch_norm_eval_bwd(&b, &dy_tensor, &x, &y, &params, &stats, &mut grads, &bn, act)?;
        problems.push(Problem {
            case: format!("x {shape}, {act:?}"),
            point,
            value: eval_value(shape, act, stats, dy, None),
            claim: Claim::Gradient([dx.data(), &grads].concat()),
        });
    }
    Ok(problems)
}

pub(super) fn batch_norm_tangent(rng: &mut Stream) -> Result<Vec<Problem>> {
    let b = Device::new();
    let mut problems = Vec::new();
    for (shape, act) in EVAL_CASES {
        let bn = batch_norm(shape.c);
        let (point, params) = (normals(rng, shape.len()), normals(rng, 2 * shape.c));
        let stats = statistics(rng, shape.c);
        let dy = normals(rng, shape.len());
        let y = ops::batch_norm_eval(&b, &tensor(shape, &point), &params, &stats, &bn, act, None)?;
        let value = eval_value(shape, act, stats.clone(), dy.clone(), Some(params.clone()));
        problems.push(Problem {
            case: format!("x {shape}, {act:?}"),
            point,
            value,
            claim: Claim::Tangent(Box::new(move |t| {
                let t = tensor(shape, t);
                Ok(dot(ops::batch_norm_tangent(&b, &t, &y, &params, &stats, &bn, act)?.data(), &dy))
            })),
        });
    }
    Ok(problems)
}

/// A problem whose point is one activation.
fn unary(
    rng: &mut Stream,
    case: String,
    shape: Shape,
    forward: impl Fn(&Tensor<f64>) -> Result<Tensor<f64>> + 'static,
    backward: impl Fn(&Tensor<f64>, &Tensor<f64>) -> Result<Tensor<f64>>,
) -> Result<Problem> {
    let point = normals(rng, shape.len());
    let x = tensor(shape, &point);
    let y_shape = forward(&x)?.shape();
    let dy = normals(rng, y_shape.len());
    let dx = backward(&tensor(y_shape, &dy), &x)?;
    Ok(Problem {
        case: format!("x {shape}, {case}"),
        point,
        value: Box::new(move |p| Ok(dot(forward(&tensor(shape, p))?.data(), &dy))),
        claim: Claim::Gradient(dx.data().to_vec()),
    })
}

pub(super) fn leaky_relu(rng: &mut Stream) -> Result<Vec<Problem>> {
    let b = Device::new();
    [0.0, 0.01, 0.3]
        .into_iter()
        .map(|slope| {
            unary(
                rng,
                format!("slope {slope}"),
                Shape::new(2, 3, 5, 3),
                move |x| ops::leaky_relu(&b, x, slope),
                |dy, x| ops::leaky_relu_bwd(&b, dy, x, slope),
            )
        })
        .collect()
}

pub(super) fn max_pool2d(rng: &mut Stream) -> Result<Vec<Problem>> {
    let b = Device::new();
    [(Shape::new(2, 5, 6, 3), 3, 2, 1), (Shape::new(1, 6, 7, 2), 2, 2, 0), (Shape::new(1, 4, 5, 3), 3, 1, 1)]
        .into_iter()
        .map(|(shape, kernel, stride, padding)| {
            let pool = MaxPool2d { kernel, stride, padding };
            unary(
                rng,
                format!("kernel {kernel}, stride {stride}, padding {padding}"),
                shape,
                move |x| ops::max_pool2d(&b, x, &pool),
                |dy, x| ops::max_pool2d_bwd(&b, dy, x, &pool),
            )
        })
        .collect()
}

/// Shapes and sizes of resampling: larger, smaller, one position in, one out, unchanged.
const SIZES: [(Shape, Size); 6] = [
    (Shape::new(2, 3, 4, 3), (7, 9)),
    (Shape::new(1, 7, 6, 2), (3, 2)),
    (Shape::new(2, 1, 1, 3), (3, 4)),
    (Shape::new(2, 4, 5, 2), (1, 1)),
    (Shape::new(1, 3, 5, 1), (3, 5)),
    (Shape::new(1, 5, 3, 2), (2, 6)),
];

/// Problems of an op that resamples to a size, over [`SIZES`].
fn resampling(
    rng: &mut Stream,
    forward: fn(&Device, &Tensor<f64>, Size) -> Result<Tensor<f64>>,
    backward: fn(&Device, &Tensor<f64>, Size) -> Result<Tensor<f64>>,
) -> Result<Vec<Problem>> {
    let b = Device::new();
    SIZES
        .into_iter()
        .map(|(shape, size)| {
            unary(
                rng,
                format!("to {} by {}", size.0, size.1),
                shape,
                move |x| forward(&b, x, size),
                move |dy, x| backward(&b, dy, (x.shape().h, x.shape().w)),
            )
        })
        .collect()
}

pub(super) fn adaptive_avg_pool2d(rng: &mut Stream) -> Result<Vec<Problem>> {
    resampling(rng, ops::adaptive_avg_pool2d, ops::adaptive_avg_pool2d_bwd)
}

pub(super) fn interpolate(rng: &mut Stream) -> Result<Vec<Problem>> {
    resampling(rng, ops::interpolate, ops::interpolate_bwd)
}

/// Addition with its broadcast; `sum_positions` is the broadcast's backward.
pub(super) fn add(rng: &mut Stream) -> Result<Vec<Problem>> {
    let b = Device::new();
    let shape = Shape::new(2, 3, 4, 3);
    let mut problems = Vec::new();
    for (y_shape, alpha) in [(shape, 0.7), (Shape::new(2, 1, 1, 3), -1.5)] {
        let point = normals(rng, shape.len() + y_shape.len());
        let dy = normals(rng, shape.len());
        let summed =
            if y_shape == shape { tensor(shape, &dy) } else { ops::sum_positions(&b, &tensor(shape, &dy))? };
        let mut gradient = dy.clone();
        gradient.extend(summed.data().iter().map(|v| alpha * v));
        problems.push(Problem {
            case: format!("x {shape} + {alpha} y {y_shape}"),
            point,
            value: Box::new(move |mut p| {
                let x = take(&mut p, shape);
                Ok(dot(ops::add(&b, &x, &tensor(y_shape, p), alpha)?.data(), &dy))
            }),
            claim: Claim::Gradient(gradient),
        });
    }
    Ok(problems)
}

/// Concatenation; its backward is a slice of each part.
pub(super) fn concat(rng: &mut Stream) -> Result<Vec<Problem>> {
    let b = Device::new();
    let shape = Shape::new(2, 3, 2, 1);
    let channels = [3, 1, 4];
    let point = normals(rng, shape.len() * 8);
    let dy = normals(rng, shape.len() * 8);
    let dy_tensor = tensor(shape.with_channels(8), &dy);
    let (mut gradient, mut offset) = (Vec::new(), 0);
    for c in channels {
        gradient.extend_from_slice(ops::slice_channels(&b, &dy_tensor, offset, c)?.data());
        offset += c;
    }
    Ok(vec![Problem {
        case: format!("channels {channels:?} at {shape}"),
        point,
        value: Box::new(move |mut p| {
            let parts: Vec<_> = channels.iter().map(|&c| take(&mut p, shape.with_channels(c))).collect();
            Ok(dot(ops::concat(&b, &parts.iter().collect::<Vec<_>>())?.data(), &dy))
        }),
        claim: Claim::Gradient(gradient),
    }])
}
