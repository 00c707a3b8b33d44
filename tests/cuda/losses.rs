//! Fused losses, pseudo labels and T-VAT's parts of the CUDA device against the CPU in f64, on the emulator. Shapes include
//! 1, primes, sizes that are no multiple of 4, downsampling and more than one tile.

use crate::loss_common::mix;
use psmt_emulator::{self as emulator, CopyTime, EmulatorOptions, Schedule};
use psmt_fast::backend::cpu::{self, Cpu};
use psmt_fast::backend::cuda::{Cuda, Dtype};
use psmt_fast::ops::{self, *};
use psmt_fast::rng::{Domain, Key};
use std::sync::Arc;

type Cpu64 = Cpu<f64>;
type Tensor64 = cpu::Tensor<f64>;

const CASES: [(Shape, Size); 6] = [
    (Shape::new(2, 5, 7, 11), (17, 25)),
    (Shape::new(1, 1, 1, 2), (5, 6)),
    (Shape::new(2, 3, 9, 21), (9, 33)),
    (Shape::new(2, 11, 13, 5), (7, 5)),
    (Shape::new(1, 6, 5, 33), (21, 17)),
    (Shape::new(1, 2, 3, 1), (2, 140)),
];

/// A device of each precision; none, with a word, where this build has no emulator.
fn devices(options: EmulatorOptions) -> Vec<Cuda> {
    match emulator::open(options) {
        Ok(driver) => vec![Cuda::new(driver.clone(), Dtype::F32), Cuda::new(driver, Dtype::Bf16)],
        Err(e) => {
            eprintln!("skipped: {e}");
            Vec::new()
        }
    }
}

/// The same values on the CPU and on a device, normal with deviation `scale`.
fn pair(b: &Cuda, shape: Shape, scale: f64, seed: u64) -> (Tensor64, <Cuda as Device>::Tensor) {
    let mut stream = Key::new(seed, Domain::Bench, 0).stream();
    let values: Vec<f32> = (0..shape.len()).map(|_| (scale * f64::from(stream.normal())) as f32).collect();
    let x = b.upload(shape, &values);
    // What the device holds: rounded where its activations are bf16.
    (to_cpu(b, &x), x)
}

fn to_cpu(b: &Cuda, x: &<Cuda as Device>::Tensor) -> Tensor64 {
    Tensor64::new(Cuda::shape(x), b.download(x).into_iter().map(f64::from).collect())
}

fn labels(b: &Cuda, shape: Shape, data: Vec<u8>) -> (cpu::Labels, <Cuda as Device>::Labels) {
    let device = b.upload_labels(shape, &data);
    (cpu::Labels { shape, data: Arc::new(data) }, device)
}

fn targets(shape: Shape, size: Size, ignored: f32, seed: u64) -> Vec<u8> {
    let mut s = Key::new(seed, Domain::Bench, 1).stream();
    (0..shape.n * size.0 * size.1)
        .map(|_| if s.chance(ignored) { IGNORE } else { s.below(shape.c) as u8 })
        .collect()
}

fn full(shape: Shape, size: Size) -> Shape {
    Shape::new(shape.n, size.0, size.1, 1)
}

/// Sums in f32 of terms of either sign: a few dozen roundings (2^-24 each) of the largest value. Results in bf16 are
/// rounded once more, by up to 2^-9 of their own value.
fn all_close(got: &Tensor64, want: &Tensor64, dtype: Dtype, what: &str) {
    assert_eq!(got.shape(), want.shape(), "{what}");
    let largest = want.data().iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let rounding = if dtype == Dtype::Bf16 { 1.0 / 256.0 } else { 0.0 };
    for (i, (&g, &w)) in got.data().iter().zip(want.data()).enumerate() {
        let allowed = 1e-5 * largest + rounding * w.abs() + 1e-30;
        assert!((g - w).abs() <= allowed, "{what} at {i}: got {g}, want {w} within {allowed}");
    }
}

/// Losses are f32 terms summed in f64: a part in 10^5.
fn close(got: f64, want: f64, what: &str) {
    assert!((got - want).abs() <= 1e-5 * want.abs() + 1e-12, "{what}: got {got}, want {want}");
}

