//! How near a fixture's integers lie to a decision that rounding could turn: target probabilities of every
//! pixel in double precision, by plain loops over the full-resolution logits. Shares only networks and the
//! interpolation with what it judges.

use super::Fixture;
use super::run_op::{TrainStepInputs, mix};
use crate::cases::{ConfCeAttrs, EnsembleAttrs};
use psmt_fast::Result;
use psmt_fast::backend::cpu::{Cpu, Tensor};
use psmt_fast::model::{Architecture, Network, Norm};
use psmt_fast::ops::{self, Ensemble, HISTOGRAM_BINS, Mix, Shape, Size};

/// A pixel nearer than this to a decision may go either way.
pub(super) const MARGIN: f64 = 1e-6;

/// The two largest target probabilities of every pixel, row by row, image by image.
struct TopTwo {
    shape: Shape,
    pairs: Vec<(f64, f64)>,
}

impl TopTwo {
    /// For the ensemble of two teachers' logits at `size`.
    fn new(core: &Tensor<f64>, assist: &Tensor<f64>, size: Size, ensemble: &Ensemble) -> Result<TopTwo> {
        let b = Cpu::<f64>::new();
        let (core, assist) = (ops::interpolate(&b, core, size)?, ops::interpolate(&b, assist, size)?);
        let shape = core.shape();
        let pixels = core.data().chunks_exact(shape.c).zip(assist.data().chunks_exact(shape.c));
        Ok(TopTwo { shape, pairs: pixels.map(|(c, a)| top_two(&target_logits(c, a, ensemble))).collect() })
    }

    /// The same read through CutMix.
    fn mixed(&self, mix: &Mix) -> Vec<(f64, f64)> {
        let Shape { n, h, w, .. } = self.shape;
        let pixels = (0..n * h * w).map(|i| (i / (h * w), i / w % h, i % w));
        pixels.map(|(i, y, x)| self.pairs[(mix.source(i, y, x) * h + y) * w + x]).collect()
    }
}

fn target_logits(core: &[f64], assist: &[f64], ensemble: &Ensemble) -> Vec<f64> {
    let mut order: Vec<usize> = (0..assist.len()).collect();
    order.sort_by(|&i, &j| assist[j].total_cmp(&assist[i]));
    let mut assisted = core.to_vec();
    for &i in order.iter().take(ensemble.topk) {
        assisted[i] = assist[i];
    }
    core.iter().zip(assisted).map(|(c, a)| ensemble.gamma * c + (1.0 - ensemble.gamma) * a).collect()
}

fn top_two(logits: &[f64]) -> (f64, f64) {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = logits.iter().map(|v| (v - largest).exp()).sum();
    let mut sorted = logits.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let probability = |i: usize| sorted.get(i).map_or(0.0, |v| (v - largest).exp() / total);
    (probability(0), probability(1))
}

/// Which pixels of an `ensemble_pseudo_label` fixture may carry another label: their two most probable
/// classes are nearer than [`MARGIN`].
pub(super) fn ambiguous_labels(fixture: &Fixture) -> Result<Vec<bool>> {
    let EnsembleAttrs { size: [h, w], topk, gamma } = fixture.attrs()?;
    let top = TopTwo::new(
        &tensor(fixture, "core")?,
        &tensor(fixture, "assist")?,
        (h, w),
        &Ensemble { topk, gamma },
    )?;
    Ok(top.pairs.iter().map(|(first, second)| first - second < MARGIN).collect())
}

/// How many pixels of a `conf_ce` or `train_step` fixture could move into or out of each confidence bin.
pub(super) fn ambiguous_counts(fixture: &Fixture) -> Result<Vec<u64>> {
    let pairs = if fixture.op == "train_step" {
        train_step_targets(fixture)?.0
    } else {
        let attrs: ConfCeAttrs = fixture.attrs()?;
        let (core, assist) = (tensor(fixture, "core")?, tensor(fixture, "assist")?);
        let size = (attrs.size[0], attrs.size[1]);
        let ensemble = Ensemble { topk: attrs.topk, gamma: attrs.gamma };
        TopTwo::new(&core, &assist, size, &ensemble)?.mixed(&mix(fixture, core.shape().n, size)?)
    };
    let mut counts = vec![0; HISTOGRAM_BINS];
    for (confidence, _) in pairs {
        // Edge 0 and the last edge separate nothing: no confidence lies outside them.
        for edge in 1..HISTOGRAM_BINS {
            if (confidence - edge as f64 / HISTOGRAM_BINS as f64).abs() < MARGIN {
                counts[edge - 1] += 1;
                counts[edge] += 1;
            }
        }
    }
    Ok(counts)
}

/// Whether a pixel of a `train_step` fixture is so near to the confidence threshold that rounding may let it
/// into the loss or keep it out.
pub(super) fn ambiguous_threshold(fixture: &Fixture) -> Result<bool> {
    let (pairs, threshold) = train_step_targets(fixture)?;
    Ok(pairs.iter().any(|(confidence, _)| (confidence - threshold).abs() < MARGIN))
}

/// The two largest target probabilities of every pixel of a `train_step` fixture, and its threshold.
fn train_step_targets(fixture: &Fixture) -> Result<(Vec<(f64, f64)>, f64)> {
    let TrainStepInputs { arch, mut nets, unlabeled, args, .. } =
        TrainStepInputs::read(&Cpu::<f64>::new(), fixture)?;
    let first = teacher_logits(&arch, &mut nets.teachers[0], &unlabeled.weak)?;
    let second = teacher_logits(&arch, &mut nets.teachers[1], &unlabeled.weak)?;
    let (core, assist) = if args.active_teacher == 1 { (first, second) } else { (second, first) };
    let shape = unlabeled.weak.shape();
    let top = TopTwo::new(&core, &assist, (shape.h, shape.w), &args.ensemble)?;
    Ok((top.mixed(&unlabeled.mix), args.conf_ce.threshold))
}

fn teacher_logits(arch: &Architecture, net: &mut Network<Cpu<f64>>, x: &Tensor<f64>) -> Result<Tensor<f64>> {
    let b = Cpu::<f64>::new();
    let features = arch.encoder(&b, &net.params, Norm::Train(&mut net.stats), x)?;
    arch.decoder(&b, &net.params, Norm::Train(&mut net.stats), &features)
}

fn tensor(fixture: &Fixture, name: &str) -> Result<Tensor<f64>> {
    let ([n, c, h, w], values) = fixture.f32(name)?;
    let nhwc = super::fixture::swap_inner(values, n, c, h * w);
    Ok(Tensor::from_fn(Shape::new(n, h, w, c), |i| f64::from(nhwc[i])))
}
