//! Batch norms with their activation and residual: in training, frozen, backward and tangent.

use super::Family;
use super::conv2d::{norm_after, params_with_norm, pointwise};
use crate::bench::Trace;
use crate::bench::case::{Case, Draw, Facts, Work, dims, result, work};
use crate::check::gradcheck::{
    Check, Claim, Claimant, Exact, Function, Problem, dot, narrow, normals, take, tensor, upload,
};
use crate::check::run_op::{FixtureOp, Run};
use psmt_fast::Result;
use psmt_fast::backend::cpu::Tensor;
use psmt_fast::ops::{
    self, Activation, Backend, BatchNorm, BatchNormOps, BatchNormSaved, FrozenNorm, NormPass, Onto,
    OutputEnd, RELU, Shape, Span,
};
use psmt_fast::rng::Stream;
use serde::Deserialize;

impl BatchNormOps for Trace {
    fn batch_norm_train(&self, op: ops::BatchNormTrain<'_, Trace>) -> (Shape, BatchNormSaved<Trace>) {
        let (x, norm, residual) = (*op.x, Norm::of(op.bn, op.act), op.residual.is_some());
        self.note(BatchNormTrain { x, norm, residual, moments: op.moments.is_some() });
        (x, BatchNormSaved { moments: 2 * op.bn.channels })
    }
    fn batch_norm_eval(&self, op: &ops::BatchNormEval<'_, Trace>) -> Shape {
        let norm = Norm::of(op.norm.bn, op.norm.act);
        self.note(BatchNormEval { x: *op.x, norm, residual: op.residual.is_some() });
        *op.x
    }
    fn batch_norm_train_bwd(&self, op: ops::BatchNormTrainBwd<'_, Trace>) -> (Shape, Option<Shape>) {
        let NormPass { x, bn, act, residual, .. } = op.norm;
        self.note(BatchNormTrainBwd { x: *x, norm: Norm::of(bn, act), residual, sums: op.sums.is_some() });
        (*op.dy, residual.then_some(*op.dy))
    }
    fn batch_norm_eval_bwd(&self, op: ops::BatchNormEvalBwd<'_, Trace>) -> Shape {
        self.note(BatchNormEvalBwd { x: *op.x, norm: Norm::of(op.norm.bn, op.norm.act) });
        *op.dy
    }
    fn batch_norm_tangent(&self, op: &ops::BatchNormTangent<'_, Trace>) -> Shape {
        self.note(BatchNormTangent { x: *op.t, norm: Norm::of(op.norm.bn, op.norm.act) });
        *op.t
    }
}

/// A batch norm with parameters and statistics at the start of vectors of their own.
fn layer(channels: usize, momentum: f64, eps: f64) -> BatchNorm {
    let (first, second) = (Span { offset: 0, len: channels }, Span { offset: channels, len: channels });
    BatchNorm {
        weight: first,
        bias: second,
        running_mean: first,
        running_var: second,
        channels,
        momentum,
        eps,
    }
}

/// A batch norm and its activation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    pub bn: BatchNorm,
    pub act: Activation,
}

impl Norm {
    /// As [`layer`].
    pub fn of(bn: &BatchNorm, act: Activation) -> Norm {
        Norm { bn: layer(bn.channels, bn.momentum, bn.eps), act }
    }

    /// 1 where the activation's slope is read from its output, 0 where there is no activation.
    pub fn slope(&self) -> usize {
        usize::from(self.act != Activation::Identity)
    }

    fn text(&self, x: &Shape, residual: bool) -> String {
        let act = match self.act {
            Activation::Identity => "",
            Activation::LeakyRelu(0.0) => " relu",
            Activation::LeakyRelu(_) => " leaky",
        };
        format!("{}{act}{}", dims(x), if residual { " residual" } else { "" })
    }
}

