//! Losses, resampling, T-VAT's parts and updates of the CPU device against plain loops and finite differences in f64, and
//! against the stored fixtures. Shapes include 1, primes and downsampling.

use crate::loss_common::mix;
use psmt_fast::backend::cpu::{Cpu, Labels, Tensor};
use psmt_fast::ops::*;
use psmt_fast::rng::{Domain, Key};
use std::sync::Arc;

type Cpu64 = Cpu<f64>;
const SIZES: [(Shape, Size); 5] = [
    (Shape::new(2, 5, 7, 4), (17, 23)),
    (Shape::new(1, 1, 1, 3), (5, 6)),
    (Shape::new(3, 9, 2, 11), (9, 13)),
    (Shape::new(2, 11, 13, 5), (7, 5)),
    (Shape::new(1, 19, 3, 9), (37, 1)),
];

fn draws(seed: u64) -> impl FnMut() -> f64 {
    let mut stream = Key::new(seed, Domain::Bench, 0).stream();
    move || f64::from(stream.normal())
}

fn randn(shape: Shape, scale: f64, seed: u64) -> Tensor<f64> {
    let mut draw = draws(seed);
    Tensor::new(shape, (0..shape.len()).map(|_| scale * draw()).collect())
}

fn labels(shape: Shape, size: Size, seed: u64) -> Labels {
    let mut stream = Key::new(seed, Domain::Bench, 1).stream();
    let shape = Shape::new(shape.n, size.0, size.1, shape.c);
    let data = (0..shape.positions())
        .map(|_| if stream.chance(0.1) { IGNORE } else { stream.below(shape.c) as u8 })
        .collect();
    Labels { shape: shape.with_channels(1), data: Arc::new(data) }
}