fn no_fault(b: &Cuda, what: &str) {
    if let Err(fault) = b.check() {
        panic!("{what}: {fault}");
    }
}

/// Runs `test(device, dtype, shape, size, what)` on every device and shape.
fn each_case(name: &str, test: impl Fn(&Cuda, Dtype, Shape, Size, &str)) {
    for (b, dtype) in devices(EmulatorOptions::default()).into_iter().zip([Dtype::F32, Dtype::Bf16]) {
        for (shape, size) in CASES {
            let what = format!("{name} {dtype:?} {shape} to {size:?}");
            test(&b, dtype, shape, size, &what);
            no_fault(&b, &what);
        }
    }
}

#[test]
fn cross_entropy_matches_the_cpu() {
    each_case("cross_entropy", |b, dtype, shape, size, what| {
        // The third scale is beyond what powers hold without the largest logit taken out.
        for (scale, ignored) in [(2.0, 0.2), (1.0, 1.0), (400.0, 0.1)] {
            let (x64, x) = pair(b, shape, scale, 3);
            let (t64, t) = labels(b, full(shape, size), targets(shape, size, ignored, 4));
            let want = ops::cross_entropy(&Cpu64::new(), &x64, &t64, 0.7).expect("valid input");
            let got = ops::cross_entropy(b, &x, &t, 0.7).expect("valid input");
            let what = format!("{what}, scale {scale}, ignored {ignored}");
            close(b.read_scalar(&got.loss), want.loss, &what);
            all_close(&to_cpu(b, &got.dlogits), &want.dlogits, dtype, &what);
            assert_eq!(b.read_counts(&got.confusion), want.confusion, "{what}");
        }
    });
}

#[test]
fn ohem_matches_the_cpu() {
    each_case("ohem", |b, dtype, shape, size, what| {
        let (x64, x) = pair(b, shape, 2.0, 5);
        let (t64, t) = labels(b, full(shape, size), targets(shape, size, 0.3, 6));
        let pixels = shape.n * size.0 * size.1;
        for (threshold, min_kept) in
            [(0.0, 1), (0.0, pixels / 3 + 1), (0.3, 2), (0.0, pixels), (0.1, pixels + 9)]
        {
            let ohem = Ohem { threshold, min_kept };
            let want = ops::ohem_cross_entropy(&Cpu64::new(), &x64, &t64, &ohem, 1.0).expect("valid input");
            let got = ops::ohem_cross_entropy(b, &x, &t, &ohem, 1.0).expect("valid input");
            let what = format!("{what} {ohem:?}");
            assert_eq!(b.read_counts(&got.confusion), want.confusion, "{what}");
            close(b.read_scalar(&got.loss), want.loss, &what);
            all_close(&to_cpu(b, &got.dlogits), &want.dlogits, dtype, &what);
        }
    });
}

/// Target probabilities of every pixel by plain loops and sorting.
fn target_probabilities(core: &Tensor64, assist: &Tensor64, size: Size, e: &Ensemble) -> Vec<Vec<f64>> {
    let up = |x: &Tensor64| ops::interpolate(&Cpu64::new(), x, size).expect("valid input");
    let (core, assist) = (up(core), up(assist));
    let c = core.shape().c;
    core.data()
        .chunks(c)
        .zip(assist.data().chunks(c))
        .map(|(core, assist)| {
            let mut order: Vec<usize> = (0..c).collect();
            order.sort_by(|&i, &j| assist[j].total_cmp(&assist[i]));
            let mut z = core.to_vec();
            order.iter().take(e.topk).for_each(|&i| z[i] = e.gamma * core[i] + (1.0 - e.gamma) * assist[i]);
            let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = z.iter().map(|v| (v - max).exp()).sum();
            z.iter().map(|v| (v - max).exp() / sum).collect()
        })
        .collect()
}

