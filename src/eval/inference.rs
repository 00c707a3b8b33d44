//! Predictions of one network or of the teachers' ensemble, on whole images or through a sliding window,
//! always with running statistics. Must not know files.

use super::Settings;
use crate::data::HostImages;
use crate::model::{Architecture, Network, Norm};
use crate::ops::{self, Backend, Ensemble, Normalize, Shape, Size};
use crate::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Whose prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Which {
    /// Teacher 1.
    Teacher1,
    /// Teacher 2.
    Teacher2,
    /// Mean of the teachers' logits.
    Ensemble,
    /// The student.
    Student,
}

impl Which {
    /// Name as on the command line and in records.
    pub fn name(self) -> &'static str {
        match self {
            Which::Teacher1 => "teacher1",
            Which::Teacher2 => "teacher2",
            Which::Ensemble => "ensemble",
            Which::Student => "student",
        }
    }

    /// Every prediction that a student and this many teachers can give.
    pub fn available(num_teachers: usize) -> &'static [Which] {
        match num_teachers {
            0 => &[Which::Student],
            1 => &[Which::Teacher1, Which::Student],
            _ => &[Which::Teacher1, Which::Teacher2, Which::Ensemble, Which::Student],
        }
    }

    /// The method's own answer: the ensemble, else the only teacher, else the student.
    pub fn best(num_teachers: usize) -> Which {
        [Which::Student, Which::Teacher1, Which::Ensemble][num_teachers.min(2)]
    }

    /// All of `all`, this one first.
    pub fn before(self, all: &[Which]) -> Vec<Which> {
        let mut sorted = all.to_vec();
        sorted.sort_by_key(|w| *w != self);
        sorted
    }

    /// Checks that a checkpoint that gives `available` gives this.
    ///
    /// # Errors
    /// [`Error::Usage`] with what it gives.
    pub fn expect_among(self, available: &[Which]) -> Result<()> {
        if available.contains(&self) {
            return Ok(());
        }
        let held = available.iter().map(|w| w.name()).collect::<Vec<_>>().join(", ");
        Err(Error::Usage(format!("the checkpoint has no {}: it holds {held}", self.name())))
    }
}

/// The networks that there are: a supervised run has no teachers, the mean teacher has one.
pub struct Nets<'a, B: Backend> {
    /// The student.
    pub student: &'a Network<B>,
    /// The teachers, 0 to 2 of them.
    pub teachers: Vec<&'a Network<B>>,
}

impl<B: Backend> Nets<'_, B> {
    /// Every prediction these networks can give.
    pub fn available(&self) -> Vec<Which> {
        Which::available(self.teachers.len()).to_vec()
    }
}

/// Labels `[n, h, w]` and confidences `[n, h, w, 1]` of a batch.
pub struct Prediction<B: Backend> {
    /// Arg max class.
    pub label: B::Labels,
    /// Its probability.
    pub confidence: B::Tensor,
}

/// Networks of one architecture with what predictions are wanted of them.
pub struct Predictor<'a, B: Backend> {
    /// The device of the networks.
    pub b: &'a B,
    /// The architecture of all networks.
    pub arch: &'a Architecture,
    /// Student and teachers.
    pub nets: &'a Nets<'a, B>,
    /// The predictions that are wanted, in the order of the results.
    pub which: &'a [Which],
    /// How images are read and predicted.
    pub settings: &'a Settings,
}

impl<B: Backend> Prediction<B> {
    /// The class of the largest score of each pixel of `shape`, and its probability; scores are `logits` or
    /// probabilities.
    pub fn of(b: &B, shape: Shape, scores: &[f32], logits: bool) -> Prediction<B> {
        let pixel = |scores: &[f32]| {
            let (label, best) = arg_max(scores);
            // Of logits themselves: probabilities of two that hardly differ can be equal.
            (label, if logits { 1.0 / scores.iter().map(|v| (v - best).exp()).sum::<f32>() } else { best })
        };
        let (label, confidence): (Vec<u8>, Vec<f32>) = scores.par_chunks(shape.c).map(pixel).unzip();
        let shape = shape.with_channels(1);
        Prediction { label: b.upload_labels(shape, &label), confidence: b.upload(shape, &confidence) }
    }
}

/// Stride-4 logits of those networks that the wanted predictions need.
pub(super) struct Logits<B: Backend> {
    student: Option<B::Tensor>,
    teachers: [Option<B::Tensor>; 2],
}

impl<B: Backend> Logits<B> {
    /// Runs the networks on `x`.
    ///
    /// # Errors
    /// [`Error::NonFiniteLogits`], which no class and no confidence can be made of.
    pub(super) fn new(predictor: &Predictor<'_, B>, x: &B::Tensor) -> Result<Logits<B>> {
        let Predictor { b, arch, nets, which, .. } = *predictor;
        let run = |name: Which, net: Option<&&Network<B>>, wanted: &[Which]| -> Result<Option<B::Tensor>> {
            let Some(net) = net.filter(|_| wanted.iter().any(|w| which.contains(w))) else { return Ok(None) };
            let features = arch.encoder(b, &net.params, Norm::Frozen(&net.stats), x)?;
            let logits = arch.decoder(b, &net.params, Norm::Frozen(&net.stats), &features)?;
            let shape = B::shape(&logits);
            match ops::first_non_finite_in(b, &logits) {
                Some(at) => Err(Error::NonFiniteLogits {
                    network: name.name().into(),
                    image: "an image".into(),
                    index: at / (shape.h * shape.w * shape.c),
                }),
                None => Ok(Some(logits)),
            }
        };
        let (first, second) = (nets.teachers.first(), nets.teachers.get(1));
        Ok(Logits {
            student: run(Which::Student, Some(&nets.student), &[Which::Student])?,
            teachers: [
                run(Which::Teacher1, first, &[Which::Teacher1, Which::Ensemble])?,
                run(Which::Teacher2, second, &[Which::Teacher2, Which::Ensemble])?,
            ],
        })
    }

