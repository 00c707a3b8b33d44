//! Pseudo labels of the two teachers' ensemble.

use crate::bench::Trace;
use crate::bench::case::{Case, Draw, Facts, WIDE, Work, dims_to, pixels, sized, work};
use psmt_fast::Result;
use psmt_fast::ops::{self, Backend, Ensemble, EnsembleOps, PseudoLabel, Shape, Size, TeacherLogits};

impl EnsembleOps for Trace {
    fn ensemble_pseudo_label(&self, teachers: &TeacherLogits<'_, Trace>, size: Size) -> PseudoLabel<Trace> {
        let (logits, ensemble) = (*teachers.core, *teachers.ensemble);
        self.note(EnsemblePseudoLabel { logits, size, ensemble });
        let pixels = sized(&logits.with_channels(1), size);
        PseudoLabel { label: pixels, confidence: pixels }
    }
}

/// Two teachers' drawn logits and how they are combined.
pub(super) struct Teachers<B: Backend> {
    core: B::Tensor,
    assist: B::Tensor,
    ensemble: Ensemble,
}

impl<B: Backend> Teachers<B> {
    /// Logits of shape `logits`.
    pub fn draw(draw: &mut Draw<'_, B>, logits: Shape, ensemble: Ensemble) -> Result<Teachers<B>> {
        Ok(Teachers { core: draw.logits(logits)?, assist: draw.logits(logits)?, ensemble })
    }

    pub fn as_logits(&self) -> TeacherLogits<'_, B> {
        TeacherLogits { core: &self.core, assist: &self.assist, ensemble: &self.ensemble }
    }

    /// Their pseudo labels at `size`.
    pub fn pseudo_label(&self, draw: &mut Draw<'_, B>, size: Size) -> Result<PseudoLabel<B>> {
        let pseudo = ops::ensemble_pseudo_label(draw.b, &self.as_logits(), size)?;
        Ok(PseudoLabel { label: draw.same_labels(pseudo.label), confidence: draw.same(pseudo.confidence) })
    }
}

/// Pseudo labels at `size`.
#[derive(Clone, Debug, PartialEq)]
pub struct EnsemblePseudoLabel {
    pub logits: Shape,
    pub size: Size,
    pub ensemble: Ensemble,
}

impl Case for EnsemblePseudoLabel {
    /// Both teachers' logits; one label and one confidence per pixel.
    fn facts(&self) -> Facts {
        Facts::new("ensemble_pseudo_label", dims_to(&self.logits, self.size))
            .values(2 * self.logits.len())
            .bytes((1 + WIDE) * pixels(&self.logits, self.size))
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let (teachers, size) = (Teachers::draw(draw, self.logits, self.ensemble)?, self.size);
        work(move |b, out| {
            let pseudo = ops::ensemble_pseudo_label(b, &teachers.as_logits(), size)?;
            out.labels("label", pseudo.label);
            out.tensor("confidence", pseudo.confidence);
            Ok(())
        })
    }
}
