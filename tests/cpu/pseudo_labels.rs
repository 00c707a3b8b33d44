//! Pseudo labels, CutMix and confusion matrices of the CPU device against plain loops.

use crate::loss_common::{Case, Teachers};
use crate::plain::{
    CASES, Cpu64, ensemble_pixel, labels, largest_of, one_close, randn, softmax, target_probabilities,
};
use psmt_fast::backend::cpu::{Cpu, Labels, Tensor};
use psmt_fast::ops::*;
use std::sync::Arc;

#[test]
fn pseudo_labels_match_sorting() {
    let b = Cpu64::new();
    for (k, case) in CASES.into_iter().enumerate() {
        let (core, assist) = (randn(case.logits, 2.0, k as u64), randn(case.logits, 2.0, 50 + k as u64));
        let mut teachers = Teachers { core, assist, ensemble: Ensemble { topk: 0, gamma: 0.3 } };
        for topk in [0, 1, 2, 7, 8, 30] {
            teachers.ensemble.topk = topk;
            let out = b.ensemble_pseudo_label(&teachers.logits(), case.size);
            let want = target_probabilities(&teachers, case.size, &Mix::default());
            for (i, p) in want.iter().enumerate() {
                let what = format!("pixel {i} of {case}, top {topk}");
                let (label, confidence) = largest_of(p);
                one_close(&format!("{what}: confidence"), out.confidence.data()[i], confidence, 1e-12);
                assert_eq!(usize::from(out.label.data[i]), label, "{what}: {p:?}");
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
    let ensemble = Ensemble { topk: 3, gamma: 0.5 };
    let want = softmax(&ensemble_pixel(core.data(), assist.data(), &ensemble));
    let out = b.ensemble_pseudo_label(&Teachers { core, assist, ensemble }.logits(), (2, 11));
    assert!(out.label.data.iter().all(|&l| l == 6), "{:?}", out.label.data);
    out.confidence.data().iter().for_each(|&c| one_close("confidence", c, want[6], 1e-12));
    let flat = Tensor::new(shape, vec![0.5; 9]);
    let out =
        b.ensemble_pseudo_label(&Teachers { core: flat.clone(), assist: flat, ensemble }.logits(), (3, 3));
    assert!(out.label.data.iter().all(|&l| l == 0), "{:?}", out.label.data);
}

#[test]
fn cut_mix_copies_its_boxes() {
    let b = Cpu64::new();
    let case = Case { logits: Shape::new(4, 13, 9, 3), size: (13, 9) };
    let plane = 13 * 9;
    for rounds in 0..4 {
        let (x, mix) = (randn(case.logits, 1.0, 1), case.mix(rounds, 2));
        let y = b.cut_mix(&x, &mix);
        for i in 0..case.logits.positions() {
            let (image, row, col) = (i / plane, i % plane / 9, i % 9);
            let from = mix.source(image, row, col) * plane + i % plane;
            let (got, want) = (&y.data()[i * 3..i * 3 + 3], &x.data()[from * 3..from * 3 + 3]);
            assert_eq!(got, want, "{rounds} rounds: row {row}, column {col} of image {image}");
        }
    }
}

/// Counts (target, prediction) of the pixels that have a target and that `counted` takes.
fn count(pred: &Labels, target: &Labels, classes: usize, counted: impl Fn(usize) -> bool) -> Vec<u64> {
    let mut counts = vec![0; classes * classes];
    for (i, (&p, &t)) in pred.data.iter().zip(target.data.iter()).enumerate() {
        if t != IGNORE && counted(i) {
            counts[usize::from(t) * classes + usize::from(p)] += 1;
        }
    }
    counts
}

#[test]
fn confusion_matrices_count_confident_pixels() {
    let b = Cpu64::new();
    // More pixels than a task takes.
    let case = Case { logits: Shape::new(3, 1, 1, 7), size: (211, 307) };
    let (target, mut pred) = (labels(case, 1), labels(case, 2));
    pred.data = Arc::new(pred.data.iter().map(|&p| p.min(6)).collect());
    assert_eq!(b.confusion_matrix(&pred, &target, 7, None), count(&pred, &target, 7, |_| true));

    // A threshold that is a confidence, in either precision.
    let confidence: Vec<f64> = randn(target.shape, 0.3, 3).data().iter().map(|c| c.abs()).collect();
    let threshold = confidence[100_000];
    let above = Tensor::new(target.shape, confidence.clone());
    let want = count(&pred, &target, 7, |i| confidence[i] >= threshold);
    assert_eq!(b.confusion_matrix(&pred, &target, 7, Some((&above, threshold))), want);
    assert_eq!(b.confusion_matrix(&pred, &target, 7, Some((&above, 9.0))), [0; 49]);
    let single = Cpu::<f32>::new();
    let above = single.upload(target.shape, &confidence.iter().map(|c| *c as f32).collect::<Vec<_>>());
    let want = count(&pred, &target, 7, |i| confidence[i] as f32 >= threshold as f32);
    assert_eq!(single.confusion_matrix(&pred, &target, 7, Some((&above, threshold))), want);
}
