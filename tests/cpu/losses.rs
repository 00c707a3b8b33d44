//! Losses of the CPU device against plain loops and finite differences in f64. Shapes include 1, primes and
//! downsampling.

use crate::loss_common::{CONF_CE, Case, Teachers};
use crate::plain::{
    CASES, Cpu64, check_gradient, confusion, each_close, labels, largest_of, one_close, randn,
    softmax_pixels, target_probabilities, up,
};
use psmt_fast::backend::cpu::{Cpu, Labels, Tensor};
use psmt_fast::ops::*;
use std::sync::Arc;

#[test]
fn cross_entropy_and_its_gradient() {
    let b = Cpu64::new();
    for (seed, case) in (0..).zip(CASES) {
        let (x, y) = (randn(case.logits, 2.0, seed), labels(case, seed));
        let want = |x: &Tensor<f64>| {
            let p = softmax_pixels(&up(x, case.size));
            let terms: Vec<f64> = p
                .iter()
                .zip(y.data.iter())
                .filter(|(_, t)| **t != IGNORE)
                .map(|(p, &t)| -p[usize::from(t)].ln())
                .collect();
            terms.iter().sum::<f64>() / terms.len().max(1) as f64
        };
        let what = format!("cross entropy of {case}");
        let out = b.cross_entropy(&x, &y, 3.0);
        one_close(&what, out.loss, want(&x), 1e-12);
        let counts = confusion(&x, case.size, |i| Some(y.data[i]).filter(|&t| t != IGNORE));
        assert_eq!(out.confusion, counts, "{what}");
        let ohem = b.ohem_cross_entropy(&x, &y, &Ohem { threshold: 0.0, min_kept: 1 }, 3.0);
        assert_eq!(ohem.confusion, out.confusion, "{what}: all labelled pixels, kept or not");
        check_gradient(&what, &x, &out.dlogits, |x| 3.0 * want(x));
    }
}

#[test]
fn all_ignored_gives_zero() {
    let b = Cpu64::new();
    let case = CASES[0];
    let x = randn(case.logits, 2.0, 1);
    let y = Labels { shape: case.pixels(), data: Arc::new(vec![IGNORE; case.pixels().len()]) };
    let ohem = Ohem { threshold: 0.7, min_kept: 10 };
    for out in [b.cross_entropy(&x, &y, 1.0), b.ohem_cross_entropy(&x, &y, &ohem, 1.0)] {
        assert_eq!(out.loss, 0.0);
        assert!(out.dlogits.data().iter().all(|&v| v == 0.0), "a gradient of no pixel");
    }
}

#[test]
fn ohem_keeps_the_hardest_pixels() {
    let b = Cpu64::new();
    for (seed, case) in (0..).zip(CASES) {
        let (x, y) = (randn(case.logits, 2.0, seed), labels(case, seed));
        let p: Vec<f64> = softmax_pixels(&up(&x, case.size))
            .iter()
            .zip(y.data.iter())
            .map(|(p, &t)| if t == IGNORE { 1.0 } else { p[usize::from(t)] })
            .collect();
        let mut sorted = p.clone();
        sorted.sort_by(f64::total_cmp);
        let valid = y.data.iter().filter(|&&t| t != IGNORE).count();
        for ohem in [
            Ohem { threshold: 0.1, min_kept: 3 },
            Ohem { threshold: 0.02, min_kept: 7 },
            Ohem { threshold: 0.7, min_kept: 1 },
            Ohem { threshold: 0.3, min_kept: 10_000 },
            Ohem { threshold: 0.5, min_kept: 0 },
        ] {
            let all = ohem.min_kept == 0 || ohem.min_kept > valid;
            let bound = if all { 1.0 } else { sorted[ohem.min_kept - 1].max(ohem.threshold) };
            let kept = y.data.iter().zip(&p).map(|(&t, &p)| if p <= bound { t } else { IGNORE }).collect();
            let kept = Labels { data: Arc::new(kept), ..y.clone() };
            let want = b.cross_entropy(&x, &kept, 2.0);
            let got = b.ohem_cross_entropy(&x, &y, &ohem, 2.0);
            let what = format!("{ohem:?} of {case}");
            one_close(&what, got.loss, want.loss, 1e-12);
            each_close(&format!("{what}: gradient"), got.dlogits.data(), want.dlogits.data(), 1e-12);
        }
    }
}

/// The terms of a confidence-weighted cross entropy against target probabilities `q`, and how many pixels
/// reach the threshold.
struct Terms {
    positive: f64,
    negative: f64,
    square: f64,
    passed: f64,
}

impl Terms {
    fn new(student: &Tensor<f64>, size: Size, q: &[Vec<f64>], spec: &ConfCe) -> Terms {
        let (mut positive, mut negative, mut square, mut passed, mut pairs) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (p, q) in softmax_pixels(&up(student, size)).iter().zip(q) {
            let (label, confidence) = largest_of(q);
            if confidence >= spec.threshold {
                passed += 1.0;
                positive -= p[label].ln() * if spec.weighted { confidence } else { 1.0 };
            }
            for c in (0..p.len()).filter(|&c| q[c] < spec.negative_threshold) {
                pairs += 1.0;
                negative -= if c == label { 0.0 } else { (1.0 - p[c]).clamp(1e-7, 1.0).ln() };
            }
            square += p.iter().map(|p| p * p).sum::<f64>();
        }
        let count = (q.len() * student.shape().c) as f64;
        Terms {
            positive: positive / f64::max(passed, 1.0),
            negative: negative / f64::max(pairs, 1.0),
            square: if spec.square_weight > 0.0 { square / count } else { 0.0 },
            passed,
        }
    }
}

