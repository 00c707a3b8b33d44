//! The dual-teacher target: rows of ensemble logits, and from them one label byte and one confidence per
//! pixel.

use super::softmax::{Softmax, larger, smaller};
use super::upsample::{Grid, Reader};
use super::{Cpu, Labels, Real, Tensor};
use crate::ops::{Ensemble, EnsembleOps, Mix, PseudoLabel, Shape, Size, TeacherLogits};
use rayon::prelude::*;
use std::sync::Arc;

impl<T: Real> EnsembleOps for Cpu<T> {
    fn ensemble_pseudo_label(&self, teachers: &TeacherLogits<'_, Self>, size: Size) -> PseudoLabel<Self> {
        let &TeacherLogits { core, assist, ensemble } = teachers;
        let grid = Grid::new(core.shape(), size);
        let (height, width) = size;
        let shape = Shape::new(core.shape().n, height, width, 1);
        let (mut label, mut confidence) = (vec![0u8; shape.len()], vec![T::ZERO; shape.len()]);
        let tasks = label.par_chunks_mut(ROWS * width).zip(confidence.par_chunks_mut(ROWS * width));
        tasks.enumerate().for_each(|(task, (label, confidence))| {
            let mut target = Target::new(&grid, core, assist, ensemble);
            let (mut row, mut softmax) = (vec![T::ZERO; grid.row_len()], Softmax::new(width));
            let rows = label.chunks_exact_mut(width).zip(confidence.chunks_exact_mut(width));
            for (r, (label, confidence)) in (task * ROWS..).zip(rows) {
                target.row(r / height, r % height, &mut row);
                softmax.best_and_exponentials(&mut row);
                label.iter_mut().zip(&softmax.best).for_each(|(label, &class)| *label = class as u8);
                confidence.iter_mut().zip(&softmax.sum).for_each(|(v, &s)| *v = T::ONE / s);
            }
        });
        let label = Labels { shape, data: Arc::new(label) };
        PseudoLabel { label, confidence: Tensor::new(shape, confidence) }
    }
}

/// Output rows of one task.
const ROWS: usize = 32;

/// Pixels whose top classes are found together: what fits into the registers for the published k = 7.
const LANES: usize = 8;

/// Computes rows of ensemble logits.
pub struct Target<'a, T> {
    core: Reader<'a, T>,
    assist: Reader<'a, T>,
    ensemble: &'a Ensemble,
    assist_row: Vec<T>,
    classes: usize,
}

impl<'a, T: Real> Target<'a, T> {
    /// A reader of the ensemble of `core` and `assist`, both of the grid's shape.
    pub fn new(
        grid: &'a Grid<T>,
        core: &'a Tensor<T>,
        assist: &'a Tensor<T>,
        ensemble: &'a Ensemble,
    ) -> Target<'a, T> {
        Target {
            core: Reader::new(grid, core),
            assist: Reader::new(grid, assist),
            ensemble,
            assist_row: vec![T::ZERO; grid.row_len()],
            classes: grid.low.c,
        }
    }

    /// Row `y` of `image` as planes `[c][width]`.
    pub fn row(&mut self, image: usize, y: usize, logits: &mut [T]) {
        self.core.row(image, y, logits);
        self.assist.row(image, y, &mut self.assist_row);
        blend(logits, &self.assist_row, self.classes, self.ensemble);
    }
}

/// Computes rows of the ensemble's probabilities after CutMix.
pub struct MixedTarget<'a, T> {
    mix: &'a Mix,
    // One for the image itself and one per round of boxes: within a band of one image, each reads one image
    // in order.
    targets: Vec<Target<'a, T>>,
    softmax: Softmax<T>,
    pasted: Vec<T>,
}

impl<'a, T: Real> MixedTarget<'a, T> {
    /// As [`Target::new`], with the boxes of `mix`.
    pub fn new(
        grid: &'a Grid<T>,
        core: &'a Tensor<T>,
        assist: &'a Tensor<T>,
        ensemble: &'a Ensemble,
        mix: &'a Mix,
    ) -> MixedTarget<'a, T> {
        MixedTarget {
            mix,
            targets: (0..=mix.boxes.len()).map(|_| Target::new(grid, core, assist, ensemble)).collect(),
            softmax: Softmax::new(grid.size.1),
            pasted: vec![T::ZERO; grid.row_len()],
        }
    }

    /// Probabilities of row `y` of the mixed `image`, planes `[c][width]`.
    pub fn row(&mut self, image: usize, y: usize, p: &mut [T]) {
        self.targets[0].row(image, y, p);
        let rounds = self.mix.boxes.iter().zip(&self.mix.perm).zip(&mut self.targets[1..]);
        for ((boxes, perm), target) in rounds {
            let [y0, x0, y1, x1] = boxes[image];
            if !(y0..y1).contains(&y) || x0 == x1 {
                continue;
            }
            target.row(perm[image], y, &mut self.pasted);
            let width = self.softmax.max.len();
            for (p, pasted) in p.chunks_exact_mut(width).zip(self.pasted.chunks_exact(width)) {
                p[x0..x1].copy_from_slice(&pasted[x0..x1]);
            }
        }
        self.softmax.probabilities(p);
    }
}

