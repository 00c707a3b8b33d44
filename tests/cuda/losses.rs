//! Fused losses of the CUDA device against the CPU in f64, on the emulator.

use crate::cuda_common::{CHECKED, assert_no_fault};
use crate::loss_cases::{Cpu64, Trial, devices, each_case, pair, to_cpu};
use crate::loss_common::{CONF_CE, Case};
use psmt_emulator::{CopyTime, EmulatorOptions, Schedule};
use psmt_fast::backend::cpu;
use psmt_fast::ops::{self, *};
use std::sync::Arc;

#[test]
fn cross_entropy_matches_the_cpu() {
    each_case("cross_entropy", |t, what| {
        // The third scale is beyond what powers hold without the largest logit taken out.
        for (scale, ignored) in [(2.0, 0.2), (1.0, 1.0), (400.0, 0.1)] {
            let ((x64, x), (y64, y)) = (t.logits(scale, 3), t.labels(ignored, 4));
            let want = ops::cross_entropy(&Cpu64::new(), &x64, &y64, 0.7).expect("valid input");
            let got = ops::cross_entropy(&t.b, &x, &y, 0.7).expect("valid input");
            let what = format!("{what}, scale {scale}, ignored {ignored}");
            t.assert_loss(&what, &got.loss, want.loss);
            t.assert_close(&what, &got.dlogits, &want.dlogits);
            assert_eq!(t.b.read_counts(&got.confusion), want.confusion, "{what}");
        }
    });
}

#[test]
fn ohem_matches_the_cpu() {
    each_case("ohem", |t, what| {
        let ((x64, x), (y64, y)) = (t.logits(2.0, 5), t.labels(0.3, 6));
        let pixels = t.case.pixels().len();
        for ohem in [
            Ohem { threshold: 0.0, min_kept: 1 },
            Ohem { threshold: 0.0, min_kept: pixels / 3 + 1 },
            Ohem { threshold: 0.3, min_kept: 2 },
            Ohem { threshold: 0.0, min_kept: pixels },
            Ohem { threshold: 0.1, min_kept: pixels + 9 },
        ] {
            let want = ops::ohem_cross_entropy(&Cpu64::new(), &x64, &y64, &ohem, 1.0).expect("valid input");
            let got = ops::ohem_cross_entropy(&t.b, &x, &y, &ohem, 1.0).expect("valid input");
            let what = format!("{what} {ohem:?}");
            assert_eq!(t.b.read_counts(&got.confusion), want.confusion, "{what}");
            t.assert_loss(&what, &got.loss, want.loss);
            t.assert_close(&what, &got.dlogits, &want.dlogits);
        }
    });
}

#[test]
fn conf_ce_matches_the_cpu() {
    each_case("conf_ce", |t, what| {
        let (student64, student) = t.logits(1.5, 9);
        let (teachers64, teachers) = t.teachers(Ensemble { topk: 3, gamma: 0.5 }, 10);
        let pseudo = t.pseudo_labels(&teachers);
        let label = t.b.download_labels(&pseudo.label);
        let pseudo64 = PseudoLabel {
            label: cpu::Labels { shape: t.case.pixels(), data: Arc::new(label) },
            confidence: to_cpu(&t.b, &pseudo.confidence),
        };
        for (rounds, spec) in [
            (0, ConfCe { threshold: 0.5, ..CONF_CE }),
            (1, ConfCe { threshold: 0.3, ..CONF_CE }),
            (3, ConfCe { threshold: 0.3, weighted: false, ..CONF_CE }),
            (3, ConfCe { threshold: 1.5, ..CONF_CE }),
            (1, ConfCe { threshold: 0.4, negative_threshold: 0.05, ..CONF_CE }),
            (3, ConfCe { threshold: 0.4, negative_threshold: 0.1, square_weight: 0.5, ..CONF_CE }),
            (1, ConfCe { threshold: 0.4, square_weight: 0.5, weighted: false, ..CONF_CE }),
        ] {
            let mix = t.case.mix(rounds, 12 + rounds as u64);
            let what = format!("{what}, {rounds} rounds of CutMix, {spec:?}");
            let args = ops::ConfCeArgs {
                student: &student64,
                pseudo: &pseudo64,
                teachers: teachers64.logits(),
                mix: &mix,
                spec: &spec,
                grad_scale: 1.3,
            };
            let want = ops::conf_ce(&Cpu64::new(), &args).expect("valid input");
            let args = ops::ConfCeArgs {
                student: &student,
                pseudo: &pseudo,
                teachers: teachers.logits(),
                mix: &mix,
                spec: &spec,
                grad_scale: 1.3,
            };
            let got = ops::conf_ce(&t.b, &args).expect("valid input");
            assert_no_fault(&t.b, &what);
            t.assert_loss(&format!("{what}: positive"), &got.positive, want.positive);
            t.assert_loss(&format!("{what}: negative"), &got.negative, want.negative);
            t.assert_loss(&format!("{what}: square"), &got.square, want.square);
            assert_eq!(t.b.read_scalar(&got.passed), want.passed, "{what}: passed");
            assert_eq!(t.b.read_counts(&got.histogram), want.histogram, "{what}: histogram");
            assert_eq!(t.b.read_counts(&got.confusion), want.confusion, "{what}: confusion");
            t.assert_close(&what, &got.dstudent, &want.dstudent);
        }
    });
}

