//! Inputs of the CPU device's tests, definitions by plain loops in double precision, and how results are
//! compared with them.

use crate::compare::{assert_within, largest};
use crate::draw;
use crate::loss_common::{Case, Teachers};
use psmt_fast::backend::cpu::{Cpu, Labels, Real, Tensor};
use psmt_fast::ops::{Ensemble, Mix, Shape, Size};
use std::sync::Arc;

pub type Cpu64 = Cpu<f64>;

/// Logits to interpolate to a size; they include single positions, primes and downsampling.
pub const CASES: [Case; 5] = [
    Case { logits: Shape::new(2, 5, 7, 4), size: (17, 23) },
    Case { logits: Shape::new(1, 1, 1, 3), size: (5, 6) },
    Case { logits: Shape::new(3, 9, 2, 11), size: (9, 13) },
    Case { logits: Shape::new(2, 11, 13, 5), size: (7, 5) },
    Case { logits: Shape::new(1, 19, 3, 9), size: (37, 1) },
];

/// Uniform in [-1, 1).
pub fn values<T: Real>(len: usize, seed: u64) -> Vec<T> {
    draw::uniform(len, seed).into_iter().map(T::from_f32).collect()
}

/// Uniform in [-1, 1).
pub fn tensor<T: Real>(shape: Shape, seed: u64) -> Tensor<T> {
    Tensor::new(shape, values(shape.len(), seed))
}

/// Normal with mean 0 and deviation `scale`.
pub fn randn(shape: Shape, scale: f64, seed: u64) -> Tensor<f64> {
    Tensor::new(shape, draw::normal(shape.len(), scale, seed))
}

/// Labels of a loss, of which a tenth is ignored.
pub fn labels(case: Case, seed: u64) -> Labels {
    Labels { shape: case.pixels(), data: Arc::new(case.labels(0.1, seed)) }
}

/// Asserts that values differ by at most `tolerance` of the largest expected one.
#[track_caller]
pub fn close<T: Real>(what: &str, got: &[T], want: &[f64], tolerance: f64) {
    let got: Vec<f64> = got.iter().map(|v| v.to_f64()).collect();
    let allowed = tolerance * largest(want);
    assert_within(what, &got, want, |_| allowed);
}

/// Asserts that values differ by at most `tolerance` of one more than the expected value.
#[track_caller]
pub fn each_close(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_within(what, got, want, |i| tolerance * (1.0 + want[i].abs()));
}

/// The same of one value.
#[track_caller]
pub fn one_close(what: &str, got: f64, want: f64, tolerance: f64) {
    each_close(what, &[got], &[want], tolerance);
}

/// Compares a gradient with central differences of `f` in about forty elements, first and last among them.
#[track_caller]
pub fn check_gradient(what: &str, x: &Tensor<f64>, gradient: &Tensor<f64>, f: impl Fn(&Tensor<f64>) -> f64) {
    // Truncation about h², rounding about 1e-16 / h.
    let h = 1e-5;
    let last = x.data().len() - 1;
    for i in (0..last).step_by(last.div_ceil(40).max(1)).chain([last]) {
        let moved = |by: f64| Tensor::from_fn(x.shape(), |j| x.data()[j] + if j == i { by } else { 0.0 });
        let numeric = (f(&moved(h)) - f(&moved(-h))) / (2.0 * h);
        one_close(&format!("{what}: gradient of input {i}"), gradient.data()[i], numeric, 1e-8);
    }
}

pub fn dot(a: &Tensor<f64>, b: &Tensor<f64>) -> f64 {
    a.data().iter().zip(b.data()).map(|(a, b)| a * b).sum()
}

/// The largest value, and the first index that has it.
pub fn largest_of(values: &[f64]) -> (usize, f64) {
    let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (values.iter().position(|&v| v == largest).unwrap_or(0), largest)
}

/// Bilinear, align_corners, one output value at a time by its definition.
pub fn up(x: &Tensor<f64>, size: Size) -> Tensor<f64> {
    let s = x.shape();
    let at = |i: usize, from: usize, to: usize| {
        let v = if to > 1 { i as f64 * (from - 1) as f64 / (to - 1) as f64 } else { 0.0 };
        let lo = (v.floor() as usize).min(from - 1);
        (lo, (lo + 1).min(from - 1), v - lo as f64)
    };
    let shape = Shape::new(s.n, size.0, size.1, s.c);
    Tensor::from_fn(shape, |i| {
        let (c, x_out, y_out, n) =
            (i % s.c, i / s.c % size.1, i / s.c / size.1 % size.0, i / s.c / size.1 / size.0);
        let ((y0, y1, fy), (x0, x1, fx)) = (at(y_out, s.h, size.0), at(x_out, s.w, size.1));
        let v = |y: usize, col: usize| x.data()[((n * s.h + y) * s.w + col) * s.c + c];
        (1.0 - fy) * ((1.0 - fx) * v(y0, x0) + fx * v(y0, x1))
            + fy * ((1.0 - fx) * v(y1, x0) + fx * v(y1, x1))
    })
}

pub fn softmax(z: &[f64]) -> Vec<f64> {
    let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = z.iter().map(|v| (v - max).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.iter().map(|v| v / sum).collect()
}

pub fn softmax_pixels(x: &Tensor<f64>) -> Vec<Vec<f64>> {
    x.data().chunks(x.shape().c).map(softmax).collect()
}

/// Ensemble logits of one pixel by sorting.
pub fn ensemble_pixel(core: &[f64], assist: &[f64], spec: &Ensemble) -> Vec<f64> {
    let mut order: Vec<usize> = (0..core.len()).collect();
    order.sort_by(|&a, &b| assist[b].total_cmp(&assist[a]));
    let kept = &order[..spec.topk.min(order.len())];
    (0..core.len())
        .map(|c| {
            spec.gamma * core[c] + (1.0 - spec.gamma) * if kept.contains(&c) { assist[c] } else { core[c] }
        })
        .collect()
}

/// Target probabilities of every mixed pixel.
pub fn target_probabilities(teachers: &Teachers<Cpu64>, size: Size, mix: &Mix) -> Vec<Vec<f64>> {
    let (core, assist) = (up(&teachers.core, size), up(&teachers.assist, size));
    let (c, plane) = (core.shape().c, size.0 * size.1);
    let target = |i: usize| {
        let (image, y, x) = (i / plane, i % plane / size.1, i % size.1);
        let source = mix.source(image, y, x) * plane + i % plane;
        let pixel = source * c..(source + 1) * c;
        let (core, assist) = (&core.data()[pixel.clone()], &assist.data()[pixel]);
        softmax(&ensemble_pixel(core, assist, &teachers.ensemble))
    };
    (0..core.shape().n * plane).map(target).collect()
}

/// Counts (label, largest interpolated logit) of the pixels that `label` gives one for.
pub fn confusion(x: &Tensor<f64>, size: Size, label: impl Fn(usize) -> Option<u8>) -> Vec<u64> {
    let c = x.shape().c;
    let mut counts = vec![0; c * c];
    for (i, z) in up(x, size).data().chunks(c).enumerate() {
        let (best, _) = largest_of(z);
        if let Some(label) = label(i) {
            counts[usize::from(label) * c + best] += 1;
        }
    }
    counts
}
