//! Predictions of one network or of the teachers' ensemble, on whole images or through a sliding window, always with
//! running statistics. Knows networks and ops; must not know files.

use crate::data::HostImages;
use crate::model::{DeepLab, Network, Norm};
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

    /// As [`Which::best`].
    pub fn best(&self) -> Which {
        Which::best(self.teachers.len())
    }
}

/// Labels `[n, h, w]` and confidences `[n, h, w, 1]` of a batch.
pub struct Prediction<B: Backend> {
    /// Arg max class.
    pub label: B::Labels,
    /// Its probability.
    pub confidence: B::Tensor,
}

/// Predicts a batch at `out` rows and columns, one [`Prediction`] for each of `which`. A `window` above 0 slides over
/// the images, which have no padding, in steps of two thirds of itself; probabilities of overlapping windows are averaged.
pub fn predict<B: Backend>(
    b: &B,
    arch: &DeepLab,
    nets: &Nets<'_, B>,
    which: &[Which],
    images: &HostImages,
    normalize: &Normalize,
    out: Size,
    window: usize,
) -> Result<Vec<Prediction<B>>> {
    which.iter().try_for_each(|w| w.expect_among(&nets.available()))?;
    let shape = images.shape;
    if is_whole(shape, window) {
        let x = upload(b, images, normalize)?;
        let logits = Logits::new(b, arch, nets, which, &x)?;
        return which.iter().map(|&w| logits.pseudo_label(b, w, out)).collect();
    }
    let shape = Shape::new(shape.n, out.0, out.1, arch.config.num_classes);
    let all = sliding(b, arch, nets, which, images, normalize, out, window)?;
    Ok(all.iter().map(|p| Prediction::of(b, shape, p)).collect())
}

/// The probabilities behind [`predict`] on the host, NHWC at `out` rows and columns, for each of `which`.
///
/// # Errors
/// As [`predict`].
pub fn probabilities<B: Backend>(
    b: &B,
    arch: &DeepLab,
    nets: &Nets<'_, B>,
    which: &[Which],
    images: &HostImages,
    normalize: &Normalize,
    out: Size,
    window: usize,
) -> Result<Vec<Vec<f32>>> {
    which.iter().try_for_each(|w| w.expect_among(&nets.available()))?;
    if is_whole(images.shape, window) {
        let logits = Logits::new(b, arch, nets, which, &upload(b, images, normalize)?)?;
        return which.iter().map(|&w| logits.probabilities(b, w, out)).collect();
    }
    sliding(b, arch, nets, which, images, normalize, out, window)
}

/// Whether images are no larger than the window.
fn is_whole(shape: Shape, window: usize) -> bool {
    window == 0 || (window >= shape.h && window >= shape.w)
}

impl<B: Backend> Prediction<B> {
    /// The most probable class of each pixel of `shape`, and its probability.
    pub fn of(b: &B, shape: Shape, probabilities: &[f32]) -> Prediction<B> {
        let (label, confidence): (Vec<u8>, Vec<f32>) = probabilities.par_chunks(shape.c).map(arg_max).unzip();
        let shape = shape.with_channels(1);
        Prediction { label: b.upload_labels(shape, &label), confidence: b.upload(shape, &confidence) }
    }
}

/// Stride-4 logits of those networks that the wanted predictions need.
struct Logits<B: Backend> {
    student: Option<B::Tensor>,
    teachers: [Option<B::Tensor>; 2],
}

