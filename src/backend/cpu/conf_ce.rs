//! Confidence-weighted cross entropy of the student against pseudo labels read through CutMix, with optional
//! negative learning (PS-MT, equations 6 and 7), and its gradient with respect to the student's
//! low-resolution logits.

use super::confusion_matrix::{add_row, total};
use super::cut_mix::mixed_row;
use super::ensemble_pseudo_label::MixedTarget;
use super::softmax::{Softmax, softmax_gradient};
use super::upsample::{Grid, Reader};
use super::{Cpu, Real, Tensor};
use crate::ops::{ConfCeArgs, ConfCeOps, ConfCeOut, HISTOGRAM_BINS, Mix, PseudoLabel, TeacherLogits};
use rayon::prelude::*;

impl<T: Real> ConfCeOps for Cpu<T> {
    fn conf_ce(&self, op: &ConfCeArgs<'_, Self>) -> ConfCeOut<Self> {
        forward_backward(op)
    }
}

/// Bound of 1 - p in the logarithm of negative learning; below it there is no gradient.
const CLAMP: f64 = 1e-7;

/// Workspace and partial sums of one band of rows.
struct Band<'a, T> {
    student: Reader<'a, T>,
    target: Option<MixedTarget<'a, T>>,
    softmax: Softmax<T>,
    labels: Vec<u8>,
    confidence: Vec<T>,
    weights: Vec<T>,
    /// Gradient with respect to the student's probabilities.
    dp: Vec<T>,
    positive: f64,
    negative: f64,
    selected: f64,
    square: f64,
    confusion: Vec<u64>,
}

/// Loss terms, counts and the gradient of positive + negative + square_weight * square times `grad_scale`.
fn forward_backward<T: Real>(op: &ConfCeArgs<'_, Cpu<T>>) -> ConfCeOut<Cpu<T>> {
    let &ConfCeArgs {
        student,
        pseudo,
        teachers: TeacherLogits { core, assist, ensemble },
        mix,
        spec,
        grad_scale,
    } = op;
    let (height, width) = (pseudo.label.shape.h, pseudo.label.shape.w);
    let grid = Grid::new(student.shape(), (height, width));
    let (passed, histogram) = census(pseudo, mix, T::from_f64(spec.threshold));
    let values = (grid.low.n * height * grid.row_len()) as f64;
    let (negative_on, square_on) = (spec.negative_threshold > 0.0, spec.square_weight > 0.0);

    let threshold = T::from_f64(spec.threshold);
    let negative_threshold = T::from_f64(spec.negative_threshold);
    let factor = T::from_f64(grad_scale / passed.max(1) as f64);
    let square_factor = T::from_f64(2.0 * grad_scale * spec.square_weight / values);
    let len = grid.row_len();
    let scratch = |on: bool| vec![T::ZERO; if on { len } else { 0 }];
    let init = || Band {
        student: Reader::new(&grid, student),
        target: negative_on.then(|| MixedTarget::new(&grid, core, assist, ensemble, mix)),
        softmax: Softmax::new(width),
        labels: vec![0; width],
        confidence: vec![T::ZERO; width],
        weights: vec![T::ZERO; width],
        dp: scratch(square_on),
        positive: 0.0,
        negative: 0.0,
        selected: 0.0,
        square: 0.0,
        confusion: vec![0; grid.low.c * grid.low.c],
    };
    // The number of selected pairs, which divides it, is known at the end only: the gradient of negative
    // learning has its own planes.
    let groups = if negative_on { 2 } else { 1 };
    let (sums, bands) = grid.transpose_planes(groups, init, |band: &mut Band<T>, image, y, row| {
        let line = |i: usize| (i * height + y) * width..(i * height + y + 1) * width;
        mixed_row(mix, image, y, 1, |i| &pseudo.label.data[line(i)], &mut band.labels);
        mixed_row(mix, image, y, 1, |i| &pseudo.confidence.data()[line(i)], &mut band.confidence);
        for (weight, &c) in band.weights.iter_mut().zip(&band.confidence) {
            let passing = if spec.weighted { c } else { T::ONE };
            *weight = if c >= threshold { passing } else { T::ZERO };
        }
        if !negative_on && !square_on && !band.confidence.iter().any(|&c| c >= threshold) {
            row.fill(T::ZERO);
            return;
        }
        let (row, negative) = row.split_at_mut(len);
        band.student.row(image, y, row);
        band.positive += band.softmax.cross_entropy(row, &band.labels, &band.weights);
        let Band { confusion, labels, softmax, confidence, .. } = &mut *band;
        add_row(confusion, grid.low.c, labels, &softmax.best, |x| confidence[x] >= threshold);
        if negative_on || square_on {
            // Both need the probabilities: the exponentials become probabilities, whose sums are 1.
            band.softmax.normalize(row);
            band.softmax.sum.fill(T::ONE);
        }
        if let Some(target) = &mut band.target {
            target.row(image, y, negative);
            let (sum, selected) =
                negative_learning(negative, row, &band.labels, negative_threshold, &mut band.softmax);
            band.negative += sum;
            band.selected += selected;
        }
        if square_on {
            band.dp.copy_from_slice(row);
            band.square += square_gradient(&mut band.dp, row, square_factor, &mut band.softmax.pixel);
        }
        band.softmax.cross_entropy_gradient(row, &band.labels, &band.weights, factor);
        if square_on {
            for (v, &s) in row.iter_mut().zip(&band.dp) {
                *v += s;
            }
        }
    });

    let sum = |part: fn(&Band<T>) -> f64| bands.iter().map(part).sum::<f64>();
    let selected = sum(|b| b.selected).max(1.0);
    let dstudent = if negative_on {
        let (c, factor) = (grid.low.c, T::from_f64(grad_scale / selected));
        Tensor::from_fn(grid.low, |i| {
            let first = i / c * 2 * c + i % c;
            factor.mul_add(sums.data()[first + c], sums.data()[first])
        })
    } else {
        sums
    };
    ConfCeOut {
        positive: sum(|b| b.positive) / passed.max(1) as f64,
        negative: sum(|b| b.negative) / selected,
        square: sum(|b| b.square) / values,
        passed: passed as f64,
        histogram,
        confusion: total(grid.low.c * grid.low.c, bands.iter().map(|b| &b.confusion)),
        dstudent,
    }
}