/// Replaces the core's logits by gamma core + (1 - gamma) assist, where outside the `topk` largest classes of
/// the assistant the core's own logit takes the place of the assistant's (of equal logits the lower class
/// counts first).
fn blend<T: Real>(core: &mut [T], assist: &[T], classes: usize, ensemble: &Ensemble) {
    let (gamma, rest) = (T::from_f64(ensemble.gamma), T::from_f64(1.0 - ensemble.gamma));
    if ensemble.topk >= classes {
        for (c, &a) in core.iter_mut().zip(assist) {
            *c = gamma * *c + rest * a;
        }
        return;
    }
    if ensemble.topk == 0 {
        return; // the core's logit everywhere
    }
    let width = core.len() / classes;
    let mut any_k = vec![[T::ZERO; LANES]; if ensemble.topk == 7 { 0 } else { ensemble.topk }];
    for x in (0..width).step_by(LANES) {
        let lanes = LANES.min(width - x);
        let kth = if ensemble.topk == 7 {
            kth_largest(&mut [[T::ZERO; LANES]; 7], assist, width, x)
        } else {
            kth_largest(&mut any_k, assist, width, x)
        };
        // Classes at the k-th value are kept from the lowest on, as many as those above it leave.
        let mut left = [T::from_f64(ensemble.topk as f64); LANES];
        let mut equal = [T::ZERO; LANES];
        for plane in assist.chunks_exact(width) {
            let a = load(plane, x);
            for l in 0..LANES {
                left[l] -= if a[l] > kth[l] { T::ONE } else { T::ZERO };
                equal[l] += if a[l] == kth[l] { T::ONE } else { T::ZERO };
            }
        }
        let tied = (0..lanes).any(|l| equal[l] > left[l]);
        for (core, plane) in core.chunks_exact_mut(width).zip(assist.chunks_exact(width)) {
            let a = load(plane, x);
            if !tied && lanes == LANES {
                for (c, (a, k)) in core[x..x + LANES].iter_mut().zip(a.into_iter().zip(kth)) {
                    // A NaN is not below the k-th largest, so it stays in the result.
                    let kept = if a < k { *c } else { a };
                    *c = gamma * *c + rest * kept;
                }
            } else {
                for (l, c) in core[x..x + lanes].iter_mut().enumerate() {
                    let drop = a[l] < kth[l] || (a[l] == kth[l] && left[l] <= T::ZERO);
                    if a[l] == kth[l] {
                        left[l] -= T::ONE;
                    }
                    *c = gamma * *c + rest * if drop { *c } else { a[l] };
                }
            }
        }
    }
}

/// `LANES` values of a plane from `x` on; minus infinity past its end.
#[inline(always)]
fn load<T: Real>(plane: &[T], x: usize) -> [T; LANES] {
    match plane[x..].first_chunk() {
        Some(values) => *values,
        None => {
            let mut values = [T::from_f64(f64::NEG_INFINITY); LANES];
            values[..plane.len() - x].copy_from_slice(&plane[x..]);
            values
        }
    }
}

/// The `top.len()`-th largest class value of `LANES` pixels, by insertion of each class into sorted lists.
/// Inlined, so that the lists stay in registers where their length is a constant.
#[inline(always)]
fn kth_largest<T: Real>(top: &mut [[T; LANES]], planes: &[T], width: usize, x: usize) -> [T; LANES] {
    top.fill([T::from_f64(f64::NEG_INFINITY); LANES]);
    for plane in planes.chunks_exact(width) {
        let mut v = load(plane, x);
        for t in top.iter_mut() {
            for l in 0..LANES {
                (t[l], v[l]) = (larger(v[l], t[l]), smaller(v[l], t[l]));
            }
        }
    }
    top[top.len() - 1]
}
