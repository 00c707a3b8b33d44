//! Batch norms with their activation and residual: in training, frozen, backward and tangent.

use super::conv2d::{norm_after, params_with_norm, pointwise};
use crate::bench::Trace;
use crate::bench::case::{Case, Draw, Facts, Work, dims, result, work};
use psmt_fast::Result;
use psmt_fast::ops::{
    self, Activation, Backend, BatchNorm, BatchNormOps, BatchNormSaved, FrozenNorm, NormPass, Onto,
    OutputEnd, Shape, Span,
};

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
    pub fn of(bn: &BatchNorm, act: Activation) -> Norm {
        let at = |place: usize| Span { offset: place * bn.channels, len: bn.channels };
        let bn = BatchNorm { weight: at(0), bias: at(1), running_mean: at(0), running_var: at(1), ..*bn };
        Norm { bn, act }
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
