//! Softmax over the classes of planar rows `[c][width]`, and the parts of loss rows that several losses
//! share. Loops run over pixels within a class, so they vectorise.

use super::Real;
use crate::ops::IGNORE;

/// The larger of two; the second where one is NaN (one instruction, unlike `max`).
#[inline(always)]
pub fn larger<T: Real>(a: T, b: T) -> T {
    if a > b { a } else { b }
}

/// The smaller of two; the second where one is NaN.
#[inline(always)]
pub fn smaller<T: Real>(a: T, b: T) -> T {
    if a < b { a } else { b }
}

/// Workspace for the softmax of rows of one width.
pub struct Softmax<T> {
    /// Largest logit of each pixel.
    pub max: Vec<T>,
    /// Sum over the classes of e^(logit - max) of each pixel.
    pub sum: Vec<T>,
    /// Workspace of one value per pixel.
    pub pixel: Vec<T>,
    /// Class of the largest logit of each pixel, of equal ones the first; written by
    /// [`Softmax::best_and_exponentials`] and [`Softmax::cross_entropy`].
    pub best: Vec<u32>,
}

impl<T: Real> Softmax<T> {
    /// A workspace for rows of `width` pixels.
    pub fn new(width: usize) -> Softmax<T> {
        let zeros = || vec![T::ZERO; width];
        Softmax { max: zeros(), sum: zeros(), pixel: zeros(), best: vec![0; width] }
    }

    fn find_max(&mut self, logits: &[T]) {
        let width = self.max.len();
        self.max.copy_from_slice(&logits[..width]);
        for plane in logits.chunks_exact(width).skip(1) {
            for (m, &z) in self.max.iter_mut().zip(plane) {
                *m = larger(z, *m);
            }
        }
    }

    fn find_best(&mut self, logits: &[T]) {
        let width = self.max.len();
        self.max.copy_from_slice(&logits[..width]);
        self.best.fill(0);
        for (c, plane) in (0..).zip(logits.chunks_exact(width)).skip(1) {
            for ((m, best), &z) in self.max.iter_mut().zip(&mut self.best).zip(plane) {
                let better = z > *m;
                *m = if better { z } else { *m };
                *best = if better { c } else { *best };
            }
        }
    }

    /// Replaces logits by e^(logit - max); `sum` becomes their sums.
    pub fn exponentials(&mut self, logits: &mut [T]) {
        self.find_max(logits);
        self.below_max(logits);
    }

    /// As [`Softmax::exponentials`], and finds `best` as well.
    pub fn best_and_exponentials(&mut self, logits: &mut [T]) {
        self.find_best(logits);
        self.below_max(logits);
    }

    /// [`Softmax::exponentials`] where `max` is known.
    fn below_max(&mut self, logits: &mut [T]) {
        self.sum.fill(T::ZERO);
        for plane in logits.chunks_exact_mut(self.max.len()) {
            for ((z, &m), s) in plane.iter_mut().zip(&self.max).zip(&mut self.sum) {
                *z = (*z - m).exp_fast();
                *s += *z;
            }
        }
    }

    /// Replaces logits by probabilities.
    pub fn probabilities(&mut self, logits: &mut [T]) {
        self.exponentials(logits);
        self.normalize(logits);
    }

    /// Divides exponentials by their sums.
    pub fn normalize(&mut self, exponentials: &mut [T]) {
        for (v, &s) in self.pixel.iter_mut().zip(&self.sum) {
            *v = T::ONE / s;
        }
        scale(exponentials, &self.pixel);
    }

    /// Weighted cross entropy of one row: replaces logits by exponentials and returns the sum over the pixels
    /// of weight * -log softmax(logits)[label]. Pixels of weight 0 (whose label may be [`IGNORE`]) do not
    /// count.
    pub fn cross_entropy(&mut self, logits: &mut [T], labels: &[u8], weights: &[T]) -> f64 {
        let width = self.max.len();
        let mut picked = std::mem::take(&mut self.pixel);
        for (x, (v, &label)) in picked.iter_mut().zip(labels).enumerate() {
            *v = if label == IGNORE { T::ZERO } else { logits[usize::from(label) * width + x] };
        }
        self.best_and_exponentials(logits);
        let mut loss = 0.0;
        for (x, &weight) in weights.iter().enumerate() {
            if weight != T::ZERO {
                loss += (weight * (self.sum[x].ln() + (self.max[x] - picked[x]))).to_f64();
            }
        }
        self.pixel = picked;
        loss
    }

    /// Replaces exponentials by the gradient of [`Softmax::cross_entropy`] times `factor`:
    /// factor * weight * (softmax - onehot(label)).
    pub fn cross_entropy_gradient(
        &mut self,
        exponentials: &mut [T],
        labels: &[u8],
        weights: &[T],
        factor: T,
    ) {
        let width = self.max.len();
        for ((v, &s), &weight) in self.pixel.iter_mut().zip(&self.sum).zip(weights) {
            *v = factor * weight / s;
        }
        scale(exponentials, &self.pixel);
        for (x, (&weight, &label)) in weights.iter().zip(labels).enumerate() {
            if weight != T::ZERO {
                exponentials[usize::from(label) * width + x] -= factor * weight;
            }
        }
    }
}

/// Multiplies every plane by one factor per pixel.
fn scale<T: Real>(planes: &mut [T], factors: &[T]) {
    for plane in planes.chunks_exact_mut(factors.len()) {
        for (v, &f) in plane.iter_mut().zip(factors) {
            *v *= f;
        }
    }
}

/// Replaces a gradient `dp` with respect to probabilities `p` by the one with respect to the logits:
/// p (dp - sum over the classes of p dp). `dot` is workspace of one value per pixel.
pub fn softmax_gradient<T: Real>(dp: &mut [T], p: &[T], dot: &mut [T]) {
    let width = dot.len();
    dot.fill(T::ZERO);
    for (dp, p) in dp.chunks_exact(width).zip(p.chunks_exact(width)) {
        for ((d, &g), &p) in dot.iter_mut().zip(dp).zip(p) {
            *d = p.mul_add(g, *d);
        }
    }
    for (dp, p) in dp.chunks_exact_mut(width).zip(p.chunks_exact(width)) {
        for ((g, &d), &p) in dp.iter_mut().zip(dot.iter()).zip(p) {
            *g = p * (*g - d);
        }
    }
}