/// Number of mixed pixels that reach the threshold, and the histogram of the mixed confidences. Bins as
/// PyTorch's `histc` in f32: floor(10 confidence), 1 in the last.
fn census<T: Real>(pseudo: &PseudoLabel<Cpu<T>>, mix: &Mix, threshold: T) -> (u64, Vec<u64>) {
    let shape = pseudo.label.shape;
    let (h, w) = (shape.h, shape.w);
    let parts: Vec<(u64, [u64; HISTOGRAM_BINS])> = (0..shape.n)
        .into_par_iter()
        .map(|image| {
            let (mut passed, mut bins) = (0, [0; HISTOGRAM_BINS]);
            let mut row = vec![T::ZERO; w];
            for y in 0..h {
                let source = |i: usize| &pseudo.confidence.data()[(i * h + y) * w..][..w];
                mixed_row(mix, image, y, 1, source, &mut row);
                for &c in &row {
                    passed += u64::from(c >= threshold);
                    let c = c.to_f64() as f32;
                    if (0.0..=1.0).contains(&c) {
                        bins[((c * HISTOGRAM_BINS as f32) as usize).min(HISTOGRAM_BINS - 1)] += 1;
                    }
                }
            }
            (passed, bins)
        })
        .collect();
    let mut histogram = vec![0; HISTOGRAM_BINS];
    for (_, bins) in &parts {
        histogram.iter_mut().zip(bins).for_each(|(total, v)| *total += v);
    }
    (parts.iter().map(|p| p.0).sum(), histogram)
}

/// Sum of -log(1 - p) over the pairs whose target probability is below `threshold`, except those of the
/// label's own class, and the number of pairs below it, the label's included. Replaces the target
/// probabilities by the gradient of the sum with respect to the student's logits. One logarithm per pixel, of
/// the product over its classes: at most one p is close to 1, so the product stays above `CLAMP` / 4.
fn negative_learning<T: Real>(
    target: &mut [T],
    p: &[T],
    labels: &[u8],
    threshold: T,
    softmax: &mut Softmax<T>,
) -> (f64, f64) {
    let width = labels.len();
    let clamp = T::from_f64(CLAMP);
    let mut label_pairs = 0.0;
    for (x, &label) in labels.iter().enumerate() {
        let own = &mut target[usize::from(label) * width + x];
        label_pairs += if *own < threshold { 1.0 } else { 0.0 };
        *own = T::ONE + threshold;
    }
    let (product, count) = (&mut softmax.max, &mut softmax.pixel);
    product.fill(T::ONE);
    count.fill(T::ZERO);
    for (target, p) in target.chunks_exact_mut(width).zip(p.chunks_exact(width)) {
        for (((t, &p), product), count) in
            target.iter_mut().zip(p).zip(product.iter_mut()).zip(count.iter_mut())
        {
            let rest = T::ONE - p;
            let selected = *t < threshold;
            let bounded = if rest < clamp { clamp } else { rest };
            *product *= if selected { bounded } else { T::ONE };
            *count += if selected { T::ONE } else { T::ZERO };
            *t = if selected && rest >= clamp { T::ONE / bounded } else { T::ZERO };
        }
    }
    let sum = product.iter().map(|v| -v.ln().to_f64()).sum();
    let selected = label_pairs + count.iter().map(|v| v.to_f64()).sum::<f64>();
    softmax_gradient(target, p, &mut softmax.pixel);
    (sum, selected)
}

/// Sum of the squared probabilities; replaces `dp`, a copy of the probabilities `p`, by the gradient of
/// factor / 2 * sum with respect to the logits.
fn square_gradient<T: Real>(dp: &mut [T], p: &[T], factor: T, dot: &mut [T]) -> f64 {
    softmax_gradient(dp, p, dot);
    dp.iter_mut().for_each(|v| *v *= factor);
    dot.iter().map(|v| v.to_f64()).sum()
}
