//! Pseudo labels of the two teachers' ensemble.

use crate::bench::Trace;
use crate::bench::case::{Case, Draw, Facts, WIDE, Work, dims_to, pixels, sized, work};
use crate::check::fixture::{Array, Values};
use crate::check::run_op::Run;
use psmt_fast::Result;
use psmt_fast::ops::{self, Backend, Ensemble, EnsembleOps, PseudoLabel, Shape, Size, TeacherLogits};
use serde::Deserialize;

impl EnsembleOps for Trace {
    fn ensemble_pseudo_label(&self, teachers: &TeacherLogits<'_, Trace>, size: Size) -> PseudoLabel<Trace> {
        let (logits, ensemble) = (*teachers.core, *teachers.ensemble);
        self.note(EnsemblePseudoLabel { logits, size, ensemble });
        let pixels = sized(&logits.with_channels(1), size);
        PseudoLabel { label: pixels, confidence: pixels }
    }
}

/// Two teachers' logits and how they are combined.
pub(crate) struct Teachers<B: Backend> {
    pub core: B::Tensor,
    pub assist: B::Tensor,
    pub ensemble: Ensemble,
}

impl<B: Backend> Teachers<B> {
    /// The logits `core` and `assist` of a fixture.
    pub fn read(run: &Run<'_, B>, ensemble: Ensemble) -> Result<Teachers<B>> {
        Ok(Teachers { core: run.tensor("core")?, assist: run.tensor("assist")?, ensemble })
    }

    /// Drawn logits of shape `logits`.
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

/// Settings of `ensemble_pseudo_label`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EnsembleAttrs {
    pub size: [usize; 2],
    pub topk: usize,
    pub gamma: f64,
}

pub(super) fn fixture<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let EnsembleAttrs { size, topk, gamma } = run.attrs()?;
    let teachers = Teachers::read(run, Ensemble { topk, gamma })?;
    let size = run.size(B::shape(&teachers.core).n, size)?;
    let pseudo = ops::ensemble_pseudo_label(run.b, &teachers.as_logits(), size)?;
    let shape = B::labels_shape(&pseudo.label);
    let label = run.b.download_labels(&pseudo.label).into_iter().map(i32::from).collect();
    let shape = vec![shape.n, shape.h, shape.w];
    run.put("label", Array { shape: shape.clone(), values: Values::I32(label) });
    run.put("confidence", Array::f32(shape, run.b.download(&pseudo.confidence)));
    Ok(())
}
