//! The parts of T-VAT that are not network passes.

use crate::bench::Trace;
use crate::bench::case::{Case, Draw, Facts, Work, dims, dims_to, result};
use crate::check::gradcheck::{Claim, Claimant, Exact, LOGITS, Problem, normals, tensor, upload};
use psmt_fast::Result;
use psmt_fast::ops::{self, Backend, Shape, Size, TvatOps};
use psmt_fast::rng::{Key, Stream};

impl TvatOps for Trace {
    fn uniform_noise(&self, shape: Shape, _: Key) -> Shape {
        self.note(UniformNoise { x: shape });
        shape
    }
    fn normalize(&self, d: &Shape, _: f64) -> Shape {
        self.note(Normalize { d: *d });
        *d
    }
    fn add_normalized(&self, x: &Shape, _: &Shape, _: f64) -> Shape {
        self.note(AddNormalized { x: *x });
        *x
    }
    fn tvat_cotangent(&self, logits: &Shape, _: &Shape, decoders: usize, size: Size) -> Shape {
        self.note(TvatCotangent { logits: *logits, decoders, size });
        *logits
    }
    fn kl_gradient(&self, clean: &Shape, _: &Shape, decoders: usize, size: Size) -> Shape {
        self.note(KlGradient { logits: *clean, decoders, size });
        *clean
    }
}

/// Length of the noise.
const LENGTH: f64 = 2.0;

/// Uniform noise.
#[derive(Clone, Debug, PartialEq)]
pub struct UniformNoise {
    pub x: Shape,
}

impl Case for UniformNoise {
    fn facts(&self) -> Facts {
        Facts::new("uniform_noise", dims(&self.x)).values(self.x.len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let (x, key) = (self.x, draw.key());
        result("noise", move |b| ops::uniform_noise(b, x, key))
    }
}

/// Each image's noise brought to a length.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalize {
    pub d: Shape,
}

