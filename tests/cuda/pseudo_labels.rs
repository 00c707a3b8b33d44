//! Pseudo labels of the CUDA device, and how many of them are right, against plain loops, on the emulator.

use crate::cuda_common::{CHECKED, PLAIN, assert_no_fault};
use crate::loss_cases::{Cpu64, Tensor64, Trial, devices, each_case};
use crate::loss_common::{CONF_CE, Case, Teachers};
use psmt_fast::ops::{self, *};

/// Target probabilities of every pixel by plain loops and sorting.
fn target_probabilities(teachers: &Teachers<Cpu64>, size: Size) -> Vec<Vec<f64>> {
    let up = |x: &Tensor64| ops::interpolate(&Cpu64::new(), x, size).expect("valid input");
    let (core, assist) = (up(&teachers.core), up(&teachers.assist));
    let (c, e) = (core.shape().c, teachers.ensemble);
    let target = |(core, assist): (&[f64], &[f64])| {
        let mut order: Vec<usize> = (0..c).collect();
        order.sort_by(|&i, &j| assist[j].total_cmp(&assist[i]));
        let mut z = core.to_vec();
        order.iter().take(e.topk).for_each(|&i| z[i] = e.gamma * core[i] + (1.0 - e.gamma) * assist[i]);
        let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = z.iter().map(|v| (v - max).exp()).sum();
        z.iter().map(|v| (v - max).exp() / sum).collect()
    };
    core.data().chunks(c).zip(assist.data().chunks(c)).map(target).collect()
}

#[test]
fn pseudo_labels_match_plain_loops() {
    each_case("ensemble_pseudo_label", |t, what| {
        for (topk, gamma) in [(7, 0.5), (1, 0.25), (9, 0.5), (200, 0.7), (3, 0.0)] {
            let (teachers64, teachers) = t.teachers(Ensemble { topk, gamma }, 7);
            let got = t.pseudo_labels(&teachers);
            let (label, confidence) = (t.b.download_labels(&got.label), t.b.download(&got.confidence));
            for (i, p) in target_probabilities(&teachers64, t.case.size).iter().enumerate() {
                let what = format!("{what}, top {topk}, gamma {gamma}, pixel {i}");
                let largest = p.iter().copied().fold(0.0, f64::max);
                let (label, confidence) = (usize::from(label[i]), f64::from(confidence[i]));
                // Logits of about 8 are off by some 2^-21, probabilities by that part of themselves.
                assert!(
                    (confidence - largest).abs() < 3e-6,
                    "{what}: confidence {confidence}, not {largest}"
                );
                assert!(largest - p[label] < 3e-6, "{what}: label {label} of {p:?}");
            }
        }
    });
}

#[test]
fn equal_logits_go_to_the_lowest_class() {
    for (_, b) in devices(PLAIN) {
        let shape = Shape::new(1, 2, 2, 12);
        let assist = b.upload(shape, &[1.0; 48]);
        let core: Vec<f32> = (0..48).map(|i| if i % 12 == 9 { 2.0 } else { 0.0 }).collect();
        let core = b.upload(shape, &core);
        let label = |teachers: Teachers<_>| {
            ops::ensemble_pseudo_label(&b, &teachers.logits(), (5, 5)).expect("valid input")
        };
        // The assistant's four first classes count with 1, the others keep the core's 0 and 2.
        let ensemble = Ensemble { topk: 4, gamma: 0.0 };
        let out = label(Teachers { core, assist: assist.clone(), ensemble });
        let sum = 1.0 + 4.0 * (-1f32).exp() + 7.0 * (-2f32).exp();
        assert_eq!(b.download_labels(&out.label), [9; 25]);
        assert!(b.download(&out.confidence).iter().all(|c| (c - 1.0 / sum).abs() < 1e-6));
        let ensemble = Ensemble { topk: 12, gamma: 0.5 };
        let out = label(Teachers { core: assist.clone(), assist, ensemble });
        assert_eq!(b.download_labels(&out.label), [0; 25]);
        assert_no_fault(&b, "ties");
    }
}

/// Pseudo labels against true ones: counted by a plain loop over what the device holds, compared as conf_ce
/// compares.
#[test]
fn confident_pixels_alone_are_counted() {
    // One pixel, one off a warp and a run of 16, more than a block, and a matrix that shared memory does not
    // hold.
    let cases = [
        Case { logits: Shape::new(1, 1, 1, 2), size: (1, 1) },
        Case { logits: Shape::new(1, 3, 3, 3), size: (3, 11) },
        Case { logits: Shape::new(1, 2, 4, 5), size: (1, 31) },
        Case { logits: Shape::new(2, 6, 9, 21), size: (37, 61) },
        Case { logits: Shape::new(1, 3, 4, 130), size: (13, 17) },
    ];
    for (dtype, b) in [PLAIN, CHECKED].into_iter().flat_map(devices) {
        cases.into_iter().for_each(|case| count_confident(&Trial { dtype, b: b.clone(), case }));
    }
}

fn count_confident(t: &Trial) {
    let Trial { b, case, .. } = t;
    let classes = case.logits.c;
    let (_, teachers) = t.teachers(Ensemble { topk: 3, gamma: 0.5 }, 60);
    let (_, student) = t.logits(2.0, 62);
    let pseudo = t.pseudo_labels(&teachers);
    let (label, confidence) = (b.download_labels(&pseudo.label), b.download(&pseudo.confidence));
    let mut sorted = confidence.clone();
    sorted.sort_by(f32::total_cmp);
    // A confidence itself, one that is no f32, all, none.
    for threshold in [f64::from(sorted[sorted.len() / 2]), 0.6, 0.0, 1.5] {
        for ignored in [0.0, 0.3, 1.0] {
            let what = format!("{:?}, {case}, threshold {threshold}, {ignored} ignored", t.dtype);
            let (truth, target) = t.labels(ignored, 63);
            let mut want = vec![0; classes * classes];
            for (i, &truth) in truth.data.iter().enumerate() {
                if truth != IGNORE && confidence[i] >= threshold as f32 {
                    want[usize::from(truth) * classes + usize::from(label[i])] += 1;
                }
            }
            let above = Some((&pseudo.confidence, threshold));
            let counts =
                ops::confusion_matrix(b, &pseudo.label, &target, classes, above).expect("valid input");
            assert_eq!(b.read_counts(&counts), want, "{what}");
            assert!(threshold < 1.0 || want.iter().all(|n| *n == 0), "{what}");
            if ignored == 0.0 {
                let args = ops::ConfCeArgs {
                    student: &student,
                    pseudo: &pseudo,
                    teachers: teachers.logits(),
                    mix: &Mix::default(),
                    spec: &ConfCe { threshold, ..CONF_CE },
                    grad_scale: 1.0,
                };
                let out = ops::conf_ce(b, &args).expect("valid input");
                assert_eq!(b.read_scalar(&out.passed), want.iter().sum::<u64>() as f64, "{what}: passed");
            }
            assert_no_fault(b, &what);
        }
    }
}