impl<B: Backend> Logits<B> {
    fn new(b: &B, arch: &DeepLab, nets: &Nets<'_, B>, which: &[Which], x: &B::Tensor) -> Result<Logits<B>> {
        let run = |net: Option<&&Network<B>>, wanted: &[Which]| -> Result<Option<B::Tensor>> {
            let Some(net) = net.filter(|_| wanted.iter().any(|w| which.contains(w))) else { return Ok(None) };
            let (f, _) = arch.encoder_forward(b, &net.params, Norm::Frozen(&net.stats), x, false)?;
            Ok(Some(arch.decoder_forward(b, &net.params, Norm::Frozen(&net.stats), &f, false)?.0))
        };
        Ok(Logits {
            student: run(Some(&nets.student), &[Which::Student])?,
            teachers: [
                run(nets.teachers.first(), &[Which::Teacher1, Which::Ensemble])?,
                run(nets.teachers.get(1), &[Which::Teacher2, Which::Ensemble])?,
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

    fn pseudo_label(&self, b: &B, which: Which, out: Size) -> Result<Prediction<B>> {
        let (core, assist) = self.pair(which);
        let classes = B::shape(core).c;
        let p = ops::ensemble_pseudo_label(b, core, assist, out, &Ensemble { topk: classes, gamma: 0.5 })?;
        Ok(Prediction { label: p.label, confidence: p.confidence })
    }

    /// Probabilities at `size` on the host, NHWC.
    fn probabilities(&self, b: &B, which: Which, size: Size) -> Result<Vec<f32>> {
        let (core, assist) = self.pair(which);
        let classes = B::shape(core).c;
        let up = b.download(&ops::interpolate(b, core, size)?);
        let other = match which {
            Which::Ensemble => b.download(&ops::interpolate(b, assist, size)?),
            _ => Vec::new(),
        };
        let mut p = up;
        for (v, o) in p.iter_mut().zip(&other) {
            *v = 0.5 * (*v + o);
        }
        p.par_chunks_mut(classes).for_each(softmax);
        Ok(p)
    }
}

fn softmax(values: &mut [f32]) {
    let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for v in values.iter_mut() {
        *v = (*v - max).exp();
        sum += *v;
    }
    for v in values.iter_mut() {
        *v /= sum;
    }
}

/// First rows (or columns) of windows of `window` that cover `len` in steps of two thirds.
fn starts(len: usize, window: usize) -> Vec<usize> {
    let last = len - window;
    let stride = (2 * window).div_ceil(3).max(1);
    (0..last).step_by(stride).chain([last]).collect()
}

/// As [`probabilities`], through a window.
fn sliding<B: Backend>(
    b: &B,
    arch: &DeepLab,
    nets: &Nets<'_, B>,
    which: &[Which],
    images: &HostImages,
    normalize: &Normalize,
    out: Size,
    window: usize,
) -> Result<Vec<Vec<f32>>> {
    let Shape { n, h, w, .. } = images.shape;
    let (wh, ww) = (window.min(h), window.min(w));
    let classes = arch.config.num_classes;
    let mut sums = vec![vec![0f32; n * h * w * classes]; which.len()];
    let mut hits = vec![0f32; h * w];
    for &y0 in &starts(h, wh) {
        for &x0 in &starts(w, ww) {
            let x = upload(b, &crop(images, y0, x0, wh, ww), normalize)?;
            let logits = Logits::new(b, arch, nets, which, &x)?;
            for (sum, &which) in sums.iter_mut().zip(which) {
                let p = logits.probabilities(b, which, (wh, ww))?;
                for (row, values) in p.chunks_exact(ww * classes).enumerate() {
                    let (i, y) = (row / wh, y0 + row % wh);
                    let at = ((i * h + y) * w + x0) * classes;
                    sum[at..at + values.len()].iter_mut().zip(values).for_each(|(s, v)| *s += v);
                }
            }
            for y in y0..y0 + wh {
                hits[y * w + x0..y * w + x0 + ww].iter_mut().for_each(|v| *v += 1.0);
            }
        }
    }
    sums.into_iter()
        .map(|mut sum| {
            for (pixel, p) in sum.chunks_exact_mut(classes).enumerate() {
                let hit = hits[pixel % (h * w)];
                p.iter_mut().for_each(|v| *v /= hit);
            }
            if out == (h, w) {
                return Ok(sum);
            }
            Ok(b.download(&ops::interpolate(b, &b.upload(Shape::new(n, h, w, classes), &sum), out)?))
        })
        .collect()
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
fn upload<B: Backend>(b: &B, images: &HostImages, normalize: &Normalize) -> Result<B::Tensor> {
    let images = ops::upload_images(b, images.shape, &images.data, images.shown.clone())?;
    ops::normalize_bytes(b, &images, normalize)
}

/// A window of images without padding.
fn crop(images: &HostImages, y0: usize, x0: usize, h: usize, w: usize) -> HostImages {
    let s = images.shape;
    let mut data = Vec::with_capacity(s.n * h * w * 3);
    for i in 0..s.n {
        for y in y0..y0 + h {
            let at = ((i * s.h + y) * s.w + x0) * 3;
            data.extend_from_slice(&images.data[at..at + w * 3]);
        }
    }
    HostImages::whole(s.n, (h, w), data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_every_pixel() {
        for (len, window) in [(10, 10), (11, 10), (33, 10), (100, 7), (5, 1)] {
            let s = starts(len, window);
            assert!((0..len).all(|p| s.iter().any(|&a| p >= a && p < a + window)), "{len} {window} {s:?}");
            assert!(s.windows(2).all(|p| p[0] < p[1]) && s[s.len() - 1] + window == len, "{s:?}");
        }
    }

    #[test]
    fn softmax_sums_to_one() {
        let mut v = [1000.0, 1001.0, -1000.0];
        softmax(&mut v);
        assert!((v.iter().sum::<f32>() - 1.0).abs() < 1e-6 && v[1] > v[0] && arg_max(&v).0 == 1);
    }
}
