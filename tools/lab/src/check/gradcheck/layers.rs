//! Gradient checks of layers. The function is always ⟨dy, y⟩ with a drawn dy.

use super::{Claim, Claimant, Exact, Function, Problem, dot, narrow, normals, take, tensor, upload};
use psmt_fast::Result;
use psmt_fast::backend::cpu::Tensor;
use psmt_fast::ops::{self, Activation, BatchNorm, Conv2d, MaxPool2d, RELU, Shape, Size, Span};
use psmt_fast::rng::Stream;

pub(super) fn conv2d<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
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
            case: format!("x {x_shape}, {out_channels} of {kernel}x{kernel}, {groups} groups, stride {stride}, padding {padding}, dilation {dilation}"),
            point,
            value: Box::new(move |mut p| {
                let x = take(&mut p, x_shape);
                Ok(dot(ops::conv2d_fprop(&Exact::new(), &ops::Fprop::new(&x, &p.to_vec(), &conv))?.y.data(), &dy))
            }),
            claim: Claim::Gradient(gradient),
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

pub(super) fn batch_norm_train<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
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
        let (x, rest) = point.split_at(shape.len());
        let (x, params) = (upload(b, shape, x), b.upload_vector(&narrow(&rest[..2 * c])));
        let residual = with_residual.then(|| upload(b, shape, &rest[2 * c..]));
        let mut moved = b.upload_vector(&narrow(&stats));
        let (y, saved) = ops::batch_norm_train(
            b,
            ops::BatchNormTrain {
                x: &x,
                params: &params,
                stats: &mut moved,
                bn: &bn,
                act,
                residual: residual.as_ref(),
                moments: None,
            },
        )?;
        let mut grads = b.zeros(2 * c);
        let (dx, dresidual) = ops::batch_norm_train_bwd(
            b,
            ops::BatchNormTrainBwd {
                dy: &upload(b, shape, &dy),
                norm: ops::NormPass { x: &x, y: &y, saved: &saved, bn: &bn, act, residual: with_residual },
                params: &params,
                grads: &mut grads,
                sums: None,
            },
        )?;
        let mut gradient = [b.values(&dx), b.vector_values(&grads)].concat();
        gradient.extend(dresidual.iter().flat_map(|r| b.values(r)));
        problems.push(Problem {
            case: format!("x {shape}, {act:?}{}", if with_residual { ", residual" } else { "" }),
            point,
            value: Box::new(move |p| {
                let (x, params, residual) = split(p);
                let mut stats = stats.clone();
                let b = Exact::new();
                let (y, _) = ops::batch_norm_train(
                    &b,
                    ops::BatchNormTrain {
                        x: &x,
                        params: &params,
                        stats: &mut stats,
                        bn: &bn,
                        act,
                        residual: residual.as_ref(),
                        moments: None,
                    },
                )?;
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
        Ok(dot(
            ops::batch_norm_eval(
                &Exact::new(),
                &ops::BatchNormEval {
                    x: &x,
                    params: &params,
                    norm: ops::FrozenNorm { stats: &stats, bn: &bn, act },
                    residual: None,
                },
            )?
            .data(),
            &dy,
        ))
    })
}

const EVAL_CASES: [(Shape, Activation); 3] = [
    (Shape::new(2, 3, 4, 5), Activation::Identity),
    (Shape::new(1, 2, 3, 7), RELU),
    (Shape::new(3, 1, 1, 4), Activation::LeakyRelu(0.01)),
];

pub(super) fn batch_norm_eval<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for (shape, act) in EVAL_CASES {
        let bn = batch_norm(shape.c);
        let point = normals(rng, shape.len() + 2 * shape.c);
        let stats = statistics(rng, shape.c);
        let dy = normals(rng, shape.len());
        let (x, params) = point.split_at(shape.len());
        let (x, params) = (upload(b, shape, x), b.upload_vector(&narrow(params)));
        let running = b.upload_vector(&narrow(&stats));
        let y = ops::batch_norm_eval(
            b,
            &ops::BatchNormEval {
                x: &x,
                params: &params,
                norm: ops::FrozenNorm { stats: &running, bn: &bn, act },
                residual: None,
            },
        )?;
        let mut grads = b.zeros(2 * shape.c);
        let dy_tensor = upload(b, shape, &dy);
        let dx = ops::batch_norm_eval_bwd(
            b,
            ops::BatchNormEvalBwd {
                dy: &dy_tensor,
                x: &x,
                y: &y,
                params: &params,
                grads: &mut grads,
                norm: ops::FrozenNorm { stats: &running, bn: &bn, act },
            },
        )?;
        let gradient = [b.values(&dx), b.vector_values(&grads)].concat();
        problems.push(Problem {
            case: format!("x {shape}, {act:?}"),
            point,
            value: eval_value(shape, act, stats, dy, None),
            claim: Claim::Gradient(gradient),
        });
    }
    Ok(problems)
}

pub(super) fn batch_norm_tangent<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for (shape, act) in EVAL_CASES {
        let bn = batch_norm(shape.c);
        let (point, params) = (normals(rng, shape.len()), normals(rng, 2 * shape.c));
        let stats = statistics(rng, shape.c);
        let dy = normals(rng, shape.len());
        let (weights, running) = (b.upload_vector(&narrow(&params)), b.upload_vector(&narrow(&stats)));
        let y = ops::batch_norm_eval(
            b,
            &ops::BatchNormEval {
                x: &upload(b, shape, &point),
                params: &weights,
                norm: ops::FrozenNorm { stats: &running, bn: &bn, act },
                residual: None,
            },
        )?;
        let value = eval_value(shape, act, stats, dy.clone(), Some(params));
        let b = b.clone();
        problems.push(Problem {
            case: format!("x {shape}, {act:?}"),
            point,
            value,
            claim: Claim::Tangent(Box::new(move |t| {
                let t = upload(&b, shape, t);
                let moved = ops::batch_norm_tangent(
                    &b,
                    &ops::BatchNormTangent {
                        t: &t,
                        y: &y,
                        params: &weights,
                        norm: ops::FrozenNorm { stats: &running, bn: &bn, act },
                    },
                )?;
                Ok(dot(&b.values(&moved), &dy))
            })),
        });
    }
    Ok(problems)
}

