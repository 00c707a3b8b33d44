//! The mean teacher's consistency loss.

use super::ensemble_pseudo_label::Teachers;
use crate::bench::Trace;
use crate::bench::case::{Case, Draw, Facts, Work, dims_to, work};
use psmt_fast::Result;
use psmt_fast::ops::{
    self, Backend, Ensemble, LossGrad, Mix, MseConsistencyArgs, MseConsistencyOps, Shape, Size,
};

impl MseConsistencyOps for Trace {
    fn mse_consistency(&self, op: &MseConsistencyArgs<'_, Trace>) -> LossGrad<Trace> {
        let (logits, ensemble) = (*op.student, *op.teachers.ensemble);
        self.note(MseConsistency { logits, size: op.size, ensemble, mix: op.mix.clone() });
        LossGrad { loss: (), dlogits: logits }
    }
}

/// The loss at `size`.
#[derive(Clone, Debug, PartialEq)]
pub struct MseConsistency {
    pub logits: Shape,
    pub size: Size,
    pub ensemble: Ensemble,
    pub mix: Mix,
}

impl Case for MseConsistency {
    /// The student's and both teachers' logits; the gradient.
    fn facts(&self) -> Facts {
        Facts::new("mse_consistency", dims_to(&self.logits, self.size)).values(4 * self.logits.len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let (size, mix) = (self.size, self.mix.clone());
        let student = draw.logits(self.logits)?;
        let teachers = Teachers::draw(draw, self.logits, self.ensemble)?;
        work(move |b, out| {
            let op = MseConsistencyArgs {
                student: &student,
                teachers: teachers.as_logits(),
                size,
                mix: &mix,
                grad_scale: 1.0,
            };
            let loss = ops::mse_consistency(b, &op)?;
            out.tensor("dlogits", loss.dlogits);
            out.scalar("loss", loss.loss);
            Ok(())
        })
    }
}
