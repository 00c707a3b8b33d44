//! The dual-teacher target: rows of ensemble logits, and from them a label byte and a confidence a pixel.

use super::softmax::{Softmax, larger, smaller};
use super::upsample::{Grid, Reader};
use super::{Cpu, Labels, Real, Tensor};
use crate::ops::*;
use rayon::prelude::*;
use std::sync::Arc;

impl<T: Real> EnsembleOps for Cpu<T> {
    fn ensemble_pseudo_label(&self, teachers: &TeacherLogits<'_, Self>, size: Size) -> PseudoLabel<Self> {
        forward(teachers, size)
    }
}

/// Output rows of one task.
const ROWS: usize = 32;

/// Pixels whose top classes are found together: what fits the registers for the published k = 7.
const LANES: usize = 8;

/// Label (first maximum) and confidence of every pixel of the ensemble's softmax at `size`.
fn forward<T: Real>(teachers: &TeacherLogits<'_, Cpu<T>>, size: Size) -> PseudoLabel<Cpu<T>> {
    let &TeacherLogits { core, assist, ensemble } = teachers;
    let grid = Grid::new(core.shape(), size);
    let (height, width) = size;
    let shape = Shape::new(core.shape().n, height, width, 1);
    let (mut label, mut confidence) = (vec![0u8; shape.len()], vec![T::ZERO; shape.len()]);
    label.par_chunks_mut(ROWS * width).zip(confidence.par_chunks_mut(ROWS * width)).enumerate().for_each(
        |(task, (label, confidence))| {
            let mut target = Target::new(&grid, core, assist, ensemble);
            let (mut row, mut softmax) = (vec![T::ZERO; grid.row_len()], Softmax::new(width));
            let mut best = vec![T::ZERO; width];
            let lines = label.chunks_exact_mut(width).zip(confidence.chunks_exact_mut(width));
            for (r, (label, confidence)) in (task * ROWS..).zip(lines) {
                target.row(r / height, r % height, &mut row);
                arg_max(&row, &mut softmax.max, &mut best);
                for (label, &class) in label.iter_mut().zip(&best) {
                    *label = class.to_f64() as u8;
                }
                softmax.exponentials(&mut row);
                for (v, &s) in confidence.iter_mut().zip(&softmax.sum) {
                    *v = T::ONE / s;
                }
            }
        },
    );
    PseudoLabel { label: Labels { shape, data: Arc::new(label) }, confidence: Tensor::new(shape, confidence) }
}

/// First class of the largest logit of each pixel, as a number so that the loop stays in one element width.
fn arg_max<T: Real>(logits: &[T], max: &mut [T], class: &mut [T]) {
    let width = max.len();
    max.copy_from_slice(&logits[..width]);
    class.fill(T::ZERO);
    for (c, plane) in logits.chunks_exact(width).enumerate().skip(1) {
        let c = T::from_f64(c as f64);
        for ((m, best), &z) in max.iter_mut().zip(class.iter_mut()).zip(plane) {
            *best = if z > *m { c } else { *best };
            *m = larger(z, *m);
        }
    }
}

/// Reads rows of ensemble logits.
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

/// Reads rows of the ensemble's probabilities through CutMix.
pub struct MixedTarget<'a, T> {
    mix: &'a Mix,
    // One for the image itself, one a round: within a band of one image each then reads one source in order.
    targets: Vec<Target<'a, T>>,
    softmax: Softmax<T>,
    pasted: Vec<T>,
}

impl<'a, T: Real> MixedTarget<'a, T> {
    /// As [`Target::new`], read through `mix`.
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

/// Target logits in place of the core's: gamma core + (1 - gamma) assist, with the core's own logit in place of the
/// assistant's outside its `topk` largest classes (of equal logits the lower class counts first).
fn blend<T: Real>(core: &mut [T], assist: &[T], classes: usize, ensemble: &Ensemble) {
    let (gamma, rest) = (T::from_f64(ensemble.gamma), T::from_f64(1.0 - ensemble.gamma));
    if ensemble.topk >= classes {
        for (c, &a) in core.iter_mut().zip(assist) {
            *c = gamma * *c + rest * a;
        }
        return;
    }
    if ensemble.topk == 0 {
        return; // the core stands in everywhere
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
                    // A NaN is not below the k-th and stays visible.
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

/// The `top.len()`-th largest class value of `LANES` pixels, by insertion of each class into sorted lists. Inlined, so
/// that the lists stay in registers where their number is known.
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
