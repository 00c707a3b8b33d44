//! Confusion matrix of label maps.

use super::ensemble_pseudo_label::Teachers;
use crate::bench::Trace;
use crate::bench::case::{Case, Draw, Facts, WIDE, Work, dims, work};
use crate::check::run_op::Run;
use psmt_fast::ops::{self, Backend, ConfusionMatrixOps, Ensemble, Shape};
use psmt_fast::{Error, Result};
use serde::Deserialize;

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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfusionAttrs {
    num_classes: usize,
    ignore_index: i64,
}

pub(super) fn fixture<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let ConfusionAttrs { num_classes: k, ignore_index } = run.attrs()?;
    if k == 0 {
        return Err(Error::shape("confusion_matrix", "1 to 255 classes", "0"));
    }
    let (pred, target) = (run.labels("pred", k, None)?, run.labels("target", k, Some(ignore_index))?);
    let counts = ops::confusion_matrix(run.b, &pred, &target, k, None)?;
    let counts = run.b.read_counts(&counts);
    let iou: Vec<f64> = (0..k)
        .map(|class| {
            let row: u64 = counts[class * k..(class + 1) * k].iter().sum();
            let column: u64 = (0..k).map(|i| counts[i * k + class]).sum();
            let hit = counts[class * k + class];
            hit as f64 / (row + column - hit).max(1) as f64
        })
        .collect();
    run.put_counts("matrix", vec![k, k], &counts);
    run.put_vector("iou", &iou.iter().map(|&v| v as f32).collect::<Vec<_>>());
    // As in the reference, a class that occurs nowhere counts with 0.
    run.put_scalar("miou", iou.iter().sum::<f64>() / k as f64);
    Ok(())
}
