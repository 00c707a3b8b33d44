//! Losses and counts of steps on the host, and their sums over an epoch. Must not know devices or files.

use crate::eval::{Confusion, Scores};
use crate::ops::HISTOGRAM_BINS;
use serde::{Deserialize, Serialize};

/// Losses of a step on the host.
pub(super) struct Losses {
    pub sup: f64,
    /// Unsupervised, weighted.
    pub unsup: f64,
    /// The student's confusion matrix over labelled pixels.
    pub confusion: Vec<u64>,
    /// `None` where there are no pseudo labels.
    pub pseudo: Option<PseudoLabels>,
}

/// Counts of a step's pseudo labels.
pub(super) struct PseudoLabels {
    /// Pixels that reached the threshold.
    pub passed: u64,
    /// Pixels with a pseudo label.
    pub pixels: u64,
    /// Confidences in equal bins.
    pub histogram: Vec<u64>,
    /// The student's confusion matrix with the pseudo labels, over pixels that passed.
    pub confusion: Vec<u64>,
    /// That of the pseudo labels with true labels, over pixels that passed; `None` where no true labels are
    /// known.
    pub truth: Option<Vec<u64>>,
}

/// Sums over the student's steps of an epoch, or of a pass of the warm-up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    /// Steps in the sums.
    pub steps: u64,
    /// Bits of the sum of the supervised losses.
    pub loss_sup: u64,
    /// Bits of the sum of the weighted unsupervised losses.
    pub loss_unsup: u64,
    /// Pixels that reached the confidence threshold.
    pub passed: u64,
    /// Pixels with a pseudo label.
    pub pixels: u64,
    /// Confidences in equal bins.
    pub histogram: [u64; HISTOGRAM_BINS],
    /// The student against the labels, in training mode.
    #[serde(default)]
    pub labeled: Confusion,
    /// The student against the pseudo labels that passed.
    #[serde(default)]
    pub pseudo: Confusion,
    /// Pseudo labels that passed against true labels, where those are known.
    #[serde(default)]
    pub truth: Confusion,
}

impl Sums {
    /// Adds one step's losses.
    pub(super) fn add(&mut self, losses: &Losses) {
        self.steps += 1;
        self.loss_sup = (f64::from_bits(self.loss_sup) + losses.sup).to_bits();
        self.loss_unsup = (f64::from_bits(self.loss_unsup) + losses.unsup).to_bits();
        self.labeled.add(&losses.confusion);
        let Some(pseudo) = &losses.pseudo else { return };
        self.passed += pseudo.passed;
        self.pixels += pseudo.pixels;
        self.pseudo.add(&pseudo.confusion);
        if let Some(truth) = &pseudo.truth {
            self.truth.add(truth);
        }
        for (sum, n) in self.histogram.iter_mut().zip(&pseudo.histogram) {
            *sum += n;
        }
    }

    /// Mean supervised and unsupervised loss.
    pub fn means(&self) -> (f64, f64) {
        let n = self.steps.max(1) as f64;
        (f64::from_bits(self.loss_sup) / n, f64::from_bits(self.loss_unsup) / n)
    }

    /// How good the pseudo labels that passed are, over pixels whose true label is known; `None` where there
    /// was no such pixel.
    pub fn pseudo_label_scores(&self) -> Option<Scores> {
        (self.truth.total() > 0).then(|| self.truth.scores())
    }

    /// Share of pixels that reached the threshold.
    pub fn pass_rate(&self) -> f64 {
        self.passed as f64 / self.pixels.max(1) as f64
    }
}