#[test]
fn pseudo_labels_match_plain_loops() {
    each_case("ensemble", |b, _, shape, size, what| {
        let ((core64, core), (assist64, assist)) = (pair(b, shape, 2.0, 7), pair(b, shape, 2.0, 8));
        for (topk, gamma) in [(7, 0.5), (1, 0.25), (9, 0.5), (200, 0.7), (3, 0.0)] {
            let e = Ensemble { topk, gamma };
            let got = ops::ensemble_pseudo_label(
                b,
                &ops::TeacherLogits { core: &core, assist: &assist, ensemble: &e },
                size,
            )
            .expect("valid input");
            let (label, confidence) = (b.download_labels(&got.label), b.download(&got.confidence));
            let want = target_probabilities(&core64, &assist64, size, &e);
            for (i, p) in want.iter().enumerate() {
                let largest = p.iter().copied().fold(0.0, f64::max);
                let (label, confidence) = (usize::from(label[i]), f64::from(confidence[i]));
                // Logits of about 8 are off by some 2^-21, probabilities by that part of themselves.
                assert!(
                    (confidence - largest).abs() < 3e-6,
                    "{what} {e:?} pixel {i}: {confidence}, {largest}"
                );
                assert!(largest - p[label] < 3e-6, "{what} {e:?} pixel {i}: label {label} of {p:?}");
            }
        }
    });
}

#[test]
fn equal_logits_go_to_the_lowest_class() {
    for b in devices(EmulatorOptions::default()) {
        let shape = Shape::new(1, 2, 2, 12);
        let x = b.upload(shape, &[1.0; 48]);
        let core: Vec<f32> = (0..48).map(|i| if i % 12 == 9 { 2.0 } else { 0.0 }).collect();
        let core = b.upload(shape, &core);
        // The assistant's four first classes count with 1, the others keep the core's 0 and 2.
        let e = Ensemble { topk: 4, gamma: 0.0 };
        let out = ops::ensemble_pseudo_label(
            &b,
            &ops::TeacherLogits { core: &core, assist: &x, ensemble: &e },
            (5, 5),
        )
        .expect("valid input");
        let sum = 1.0 + 4.0 * (-1f32).exp() + 7.0 * (-2f32).exp();
        assert_eq!(b.download_labels(&out.label), [9; 25]);
        assert!(b.download(&out.confidence).iter().all(|c| (c - 1.0 / sum).abs() < 1e-6));
        let e = Ensemble { topk: 12, gamma: 0.5 };
        let out = ops::ensemble_pseudo_label(
            &b,
            &ops::TeacherLogits { core: &x, assist: &x, ensemble: &e },
            (5, 5),
        )
        .expect("valid input");
        assert_eq!(b.download_labels(&out.label), [0; 25]);
        no_fault(&b, "ties");
    }
}

#[test]
fn conf_ce_matches_the_cpu() {
    each_case("conf_ce", |b, dtype, shape, size, what| {
        let (student64, student) = pair(b, shape, 1.5, 9);
        let ((core64, core), (assist64, assist)) = (pair(b, shape, 2.0, 10), pair(b, shape, 2.0, 11));
        let ensemble = Ensemble { topk: 3, gamma: 0.5 };
        let pseudo = ops::ensemble_pseudo_label(
            b,
            &ops::TeacherLogits { core: &core, assist: &assist, ensemble: &ensemble },
            size,
        )
        .expect("valid input");
        let label = b.download_labels(&pseudo.label);
        let pseudo64 = PseudoLabel {
            label: cpu::Labels { shape: full(shape, size), data: Arc::new(label) },
            confidence: to_cpu(b, &pseudo.confidence),
        };
        // Rounds of CutMix, threshold, negative threshold, square weight, weighted.
        for (rounds, threshold, negative_threshold, square_weight, weighted) in [
            (0, 0.5, 0.0, 0.0, true),
            (1, 0.3, 0.0, 0.0, true),
            (3, 0.3, 0.0, 0.0, false),
            (3, 1.5, 0.0, 0.0, true),
            (1, 0.4, 0.05, 0.0, true),
            (3, 0.4, 0.1, 0.5, true),
            (1, 0.4, 0.0, 0.5, false),
        ] {
            let spec = ConfCe { threshold, negative_threshold, square_weight, weighted };
            let mix = mix(shape.n, size, rounds, 12 + rounds as u64);
            let what = format!("{what}, {rounds} rounds, {spec:?}");
            let want = ops::conf_ce(
                &Cpu64::new(),
                &ops::ConfCeArgs {
                    student: &student64,
                    pseudo: &pseudo64,
                    teachers: ops::TeacherLogits { core: &core64, assist: &assist64, ensemble: &ensemble },
                    mix: &mix,
                    spec: &spec,
                    grad_scale: 1.3,
                },
            )
            .expect("valid input");
            let got = ops::conf_ce(
                b,
                &ops::ConfCeArgs {
                    student: &student,
                    pseudo: &pseudo,
                    teachers: ops::TeacherLogits { core: &core, assist: &assist, ensemble: &ensemble },
                    mix: &mix,
                    spec: &spec,
                    grad_scale: 1.3,
                },
            )
            .expect("valid input");
            no_fault(b, &what);
            close(b.read_scalar(&got.positive), want.positive, &format!("{what}: positive"));
            close(b.read_scalar(&got.negative), want.negative, &format!("{what}: negative"));
            close(b.read_scalar(&got.square), want.square, &format!("{what}: square"));
            assert_eq!(b.read_scalar(&got.passed), want.passed, "{what}");
            assert_eq!(b.read_counts(&got.histogram), want.histogram, "{what}");
            assert_eq!(b.read_counts(&got.confusion), want.confusion, "{what}");
            all_close(&to_cpu(b, &got.dstudent), &want.dstudent, dtype, &what);
        }
    });
}

