//! Confidence-weighted cross entropy.

use super::ensemble_pseudo_label::Teachers;
use crate::bench::Trace;
use crate::bench::case::{Case, Draw, Facts, WIDE, Work, dims_to, pixels, work};
use psmt_fast::Result;
use psmt_fast::ops::{
    self, Backend, ConfCeArgs, ConfCeOps, ConfCeOut, Ensemble, HISTOGRAM_BINS, Mix, Shape, Size,
};

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
    /// The student's logits, one label and one confidence per pixel, with negative learning the teachers' logits; the
    /// gradient.
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
