//! Gradient checks of losses with respect to low-resolution logits, and of T-VAT's cotangents against softmax and
//! divergence written out over the interpolated logits.

use super::{Claim, Claimant, Exact, Problem, normals, tensor, upload};
use psmt_fast::Result;
use psmt_fast::ops::{self, Backend, ConfCe, Ensemble, IGNORE, Mix, Ohem, Shape, Size};
use psmt_fast::rng::Stream;

/// A factor that a loss's gradient must carry.
const GRAD_SCALE: f64 = 0.7;

/// Logits and the size of their labels: larger, one position, unchanged, one class.
const CASES: [(Shape, Size); 4] = [
    (Shape::new(2, 3, 4, 5), (7, 9)),
    (Shape::new(1, 1, 1, 3), (4, 5)),
    (Shape::new(2, 4, 3, 21), (4, 3)),
    (Shape::new(1, 3, 3, 2), (13, 11)),
];

/// Labels and their shape.
fn labels(rng: &mut Stream, shape: Shape, (h, w): Size, ignored: f32) -> (Shape, Vec<u8>) {
    let shape_l = Shape::new(shape.n, h, w, 1);
    let draw = |_| if rng.chance(ignored) { IGNORE } else { rng.below(shape.c) as u8 };
    (shape_l, (0..shape_l.len()).map(draw).collect())
}

/// A loss over logits: its value, and its gradient times [`GRAD_SCALE`].
trait Loss: 'static {
    fn of<B: Backend>(&self, b: &B, logits: &B::Tensor) -> Result<(f64, B::Tensor)>;
}

/// A problem from logits to a loss: its value in double precision, its gradient on `b`.
fn loss<B: Claimant>(
    b: &B,
    rng: &mut Stream,
    case: String,
    shape: Shape,
    loss: impl Loss,
) -> Result<Problem> {
    let point: Vec<f64> = normals(rng, shape.len()).iter().map(|v| 2.0 * v).collect();
    let gradient = b.values(&loss.of(b, &upload(b, shape, &point))?.1);
    let value = move |p: &[f64]| Ok(GRAD_SCALE * loss.of(&Exact::new(), &tensor(shape, p))?.0);
    Ok(Problem { case, point, value: Box::new(value), claim: Claim::Gradient(gradient) })
}

/// Cross entropy, over the hardest pixels where `ohem` says which.
struct CrossEntropy {
    target: (Shape, Vec<u8>),
    ohem: Option<Ohem>,
}

impl Loss for CrossEntropy {
    fn of<B: Backend>(&self, b: &B, logits: &B::Tensor) -> Result<(f64, B::Tensor)> {
        let target = b.upload_labels(self.target.0, &self.target.1);
        let out = match &self.ohem {
            None => ops::cross_entropy(b, logits, &target, GRAD_SCALE)?,
            Some(ohem) => ops::ohem_cross_entropy(b, logits, &target, ohem, GRAD_SCALE)?,
        };
        Ok((b.read_scalar(&out.loss), out.dlogits))
    }
}

pub(super) fn cross_entropy<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for ignored in [0.1, 1.0] {
        for (shape, size) in CASES {
            let target = labels(rng, shape, size, ignored);
            let case = format!("logits {shape} to {} by {}, {} % ignored", size.0, size.1, 100.0 * ignored);
            problems.push(loss(b, rng, case, shape, CrossEntropy { target, ohem: None })?);
        }
    }
    Ok(problems)
}

pub(super) fn ohem_cross_entropy<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for (shape, size) in CASES {
        for (threshold, min_kept) in [(0.1, 6), (0.7, 3), (0.02, 40), (0.3, 100_000)] {
            let target = labels(rng, shape, size, 0.1);
            let case = format!(
                "logits {shape} to {} by {}, threshold {threshold}, min_kept {min_kept}",
                size.0, size.1
            );
            let ohem = Some(Ohem { threshold, min_kept });
            problems.push(loss(b, rng, case, shape, CrossEntropy { target, ohem })?);
        }
    }
    Ok(problems)
}

fn random_mix(rng: &mut Stream, rounds: usize, n: usize, (h, w): Size) -> Mix {
    let mut mix = Mix::default();
    for _ in 0..rounds {
        let mut perm: Vec<usize> = (0..n).collect();
        rng.shuffle(&mut perm);
        mix.perm.push(perm);
        let mut corners = || {
            let (y0, x0) = (rng.below(h), rng.below(w));
            [y0, x0, y0 + rng.below(h - y0 + 1), x0 + rng.below(w - x0 + 1)]
        };
        mix.boxes.push((0..n).map(|_| corners()).collect());
    }
    mix
}

