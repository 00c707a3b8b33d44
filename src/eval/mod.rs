//! Metrics and inference: how good networks are on images with masks, and what they say about images without.
//! Must not know kernels or flags.

mod inference;
pub mod memory;
mod metrics;
mod palette;
mod predictor;
mod views;
mod window;

pub use inference::{Nets, Prediction, Predictor, Which};
pub use metrics::{Confusion, Scores};
pub use palette::Palette;
pub use views::{View, Views};
pub use window::Overlap;

use crate::data::{HostImages, Mask, Sample, Source};
use crate::ops::{self, Backend, Normalize, Shape, Size};
use crate::{Error, Result};
use rayon::prelude::*;
use std::sync::Arc;

/// How images become predictions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Mean and deviation that the networks were trained with.
    pub normalize: Normalize,
    /// Long side that the networks see; 0 is the image's own.
    pub long_side: usize,
    /// Sliding window; 0 is none.
    pub window: usize,
    /// How the scores of overlapping windows combine.
    pub overlap: Overlap,
    /// Whole images are stretched to the next multiples of this many rows and columns; 0 and 1 leave them as
    /// they are.
    pub multiple: usize,
    /// Images of one size that are predicted together.
    pub batch_size: usize,
    /// Views whose probabilities are averaged.
    pub views: Views,
}

/// Largest `multiple` of [`Settings`]: beyond it small images would be stretched to many times their size.
pub const LARGEST_MULTIPLE: usize = 256;

impl Settings {
    /// Whether images of this size are predicted in one piece.
    fn is_whole(&self, (h, w): Size) -> bool {
        let fits = self.window >= h && self.window >= w;
        self.window == 0 || (fits && self.overlap == Overlap::Probabilities)
    }
}

/// One image of a pass, with its predictions.
pub struct Seen<'a, B: Backend> {
    /// The image, its mask if there is one, and its name.
    pub sample: &'a Sample,
    b: &'a B,
    which: &'a [Which],
    predictions: &'a [Prediction<B>],
    /// Number inside the batch.
    place: usize,
}

impl<B: Backend> Seen<'_, B> {
    /// Labels and confidences of one prediction, at the image's own size. Empty where `which` was not asked
    /// for.
    pub fn prediction(&self, which: Which) -> (Vec<u8>, Vec<f32>) {
        let Some(at) = self.which.iter().position(|w| *w == which) else { return Default::default() };
        let p = &self.predictions[at];
        let shape = B::labels_shape(&p.label);
        let part = self.place * shape.h * shape.w..(self.place + 1) * shape.h * shape.w;
        (
            self.b.download_labels(&p.label)[part.clone()].to_vec(),
            self.b.download(&p.confidence)[part].to_vec(),
        )
    }
}

/// A share of 1 in percent, "-" where there is none.
pub fn percent(share: Option<f64>, decimals: usize) -> String {
    share.map_or_else(|| "-".into(), |share| format!("{:.decimals$}", 100.0 * share))
}