/// Running means around 0, variances around 1.
pub(super) fn statistics<B: Backend>(draw: &mut Draw<'_, B>, bn: &BatchNorm) -> B::Vector {
    let mut values = draw.coarse(2 * bn.channels);
    values[bn.channels..].iter_mut().for_each(|v| *v += 1.0);
    draw.b.upload_vector(&values)
}

/// Weights around 1, biases around 0.
fn affine<B: Backend>(draw: &mut Draw<'_, B>, bn: &BatchNorm) -> B::Vector {
    let mut values = draw.coarse(2 * bn.channels);
    values[..bn.channels].iter_mut().for_each(|v| *v += 1.0);
    draw.b.upload_vector(&values)
}

/// Output of the frozen batch norm of `x`: where its activation bends.
pub(super) fn evaluated<B: Backend>(
    draw: &mut Draw<'_, B>,
    x: &B::Tensor,
    params: &B::Vector,
    stats: &B::Vector,
    Norm { bn, act }: &Norm,
) -> Result<B::Tensor> {
    let norm = FrozenNorm { stats, bn, act: *act };
    let y = ops::batch_norm_eval(draw.b, &ops::BatchNormEval { x, params, norm, residual: None })?;
    Ok(draw.same(y))
}

/// A training pass as a gradient finds it.
pub(super) struct Pass<B: Backend> {
    x: B::Tensor,
    y: B::Tensor,
    saved: BatchNormSaved<B>,
    norm: Norm,
    residual: bool,
}

impl<B: Backend> Pass<B> {
    pub fn as_pass(&self) -> NormPass<'_, B> {
        let Pass { x, y, saved, norm, residual } = self;
        NormPass { x, y, saved, bn: &norm.bn, act: norm.act, residual: *residual }
    }
}

/// The training pass of a drawn input of shape `x`.
pub(super) fn trained<B: Backend>(
    draw: &mut Draw<'_, B>,
    x: Shape,
    params: &B::Vector,
    norm: Norm,
    residual: bool,
) -> Result<Pass<B>> {
    let (x, other) = (draw.tensor(x), residual.then(|| draw.tensor(x)));
    let mut stats = statistics(draw, &norm.bn);
    let (y, saved) = ops::batch_norm_train(
        draw.b,
        ops::BatchNormTrain {
            x: &x,
            params,
            stats: &mut stats,
            bn: &norm.bn,
            act: norm.act,
            residual: other.as_ref(),
            moments: None,
        },
    )?;
    let (y, moments) = (draw.same(y), draw.same_vector(saved.moments));
    Ok(Pass { x, y, saved: BatchNormSaved { moments }, norm, residual })
}

/// The training pass, its moments made here or by the convolution before it.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchNormTrain {
    pub x: Shape,
    pub norm: Norm,
    pub residual: bool,
    pub moments: bool,
}

impl Case for BatchNormTrain {
    /// x for the moments, unless they are there, and again for y; the residual; y.
    fn facts(&self) -> Facts {
        let name = if self.moments { "batch_norm_train_moments" } else { "batch_norm_train" };
        Facts::new(name, self.norm.text(&self.x, self.residual))
            .values((2 + usize::from(!self.moments) + usize::from(self.residual)) * self.x.len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let Norm { bn, act } = self.norm;
        let (mut x, mut moments) = (draw.tensor(self.x), None);
        if self.moments {
            let conv = pointwise(self.x.c);
            let weight = draw.vector(conv.weight.len);
            let op = ops::Fprop::new(&x, &weight, &conv).with(OutputEnd::Moments);
            let made = ops::conv2d_fprop(draw.b, &op)?;
            (x, moments) = (draw.same(made.y), made.moments);
        }
        let residual = self.residual.then(|| draw.tensor(self.x));
        let (params, mut stats) = (affine(draw, &bn), statistics(draw, &bn));
        work(move |b, out| {
            let op = ops::BatchNormTrain {
                x: &x,
                params: &params,
                stats: &mut stats,
                bn: &bn,
                act,
                residual: residual.as_ref(),
                moments: moments.as_ref(),
            };
            out.tensor("y", ops::batch_norm_train(b, op)?.0);
            out.updated(b, "stats", &stats);
            Ok(())
        })
    }
}

/// The forward pass with running statistics.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchNormEval {
    pub x: Shape,
    pub norm: Norm,
    pub residual: bool,
}