/// A problem whose point is one activation; `backward` takes dy and x.
fn unary<B: Claimant>(
    b: &B,
    rng: &mut Stream,
    case: String,
    shape: Shape,
    forward: impl Fn(&Tensor<f64>) -> Result<Tensor<f64>> + 'static,
    backward: impl Fn(&B::Tensor, &B::Tensor) -> Result<B::Tensor>,
) -> Result<Problem> {
    let point = normals(rng, shape.len());
    let y_shape = forward(&tensor(shape, &point))?.shape();
    let dy = normals(rng, y_shape.len());
    let dx = backward(&upload(b, y_shape, &dy), &upload(b, shape, &point))?;
    Ok(Problem {
        case: format!("x {shape}, {case}"),
        point,
        value: Box::new(move |p| Ok(dot(forward(&tensor(shape, p))?.data(), &dy))),
        claim: Claim::Gradient(b.values(&dx)),
    })
}

pub(super) fn leaky_relu<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    [0.0, 0.01, 0.3]
        .into_iter()
        .map(|slope| {
            unary(
                b,
                rng,
                format!("slope {slope}"),
                Shape::new(2, 3, 5, 3),
                move |x| ops::leaky_relu(&Exact::new(), x, slope),
                |dy, x| ops::leaky_relu_bwd(b, dy, x, slope),
            )
        })
        .collect()
}

pub(super) fn max_pool2d<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    [(Shape::new(2, 5, 6, 3), 3, 2, 1), (Shape::new(1, 6, 7, 2), 2, 2, 0), (Shape::new(1, 4, 5, 3), 3, 1, 1)]
        .into_iter()
        .map(|(shape, kernel, stride, padding)| {
            let pool = MaxPool2d { kernel, stride, padding };
            unary(
                b,
                rng,
                format!("kernel {kernel}, stride {stride}, padding {padding}"),
                shape,
                move |x| ops::max_pool2d(&Exact::new(), x, &pool),
                |dy, x| ops::max_pool2d_bwd(b, dy, x, &pool),
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
fn resampling<B: Claimant>(
    b: &B,
    rng: &mut Stream,
    forward: fn(&Exact, &Tensor<f64>, Size) -> Result<Tensor<f64>>,
    backward: fn(&B, &B::Tensor, Size) -> Result<B::Tensor>,
) -> Result<Vec<Problem>> {
    SIZES
        .into_iter()
        .map(|(shape, size)| {
            unary(
                b,
                rng,
                format!("to {} by {}", size.0, size.1),
                shape,
                move |x| forward(&Exact::new(), x, size),
                |dy, _| backward(b, dy, (shape.h, shape.w)),
            )
        })
        .collect()
}

pub(super) fn adaptive_avg_pool2d<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    resampling(b, rng, ops::adaptive_avg_pool2d, ops::adaptive_avg_pool2d_bwd)
}

pub(super) fn interpolate<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    resampling(b, rng, ops::interpolate, ops::interpolate_bwd)
}

/// Addition with its broadcast; `sum_positions` is the broadcast's backward.
pub(super) fn add<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    let shape = Shape::new(2, 3, 4, 3);
    let mut problems = Vec::new();
    for (y_shape, alpha) in [(shape, 0.7), (Shape::new(2, 1, 1, 3), -1.5)] {
        let point = normals(rng, shape.len() + y_shape.len());
        let dy = normals(rng, shape.len());
        let dy_tensor = upload(b, shape, &dy);
        let summed = if y_shape == shape { dy_tensor } else { ops::sum_positions(b, &dy_tensor)? };
        let mut gradient = dy.clone();
        gradient.extend(b.values(&summed).iter().map(|v| alpha * v));
        problems.push(Problem {
            case: format!("x {shape} + {alpha} y {y_shape}"),
            point,
            value: Box::new(move |mut p| {
                let x = take(&mut p, shape);
                Ok(dot(ops::add(&Exact::new(), &x, &tensor(y_shape, p), alpha)?.data(), &dy))
            }),
            claim: Claim::Gradient(gradient),
        });
    }
    Ok(problems)
}

/// Concatenation; its backward is a slice of each part.
pub(super) fn concat<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    let shape = Shape::new(2, 3, 2, 1);
    let channels = [3, 1, 4];
    let point = normals(rng, shape.len() * 8);
    let dy = normals(rng, shape.len() * 8);
    let dy_tensor = upload(b, shape.with_channels(8), &dy);
    let (mut gradient, mut offset) = (Vec::new(), 0);
    for c in channels {
        gradient.extend(b.values(&ops::slice_channels(b, &dy_tensor, offset, c)?));
        offset += c;
    }
    Ok(vec![Problem {
        case: format!("channels {channels:?} at {shape}"),
        point,
        value: Box::new(move |mut p| {
            let parts: Vec<_> = channels.iter().map(|&c| take(&mut p, shape.with_channels(c))).collect();
            Ok(dot(ops::concat(&Exact::new(), &parts.iter().collect::<Vec<_>>())?.data(), &dy))
        }),
        claim: Claim::Gradient(gradient),
    }])
}
