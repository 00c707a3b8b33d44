//! Confusion matrix of predicted and true labels, and the parts that losses share.

use super::{Cpu, Labels, Real, Tensor};
use crate::ops::ConfusionMatrixOps;
use rayon::prelude::*;

impl<T: Real> ConfusionMatrixOps for Cpu<T> {
    fn confusion_matrix(
        &self,
        pred: &Labels,
        target: &Labels,
        num_classes: usize,
        above: Option<(&Tensor<T>, f64)>,
    ) -> Vec<u64> {
        let above = above.map(|(confidence, threshold)| (confidence.data(), T::from_f64(threshold)));
        let chunks = pred.data.par_chunks(CHUNK).zip(target.data.par_chunks(CHUNK)).enumerate();
        let count = |(chunk, (pred, target)): (usize, (&[u8], &[u8]))| {
            let passes = |i: usize| above.is_none_or(|(confidence, t)| confidence[chunk * CHUNK + i] >= t);
            let mut counts = vec![0u64; num_classes * num_classes];
            for (i, (&p, &t)) in pred.iter().zip(target).enumerate() {
                let (p, t) = (usize::from(p), usize::from(t));
                if t < num_classes && p < num_classes && passes(i) {
                    counts[t * num_classes + p] += 1;
                }
            }
            counts
        };
        let parts: Vec<Vec<u64>> = chunks.map(count).collect();
        total(num_classes * num_classes, parts.iter())
    }
}

/// Pixels of one task.
const CHUNK: usize = 1 << 16;

/// Adds one row's pairs of label and prediction to `counts`, those of the pixels that `counted` selects.
pub fn add_row(
    counts: &mut [u64],
    num_classes: usize,
    labels: &[u8],
    best: &[u32],
    counted: impl Fn(usize) -> bool,
) {
    for (x, (&label, &best)) in labels.iter().zip(best).enumerate() {
        if usize::from(label) < num_classes && counted(x) {
            counts[usize::from(label) * num_classes + best as usize] += 1;
        }
    }
}

/// Element-wise sum of matrices of `len` counts.
pub fn total<'a>(len: usize, parts: impl Iterator<Item = &'a Vec<u64>>) -> Vec<u64> {
    let mut total = vec![0; len];
    for part in parts {
        for (t, v) in total.iter_mut().zip(part) {
            *t += v;
        }
    }
    total
}