/// Bilinear, align_corners, one output value at a time by its definition.
fn up(x: &Tensor<f64>, size: Size) -> Tensor<f64> {
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

fn softmax(z: &[f64]) -> Vec<f64> {
    let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = z.iter().map(|v| (v - max).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.iter().map(|v| v / sum).collect()
}

fn softmax_pixels(x: &Tensor<f64>) -> Vec<Vec<f64>> {
    x.data().chunks(x.shape().c).map(softmax).collect()
}

/// Ensemble logits of one pixel by sorting.
fn ensemble_pixel(core: &[f64], assist: &[f64], spec: &Ensemble) -> Vec<f64> {
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
fn target_probabilities(
    core: &Tensor<f64>,
    assist: &Tensor<f64>,
    size: Size,
    e: &Ensemble,
    mix: &Mix,
) -> Vec<Vec<f64>> {
    let (core, assist) = (up(core, size), up(assist, size));
    let (c, plane) = (core.shape().c, size.0 * size.1);
    (0..core.shape().n * plane)
        .map(|i| {
            let (image, y, x) = (i / plane, i % plane / size.1, i % size.1);
            let source = mix.source(image, y, x) * plane + i % plane;
            let pixel = source * c..(source + 1) * c;
            softmax(&ensemble_pixel(&core.data()[pixel.clone()], &assist.data()[pixel], e))
        })
        .collect()
}

fn close(got: f64, want: f64, tolerance: f64, what: &str) {
    assert!((got - want).abs() <= tolerance * (1.0 + want.abs()), "{what}: got {got}, want {want}");
}

fn all_close(got: &[f64], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        close(g, w, tolerance, &format!("{what} at {i}"));
    }
}

/// Compares a gradient with central differences of `f` in about forty elements, first and last among them.
fn check_gradient(x: &Tensor<f64>, gradient: &Tensor<f64>, f: impl Fn(&Tensor<f64>) -> f64, what: &str) {
    // Truncation about h², rounding about 1e-16 / h.
    let h = 1e-5;
    let last = x.data().len() - 1;
    for i in (0..last).step_by(last.div_ceil(40).max(1)).chain([last]) {
        let moved = |by: f64| Tensor::from_fn(x.shape(), |j| x.data()[j] + if j == i { by } else { 0.0 });
        let numeric = (f(&moved(h)) - f(&moved(-h))) / (2.0 * h);
        close(gradient.data()[i], numeric, 1e-8, &format!("{what}: gradient at {i}"));
    }
}

#[test]
fn interpolation_matches_its_definition_and_its_transpose() {
    for (k, (shape, size)) in SIZES.into_iter().enumerate() {
        let b = Cpu64::new();
        let x = randn(shape, 1.0, k as u64);
        let y = b.interpolate(&x, size);
        all_close(y.data(), up(&x, size).data(), 1e-13, "interpolate");
        let dy = randn(y.shape(), 1.0, 100 + k as u64);
        let dx = b.interpolate_bwd(&dy, (shape.h, shape.w));
        assert_eq!(dx.shape(), shape);
        let dot =
            |a: &Tensor<f64>, b: &Tensor<f64>| a.data().iter().zip(b.data()).map(|(a, b)| a * b).sum::<f64>();
        close(dot(&dx, &x), dot(&dy, &y), 1e-12, "adjoint");
    }
}

/// Counts (label, largest interpolated logit) of the pixels that `label` gives one for.
fn confusion(x: &Tensor<f64>, size: Size, label: impl Fn(usize) -> Option<u8>) -> Vec<u64> {
    let c = x.shape().c;
    let mut counts = vec![0; c * c];
    for (i, z) in up(x, size).data().chunks(c).enumerate() {
        let largest = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let best = z.iter().position(|&v| v == largest).unwrap();
        if let Some(label) = label(i) {
            counts[usize::from(label) * c + best] += 1;
        }
    }
    counts
}

#[test]
fn cross_entropy_and_its_gradient() {
    let b = Cpu64::new();
    for (k, (shape, size)) in SIZES.into_iter().enumerate() {
        let (x, y) = (randn(shape, 2.0, k as u64), labels(shape, size, k as u64));
        let want = |x: &Tensor<f64>| {
            let p = softmax_pixels(&up(x, size));
            let terms: Vec<f64> = p
                .iter()
                .zip(y.data.iter())
                .filter(|(_, t)| **t != IGNORE)
                .map(|(p, &t)| -p[usize::from(t)].ln())
                .collect();
            terms.iter().sum::<f64>() / terms.len().max(1) as f64
        };
        let out = b.cross_entropy(&x, &y, 3.0);
        close(out.loss, want(&x), 1e-12, "cross entropy");
        assert_eq!(out.confusion, confusion(&x, size, |i| Some(y.data[i]).filter(|&t| t != IGNORE)));
        let ohem = b.ohem_cross_entropy(&x, &y, &Ohem { threshold: 0.0, min_kept: 1 }, 3.0);
        assert_eq!(ohem.confusion, out.confusion, "all labelled pixels, kept or not");
        check_gradient(&x, &out.dlogits, |x| 3.0 * want(x), "cross entropy");
    }
}

#[test]
fn all_ignored_gives_zero() {
    let b = Cpu64::new();
    let (shape, size) = SIZES[0];
    let x = randn(shape, 2.0, 1);
    let y = Labels { data: Arc::new(vec![IGNORE; shape.n * size.0 * size.1]), ..labels(shape, size, 0) };
    let ohem = Ohem { threshold: 0.7, min_kept: 10 };
    for out in [b.cross_entropy(&x, &y, 1.0), b.ohem_cross_entropy(&x, &y, &ohem, 1.0)] {
        assert_eq!(out.loss, 0.0);
        assert!(out.dlogits.data().iter().all(|&v| v == 0.0));
    }
}

#[test]
fn ohem_keeps_the_hardest_pixels() {
    let b = Cpu64::new();
    for (k, (shape, size)) in SIZES.into_iter().enumerate() {
        let (x, y) = (randn(shape, 2.0, k as u64), labels(shape, size, k as u64));
        let p: Vec<f64> = softmax_pixels(&up(&x, size))
            .iter()
            .zip(y.data.iter())
            .map(|(p, &t)| if t == IGNORE { 1.0 } else { p[usize::from(t)] })
            .collect();
        let mut sorted = p.clone();
        sorted.sort_by(f64::total_cmp);
        let valid = y.data.iter().filter(|&&t| t != IGNORE).count();
        for (threshold, min_kept) in [(0.1, 3), (0.02, 7), (0.7, 1), (0.3, 10_000), (0.5, 0)] {
            let bound =
                if min_kept == 0 || min_kept > valid { 1.0 } else { sorted[min_kept - 1].max(threshold) };
            let kept = y.data.iter().zip(&p).map(|(&t, &p)| if p <= bound { t } else { IGNORE }).collect();
            let kept = Labels { data: Arc::new(kept), ..y.clone() };
            let want = b.cross_entropy(&x, &kept, 2.0);
            let got = b.ohem_cross_entropy(&x, &y, &Ohem { threshold, min_kept }, 2.0);
            close(got.loss, want.loss, 1e-12, "OHEM");
            all_close(got.dlogits.data(), want.dlogits.data(), 1e-12, "OHEM gradient");
        }
    }
}

#[test]
fn pseudo_labels_match_sorting() {
    let b = Cpu64::new();
    for (k, (shape, size)) in SIZES.into_iter().enumerate() {
        let (core, assist) = (randn(shape, 2.0, k as u64), randn(shape, 2.0, 50 + k as u64));
        for topk in [0, 1, 2, 7, 8, 30] {
            let e = Ensemble { topk, gamma: 0.3 };
            let out =
                b.ensemble_pseudo_label(&TeacherLogits { core: &core, assist: &assist, ensemble: &e }, size);
            let want = target_probabilities(&core, &assist, size, &e, &Mix::default());
            for (i, p) in want.iter().enumerate() {
                let best = p.iter().copied().fold(0.0, f64::max);
                close(out.confidence.data()[i], best, 1e-12, "confidence");
                let label = p.iter().position(|&v| v == best).unwrap_or(0);
                assert_eq!(usize::from(out.label.data[i]), label, "top {topk}, pixel {i}: {p:?}");
            }
        }
    }
}

#[test]
fn equal_logits_count_from_the_lowest_class() {
    let b = Cpu64::new();
    let shape = Shape::new(1, 1, 1, 9);
    let assist = Tensor::new(shape, vec![1.0, 5.0, 3.0, 3.0, 3.0, 0.0, 3.0, 0.0, 0.0]);
    let core = Tensor::new(shape, vec![0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 4.0, 0.0, 0.0]);
    // The best three are classes 1, 2, 3; class 6 keeps the core's 4 and class 1 has (0 + 5) / 2.
    let e = Ensemble { topk: 3, gamma: 0.5 };
    let out = b.ensemble_pseudo_label(&TeacherLogits { core: &core, assist: &assist, ensemble: &e }, (2, 11));
    let want = softmax(&ensemble_pixel(core.data(), assist.data(), &e));
    assert!(out.label.data.iter().all(|&l| l == 6));
    out.confidence.data().iter().for_each(|&c| close(c, want[6], 1e-12, "confidence"));
    let flat = Tensor::new(shape, vec![0.5; 9]);
    assert!(
        b.ensemble_pseudo_label(&TeacherLogits { core: &flat, assist: &flat, ensemble: &e }, (3, 3))
            .label
            .data
            .iter()
            .all(|&l| l == 0)
    );
}

#[test]
fn conf_ce_and_its_gradient() {
    let b = Cpu64::new();
    for (k, (shape, size)) in SIZES.into_iter().enumerate() {
        let seed = k as u64;
        let [student, core, assist] = [1, 2, 3].map(|s| randn(shape, 2.0, 10 * s + seed));
        let (e, mix) = (Ensemble { topk: 3, gamma: 0.4 }, mix(shape.n, size, k % 4, seed));
        let pseudo =
            b.ensemble_pseudo_label(&TeacherLogits { core: &core, assist: &assist, ensemble: &e }, size);
        let q = target_probabilities(&core, &assist, size, &e, &mix);
        for (threshold, negative_threshold, square_weight, weighted) in [
            (0.6, 0.0, 0.0, true),
            (0.5, 0.1, 0.0, true),
            (0.7, 0.1, 0.5, false),
            (0.5, 0.0, 0.5, true),
            (1.5, 0.0, 0.0, true),
        ] {
            let spec = ConfCe { threshold, negative_threshold, square_weight, weighted };
            let want = |student: &Tensor<f64>| {
                let (mut pos, mut neg, mut square, mut passed, mut pairs) = (0.0, 0.0, 0.0, 0.0, 0.0);
                for (p, q) in softmax_pixels(&up(student, size)).iter().zip(&q) {
                    let conf = q.iter().copied().fold(0.0, f64::max);
                    let label = q.iter().position(|&v| v == conf).unwrap_or(0);
                    if conf >= threshold {
                        passed += 1.0;
                        pos -= p[label].ln() * if weighted { conf } else { 1.0 };
                    }
                    for c in (0..p.len()).filter(|&c| q[c] < negative_threshold) {
                        pairs += 1.0;
                        neg -= if c == label { 0.0 } else { (1.0 - p[c]).clamp(1e-7, 1.0).ln() };
                    }
                    square += p.iter().map(|p| p * p).sum::<f64>();
                }
                let count = (shape.n * size.0 * size.1 * shape.c) as f64;
                let square = if square_weight > 0.0 { square / count } else { 0.0 };
                (pos / f64::max(passed, 1.0), neg / f64::max(pairs, 1.0), square, passed)
            };
            let out = b.conf_ce(&ConfCeArgs {
                student: &student,
                pseudo: &pseudo,
                teachers: TeacherLogits { core: &core, assist: &assist, ensemble: &e },
                mix: &mix,
                spec: &spec,
                grad_scale: 1.5,
            });
            let (pos, neg, square, passed) = want(&student);
            close(out.positive, pos, 1e-12, "positive");
            close(out.negative, neg, 1e-11, "negative");
            close(out.square, square, 1e-12, "square");
            assert_eq!(out.passed, passed);
            let mut histogram = vec![0; HISTOGRAM_BINS];
            for q in &q {
                let conf = q.iter().copied().fold(0.0, f64::max) as f32;
                histogram[((conf * 10.0) as usize).min(9)] += 1;
            }
            assert_eq!(out.histogram, histogram);
            let pseudo_label = |i: usize| {
                let conf = q[i].iter().copied().fold(0.0, f64::max);
                (conf >= threshold).then(|| q[i].iter().position(|&v| v == conf).unwrap() as u8)
            };
            assert_eq!(out.confusion, confusion(&student, size, pseudo_label));
            let total = |x: &Tensor<f64>| {
                let (pos, neg, square, _) = want(x);
                1.5 * (pos + neg + square_weight * square)
            };
            check_gradient(&student, &out.dstudent, total, &format!("conf_ce {k} {spec:?}"));
        }
    }
}

#[test]
fn mse_consistency_and_its_gradient() {
    let b = Cpu64::new();
    for (k, (shape, size)) in SIZES.into_iter().enumerate() {
        let seed = k as u64;
        let [student, core, assist] = [1, 2, 3].map(|s| randn(shape, 2.0, 10 * s + seed));
        let (e, mix) = (Ensemble { topk: 7, gamma: 0.5 }, mix(shape.n, size, k % 3, seed));
        let q = target_probabilities(&core, &assist, size, &e, &mix);
        let want = |x: &Tensor<f64>| {
            let terms = softmax_pixels(&up(x, size));
            let pairs = terms.iter().flatten().zip(q.iter().flatten());
            pairs.map(|(p, q)| (p - q) * (p - q)).sum::<f64>() / (q.len() * shape.c) as f64
        };
        let out = b.mse_consistency(&MseConsistencyArgs {
            student: &student,
            teachers: TeacherLogits { core: &core, assist: &assist, ensemble: &e },
            size,
            mix: &mix,
            grad_scale: 2.0,
        });
        close(out.loss, want(&student), 1e-12, "mse");
        check_gradient(&student, &out.dlogits, |x| 2.0 * want(x), "mse");
    }
}

#[test]
fn tvat_cotangents() {
    let b = Cpu64::new();
    for (k, (shape, size)) in SIZES.into_iter().enumerate() {
        let [z1, z2, t1, t2] = [1, 2, 3, 4].map(|s| randn(shape, 1.5, 10 * s + k as u64));
        let mean =
            |a: &Tensor<f64>, b: &Tensor<f64>| Tensor::from_fn(shape, |i| 0.5 * (a.data()[i] + b.data()[i]));
        let p = softmax_pixels(&up(&mean(&z1, &z2), size));
        let t = up(&mean(&t1, &t2), size);
        let mut full = Vec::new();
        for (p, t) in p.iter().zip(t.data().chunks(shape.c)) {
            let dot: f64 = p.iter().zip(t).map(|(p, t)| p * t).sum();
            full.extend(p.iter().zip(t).map(|(p, t)| 0.5 * p * (t - dot)));
        }
        let want = b.interpolate_bwd(&Tensor::new(t.shape(), full), (shape.h, shape.w));
        let (z, t) = (b.concat(&[&z1, &z2]), b.concat(&[&t1, &t2]));
        let got = b.tvat_cotangent(&z, &t, 2, size);
        all_close(got.data(), b.concat(&[&want, &want]).data(), 1e-12, "cotangent");

        let kl = |perturbed: &Tensor<f64>| {
            let q = softmax_pixels(&up(&mean(perturbed, &t2), size));
            let pairs = p.iter().flatten().zip(q.iter().flatten());
            pairs.map(|(p, q)| p * (p / q).ln()).sum::<f64>() / shape.n as f64
        };
        let got = b.kl_gradient(&z, &t, 2, size);
        check_gradient(&t1, &b.slice_channels(&got, 0, shape.c), kl, "KL");
        let halves = [0, shape.c].map(|from| b.slice_channels(&got, from, shape.c));
        assert_eq!(halves[0].data(), halves[1].data(), "each decoder has the same gradient");
    }
}

#[test]
fn noise_and_normalisation() {
    let (b, key) = (Cpu64::new(), Key::new(3, Domain::NoiseLabeled, 5));
    let d = b.uniform_noise(Shape::new(2, 7, 11, 303), key);
    assert!(d.data().iter().enumerate().all(|(i, &v)| v == f64::from(key.uniform(i as u64)) - 0.5));
    let r = b.normalize(&d, 2.0);
    let sum = b.add_normalized(&d, &d, 2.0);
    assert!(sum.data().iter().zip(d.data()).zip(r.data()).all(|((s, d), r)| *s == d + r));
    for (r, d) in r.data().chunks(7 * 11 * 303).zip(d.data().chunks(7 * 11 * 303)) {
        let norm = d.iter().map(|v| v * v).sum::<f64>().sqrt();
        let want: Vec<f64> = d.iter().map(|v| 2.0 * v / (norm + NORM_EPS)).collect();
        all_close(r, &want, 1e-13, "normalize");
    }
    let zero = Tensor::new(Shape::new(1, 2, 2, 1), vec![0.0; 4]);
    assert!(b.normalize(&zero, 2.0).data().iter().all(|&v| v == 0.0));
}

#[test]
fn cut_mix_and_confusion_matrix() {
    let b = Cpu64::new();
    let (shape, size) = (Shape::new(4, 13, 9, 3), (13, 9));
    for rounds in 0..4 {
        let (x, m) = (randn(shape, 1.0, 1), mix(4, size, rounds, 2));
        let y = b.cut_mix(&x, &m);
        for i in 0..shape.positions() {
            let (image, row, col) = (i / 117, i % 117 / 9, i % 9);
            let from = m.source(image, row, col) * 117 + i % 117;
            assert_eq!(y.data()[i * 3..i * 3 + 3], x.data()[from * 3..from * 3 + 3]);
        }
    }
    let shape = Shape::new(3, 0, 0, 7);
    let (target, mut pred) = (labels(shape, (211, 307), 1), labels(shape, (211, 307), 2));
    pred.data = Arc::new(pred.data.iter().map(|&p| p.min(6)).collect());
    let mut want = vec![0; 49];
    for (&p, &t) in pred.data.iter().zip(target.data.iter()).filter(|(_, t)| **t != IGNORE) {
        want[usize::from(t) * 7 + usize::from(p)] += 1;
    }
    assert_eq!(b.confusion_matrix(&pred, &target, 7, None), want);

    // More pixels than a task takes; a threshold that is a confidence, in either precision.
    let confidence: Vec<f64> = randn(target.shape, 0.3, 3).data().iter().map(|c| c.abs()).collect();
    let threshold = confidence[100_000];
    let mut want = vec![0; 49];
    for (i, (&p, &t)) in pred.data.iter().zip(target.data.iter()).enumerate() {
        if t != IGNORE && confidence[i] >= threshold {
            want[usize::from(t) * 7 + usize::from(p)] += 1;
        }
    }
    let above = Tensor::new(target.shape, confidence.clone());
    assert_eq!(b.confusion_matrix(&pred, &target, 7, Some((&above, threshold))), want);
    assert_eq!(b.confusion_matrix(&pred, &target, 7, Some((&above, 9.0))), [0; 49]);
    let single = Cpu::<f32>::new();
    let above = single.upload(target.shape, &confidence.iter().map(|c| *c as f32).collect::<Vec<_>>());
    let mut want = vec![0; 49];
    for (i, (&p, &t)) in pred.data.iter().zip(target.data.iter()).enumerate() {
        if t != IGNORE && confidence[i] as f32 >= threshold as f32 {
            want[usize::from(t) * 7 + usize::from(p)] += 1;
        }
    }
    assert_eq!(single.confusion_matrix(&pred, &target, 7, Some((&above, threshold))), want);
}

#[test]
fn updates_follow_their_formulas() {
    let b = Cpu64::new();
    let mut draw = draws(1);
    let mut vector = |n: usize| (0..n).map(|_| draw()).collect::<Vec<f64>>();
    let (p, g, v, s) = (vector(70_001), vector(70_001), vector(70_001), vector(70_001));
    let sgd = Sgd { lr: 0.1, momentum: 0.9, weight_decay: 1e-2, num_decayed: 40_003 };
    let (mut p1, mut v1) = (p.clone(), v.clone());
    b.sgd(SgdStep { params: &mut p1, grads: &g, momentum: &mut v1, spec: &sgd, teacher: None });
    let decay = |i: usize| if i < 40_003 { 1e-2 * p[i] } else { 0.0 };
    let want_v: Vec<f64> = (0..p.len()).map(|i| 0.9 * v[i] + g[i] + decay(i)).collect();
    let want_p: Vec<f64> = p.iter().zip(&want_v).map(|(p, v)| p - 0.1 * v).collect();
    all_close(&v1, &want_v, 1e-14, "momentum");
    all_close(&p1, &want_p, 1e-14, "parameters");
    let (mut p2, mut v2, mut teacher, mut stats) = (p.clone(), v.clone(), s.clone(), g.clone());
    let follower = Teacher { params: &mut teacher, stats: &mut stats, student_stats: &s, keep: 0.996 };
    b.sgd(SgdStep { params: &mut p2, grads: &g, momentum: &mut v2, spec: &sgd, teacher: Some(follower) });
    assert_eq!((&p2, &v2), (&p1, &v1));
    let average = |teacher: &[f64], student: &[f64]| -> Vec<f64> {
        teacher.iter().zip(student).map(|(t, s)| 0.996 * t + 0.004 * s).collect()
    };
    all_close(&teacher, &average(&s, &want_p), 1e-14, "teacher");
    all_close(&stats, &average(&g, &s), 1e-14, "teacher's statistics");
    let mut want = want_p;
    want[5..40_005].copy_from_slice(&s[30_001..]);
    want[60_000..60_003].copy_from_slice(&s[..3]);
    b.copy_spans(
        &mut p1,
        &s,
        &[(Span { offset: 30_001, len: 40_000 }, 5), (Span { offset: 0, len: 3 }, 60_000)],
    );
    all_close(&p1[..5], &want[..5], 1e-14, "what no span covers");
    assert_eq!(p1[5..40_005], want[5..40_005]);
    assert_eq!(p1[60_000..60_003], want[60_000..60_003]);
    all_close(&p1, &want, 1e-14, "the rest");
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let b = Cpu::<f32>::new();
    let (shape, size) = (Shape::new(2, 29, 17, 12), (113, 67));
    let at32 = |seed| {
        let x = randn(shape, 2.0, seed);
        Tensor::new(shape, x.data().iter().map(|&v| v as f32).collect::<Vec<f32>>())
    };
    let (student, core, assist) = (at32(1), at32(2), at32(3));
    let (e, m) = (Ensemble { topk: 7, gamma: 0.5 }, mix(2, size, 2, 1));
    let spec = ConfCe { threshold: 0.5, negative_threshold: 0.02, square_weight: 0.5, weighted: true };
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
        pool.install(|| {
            let pseudo =
                b.ensemble_pseudo_label(&TeacherLogits { core: &core, assist: &assist, ensemble: &e }, size);
            let out = b.conf_ce(&ConfCeArgs {
                student: &student,
                pseudo: &pseudo,
                teachers: TeacherLogits { core: &core, assist: &assist, ensemble: &e },
                mix: &m,
                spec: &spec,
                grad_scale: 1.0,
            });
            let logits = b.concat(&[&core, &assist]);
            let t = b.tvat_cotangent(&logits, &b.concat(&[&student, &student]), 2, size);
            let sums = [out.positive, out.negative, out.square].map(f64::to_bits);
            let bits: Vec<u32> =
                out.dstudent.data().iter().chain(b.normalize(&t, 2.0).data()).map(|v| v.to_bits()).collect();
            (sums, bits)
        })
    };
    let one = run(1);
    assert!(one == run(2) && one == run(5));
}