#[test]
fn mse_consistency_matches_the_cpu() {
    each_case("mse_consistency", |t, what| {
        let (student64, student) = t.logits(1.5, 20);
        for (rounds, topk) in [(0, 7), (1, 2), (3, 100)] {
            let (teachers64, teachers) = t.teachers(Ensemble { topk, gamma: 0.4 }, 21);
            let (size, mix) = (t.case.size, t.case.mix(rounds, 30));
            let args = ops::MseConsistencyArgs {
                student: &student64,
                teachers: teachers64.logits(),
                size,
                mix: &mix,
                grad_scale: 0.9,
            };
            let want = ops::mse_consistency(&Cpu64::new(), &args).expect("valid input");
            let args = ops::MseConsistencyArgs {
                student: &student,
                teachers: teachers.logits(),
                size,
                mix: &mix,
                grad_scale: 0.9,
            };
            let got = ops::mse_consistency(&t.b, &args).expect("valid input");
            let what = format!("{what}, {rounds} rounds of CutMix, top {topk}");
            t.assert_loss(&what, &got.loss, want.loss);
            t.assert_close(&what, &got.dlogits, &want.dlogits);
        }
    });
}

/// Bits of every loss's results, and of T-VAT's parts.
fn bits(t: &Trial) -> Vec<u32> {
    let Trial { b, case, .. } = t;
    let mut bits: Vec<u32> = Vec::new();
    let mut keep = |values: Vec<f32>| bits.extend(values.iter().map(|v| v.to_bits()));
    let (_, student) = t.logits(2.0, 50);
    let (_, teachers) = t.teachers(Ensemble { topk: 3, gamma: 0.5 }, 51);
    let mix = case.mix(2, 53);
    let pseudo = t.pseudo_labels(&teachers);
    keep(b.download(&pseudo.confidence));
    for (negative_threshold, square_weight) in [(0.1, 0.1), (0.0, 0.0)] {
        let args = ops::ConfCeArgs {
            student: &student,
            pseudo: &pseudo,
            teachers: teachers.logits(),
            mix: &mix,
            spec: &ConfCe { threshold: 0.3, negative_threshold, square_weight, weighted: true },
            grad_scale: 1.0,
        };
        let out = ops::conf_ce(b, &args).expect("valid input");
        keep(b.download(&out.dstudent));
        keep(vec![f32::from_bits(b.read_scalar(&out.positive).to_bits() as u32)]);
    }
    let (_, target) = t.labels(0.2, 54);
    let ohem = Ohem { threshold: 0.2, min_kept: 40 };
    let out = ops::ohem_cross_entropy(b, &student, &target, &ohem, 1.0).expect("valid input");
    keep(b.download(&out.dlogits));
    let args = ops::MseConsistencyArgs {
        student: &student,
        teachers: teachers.logits(),
        size: case.size,
        mix: &mix,
        grad_scale: 1.0,
    };
    keep(b.download(&ops::mse_consistency(b, &args).expect("valid input").dlogits));
    let wide = case.logits.with_channels(2 * case.logits.c);
    let [logits, tangents] = [55, 56].map(|seed| pair(b, wide, 2.0, seed).1);
    let out = ops::tvat_cotangent(b, &logits, &tangents, 2, case.size).expect("valid input");
    keep(b.download(&out));
    keep(b.download(&ops::kl_gradient(b, &teachers.core, &student, 1, case.size).expect("valid input")));
    keep(b.download(&ops::normalize(b, &teachers.core, 2.0).expect("valid input")));
    bits
}

/// The check build sees every access; the bits do not depend on the order of threads.
#[test]
fn schedules_agree_bit_by_bit() {
    let case = Case { logits: Shape::new(2, 3, 5, 9), size: (9, 17) };
    let run = |options: EmulatorOptions| -> Vec<u32> {
        let trials = devices(options).into_iter().map(|(dtype, b)| Trial { dtype, b, case });
        let run = |t: Trial| {
            let bits = bits(&t);
            assert_no_fault(&t.b, &format!("{options:?}"));
            bits
        };
        trials.flat_map(run).collect()
    };
    let first = run(CHECKED);
    for schedule in [Schedule::Ascending, Schedule::Descending, Schedule::Seeded(7)] {
        let again = run(EmulatorOptions { check: false, schedule, copies: CopyTime::Late });
        let differs = first.iter().zip(&again).position(|(a, b)| a != b);
        assert!(first.len() == again.len() && differs.is_none(), "{schedule:?}: value {differs:?} differs");
    }
}