impl<B: Backend> Predictor<'_, B> {
    /// Scores of each of `which` over all of `source`, in one pass. `each` sees every image and says whether
    /// to go on; `None` where it said no.
    ///
    /// # Errors
    /// An image that cannot be read, or one without mask.
    pub fn evaluate(
        &self,
        source: &dyn Source,
        mut each: impl FnMut(Seen<'_, B>) -> bool,
    ) -> Result<Option<Vec<(Which, Scores)>>> {
        let Predictor { b, arch, which, settings, .. } = *self;
        let classes = arch.config.num_classes;
        let mut sums = vec![Confusion::new(classes); which.len()];
        let batch_size = settings.batch_size.max(1);
        for start in (0..source.len()).step_by(batch_size) {
            let end = start.saturating_add(batch_size).min(source.len());
            let samples: Vec<Arc<Sample>> =
                (start..end).into_par_iter().map(|i| source.load(i)).collect::<Result<_>>()?;
            for group in samples.chunk_by(|a, b| a.image.size == b.image.size) {
                let predictions = self.predict_group(group)?;
                let targets = group.iter().map(mask_of).collect::<Result<Vec<_>>>()?;
                let labels: Vec<u8> = targets.iter().flat_map(|m| m.data.iter().copied()).collect();
                let (h, w) = group[0].image.size;
                let target = b.upload_labels(Shape::new(group.len(), h, w, 1), &labels);
                for (sum, p) in sums.iter_mut().zip(&predictions) {
                    sum.add(&b.read_counts(&ops::confusion_matrix(b, &p.label, &target, classes, None)?));
                }
                b.check()?;
                for (place, sample) in group.iter().enumerate() {
                    if !each(Seen { sample, b, which, predictions: &predictions, place }) {
                        return Ok(None);
                    }
                }
            }
        }
        Ok(Some(which.iter().zip(&sums).map(|(w, s)| (*w, s.scores())).collect()))
    }

    /// Predicts images of one size, at that size.
    ///
    /// # Errors
    /// A prediction that the networks cannot give, and [`Error::NonFiniteLogits`] with the image's name.
    pub fn predict_group(&self, group: &[Arc<Sample>]) -> Result<Vec<Prediction<B>>> {
        let Predictor { b, arch, nets, which, settings } = *self;
        let out = group[0].image.size;
        let views = settings.views.of(network_size(out, settings.long_side));
        memory::check(
            b,
            arch,
            settings,
            &memory::Asked {
                size: out,
                images: group.len(),
                networks: 1 + nets.teachers.len(),
                predictions: which.len(),
            },
        )?;
        if let ([view], true) = (&views[..], settings.views.is_single()) {
            let images = prepare(group, *view)?;
            return self.predict(&images, out).map_err(|e| with_name(e, group));
        }
        let mut sums: Vec<Vec<f32>> = Vec::new();
        for &view in &views {
            let images = prepare(group, view)?;
            let mut all = self.probabilities(&images, out).map_err(|error| with_name(error, group))?;
            if view.mirrored {
                all.iter_mut().for_each(|p| views::mirror(p, out.1, arch.config.num_classes));
            }
            if sums.is_empty() {
                sums = all;
            } else {
                let pairs = sums.iter_mut().zip(&all);
                pairs.for_each(|(sum, p)| sum.iter_mut().zip(p).for_each(|(s, v)| *s += v));
            }
        }
        let share = 1.0 / views.len() as f32;
        let shape = Shape::new(group.len(), out.0, out.1, arch.config.num_classes);
        Ok(sums
            .into_iter()
            .map(|mut p| {
                p.iter_mut().for_each(|v| *v *= share);
                Prediction::of(b, shape, &p, false)
            })
            .collect())
    }
}

fn mask_of(sample: &Arc<Sample>) -> Result<&Mask> {
    sample.mask.as_ref().ok_or_else(|| Error::data(&sample.name, "expected an image with a mask"))
}

/// Logits that are not finite with the name of the image that they are of.
fn with_name(error: Error, group: &[Arc<Sample>]) -> Error {
    match error {
        Error::NonFiniteLogits { network, image, index } => {
            let image = group.get(index).map_or(image, |sample| sample.name.clone());
            Error::NonFiniteLogits { network, image, index }
        }
        other => other,
    }
}

/// Images of one size as a view shows them.
fn prepare(group: &[Arc<Sample>], view: View) -> Result<HostImages> {
    let parts: Vec<_> = group.par_iter().map(|s| view.show(&s.image)).collect::<Result<_>>()?;
    Ok(HostImages::whole(group.len(), view.size, parts.concat()))
}

fn network_size((h, w): Size, long_side: usize) -> Size {
    let long = h.max(w);
    if long_side == 0 || long_side == long {
        return (h, w);
    }
    let scaled = |v: usize| ((v as f64 * long_side as f64 / long as f64).round() as usize).max(1);
    (scaled(h), scaled(w))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_no_zero() {
        assert_eq!(
            (percent(Some(0.5), 2), percent(Some(0.0), 1), percent(None, 2)),
            ("50.00".into(), "0.0".into(), "-".into())
        );
    }

    #[test]
    fn long_sides_keep_the_aspect() {
        assert_eq!(network_size((360, 480), 240), (180, 240));
        assert_eq!(network_size((500, 375), 0), (500, 375));
        assert_eq!(network_size((1, 1000), 10), (1, 10));
    }
}
