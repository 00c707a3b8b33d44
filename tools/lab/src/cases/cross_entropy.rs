//! Cross entropy over labelled pixels, all of them or the hardest.

use crate::bench::Trace;
use crate::bench::case::{Case, Draw, Facts, Work, dims_to, pixels, work};
use psmt_fast::Result;
use psmt_fast::ops::{self, Backend, CrossEntropyOps, LabelLoss, Ohem, Shape, Size};

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
