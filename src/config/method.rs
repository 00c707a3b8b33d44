//! Keys of `[method]`: the algorithm and what it does with unlabelled images.

use crate::method::cut_mix::CutMixForm;
use crate::method::schedule::RampUp;
use crate::method::{Algorithm, Tvat, TvatArgs};
use crate::ops::{ConfCe, Ensemble, View};
use serde::{Deserialize, Serialize};

/// PS-MT's own settings; the defaults are the published ones, T-VAT apart (see `docs/`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MethodConfig {
    /// Method or baseline.
    pub algorithm: Algorithm,
    /// Kind of feature noise.
    pub tvat: Tvat,
    /// Length of an image's noise.
    pub tvat_eps: f64,
    /// Probe of the finite difference.
    pub tvat_xi: f64,
    /// Rounds of power iteration.
    pub tvat_iterations: usize,
    /// Pixels whose confidence reaches this learn from their pseudo label.
    pub threshold: f64,
    /// Negative learning below this probability; 0 is off.
    pub negative_threshold: f64,
    /// Whether pixels count by their confidence.
    pub confidence_weighted: bool,
    /// Classes of the assisting teacher that count.
    pub topk: usize,
    /// Weight of the active teacher in the ensemble.
    pub gamma: f64,
    /// CutMix boxes.
    pub cut_mix: CutMixForm,
    /// Final weight of the unsupervised loss.
    pub unsup_weight: f64,
    /// Shape of the weight's rise.
    pub ramp_up: RampUp,
    /// Epochs of the rise, from the first epoch on.
    pub ramp_up_epochs: f64,
    /// The active teacher keeps this share of itself each step.
    pub ema_decay: f64,
    /// Passes over the labelled images before the epochs, in which networks learn from them alone at the base
    /// rate.
    pub warm_up_passes: u64,
    /// View of the labelled images that the student learns from.
    pub labeled_view: View,
    /// Where the teachers stand when the epochs begin.
    pub teacher_start: TeacherStart,
    /// Whether all networks begin with the same weights, as those with a pretrained backbone nearly do.
    pub shared_init: bool,
}

/// Where the teachers stand when the epochs begin. A moving average of weights is a good network only while
/// student and teacher are near each other; networks that began from different random weights are not (see
/// `docs/`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum TeacherStart {
    /// Each teacher trained for itself on labelled images, as published.
    WarmUp,
    /// Both are copies of the student; only the student trains in the warm-up.
    Student,
}

impl Default for MethodConfig {
    fn default() -> Self {
        MethodConfig {
            algorithm: Algorithm::PsMt,
            tvat: Tvat::Exact,
            tvat_eps: 2.0,
            tvat_xi: 1e-6,
            tvat_iterations: 1,
            threshold: 0.6,
            negative_threshold: 0.0,
            confidence_weighted: true,
            topk: 7,
            gamma: 0.5,
            cut_mix: CutMixForm::Voc,
            unsup_weight: 1.5,
            ramp_up: RampUp::Cosine,
            ramp_up_epochs: 12.0,
            ema_decay: 0.996,
            warm_up_passes: 5,
            labeled_view: View::Strong,
            teacher_start: TeacherStart::WarmUp,
            shared_init: false,
        }
    }
}

impl MethodConfig {
    /// Settings of the noise.
    pub fn tvat_args(&self) -> TvatArgs {
        TvatArgs { kind: self.tvat, eps: self.tvat_eps, xi: self.tvat_xi, iterations: self.tvat_iterations }
    }

    /// Settings of the confidence-weighted cross entropy.
    pub fn conf_ce(&self) -> ConfCe {
        ConfCe {
            threshold: self.threshold,
            negative_threshold: self.negative_threshold,
            // The published negative learning adds half the mean squared probability.
            square_weight: if self.negative_threshold > 0.0 { 0.5 } else { 0.0 },
            weighted: self.confidence_weighted,
        }
    }

    /// How the teachers combine.
    pub fn ensemble(&self) -> Ensemble {
        Ensemble { topk: self.topk, gamma: self.gamma }
    }
}