/// Pseudo labels against true ones: counted by a plain loop over what the device holds, compared as conf_ce compares.
#[test]
fn confident_pixels_alone_are_counted() {
    // One pixel, one off a warp and a run of 16, more than a block, and a matrix that shared memory does not hold.
    let cases = [
        (Shape::new(1, 1, 1, 2), (1, 1)),
        (Shape::new(1, 3, 3, 3), (3, 11)),
        (Shape::new(1, 2, 4, 5), (1, 31)),
        (Shape::new(2, 6, 9, 21), (37, 61)),
        (Shape::new(1, 3, 4, 130), (13, 17)),
    ];
    for check in [false, true] {
        for b in devices(EmulatorOptions { check, ..EmulatorOptions::default() }) {
            for (shape, size) in cases {
                let [core, assist, student] = [60, 61, 62].map(|seed| pair(&b, shape, 2.0, seed).1);
                let ensemble = Ensemble { topk: 3, gamma: 0.5 };
                let pseudo = ops::ensemble_pseudo_label(
                    &b,
                    &ops::TeacherLogits { core: &core, assist: &assist, ensemble: &ensemble },
                    size,
                )
                .expect("valid input");
                let (label, confidence) = (b.download_labels(&pseudo.label), b.download(&pseudo.confidence));
                let mut sorted = confidence.clone();
                sorted.sort_by(f32::total_cmp);
                // A confidence itself, one that is no f32, all, none.
                for threshold in [f64::from(sorted[sorted.len() / 2]), 0.6, 0.0, 1.5] {
                    for ignored in [0.0, 0.3, 1.0] {
                        let (_, target) = labels(&b, full(shape, size), targets(shape, size, ignored, 63));
                        let truth = b.download_labels(&target);
                        let mut want = vec![0; shape.c * shape.c];
                        for i in 0..truth.len() {
                            if truth[i] != IGNORE && confidence[i] >= threshold as f32 {
                                want[usize::from(truth[i]) * shape.c + usize::from(label[i])] += 1;
                            }
                        }
                        let above = Some((&pseudo.confidence, threshold));
                        let counts = ops::confusion_matrix(&b, &pseudo.label, &target, shape.c, above)
                            .expect("valid input");
                        let what = format!("{shape} at {size:?}, threshold {threshold}, {ignored} ignored");
                        assert_eq!(b.read_counts(&counts), want, "{what}");
                        assert!(threshold < 1.0 || want.iter().all(|n| *n == 0), "{what}");
                        if ignored == 0.0 {
                            let (mix, spec) = (
                                Mix::default(),
                                ConfCe {
                                    threshold,
                                    negative_threshold: 0.0,
                                    square_weight: 0.0,
                                    weighted: true,
                                },
                            );
                            let out = ops::conf_ce(
                                &b,
                                &ops::ConfCeArgs {
                                    student: &student,
                                    pseudo: &pseudo,
                                    teachers: ops::TeacherLogits {
                                        core: &core,
                                        assist: &assist,
                                        ensemble: &ensemble,
                                    },
                                    mix: &mix,
                                    spec: &spec,
                                    grad_scale: 1.0,
                                },
                            )
                            .expect("valid input");
                            assert_eq!(b.read_scalar(&out.passed), want.iter().sum::<u64>() as f64, "{what}");
                        }
                        no_fault(&b, &what);
                    }
                }
            }
        }
    }
}