    /// The one or two logits whose mean is the prediction; one stands for both.
    fn pair(&self, which: Which) -> (&B::Tensor, &B::Tensor) {
        let [t1, t2] = &self.teachers;
        let (a, b) = match which {
            Which::Student => (&self.student, &self.student),
            Which::Teacher1 => (t1, t1),
            Which::Teacher2 => (t2, t2),
            Which::Ensemble => (t1, t2),
        };
        (a.as_ref().expect("computed because wanted"), b.as_ref().expect("computed because wanted"))
    }

    /// One or both of the pair at the size before the last of `sizes`, and that last.
    fn upsampled(&self, b: &B, which: Which, sizes: &[Size]) -> Result<(B::Tensor, Option<B::Tensor>, Size)> {
        let (core, assist) = self.pair(which);
        let (&last, before) = sizes.split_last().ok_or_else(|| Error::shape("predict", "a size", "none"))?;
        let up = |x: &B::Tensor| before.iter().try_fold(x.clone(), |x, &size| ops::interpolate(b, &x, size));
        let assist = if which == Which::Ensemble { Some(up(assist)?) } else { None };
        Ok((up(core)?, assist, last))
    }

    pub(super) fn pseudo_label(&self, b: &B, which: Which, sizes: &[Size]) -> Result<Prediction<B>> {
        let (core, assist, out) = self.upsampled(b, which, sizes)?;
        let ensemble = Ensemble { topk: B::shape(&core).c, gamma: 0.5 };
        let p = ops::ensemble_pseudo_label(
            b,
            &ops::TeacherLogits {
                core: &core,
                assist: assist.as_ref().unwrap_or(&core),
                ensemble: &ensemble,
            },
            out,
        )?;
        Ok(Prediction { label: p.label, confidence: p.confidence })
    }

    /// Mean logits on the host, NHWC, upsampled to `sizes` one after another.
    pub(super) fn mean(&self, b: &B, which: Which, sizes: &[Size]) -> Result<Vec<f32>> {
        let (core, assist, out) = self.upsampled(b, which, sizes)?;
        let mut mean = b.download(&ops::interpolate(b, &core, out)?);
        if let Some(assist) = assist {
            let other = b.download(&ops::interpolate(b, &assist, out)?);
            mean.iter_mut().zip(&other).for_each(|(v, o)| *v = 0.5 * (*v + o));
        }
        Ok(mean)
    }
}

/// Logits to probabilities, a pixel of `classes` values each.
pub(super) fn softmax(values: &mut [f32], classes: usize) {
    values.par_chunks_mut(classes).for_each(|pixel| {
        let max = pixel.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for v in pixel.iter_mut() {
            *v = (*v - max).exp();
            sum += *v;
        }
        for v in pixel.iter_mut() {
            *v /= sum;
        }
    });
}

fn arg_max(p: &[f32]) -> (u8, f32) {
    let mut best = 0;
    for (i, v) in p.iter().enumerate() {
        if *v > p[best] {
            best = i;
        }
    }
    (best as u8, p[best])
}

/// Network input.
pub(super) fn upload<B: Backend>(b: &B, images: &HostImages, normalize: &Normalize) -> Result<B::Tensor> {
    let images = ops::upload_images(b, images.shape, &images.data, images.shown.clone())?;
    ops::normalize_bytes(b, &images, normalize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Device;

    #[test]
    fn confidences_of_logits_are_probabilities() {
        let b = crate::backend::cpu::Cpu::<f32>::new();
        let logits = [0.5, -1.0, 2.0, 100.0, 100.5, 99.0];
        let mut probabilities = logits;
        softmax(&mut probabilities, 3);
        let of = |scores: &[f32], logits| {
            let p = Prediction::of(&b, Shape::new(1, 1, 2, 3), scores, logits);
            (b.download_labels(&p.label), b.download(&p.confidence))
        };
        let (label, confidence) = of(&logits, true);
        let (same, expected) = of(&probabilities, false);
        assert_eq!((label, same), (vec![2, 1], vec![2, 1]));
        assert!(
            confidence.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6),
            "{confidence:?} {expected:?}"
        );
        // As probabilities these two are one number.
        let near = [1e-3, 1.000_001e-3, -1.0, 0.0, 1e-9, 0.0];
        let mut equal = near;
        softmax(&mut equal, 3);
        assert!(equal[0] == equal[1]);
        assert_eq!(of(&near, true).0, [1, 1]);
    }

    #[test]
    fn the_chosen_network_comes_first_and_the_others_keep_their_order() {
        let all = Which::available(2);
        let expected = [Which::Ensemble, Which::Teacher1, Which::Teacher2, Which::Student];
        assert_eq!(Which::Ensemble.before(all), expected);
        assert_eq!(Which::Teacher1.before(all), all);
    }

    #[test]
    fn softmax_sums_to_one() {
        let mut v = [1000.0, 1001.0, -1000.0];
        softmax(&mut v, 3);
        assert!((v.iter().sum::<f32>() - 1.0).abs() < 1e-6 && v[1] > v[0] && arg_max(&v).0 == 1);
    }
}
