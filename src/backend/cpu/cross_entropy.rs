//! Supervised losses on low-resolution logits: cross entropy and online hard example mining. Each thread
//! holds one row of full-resolution logits at a time.

use super::confusion_matrix::{add_row, total};
use super::softmax::Softmax;
use super::upsample::{Grid, Reader};
use super::{Cpu, Labels, Real, Tensor};
use crate::ops::{CrossEntropyOps, IGNORE, LabelLoss, Ohem};
use rayon::prelude::*;

impl<T: Real> CrossEntropyOps for Cpu<T> {
    fn cross_entropy(&self, logits: &Tensor<T>, target: &Labels, grad_scale: f64) -> LabelLoss<Self> {
        let grid = Grid::new(logits.shape(), (target.shape.h, target.shape.w));
        let valid = target.data.iter().filter(|&&t| t != IGNORE).count();
        mean(&grid, logits, target, grad_scale, valid, |_| true)
    }
    fn ohem_cross_entropy(
        &self,
        logits: &Tensor<T>,
        target: &Labels,
        ohem: &Ohem,
        grad_scale: f64,
    ) -> LabelLoss<Self> {
        let grid = Grid::new(logits.shape(), (target.shape.h, target.shape.w));
        let valid = target.data.iter().filter(|&&t| t != IGNORE).count();
        // With min_kept = 0 the bound is the largest probability: nothing is dropped.
        if ohem.min_kept > valid || ohem.min_kept == 0 {
            return mean(&grid, logits, target, grad_scale, valid, |_| true);
        }
        let p = true_class_probability(&grid, logits, target);
        let mut sorted = p.clone();
        let (_, kth, _) =
            sorted.select_nth_unstable_by(ohem.min_kept - 1, |a, b| a.to_f64().total_cmp(&b.to_f64()));
        let bound = kth.max(T::from_f64(ohem.threshold));
        // A NaN must reach the loss, where it is reported.
        let keep = |i: usize| p[i] <= bound || p[i].to_f64().is_nan();
        let kept = target.data.iter().enumerate().filter(|&(i, &t)| t != IGNORE && keep(i)).count();
        mean(&grid, logits, target, grad_scale, kept, keep)
    }
}

/// Output rows of one task of the pass that only reads.
const ROWS: usize = 32;

/// Mean cross entropy over the `count` labelled pixels that `keep` selects, and its gradient.
fn mean<T: Real>(
    grid: &Grid<T>,
    logits: &Tensor<T>,
    target: &Labels,
    grad_scale: f64,
    count: usize,
    keep: impl Fn(usize) -> bool + Sync,
) -> LabelLoss<Cpu<T>> {
    let (height, width) = grid.size;
    let scale = 1.0 / count.max(1) as f64;
    let factor = T::from_f64(grad_scale * scale);
    let classes = grid.low.c;
    let matrix = classes * classes;
    let init =
        || (Reader::new(grid, logits), Softmax::new(width), vec![T::ZERO; width], 0.0, vec![0; matrix]);
    let (dlogits, bands) =
        grid.transpose_planes(1, init, |(reader, softmax, weights, loss, confusion), image, y, row| {
            let start = (image * height + y) * width;
            let labels = &target.data[start..start + width];
            for (x, (weight, &label)) in weights.iter_mut().zip(labels).enumerate() {
                *weight = if label != IGNORE && keep(start + x) { T::ONE } else { T::ZERO };
            }
            if labels.iter().all(|&label| label == IGNORE) {
                row.fill(T::ZERO);
                return;
            }
            reader.row(image, y, row);
            *loss += softmax.cross_entropy(row, labels, weights);
            add_row(confusion, classes, labels, &softmax.best, |_| true);
            softmax.cross_entropy_gradient(row, labels, weights, factor);
        });
    let loss = bands.iter().map(|band| band.3).sum::<f64>() * scale;
    let confusion = total(matrix, bands.iter().map(|band| &band.4));
    LabelLoss { loss, dlogits, confusion }
}

/// softmax(logits)[target] of every pixel, 1 where the target is ignored.
fn true_class_probability<T: Real>(grid: &Grid<T>, logits: &Tensor<T>, target: &Labels) -> Vec<T> {
    let (height, width) = grid.size;
    let mut p = vec![T::ONE; target.data.len()];
    p.par_chunks_mut(ROWS * width).zip(target.data.par_chunks(ROWS * width)).enumerate().for_each(
        |(task, (p, labels))| {
            let (mut reader, mut softmax) = (Reader::new(grid, logits), Softmax::new(width));
            let mut row = vec![T::ZERO; grid.row_len()];
            let lines = p.chunks_exact_mut(width).zip(labels.chunks_exact(width));
            for (r, (p, labels)) in (task * ROWS..).zip(lines) {
                reader.row(r / height, r % height, &mut row);
                softmax.exponentials(&mut row);
                for (x, (p, &label)) in p.iter_mut().zip(labels).enumerate() {
                    if label != IGNORE {
                        *p = row[usize::from(label) * width + x] / softmax.sum[x];
                    }
                }
            }
        },
    );
    p
}
