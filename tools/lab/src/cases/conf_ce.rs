//! Confidence-weighted cross entropy.

use super::ensemble_pseudo_label::Teachers;
use crate::bench::Trace;
use crate::bench::case::{Case, Draw, Facts, WIDE, Work, dims_to, pixels, work};
use crate::check::gradcheck::{self, Claimant, GRAD_SCALE, LOGITS, Loss, Problem, loss};
use crate::check::run_op::{Run, mix};
use psmt_fast::Result;
use psmt_fast::ops::{
    self, Backend, ConfCeArgs, ConfCeOps, ConfCeOut, Ensemble, HISTOGRAM_BINS, Mix, Shape, Size,
};
use psmt_fast::rng::Stream;
use serde::Deserialize;

impl ConfCeOps for Trace {
    fn conf_ce(&self, op: &ConfCeArgs<'_, Trace>) -> ConfCeOut<Trace> {
        let (logits, size) = (*op.student, (op.pseudo.label.h, op.pseudo.label.w));
        let (ensemble, mix, spec) = (*op.teachers.ensemble, op.mix.clone(), *op.spec);
        self.note(ConfCe { logits, size, ensemble, mix, spec });
        ConfCeOut {
            positive: (),
            negative: (),
            square: (),
            passed: (),
            histogram: HISTOGRAM_BINS,
            confusion: logits.c * logits.c,
            dstudent: logits,
        }
    }
}

/// The loss with pseudo labels at `size`.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfCe {
    pub logits: Shape,
    pub size: Size,
    pub ensemble: Ensemble,
    pub mix: Mix,
    pub spec: ops::ConfCe,
}

impl Case for ConfCe {
    /// The student's logits, one label and one confidence per pixel, with negative learning the teachers'
    /// logits; the gradient.
    fn facts(&self) -> Facts {
        let negative = self.spec.negative_threshold > 0.0;
        let (teachers, text) = if negative { (2, " negative learning") } else { (0, "") };
        Facts::new("conf_ce", dims_to(&self.logits, self.size) + text)
            .values((2 + teachers) * self.logits.len())
            .bytes((1 + WIDE) * pixels(&self.logits, self.size))
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let (mix, spec) = (self.mix.clone(), self.spec);
        let student = draw.logits(self.logits)?;
        let teachers = Teachers::draw(draw, self.logits, self.ensemble)?;
        let pseudo = teachers.pseudo_label(draw, self.size)?;
        work(move |b, out| {
            let op = ConfCeArgs {
                student: &student,
                pseudo: &pseudo,
                teachers: teachers.as_logits(),
                mix: &mix,
                spec: &spec,
                grad_scale: 1.0,
            };
            let loss = ops::conf_ce(b, &op)?;
            out.tensor("dstudent", loss.dstudent);
            out.scalar("positive", loss.positive);
            out.scalar("negative", loss.negative);
            out.scalar("square", loss.square);
            out.scalar("passed", loss.passed);
            out.counts("histogram", loss.histogram);
            out.counts("confusion", loss.confusion);
            Ok(())
        })
    }
}

/// The loss with the teachers' pseudo labels at `size`.
fn loss_of_teachers<B: Backend>(
    b: &B,
    student: &B::Tensor,
    teachers: &Teachers<B>,
    size: Size,
    mix: &Mix,
    spec: &ops::ConfCe,
    grad_scale: f64,
) -> Result<ConfCeOut<B>> {
    let teachers = teachers.as_logits();
    let pseudo = &ops::ensemble_pseudo_label(b, &teachers, size)?;
    ops::conf_ce(b, &ConfCeArgs { student, pseudo, teachers, mix, spec, grad_scale })
}

/// Settings of `conf_ce`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfCeAttrs {
    pub size: [usize; 2],
    pub topk: usize,
    pub gamma: f64,
    pub threshold: f64,
    pub negative_threshold: f64,
}

pub(super) fn fixture<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let ConfCeAttrs { size, topk, gamma, threshold, negative_threshold } = run.attrs()?;
    let student = run.tensor("student")?;
    let teachers = Teachers::read(run, Ensemble { topk, gamma })?;
    let n = B::shape(&teachers.core).n;
    let size = run.size(n, size)?;
    let mix = mix(run.fixture, n, size)?;
    let spec = ops::ConfCe { threshold, negative_threshold, square_weight: 0.0, weighted: true };
    let out = loss_of_teachers(run.b, &student, &teachers, size, &mix, &spec, 1.0)?;
    run.put_scalar("positive", run.b.read_scalar(&out.positive));
    run.put_scalar("negative", run.b.read_scalar(&out.negative));
    let histogram = run.b.read_counts(&out.histogram);
    run.put_counts("histogram", vec![histogram.len()], &histogram);
    run.put_tensor("dstudent", &out.dstudent);
    Ok(())
}

struct ConfidenceLoss(gradcheck::Teachers, ops::ConfCe);

impl Loss for ConfidenceLoss {
    fn of<B: Backend>(&self, b: &B, logits: &B::Tensor) -> Result<(f64, B::Tensor)> {
        let ConfidenceLoss(teachers, spec) = self;
        let gradcheck::Teachers { size, mix, .. } = teachers;
        let out = loss_of_teachers(b, logits, &teachers.upload(b), *size, mix, spec, GRAD_SCALE)?;
        let [positive, negative, square] =
            [out.positive, out.negative, out.square].map(|s| b.read_scalar(&s));
        Ok((positive + negative + spec.square_weight * square, out.dstudent))
    }
}

pub(super) fn problems<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for (shape, size) in LOGITS {
        for (threshold, negative_threshold, square_weight, weighted, rounds) in [
            (0.6, 0.0, 0.0, true, 1),
            (0.5, 0.1, 0.5, true, 2),
            (0.3, 0.0, 0.0, false, 0),
            (0.9, 0.05, 0.0, false, 1),
            // No pixel passes.
            (1.1, 0.0, 0.0, true, 1),
        ] {
            let spec = ops::ConfCe { threshold, negative_threshold, square_weight, weighted };
            let teachers =
                gradcheck::Teachers::draw(rng, shape, size, Ensemble { topk: 3, gamma: 0.5 }, rounds);
            let case = format!(
                "logits {shape} to {} by {}, threshold {threshold}, negative {negative_threshold}, square \
                 {square_weight}{}, {rounds} boxes",
                size.0,
                size.1,
                if weighted { ", weighted" } else { "" }
            );
            problems.push(loss(b, rng, case, shape, ConfidenceLoss(teachers, spec))?);
        }
    }
    Ok(problems)
}
