//! Gradient checks of losses with respect to low-resolution logits, and of T-VAT's cotangents against softmax and
//! divergence written out over the interpolated logits.

use super::{Claim, Device, Problem, normals, tensor};
use crate::Result;
use crate::backend::cpu::{Labels, Tensor};
use crate::ops::{self, Backend, ConfCe, Ensemble, IGNORE, LossGrad, Mix, Ohem, Shape, Size};
use crate::rng::Stream;

/// A factor that a loss's gradient must carry.
const GRAD_SCALE: f64 = 0.7;

/// Logits and the size of their labels: larger, one position, unchanged, one class.
const CASES: [(Shape, Size); 4] = [
    (Shape::new(2, 3, 4, 5), (7, 9)),
    (Shape::new(1, 1, 1, 3), (4, 5)),
    (Shape::new(2, 4, 3, 21), (4, 3)),
    (Shape::new(1, 3, 3, 2), (13, 11)),
];

fn labels(rng: &mut Stream, shape: Shape, (h, w): Size, ignored: f32) -> Labels {
    let shape_l = Shape::new(shape.n, h, w, 1);
    let draw = |_| if rng.chance(ignored) { IGNORE } else { rng.below(shape.c) as u8 };
    let data: Vec<u8> = (0..shape_l.len()).map(draw).collect();
    Device::new().upload_labels(shape_l, &data)
}

/// A problem from logits to a loss that comes with its gradient.
fn loss(
    rng: &mut Stream,
    case: String,
    shape: Shape,
    f: impl Fn(&Tensor<f64>) -> Result<LossGrad<Device>> + 'static,
) -> Result<Problem> {
    let point: Vec<f64> = normals(rng, shape.len()).iter().map(|v| 2.0 * v).collect();
    let gradient = f(&tensor(shape, &point))?.dlogits.data().to_vec();
    Ok(Problem {
        case,
        point,
        value: Box::new(move |p| Ok(GRAD_SCALE * Device::new().read_scalar(&f(&tensor(shape, p))?.loss))),
        claim: Claim::Gradient(gradient),
    })
}

pub(super) fn cross_entropy(rng: &mut Stream) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for ignored in [0.1, 1.0] {
        for (shape, size) in CASES {
            let target = labels(rng, shape, size, ignored);
            let case = format!("logits {shape} to {} by {}, {} % ignored", size.0, size.1, 100.0 * ignored);
            problems.push(loss(rng, case, shape, move |x| {
                ops::cross_entropy(&Device::new(), x, &target, GRAD_SCALE).map(LossGrad::from)
            })?);
        }
    }
    Ok(problems)
}

pub(super) fn ohem_cross_entropy(rng: &mut Stream) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for (shape, size) in CASES {
        for (threshold, min_kept) in [(0.1, 6), (0.7, 3), (0.02, 40), (0.3, 100_000)] {
            let target = labels(rng, shape, size, 0.1);
            let case = format!(
                "logits {shape} to {} by {}, threshold {threshold}, min_kept {min_kept}",
                size.0, size.1
            );
            let ohem = Ohem { threshold, min_kept };
            problems.push(loss(rng, case, shape, move |x| {
                ops::ohem_cross_entropy(&Device::new(), x, &target, &ohem, GRAD_SCALE).map(LossGrad::from)
            })?);
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
fn teachers(rng: &mut Stream, shape: Shape) -> (Tensor<f64>, Tensor<f64>) {
    let mut draw = || tensor(shape, &normals(rng, shape.len()).iter().map(|v| 3.0 * v).collect::<Vec<_>>());
    (draw(), draw())
}

pub(super) fn conf_ce(rng: &mut Stream) -> Result<Vec<Problem>> {
    let b = Device::new();
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
            let ensemble = Ensemble { topk: 3, gamma: 0.5 };
            let (core, assist) = teachers(rng, shape);
            let mix = random_mix(rng, rounds, shape.n, size);
            let pseudo = ops::ensemble_pseudo_label(&b, &core, &assist, size, &ensemble)?;
            let case = format!(
                "logits {shape} to {} by {}, threshold {threshold}, negative {negative_threshold}, square \
                 {square_weight}{}, {rounds} boxes",
                size.0,
                size.1,
                if weighted { ", weighted" } else { "" }
            );
            problems.push(loss(rng, case, shape, move |x| {
                let out = ops::conf_ce(&b, x, &pseudo, &core, &assist, &ensemble, &mix, &spec, GRAD_SCALE)?;
                let [positive, negative, square] =
                    [out.positive, out.negative, out.square].map(|s| b.read_scalar(&s));
                Ok(LossGrad { loss: positive + negative + square_weight * square, dlogits: out.dstudent })
            })?);
        }
    }
    Ok(problems)
}

pub(super) fn mse_consistency(rng: &mut Stream) -> Result<Vec<Problem>> {
    let b = Device::new();
    let mut problems = Vec::new();
    for (shape, size) in CASES {
        let (core, assist) = teachers(rng, shape);
        let mix = random_mix(rng, 1, shape.n, size);
        let ensemble = Ensemble { topk: 2, gamma: 0.6 };
        let case = format!("logits {shape} to {} by {}", size.0, size.1);
        problems.push(loss(rng, case, shape, move |x| {
            ops::mse_consistency(&b, x, &core, &assist, size, &ensemble, &mix, GRAD_SCALE)
        })?);
    }
    Ok(problems)
}

/// Mean of the interpolated logits of `count` decoders that lie side by side in `point`, pixel by pixel; `shape` is one's.
fn mean_logits(point: &[f64], count: usize, shape: Shape, size: Size) -> Result<Vec<f64>> {
    let wide = tensor(shape.with_channels(count * shape.c), point);
    let up = ops::interpolate(&Device::new(), &wide, size)?;
    let mean = |pixel: &[f64], c: usize| pixel[c..].iter().step_by(shape.c).sum::<f64>() / count as f64;
    Ok(up.data().chunks_exact(count * shape.c).flat_map(|p| (0..shape.c).map(move |c| mean(p, c))).collect())
}

fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_total = logits.iter().map(|v| (v - largest).exp()).sum::<f64>().ln();
    logits.iter().map(|v| v - largest - log_total).collect()
}

/// Gradient of KL(softmax(clean) ‖ softmax(perturbed)) / n over all decoders' perturbed logits.
pub(super) fn kl_gradient(rng: &mut Stream) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for (shape, size) in CASES {
        for count in [1, 2, 3] {
            let (clean, point) = (normals(rng, count * shape.len()), normals(rng, count * shape.len()));
            let wide = |values: &[f64]| tensor(shape.with_channels(count * shape.c), values);
            let dlogits = ops::kl_gradient(&Device::new(), &wide(&clean), &wide(&point), count, size)?;
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
                claim: Claim::Gradient(dlogits.data().to_vec()),
            });
        }
    }
    Ok(problems)
}

/// The cotangent is the gradient of Σ p·t over all pixels with the tangents t held fixed: p t - p (p·t) is the
/// softmax's transposed Jacobian applied to t.
pub(super) fn tvat_cotangent(rng: &mut Stream) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for (shape, size) in CASES {
        for count in [1, 2, 3] {
            let (tangents, point) = (normals(rng, count * shape.len()), normals(rng, count * shape.len()));
            let wide = |values: &[f64]| tensor(shape.with_channels(count * shape.c), values);
            let cotangent =
                ops::tvat_cotangent(&Device::new(), &wide(&point), &wide(&tangents), count, size)?;
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
                claim: Claim::Gradient(cotangent.data().to_vec()),
            });
        }
    }
    Ok(problems)
}
