//! Confusion matrix of label maps.

use super::ensemble_pseudo_label::Teachers;
use crate::bench::Trace;
use crate::bench::case::{Case, Draw, Facts, WIDE, Work, dims, work};
use psmt_fast::Result;
use psmt_fast::ops::{self, Backend, ConfusionMatrixOps, Ensemble, Shape};

impl ConfusionMatrixOps for Trace {
    fn confusion_matrix(
        &self,
        pred: &Shape,
        _: &Shape,
        classes: usize,
        above: Option<(&Shape, f64)>,
    ) -> usize {
        self.note(ConfusionMatrix { x: *pred, classes, above: above.map(|(_, threshold)| threshold) });
        classes * classes
    }
}

/// Counts of two label maps, over pixels of a confidence above a threshold where there is one.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfusionMatrix {
    pub x: Shape,
    pub classes: usize,
    pub above: Option<f64>,
}

impl Case for ConfusionMatrix {
    /// Two labels per pixel, and a confidence where it decides.
    fn facts(&self) -> Facts {
        let (confidence, above) =
            self.above.map_or((0, String::new()), |threshold| (WIDE, format!(" above {threshold}")));
        Facts::new("confusion_matrix", format!("{} classes {}{above}", dims(&self.x), self.classes))
            .bytes((2 + confidence) * self.x.positions())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let ConfusionMatrix { x, classes, above } = *self;
        let size = (x.h, x.w);
        let (pred, target) = (draw.labels(x.n, size, classes), draw.labels(x.n, size, classes));
        let above = match above {
            None => None,
            Some(threshold) => {
                // Confidences of random logits at stride 4, as in training.
                let logits = Shape::new(x.n, x.h.div_ceil(4), x.w.div_ceil(4), classes);
                let teachers = Teachers::draw(draw, logits, Ensemble { topk: 2, gamma: 0.5 })?;
                Some((teachers.pseudo_label(draw, size)?.confidence, threshold))
            }
        };
        work(move |b, out| {
            let above = above.as_ref().map(|(confidence, threshold)| (confidence, *threshold));
            out.counts("matrix", ops::confusion_matrix(b, &pred, &target, classes, above)?);
            Ok(())
        })
    }
}