impl Case for Normalize {
    /// d for the norm and again for the result.
    fn facts(&self) -> Facts {
        Facts::new("normalize", dims(&self.d)).values(3 * self.d.len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let d = draw.tensor(self.d);
        result("r", move |b| ops::normalize(b, &d, LENGTH))
    }
}

/// Such noise added to features.
#[derive(Clone, Debug, PartialEq)]
pub struct AddNormalized {
    pub x: Shape,
}

impl Case for AddNormalized {
    /// d for the norm and again for the sum; x; the sum.
    fn facts(&self) -> Facts {
        Facts::new("add_normalized", dims(&self.x)).values(4 * self.x.len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let (x, d) = (draw.tensor(self.x), draw.tensor(self.x));
        result("sum", move |b| ops::add_normalized(b, &x, &d, LENGTH))
    }
}

/// Cotangent of all decoders' logits.
#[derive(Clone, Debug, PartialEq)]
pub struct TvatCotangent {
    pub logits: Shape,
    pub decoders: usize,
    pub size: Size,
}

impl Case for TvatCotangent {
    /// Logits and tangents; the cotangent.
    fn facts(&self) -> Facts {
        Facts::new("tvat_cotangent", format!("{} of {}", dims_to(&self.logits, self.size), self.decoders))
            .values(3 * self.logits.len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let TvatCotangent { decoders, size, .. } = *self;
        let (logits, tangents) = (draw.logits(self.logits)?, draw.logits(self.logits)?);
        result("cotangent", move |b| ops::tvat_cotangent(b, &logits, &tangents, decoders, size))
    }
}

/// Gradient of the divergence between clean and perturbed predictions.
#[derive(Clone, Debug, PartialEq)]
pub struct KlGradient {
    pub logits: Shape,
    pub decoders: usize,
    pub size: Size,
}

impl Case for KlGradient {
    /// Clean and perturbed logits; the gradient.
    fn facts(&self) -> Facts {
        Facts::new("kl_gradient", format!("{} of {}", dims_to(&self.logits, self.size), self.decoders))
            .values(3 * self.logits.len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let KlGradient { decoders, size, .. } = *self;
        let (clean, perturbed) = (draw.logits(self.logits)?, draw.logits(self.logits)?);
        result("gradient", move |b| ops::kl_gradient(b, &clean, &perturbed, decoders, size))
    }
}

/// Mean of the interpolated logits of `count` decoders that lie side by side in `point`, pixel by pixel;
/// `shape` is one's.
fn mean_logits(point: &[f64], count: usize, shape: Shape, size: Size) -> Result<Vec<f64>> {
    let wide = tensor(shape.with_channels(count * shape.c), point);
    let up = ops::interpolate(&Exact::new(), &wide, size)?;
    let mean = |pixel: &[f64], c: usize| pixel[c..].iter().step_by(shape.c).sum::<f64>() / count as f64;
    Ok(up.data().chunks_exact(count * shape.c).flat_map(|p| (0..shape.c).map(move |c| mean(p, c))).collect())
}

fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_total = logits.iter().map(|v| (v - largest).exp()).sum::<f64>().ln();
    logits.iter().map(|v| v - largest - log_total).collect()
}

/// Gradient of KL(softmax(clean) ‖ softmax(perturbed)) / n over all decoders' perturbed logits.
pub(super) fn kl_gradient_problems<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for (shape, size) in LOGITS {
        for count in [1, 2, 3] {
            let (clean, point) = (normals(rng, count * shape.len()), normals(rng, count * shape.len()));
            let wide = |values: &[f64]| upload(b, shape.with_channels(count * shape.c), values);
            let gradient = b.values(&ops::kl_gradient(b, &wide(&clean), &wide(&point), count, size)?);
            let clean_mean = mean_logits(&clean, count, shape, size)?;
            problems.push(Problem {
                case: format!("{count} decoders, logits {shape} to {} by {}", size.0, size.1),
                point,
                value: Box::new(move |p| {
                    let mean = mean_logits(p, count, shape, size)?;
                    let pixels = clean_mean.chunks_exact(shape.c).zip(mean.chunks_exact(shape.c));
                    let divergence = pixels.map(|(clean, perturbed)| {
                        let pairs = log_softmax(clean).into_iter().zip(log_softmax(perturbed));
                        pairs.map(|(log_p, log_q)| log_p.exp() * (log_p - log_q)).sum::<f64>()
                    });
                    Ok(divergence.sum::<f64>() / shape.n as f64)
                }),
                claim: Claim::Gradient(gradient),
            });
        }
    }
    Ok(problems)
}

/// The cotangent is the gradient of Σ p·t over all pixels with the tangents t held fixed: p t - p (p·t) is
/// the softmax's transposed Jacobian applied to t.
pub(super) fn tvat_cotangent_problems<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for (shape, size) in LOGITS {
        for count in [1, 2, 3] {
            let (tangents, point) = (normals(rng, count * shape.len()), normals(rng, count * shape.len()));
            let wide = |values: &[f64]| upload(b, shape.with_channels(count * shape.c), values);
            let gradient = b.values(&ops::tvat_cotangent(b, &wide(&point), &wide(&tangents), count, size)?);
            let tangent_mean = mean_logits(&tangents, count, shape, size)?;
            problems.push(Problem {
                case: format!("{count} decoders, logits {shape} to {} by {}", size.0, size.1),
                point,
                value: Box::new(move |p| {
                    let mean = mean_logits(p, count, shape, size)?;
                    let pixels = mean.chunks_exact(shape.c).zip(tangent_mean.chunks_exact(shape.c));
                    Ok(pixels
                        .map(|(logits, t)| {
                            log_softmax(logits).iter().zip(t).map(|(log_p, t)| log_p.exp() * t).sum::<f64>()
                        })
                        .sum())
                }),
                claim: Claim::Gradient(gradient),
            });
        }
    }
    Ok(problems)
}
