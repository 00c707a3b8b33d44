//! The mean teacher's consistency loss.

use super::ensemble_pseudo_label::Teachers;
use crate::bench::Trace;
use crate::bench::case::{Case, Draw, Facts, Work, dims_to, work};
use crate::check::gradcheck::{self, Claimant, GRAD_SCALE, LOGITS, Loss, Problem, loss};
use psmt_fast::Result;
use psmt_fast::ops::{
    self, Backend, Ensemble, LossGrad, Mix, MseConsistencyArgs, MseConsistencyOps, Shape, Size,
};
use psmt_fast::rng::Stream;

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

struct Consistency(gradcheck::Teachers);

impl Loss for Consistency {
    fn of<B: Backend>(&self, b: &B, logits: &B::Tensor) -> Result<(f64, B::Tensor)> {
        let (gradcheck::Teachers { size, mix, .. }, teachers) = (&self.0, self.0.upload(b));
        let teachers = teachers.as_logits();
        let (student, size) = (logits, *size);
        let op = MseConsistencyArgs { student, teachers, size, mix, grad_scale: GRAD_SCALE };
        let out = ops::mse_consistency(b, &op)?;
        Ok((b.read_scalar(&out.loss), out.dlogits))
    }
}

pub(super) fn problems<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for (shape, size) in LOGITS {
        let teachers = gradcheck::Teachers::draw(rng, shape, size, Ensemble { topk: 2, gamma: 0.6 }, 1);
        let case = format!("logits {shape} to {} by {}", size.0, size.1);
        problems.push(loss(b, rng, case, shape, Consistency(teachers))?);
    }
    Ok(problems)
}