#[test]
fn conf_ce_and_its_gradient() {
    let b = Cpu64::new();
    for (k, case) in CASES.into_iter().enumerate() {
        let seed = k as u64;
        let [student, core, assist] = [1, 2, 3].map(|s| randn(case.logits, 2.0, 10 * s + seed));
        let teachers = Teachers { core, assist, ensemble: Ensemble { topk: 3, gamma: 0.4 } };
        let mix = case.mix(k % 4, seed);
        let pseudo = b.ensemble_pseudo_label(&teachers.logits(), case.size);
        let q = target_probabilities(&teachers, case.size, &mix);
        for spec in [
            ConfCe { threshold: 0.6, ..CONF_CE },
            ConfCe { threshold: 0.5, negative_threshold: 0.1, ..CONF_CE },
            ConfCe { threshold: 0.7, negative_threshold: 0.1, square_weight: 0.5, weighted: false },
            ConfCe { threshold: 0.5, square_weight: 0.5, ..CONF_CE },
            ConfCe { threshold: 1.5, ..CONF_CE },
        ] {
            let what = format!("{spec:?} of {case}");
            let out = b.conf_ce(&ConfCeArgs {
                student: &student,
                pseudo: &pseudo,
                teachers: teachers.logits(),
                mix: &mix,
                spec: &spec,
                grad_scale: 1.5,
            });
            let want = Terms::new(&student, case.size, &q, &spec);
            one_close(&format!("{what}: positive"), out.positive, want.positive, 1e-12);
            one_close(&format!("{what}: negative"), out.negative, want.negative, 1e-11);
            one_close(&format!("{what}: square"), out.square, want.square, 1e-12);
            assert_eq!(out.passed, want.passed, "{what}");
            let mut histogram = vec![0; HISTOGRAM_BINS];
            for q in &q {
                histogram[((largest_of(q).1 as f32 * 10.0) as usize).min(9)] += 1;
            }
            assert_eq!(out.histogram, histogram, "{what}");
            let pseudo_label = |i: usize| {
                let (label, confidence) = largest_of(&q[i]);
                (confidence >= spec.threshold).then_some(label as u8)
            };
            assert_eq!(out.confusion, confusion(&student, case.size, pseudo_label), "{what}");
            let total = |x: &Tensor<f64>| {
                let terms = Terms::new(x, case.size, &q, &spec);
                1.5 * (terms.positive + terms.negative + spec.square_weight * terms.square)
            };
            check_gradient(&what, &student, &out.dstudent, total);
        }
    }
}

#[test]
fn mse_consistency_and_its_gradient() {
    let b = Cpu64::new();
    for (k, case) in CASES.into_iter().enumerate() {
        let seed = k as u64;
        let [student, core, assist] = [1, 2, 3].map(|s| randn(case.logits, 2.0, 10 * s + seed));
        let teachers = Teachers { core, assist, ensemble: Ensemble { topk: 7, gamma: 0.5 } };
        let mix = case.mix(k % 3, seed);
        let q = target_probabilities(&teachers, case.size, &mix);
        let want = |x: &Tensor<f64>| {
            let terms = softmax_pixels(&up(x, case.size));
            let pairs = terms.iter().flatten().zip(q.iter().flatten());
            pairs.map(|(p, q)| (p - q) * (p - q)).sum::<f64>() / (q.len() * case.logits.c) as f64
        };
        let out = b.mse_consistency(&MseConsistencyArgs {
            student: &student,
            teachers: teachers.logits(),
            size: case.size,
            mix: &mix,
            grad_scale: 2.0,
        });
        let what = format!("mean squared error of {case}");
        one_close(&what, out.loss, want(&student), 1e-12);
        check_gradient(&what, &student, &out.dlogits, |x| 2.0 * want(x));
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let b = Cpu::<f32>::new();
    let case = Case { logits: Shape::new(2, 29, 17, 12), size: (113, 67) };
    let single = |seed| {
        let x = randn(case.logits, 2.0, seed);
        Tensor::new(case.logits, x.data().iter().map(|&v| v as f32).collect::<Vec<f32>>())
    };
    let student = single(1);
    let ensemble = Ensemble { topk: 7, gamma: 0.5 };
    let teachers = Teachers::<Cpu<f32>> { core: single(2), assist: single(3), ensemble };
    let mix = case.mix(2, 1);
    let spec = ConfCe { threshold: 0.5, negative_threshold: 0.02, square_weight: 0.5, weighted: true };
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
        pool.install(|| {
            let pseudo = b.ensemble_pseudo_label(&teachers.logits(), case.size);
            let out = b.conf_ce(&ConfCeArgs {
                student: &student,
                pseudo: &pseudo,
                teachers: teachers.logits(),
                mix: &mix,
                spec: &spec,
                grad_scale: 1.0,
            });
            let logits = b.concat(&[&teachers.core, &teachers.assist]);
            let t = b.tvat_cotangent(&logits, &b.concat(&[&student, &student]), 2, case.size);
            let sums = [out.positive, out.negative, out.square].map(f64::to_bits);
            let bits: Vec<u32> =
                out.dstudent.data().iter().chain(b.normalize(&t, 2.0).data()).map(|v| v.to_bits()).collect();
            (sums, bits)
        })
    };
    let one = run(1);
    assert!(one == run(2), "two threads give other bits than one");
    assert!(one == run(5), "five threads give other bits than one");
}