/// Two teachers' logits, confident enough that thresholds divide the pixels.
struct Teachers {
    shape: Shape,
    core: Vec<f32>,
    assist: Vec<f32>,
    size: Size,
    ensemble: Ensemble,
    mix: Mix,
}

impl Teachers {
    fn draw(rng: &mut Stream, shape: Shape, size: Size, ensemble: Ensemble, rounds: usize) -> Teachers {
        let mut draw = || normals(rng, shape.len()).iter().map(|v| (3.0 * v) as f32).collect();
        let (core, assist) = (draw(), draw());
        Teachers { shape, core, assist, size, ensemble, mix: random_mix(rng, rounds, shape.n, size) }
    }

    fn upload<B: Backend>(&self, b: &B) -> (B::Tensor, B::Tensor) {
        (b.upload(self.shape, &self.core), b.upload(self.shape, &self.assist))
    }
}

struct ConfidenceLoss(Teachers, ConfCe);

impl Loss for ConfidenceLoss {
    fn of<B: Backend>(&self, b: &B, logits: &B::Tensor) -> Result<(f64, B::Tensor)> {
        let ConfidenceLoss(teachers, spec) = self;
        let (Teachers { size, ensemble, mix, .. }, (core, assist)) = (teachers, teachers.upload(b));
        let pseudo = ops::ensemble_pseudo_label(
            b,
            &ops::TeacherLogits { core: &core, assist: &assist, ensemble },
            *size,
        )?;
        let out = ops::conf_ce(
            b,
            &ops::ConfCeArgs {
                student: logits,
                pseudo: &pseudo,
                teachers: ops::TeacherLogits { core: &core, assist: &assist, ensemble },
                mix,
                spec,
                grad_scale: GRAD_SCALE,
            },
        )?;
        let [positive, negative, square] =
            [out.positive, out.negative, out.square].map(|s| b.read_scalar(&s));
        Ok((positive + negative + spec.square_weight * square, out.dstudent))
    }
}

pub(super) fn conf_ce<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for (shape, size) in CASES {
        for (threshold, negative_threshold, square_weight, weighted, rounds) in [
            (0.6, 0.0, 0.0, true, 1),
            (0.5, 0.1, 0.5, true, 2),
            (0.3, 0.0, 0.0, false, 0),
            (0.9, 0.05, 0.0, false, 1),
            // No pixel passes.
            (1.1, 0.0, 0.0, true, 1),
        ] {
            let spec = ConfCe { threshold, negative_threshold, square_weight, weighted };
            let teachers = Teachers::draw(rng, shape, size, Ensemble { topk: 3, gamma: 0.5 }, rounds);
            let case = format!(
                "logits {shape} to {} by {}, threshold {threshold}, negative {negative_threshold}, square \
                 {square_weight}{}, {rounds} boxes",
                size.0,
                size.1,
                if weighted { ", weighted" } else { "" }
            );
            problems.push(loss(b, rng, case, shape, ConfidenceLoss(teachers, spec))?);
        }
    }
    Ok(problems)
}

struct Consistency(Teachers);

impl Loss for Consistency {
    fn of<B: Backend>(&self, b: &B, logits: &B::Tensor) -> Result<(f64, B::Tensor)> {
        let (Teachers { size, ensemble, mix, .. }, (core, assist)) = (&self.0, self.0.upload(b));
        let out = ops::mse_consistency(
            b,
            &ops::MseConsistencyArgs {
                student: logits,
                teachers: ops::TeacherLogits { core: &core, assist: &assist, ensemble },
                size: *size,
                mix,
                grad_scale: GRAD_SCALE,
            },
        )?;
        Ok((b.read_scalar(&out.loss), out.dlogits))
    }
}

pub(super) fn mse_consistency<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for (shape, size) in CASES {
        let teachers = Teachers::draw(rng, shape, size, Ensemble { topk: 2, gamma: 0.6 }, 1);
        let case = format!("logits {shape} to {} by {}", size.0, size.1);
        problems.push(loss(b, rng, case, shape, Consistency(teachers))?);
    }
    Ok(problems)
}

/// Mean of the interpolated logits of `count` decoders that lie side by side in `point`, pixel by pixel; `shape` is one's.
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
pub(super) fn kl_gradient<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for (shape, size) in CASES {
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

/// The cotangent is the gradient of Σ p·t over all pixels with the tangents t held fixed: p t - p (p·t) is the
/// softmax's transposed Jacobian applied to t.
pub(super) fn tvat_cotangent<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for (shape, size) in CASES {
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
