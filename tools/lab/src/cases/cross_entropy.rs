//! Cross entropy over labelled pixels, all of them or the hardest.

use crate::bench::Trace;
use crate::bench::case::{Case, Draw, Facts, Work, dims_to, pixels, work};
use crate::check::gradcheck::{Claimant, GRAD_SCALE, LOGITS, Loss, Problem, loss};
use crate::check::run_op::Run;
use psmt_fast::Result;
use psmt_fast::ops::{self, Backend, CrossEntropyOps, IGNORE, LabelLoss, Ohem, Shape, Size};
use psmt_fast::rng::Stream;
use serde::Deserialize;

impl CrossEntropyOps for Trace {
    fn cross_entropy(&self, logits: &Shape, target: &Shape, _: f64) -> LabelLoss<Trace> {
        self.note(CrossEntropy { logits: *logits, size: (target.h, target.w), ohem: None });
        LabelLoss { loss: (), dlogits: *logits, confusion: logits.c * logits.c }
    }
    fn ohem_cross_entropy(&self, logits: &Shape, target: &Shape, ohem: &Ohem, _: f64) -> LabelLoss<Trace> {
        self.note(CrossEntropy { logits: *logits, size: (target.h, target.w), ohem: Some(*ohem) });
        LabelLoss { loss: (), dlogits: *logits, confusion: logits.c * logits.c }
    }
}

/// Cross entropy, over the hardest pixels where `ohem` says which.
#[derive(Clone, Debug, PartialEq)]
pub struct CrossEntropy {
    pub logits: Shape,
    pub size: Size,
    pub ohem: Option<Ohem>,
}

impl Case for CrossEntropy {
    /// Logits, one label per pixel; the logits' gradient.
    fn facts(&self) -> Facts {
        let name = if self.ohem.is_some() { "ohem_cross_entropy" } else { "cross_entropy" };
        Facts::new(name, dims_to(&self.logits, self.size))
            .values(2 * self.logits.len())
            .bytes(pixels(&self.logits, self.size))
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let (logits, ohem) = (draw.logits(self.logits)?, self.ohem);
        let target = draw.labels(self.logits.n, self.size, self.logits.c);
        work(move |b, out| {
            let loss = match &ohem {
                Some(ohem) => ops::ohem_cross_entropy(b, &logits, &target, ohem, 1.0)?,
                None => ops::cross_entropy(b, &logits, &target, 1.0)?,
            };
            out.tensor("dlogits", loss.dlogits);
            out.scalar("loss", loss.loss);
            out.counts("confusion", loss.confusion);
            Ok(())
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CrossEntropyAttrs {
    size: [usize; 2],
    ignore_index: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OhemAttrs {
    size: [usize; 2],
    ignore_index: i64,
    threshold: f64,
    min_kept: usize,
}

/// Logits and labels of the size that the settings give.
fn supervised<B: Backend>(
    run: &Run<'_, B>,
    size: [usize; 2],
    ignore_index: i64,
) -> Result<(B::Tensor, B::Labels)> {
    let logits = run.tensor("logits")?;
    let shape = B::shape(&logits);
    let target = run.labels("target", shape.c, Some(ignore_index))?;
    let (h, w) = run.size(shape.n, size)?;
    let (expected, got) = (Shape::new(shape.n, h, w, 1), B::labels_shape(&target));
    if got != expected {
        return Err(run.fixture.bad_input("target", format!("expected shape {expected}, found {got}")));
    }
    Ok((logits, target))
}

fn put_loss<B: Backend>(run: &mut Run<'_, B>, out: &LabelLoss<B>) {
    run.put_scalar("loss", run.b.read_scalar(&out.loss));
    run.put_tensor("dlogits", &out.dlogits);
}

pub(super) fn fixture<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let CrossEntropyAttrs { size, ignore_index } = run.attrs()?;
    let (logits, target) = supervised(run, size, ignore_index)?;
    let out = ops::cross_entropy(run.b, &logits, &target, 1.0)?;
    put_loss(run, &out);
    Ok(())
}

pub(super) fn ohem_fixture<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let OhemAttrs { size, ignore_index, threshold, min_kept } = run.attrs()?;
    let (logits, target) = supervised(run, size, ignore_index)?;
    let out = ops::ohem_cross_entropy(run.b, &logits, &target, &Ohem { threshold, min_kept }, 1.0)?;
    put_loss(run, &out);
    Ok(())
}

/// Labels and their shape.
fn labels(rng: &mut Stream, shape: Shape, (h, w): Size, ignored: f32) -> (Shape, Vec<u8>) {
    let shape_l = Shape::new(shape.n, h, w, 1);
    let draw = |_| if rng.chance(ignored) { IGNORE } else { rng.below(shape.c) as u8 };
    (shape_l, (0..shape_l.len()).map(draw).collect())
}

/// Cross entropy, over the hardest pixels where `ohem` says which.
struct LabelledPixels {
    target: (Shape, Vec<u8>),
    ohem: Option<Ohem>,
}

impl Loss for LabelledPixels {
    fn of<B: Backend>(&self, b: &B, logits: &B::Tensor) -> Result<(f64, B::Tensor)> {
        let target = b.upload_labels(self.target.0, &self.target.1);
        let out = match &self.ohem {
            None => ops::cross_entropy(b, logits, &target, GRAD_SCALE)?,
            Some(ohem) => ops::ohem_cross_entropy(b, logits, &target, ohem, GRAD_SCALE)?,
        };
        Ok((b.read_scalar(&out.loss), out.dlogits))
    }
}

pub(super) fn problems<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for ignored in [0.1, 1.0] {
        for (shape, size) in LOGITS {
            let target = labels(rng, shape, size, ignored);
            let case = format!("logits {shape} to {} by {}, {} % ignored", size.0, size.1, 100.0 * ignored);
            problems.push(loss(b, rng, case, shape, LabelledPixels { target, ohem: None })?);
        }
    }
    Ok(problems)
}

pub(super) fn ohem_problems<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for (shape, size) in LOGITS {
        for (threshold, min_kept) in [(0.1, 6), (0.7, 3), (0.02, 40), (0.3, 100_000)] {
            let target = labels(rng, shape, size, 0.1);
            let case = format!(
                "logits {shape} to {} by {}, threshold {threshold}, min_kept {min_kept}",
                size.0, size.1
            );
            let ohem = Some(Ohem { threshold, min_kept });
            problems.push(loss(b, rng, case, shape, LabelledPixels { target, ohem })?);
        }
    }
    Ok(problems)
}
