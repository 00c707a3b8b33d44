//! Confusion matrix of predicted and true labels.

use super::Labels;
use rayon::prelude::*;

/// Pixels of one task.
const CHUNK: usize = 1 << 16;

/// Counts `[num_classes, num_classes]`, row = target, column = prediction. Pixels whose target is no class (ignored)
/// do not count.
pub fn count(pred: &Labels, target: &Labels, num_classes: usize) -> Vec<u64> {
    let parts: Vec<Vec<u64>> = pred
        .data
        .par_chunks(CHUNK)
        .zip(target.data.par_chunks(CHUNK))
        .map(|(pred, target)| {
            let mut counts = vec![0u64; num_classes * num_classes];
            for (&p, &t) in pred.iter().zip(target) {
                let (p, t) = (usize::from(p), usize::from(t));
                if t < num_classes && p < num_classes {
                    counts[t * num_classes + p] += 1;
                }
            }
            counts
        })
        .collect();
    let mut total = vec![0; num_classes * num_classes];
    for part in parts {
        for (t, v) in total.iter_mut().zip(part) {
            *t += v;
        }
    }
    total
}