impl Case for BatchNormEval {
    fn facts(&self) -> Facts {
        Facts::new("batch_norm_eval", self.norm.text(&self.x, self.residual))
            .values((2 + usize::from(self.residual)) * self.x.len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let Norm { bn, act } = self.norm;
        let (x, residual) = (draw.tensor(self.x), self.residual.then(|| draw.tensor(self.x)));
        let (params, stats) = (affine(draw, &bn), statistics(draw, &bn));
        result("y", move |b| {
            let norm = FrozenNorm { stats: &stats, bn: &bn, act };
            let op = ops::BatchNormEval { x: &x, params: &params, norm, residual: residual.as_ref() };
            ops::batch_norm_eval(b, &op)
        })
    }
}

/// The backward pass of training, its sums made here or by the data gradient before it.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchNormTrainBwd {
    pub x: Shape,
    pub norm: Norm,
    pub residual: bool,
    pub sums: bool,
}

impl Case for BatchNormTrainBwd {
    /// dy and x for the sums, unless they are there, and again for dx. The activation's slope follows from x, unless there was
    /// a residual: then y is read too. dx and the residual's gradient.
    fn facts(&self) -> Facts {
        let (name, passes) =
            if self.sums { ("batch_norm_train_bwd_sums", 1) } else { ("batch_norm_train_bwd", 2) };
        let read = 2 + if self.residual { self.norm.slope() } else { 0 };
        let copies = passes * read + 1 + usize::from(self.residual);
        Facts::new(name, self.norm.text(&self.x, self.residual)).values(copies * self.x.len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let (Norm { mut bn, act }, mut dy) = (self.norm, draw.tensor(self.x));
        let (params, pass);
        let mut sums = None;
        if self.sums {
            let conv = pointwise(bn.channels);
            bn = norm_after(&conv, &bn);
            params = params_with_norm(draw, &conv, &bn);
            pass = trained(draw, self.x, &params, Norm { bn, act }, self.residual)?;
            let onto = Onto::Norm(pass.as_pass(), None);
            let op = ops::Dgrad { dy: &dy, params: &params, conv: &conv, onto };
            let made = ops::conv2d_dgrad(draw.b, &op)?;
            (dy, sums) = (draw.same(made.dx), made.sums);
        } else {
            params = affine(draw, &bn);
            pass = trained(draw, self.x, &params, Norm { bn, act }, self.residual)?;
        }
        let mut grads = draw.b.zeros(bn.bias.range().end);
        work(move |b, out| {
            let op = ops::BatchNormTrainBwd {
                dy: &dy,
                norm: pass.as_pass(),
                params: &params,
                grads: &mut grads,
                sums: sums.as_ref(),
            };
            let (dx, dresidual) = ops::batch_norm_train_bwd(b, op)?;
            out.tensor("dx", dx);
            dresidual.into_iter().for_each(|d| out.tensor("dresidual", d));
            out.updated(b, "grads", &grads);
            Ok(())
        })
    }
}

/// The backward pass with running statistics.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchNormEvalBwd {
    pub x: Shape,
    pub norm: Norm,
}