#[test]
fn mse_consistency_matches_the_cpu() {
    each_case("mse", |b, dtype, shape, size, what| {
        let (student64, student) = pair(b, shape, 1.5, 20);
        let ((core64, core), (assist64, assist)) = (pair(b, shape, 2.0, 21), pair(b, shape, 2.0, 22));
        for (rounds, topk) in [(0, 7), (1, 2), (3, 100)] {
            let (e, mix) = (Ensemble { topk, gamma: 0.4 }, mix(shape.n, size, rounds, 30));
            let want = ops::mse_consistency(
                &Cpu64::new(),
                &ops::MseConsistencyArgs {
                    student: &student64,
                    teachers: ops::TeacherLogits { core: &core64, assist: &assist64, ensemble: &e },
                    size,
                    mix: &mix,
                    grad_scale: 0.9,
                },
            )
            .expect("valid input");
            let got = ops::mse_consistency(
                b,
                &ops::MseConsistencyArgs {
                    student: &student,
                    teachers: ops::TeacherLogits { core: &core, assist: &assist, ensemble: &e },
                    size,
                    mix: &mix,
                    grad_scale: 0.9,
                },
            )
            .expect("valid input");
            let what = format!("{what}, {rounds} rounds, {e:?}");
            close(b.read_scalar(&got.loss), want.loss, &what);
            all_close(&to_cpu(b, &got.dlogits), &want.dlogits, dtype, &what);
        }
    });
}

#[test]
fn tvat_cotangents_match_the_cpu() {
    each_case("tvat", |b, dtype, shape, size, what| {
        for k in 1..=3 {
            let wide = shape.with_channels(k * shape.c);
            let ((z64, z), (t64, t)) = (pair(b, wide, 1.5, 40), pair(b, wide, 1.5, 41));
            let cpu = Cpu64::new();
            let want = ops::tvat_cotangent(&cpu, &z64, &t64, k, size).expect("valid input");
            let got = ops::tvat_cotangent(b, &z, &t, k, size).expect("valid input");
            all_close(&to_cpu(b, &got), &want, dtype, &format!("{what}: cotangent of {k}"));
            let want = ops::kl_gradient(&cpu, &z64, &t64, k, size).expect("valid input");
            let got = ops::kl_gradient(b, &z, &t, k, size).expect("valid input");
            all_close(&to_cpu(b, &got), &want, dtype, &format!("{what}: KL gradient of {k}"));
        }
    });
}

#[test]
fn noise_is_the_same_and_norms_are_right() {
    for (b, dtype) in devices(EmulatorOptions::default()).into_iter().zip([Dtype::F32, Dtype::Bf16]) {
        let key = Key::new(0x1234_5678_9abc, Domain::NoiseUnlabeled, 1 << 33);
        for shape in [Shape::new(1, 1, 1, 1), Shape::new(2, 3, 5, 7), Shape::new(3, 17, 19, 64)] {
            let noise = ops::uniform_noise(&b, shape, key).expect("valid input");
            let want: Vec<f32> = (0..shape.len() as u64)
                .map(|i| key.uniform(i) - 0.5)
                .map(|v| if dtype == Dtype::Bf16 { half::bf16::from_f32(v).to_f32() } else { v })
                .collect();
            assert_eq!(b.download(&noise), want, "{dtype:?} {shape}");
            let want = ops::normalize(&Cpu64::new(), &to_cpu(&b, &noise), 2.0).expect("valid input");
            let got = ops::normalize(&b, &noise, 2.0).expect("valid input");
            let sum = ops::add_normalized(&b, &got, &noise, 3.0).expect("valid input");
            let want_sum = to_cpu(&b, &got);
            let want_sum =
                ops::add_normalized(&Cpu64::new(), &want_sum, &to_cpu(&b, &noise), 3.0).expect("valid input");
            all_close(&to_cpu(&b, &sum), &want_sum, dtype, "added");
            all_close(&to_cpu(&b, &got), &want, dtype, &format!("normalize {dtype:?} {shape}"));
            no_fault(&b, "noise");
        }
        let zero = b.upload(Shape::new(1, 1, 2, 2), &[0.0; 4]);
        assert_eq!(b.download(&ops::normalize(&b, &zero, 2.0).expect("valid input")), [0.0; 4]);
    }
}

