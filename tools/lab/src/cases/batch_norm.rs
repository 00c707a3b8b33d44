//! Batch norms with their activation and residual: in training, frozen, backward and tangent.

use super::conv2d::{norm_after, params_with_norm, pointwise};
use crate::bench::Trace;
use crate::bench::case::{Case, Draw, Facts, Work, dims, result, work};
use crate::check::gradcheck::{
    Claim, Claimant, Exact, Function, Problem, dot, narrow, normals, take, tensor, upload,
};
use crate::check::run_op::Run;
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

/// A batch norm and its activation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    pub bn: BatchNorm,
    pub act: Activation,
}

impl Norm {
    /// With parameters and statistics at the start of vectors of their own.
    fn new(channels: usize, momentum: f64, eps: f64, act: Activation) -> Norm {
        let (first, second) = (Span { offset: 0, len: channels }, Span { offset: channels, len: channels });
        let (weight, bias, running_mean, running_var) = (first, second, first, second);
        Norm { bn: BatchNorm { weight, bias, running_mean, running_var, channels, momentum, eps }, act }
    }

    /// The same of a network's batch norm.
    pub fn of(bn: &BatchNorm, act: Activation) -> Norm {
        Norm::new(bn.channels, bn.momentum, bn.eps, act)
    }

    pub fn frozen<'a, B: Backend>(&'a self, stats: &'a B::Vector) -> FrozenNorm<'a, B> {
        FrozenNorm { stats, bn: &self.bn, act: self.act }
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

/// Output with running statistics.
fn eval<B: Backend>(b: &B, x: &B::Tensor, params: &B::Vector, norm: FrozenNorm<'_, B>) -> Result<B::Tensor> {
    ops::batch_norm_eval(b, &ops::BatchNormEval { x, params, norm, residual: None })
}

/// The same as an input, from which the activation's slope is read.
pub(super) fn evaluated<B: Backend>(
    draw: &mut Draw<'_, B>,
    x: &B::Tensor,
    params: &B::Vector,
    stats: &B::Vector,
    norm: &Norm,
) -> Result<B::Tensor> {
    let y = eval(draw.b, x, params, norm.frozen(stats))?;
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
    /// The training pass of `x`, which moves `stats`.
    fn train(
        b: &B,
        x: B::Tensor,
        params: &B::Vector,
        stats: &mut B::Vector,
        norm: Norm,
        residual: Option<&B::Tensor>,
    ) -> Result<Pass<B>> {
        let Norm { bn, act } = &norm;
        let op = ops::BatchNormTrain { x: &x, params, stats, bn, act: *act, residual, moments: None };
        let (y, saved) = ops::batch_norm_train(b, op)?;
        Ok(Pass { x, y, saved, norm, residual: residual.is_some() })
    }

    pub fn as_pass(&self) -> NormPass<'_, B> {
        let Pass { x, y, saved, norm, residual } = self;
        NormPass { x, y, saved, bn: &norm.bn, act: norm.act, residual: *residual }
    }

    /// Gradients of the input and of the residual; those of the parameters are added to `grads`.
    fn backward(
        &self,
        b: &B,
        dy: &B::Tensor,
        params: &B::Vector,
        grads: &mut B::Vector,
        sums: Option<&B::Sums>,
    ) -> Result<(B::Tensor, Option<B::Tensor>)> {
        let norm = self.as_pass();
        ops::batch_norm_train_bwd(b, ops::BatchNormTrainBwd { dy, norm, params, grads, sums })
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
    let (x, residual) = (draw.tensor(x), residual.then(|| draw.tensor(x)));
    let mut stats = statistics(draw, &norm.bn);
    let pass = Pass::train(draw.b, x, params, &mut stats, norm, residual.as_ref())?;
    let (y, moments) = (draw.same(pass.y), draw.same_vector(pass.saved.moments));
    Ok(Pass { y, saved: BatchNormSaved { moments }, ..pass })
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
        let norm = self.norm;
        let (x, residual) = (draw.tensor(self.x), self.residual.then(|| draw.tensor(self.x)));
        let (params, stats) = (affine(draw, &norm.bn), statistics(draw, &norm.bn));
        result("y", move |b| {
            let norm = norm.frozen(&stats);
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
    /// dy and x for the sums, unless they are there, and again for dx. The activation's slope follows from x,
    /// unless there was a residual: then y is read too. dx and the residual's gradient.
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
            let (dx, dresidual) = pass.backward(b, &dy, &params, &mut grads, sums.as_ref())?;
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
        let norm = self.norm;
        let (dy, x) = (draw.tensor(self.x), draw.tensor(self.x));
        let (params, stats) = (affine(draw, &norm.bn), statistics(draw, &norm.bn));
        let y = evaluated(draw, &x, &params, &stats, &norm)?;
        let mut grads = draw.b.zeros(2 * norm.bn.channels);
        work(move |b, out| {
            let norm = norm.frozen(&stats);
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
        let norm = self.norm;
        let (t, x) = (draw.tensor(self.x), draw.tensor(self.x));
        let (params, stats) = (affine(draw, &norm.bn), statistics(draw, &norm.bn));
        let y = evaluated(draw, &x, &params, &stats, &norm)?;
        result("tangent", move |b| {
            let norm = norm.frozen(&stats);
            let op = ops::BatchNormTangent { t: &t, y: &y, params: &params, norm };
            ops::batch_norm_tangent(b, &op)
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchNormAttrs {
    training: bool,
    momentum: f64,
    eps: f64,
}

pub(super) fn fixture<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let BatchNormAttrs { training, momentum, eps } = run.attrs()?;
    let x = run.tensor("x")?;
    let dy = run.tensor_of("dy", B::shape(&x))?;
    let channels = B::shape(&x).c;
    let norm = Norm::new(channels, momentum, eps, Activation::Identity);
    let pair = |a: &str, b: &str| -> Result<B::Vector> {
        Ok(run.b.upload_vector(&[run.values(a, channels)?, run.values(b, channels)?].concat()))
    };
    let params = pair("weight", "bias")?;
    let mut stats = pair("running_mean", "running_var")?;
    let mut grads = run.b.zeros(2 * channels);
    let (y, dx) = if training {
        let pass = Pass::train(run.b, x, &params, &mut stats, norm, None)?;
        let (dx, _) = pass.backward(run.b, &dy, &params, &mut grads, None)?;
        (pass.y, dx)
    } else {
        let y = eval(run.b, &x, &params, norm.frozen(&stats))?;
        let op = ops::BatchNormEvalBwd {
            dy: &dy,
            x: &x,
            y: &y,
            params: &params,
            grads: &mut grads,
            norm: norm.frozen(&stats),
        };
        let dx = ops::batch_norm_eval_bwd(run.b, op)?;
        (y, dx)
    };
    run.put_layer(&y, &dx);
    let (grads, stats) = (run.b.download_vector(&grads), run.b.download_vector(&stats));
    for (name, values) in [
        ("dweight", &grads[norm.bn.weight.range()]),
        ("dbias", &grads[norm.bn.bias.range()]),
        ("running_mean", &stats[norm.bn.running_mean.range()]),
        ("running_var", &stats[norm.bn.running_var.range()]),
    ] {
        run.put_vector(name, values);
    }
    Ok(())
}

/// Settings of layers whose derivatives are checked.
const MOMENTUM: f64 = 0.1;
const EPS: f64 = 1e-5;

/// Running means, then variances away from 0.
fn drawn_statistics(rng: &mut Stream, channels: usize) -> Vec<f64> {
    let mut stats = normals(rng, channels);
    stats.extend((0..channels).map(|_| f64::from(rng.range(0.5, 1.5))));
    stats
}

pub(super) fn train_problems<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
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
        let norm = Norm::new(c, MOMENTUM, EPS, act);
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
        let pass = Pass::train(b, x, &params, &mut moved, norm, residual.as_ref())?;
        let mut grads = b.zeros(2 * c);
        let (dx, dresidual) = pass.backward(b, &upload(b, shape, &dy), &params, &mut grads, None)?;
        let mut gradient = [b.values(&dx), b.vector_values(&grads)].concat();
        gradient.extend(dresidual.iter().flat_map(|r| b.values(r)));
        problems.push(Problem {
            case: format!("x {shape}, {act:?}{}", if with_residual { ", residual" } else { "" }),
            point,
            value: Box::new(move |p| {
                let (x, params, residual) = split(p);
                let pass =
                    Pass::train(&Exact::new(), x, &params, &mut stats.clone(), norm, residual.as_ref())?;
                Ok(dot(pass.y.data(), &dy))
            }),
            claim: Claim::Gradient(gradient),
        });
    }
    Ok(problems)
}

/// ⟨dy, y⟩ with running statistics, over x and the parameters, or over x alone with given `params`.
fn eval_value(shape: Shape, norm: Norm, stats: Vec<f64>, dy: Vec<f64>, params: Option<Vec<f64>>) -> Function {
    Box::new(move |mut p| {
        let x = take(&mut p, shape);
        let params = params.clone().unwrap_or_else(|| p.to_vec());
        Ok(dot(eval(&Exact::new(), &x, &params, norm.frozen(&stats))?.data(), &dy))
    })
}

const EVAL_CASES: [(Shape, Activation); 3] = [
    (Shape::new(2, 3, 4, 5), Activation::Identity),
    (Shape::new(1, 2, 3, 7), RELU),
    (Shape::new(3, 1, 1, 4), Activation::LeakyRelu(0.01)),
];

pub(super) fn eval_problems<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for (shape, act) in EVAL_CASES {
        let norm = Norm::new(shape.c, MOMENTUM, EPS, act);
        let point = normals(rng, shape.len() + 2 * shape.c);
        let stats = drawn_statistics(rng, shape.c);
        let dy = normals(rng, shape.len());
        let (x, params) = point.split_at(shape.len());
        let (x, params) = (upload(b, shape, x), b.upload_vector(&narrow(params)));
        let running = b.upload_vector(&narrow(&stats));
        let y = eval(b, &x, &params, norm.frozen(&running))?;
        let mut grads = b.zeros(2 * shape.c);
        let dy_tensor = upload(b, shape, &dy);
        let op = ops::BatchNormEvalBwd {
            dy: &dy_tensor,
            x: &x,
            y: &y,
            params: &params,
            grads: &mut grads,
            norm: norm.frozen(&running),
        };
        let dx = ops::batch_norm_eval_bwd(b, op)?;
        let gradient = [b.values(&dx), b.vector_values(&grads)].concat();
        problems.push(Problem {
            case: format!("x {shape}, {act:?}"),
            point,
            value: eval_value(shape, norm, stats, dy, None),
            claim: Claim::Gradient(gradient),
        });
    }
    Ok(problems)
}

pub(super) fn tangent_problems<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for (shape, act) in EVAL_CASES {
        let norm = Norm::new(shape.c, MOMENTUM, EPS, act);
        let (point, params) = (normals(rng, shape.len()), normals(rng, 2 * shape.c));
        let stats = drawn_statistics(rng, shape.c);
        let dy = normals(rng, shape.len());
        let (weights, running) = (b.upload_vector(&narrow(&params)), b.upload_vector(&narrow(&stats)));
        let y = eval(b, &upload(b, shape, &point), &weights, norm.frozen(&running))?;
        let value = eval_value(shape, norm, stats, dy.clone(), Some(params));
        let b = b.clone();
        problems.push(Problem {
            case: format!("x {shape}, {act:?}"),
            point,
            value,
            claim: Claim::Tangent(Box::new(move |t| {
                let t = upload(&b, shape, t);
                let norm = norm.frozen(&running);
                let op = ops::BatchNormTangent { t: &t, y: &y, params: &weights, norm };
                let moved = ops::batch_norm_tangent(&b, &op)?;
                Ok(dot(&b.values(&moved), &dy))
            })),
        });
    }
    Ok(problems)
}