impl Case for BatchNormEvalBwd {
    /// dy, x; dx.
    fn facts(&self) -> Facts {
        Facts::new("batch_norm_eval_bwd", self.norm.text(&self.x, false)).values(3 * self.x.len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let Norm { bn, act } = self.norm;
        let (dy, x) = (draw.tensor(self.x), draw.tensor(self.x));
        let (params, stats) = (affine(draw, &bn), statistics(draw, &bn));
        let y = evaluated(draw, &x, &params, &stats, &self.norm)?;
        let mut grads = draw.b.zeros(2 * bn.channels);
        work(move |b, out| {
            let norm = FrozenNorm { stats: &stats, bn: &bn, act };
            let op =
                ops::BatchNormEvalBwd { dy: &dy, x: &x, y: &y, params: &params, grads: &mut grads, norm };
            out.tensor("dx", ops::batch_norm_eval_bwd(b, op)?);
            out.updated(b, "grads", &grads);
            Ok(())
        })
    }
}

/// The tangent with running statistics.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchNormTangent {
    pub x: Shape,
    pub norm: Norm,
}

impl Case for BatchNormTangent {
    fn facts(&self) -> Facts {
        Facts::new("batch_norm_tangent", self.norm.text(&self.x, false))
            .values((2 + self.norm.slope()) * self.x.len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let Norm { bn, act } = self.norm;
        let (t, x) = (draw.tensor(self.x), draw.tensor(self.x));
        let (params, stats) = (affine(draw, &bn), statistics(draw, &bn));
        let y = evaluated(draw, &x, &params, &stats, &self.norm)?;
        result("tangent", move |b| {
            let norm = FrozenNorm { stats: &stats, bn: &bn, act };
            let op = ops::BatchNormTangent { t: &t, y: &y, params: &params, norm };
            ops::batch_norm_tangent(b, &op)
        })
    }
}

pub(super) struct Ops;

impl Family for Ops {
    fn fixtures<B: Backend>() -> Vec<FixtureOp<B>> {
        vec![("batch_norm", fixture)]
    }

    fn checks<B: Claimant>() -> Vec<Check<B>> {
        vec![
            Check::new(1, "batch_norm_train", train_problems),
            Check::new(2, "batch_norm_eval", eval_problems),
            Check::new(3, "batch_norm_tangent", tangent_problems),
        ]
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchNormAttrs {
    training: bool,
    momentum: f64,
    eps: f64,
}

fn fixture<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let BatchNormAttrs { training, momentum, eps } = run.attrs()?;
    let x = run.tensor("x")?;
    let dy = run.tensor_of("dy", B::shape(&x))?;
    let channels = B::shape(&x).c;
    let bn = layer(channels, momentum, eps);
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
    run.put_layer(&y, &dx);
    let (grads, stats) = (run.b.download_vector(&grads), run.b.download_vector(&stats));
    for (name, values) in [
        ("dweight", &grads[bn.weight.range()]),
        ("dbias", &grads[bn.bias.range()]),
        ("running_mean", &stats[bn.running_mean.range()]),
        ("running_var", &stats[bn.running_var.range()]),
    ] {
        run.put_vector(name, values);
    }
    Ok(())
}

/// Running means, then variances away from 0.
fn drawn_statistics(rng: &mut Stream, channels: usize) -> Vec<f64> {
    let mut stats = normals(rng, channels);
    stats.extend((0..channels).map(|_| f64::from(rng.range(0.5, 1.5))));
    stats
}

fn train_problems<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
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
        let bn = layer(c, 0.1, 1e-5);
        let point = normals(rng, shape.len() + 2 * c + if with_residual { shape.len() } else { 0 });
        let stats = drawn_statistics(rng, c);
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
    let bn = layer(shape.c, 0.1, 1e-5);
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

fn eval_problems<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for (shape, act) in EVAL_CASES {
        let bn = layer(shape.c, 0.1, 1e-5);
        let point = normals(rng, shape.len() + 2 * shape.c);
        let stats = drawn_statistics(rng, shape.c);
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

fn tangent_problems<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for (shape, act) in EVAL_CASES {
        let bn = layer(shape.c, 0.1, 1e-5);
        let (point, params) = (normals(rng, shape.len()), normals(rng, 2 * shape.c));
        let stats = drawn_statistics(rng, shape.c);
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