/// The check build sees every access; the bits do not depend on the order of threads.
#[test]
fn schedules_agree_bit_by_bit() {
    let run = |options: EmulatorOptions| {
        let mut bits: Vec<u32> = Vec::new();
        for b in devices(options) {
            let (shape, size) = (Shape::new(2, 3, 5, 9), (9, 17));
            let [student, core, assist] = [50, 51, 52].map(|seed| pair(&b, shape, 2.0, seed).1);
            let e = Ensemble { topk: 3, gamma: 0.5 };
            let mix = mix(2, size, 2, 53);
            let spec = ConfCe { threshold: 0.3, negative_threshold: 0.1, square_weight: 0.5, weighted: true };
            let pseudo = ops::ensemble_pseudo_label(
                &b,
                &ops::TeacherLogits { core: &core, assist: &assist, ensemble: &e },
                size,
            )
            .expect("valid input");
            bits.extend(b.download(&pseudo.confidence).iter().map(|v| v.to_bits()));
            for negative_threshold in [0.1, 0.0] {
                let spec = ConfCe { negative_threshold, square_weight: negative_threshold, ..spec };
                let out = ops::conf_ce(
                    &b,
                    &ops::ConfCeArgs {
                        student: &student,
                        pseudo: &pseudo,
                        teachers: ops::TeacherLogits { core: &core, assist: &assist, ensemble: &e },
                        mix: &mix,
                        spec: &spec,
                        grad_scale: 1.0,
                    },
                )
                .expect("valid input");
                bits.extend(b.download(&out.dstudent).iter().map(|v| v.to_bits()));
                bits.push(b.read_scalar(&out.positive).to_bits() as u32);
            }
            let (_, target) = labels(&b, full(shape, size), targets(shape, size, 0.2, 54));
            let ohem = Ohem { threshold: 0.2, min_kept: 40 };
            let out = ops::ohem_cross_entropy(&b, &student, &target, &ohem, 1.0).expect("valid input");
            bits.extend(b.download(&out.dlogits).iter().map(|v| v.to_bits()));
            let out = ops::mse_consistency(
                &b,
                &ops::MseConsistencyArgs {
                    student: &student,
                    teachers: ops::TeacherLogits { core: &core, assist: &assist, ensemble: &e },
                    size,
                    mix: &mix,
                    grad_scale: 1.0,
                },
            )
            .expect("valid input");
            bits.extend(b.download(&out.dlogits).iter().map(|v| v.to_bits()));
            let [logits, tangents] =
                [55, 56].map(|seed| pair(&b, shape.with_channels(2 * shape.c), 2.0, seed).1);
            let out = ops::tvat_cotangent(&b, &logits, &tangents, 2, size).expect("valid input");
            bits.extend(b.download(&out).iter().map(|v| v.to_bits()));
            let out = ops::kl_gradient(&b, &core, &student, 1, size).expect("valid input");
            bits.extend(b.download(&out).iter().map(|v| v.to_bits()));
            bits.extend(
                b.download(&ops::normalize(&b, &core, 2.0).expect("valid input")).iter().map(|v| v.to_bits()),
            );
            no_fault(&b, &format!("{options:?}"));
        }
        bits
    };
    let first = run(EmulatorOptions { check: true, ..EmulatorOptions::default() });
    for schedule in [Schedule::Ascending, Schedule::Descending, Schedule::Seeded(7)] {
        let again = run(EmulatorOptions { check: false, schedule, copies: CopyTime::Late });
        assert!(first == again, "{schedule:?}");
    }
}
