//! PS-MT itself: teachers, pseudo labels, T-VAT, CutMix, ramp-up, and one training step. Must not know files,
//! configuration formats or progress bars.
//!
//! Source: Liu et al., "Perturbed and Strict Mean Teachers for Semi-supervised Semantic Segmentation", CVPR
//! 2022.

mod algorithm;
pub mod cut_mix;
mod mean_teachers;
pub mod schedule;
mod step;
mod student;
mod targets;
pub mod tvat;

pub use algorithm::Algorithm;
pub use schedule::{End, NetworkName, Phase, RampUp, Schedule, Step};
pub use step::{accumulate, train_step, update};
pub use student::{supervised_pass, supervised_update};
pub use targets::pseudo_labels;
pub use tvat::{Tvat, TvatArgs};

use crate::model::Network;
use crate::ops::{Backend, ConfCe, Ensemble, Mix, Ohem};

/// Loss on labelled images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SupervisedLoss {
    /// Mean cross entropy.
    CrossEntropy,
    /// Online hard example mining.
    Ohem(Ohem),
}

/// Everything that decides what one step computes, apart from its batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepArgs {
    /// Learning rate of this step.
    pub lr: f64,
    /// SGD momentum.
    pub momentum: f64,
    /// On convolution weights only.
    pub weight_decay: f64,
    /// The active teacher keeps this share of itself.
    pub ema_decay: f64,
    /// Weight of the unsupervised loss in this step (ramp-up included).
    pub unsup_weight: f64,
    /// The unsupervised loss.
    pub conf_ce: ConfCe,
    /// How teachers combine.
    pub ensemble: Ensemble,
    /// Feature noise.
    pub tvat: TvatArgs,
    /// The teacher that this epoch updates, 1 or 2; it is the core of the ensemble.
    pub active_teacher: usize,
    /// The supervised loss.
    pub supervised_loss: SupervisedLoss,
    /// Method or baseline.
    pub algorithm: Algorithm,
    /// Keep the noise in [`StepOut`] (for checks; it is as large as the features).
    pub keep_noise: bool,
}

/// The networks of an algorithm, the student's momentum and its gradient of the last step.
#[derive(Clone)]
pub struct Networks<B: Backend> {
    /// Learns by gradient descent.
    pub student: Network<B>,
    /// As many as [`Algorithm::num_teachers`]. Of two the first is an average of the student over odd epochs,
    /// the second over even ones.
    pub teachers: Vec<Network<B>>,
    /// SGD momentum buffer of the student.
    pub momentum: B::Vector,
    /// Gradient of the last step.
    pub grads: B::Vector,
}

/// One step's input on the device. Images are normalised.
#[derive(Clone)]
pub struct Batch<B: Backend> {
    /// Labelled images.
    pub x: B::Tensor,
    /// Their labels.
    pub y: B::Labels,
    /// What an algorithm that learns from unlabelled images needs as well; [`Algorithm::Supervised`] reads
    /// none of it.
    pub unlabeled: Option<Unlabeled<B>>,
}

/// The unlabelled part of a step's input.
#[derive(Clone)]
pub struct Unlabeled<B: Backend> {
    /// Images, weakly augmented, for the teachers.
    pub weak: B::Tensor,
    /// The same crops, strongly augmented, for the student.
    pub strong: B::Tensor,
    /// True labels where they are known, to measure pseudo labels with. Nothing learns from them.
    pub truth: Option<B::Labels>,
    /// CutMix of the strong images.
    pub mix: Mix,
    /// Raw T-VAT noise, shaped as the features of the labelled images.
    pub noise_labeled: B::Tensor,
    /// Raw T-VAT noise, shaped as the features of the unlabelled images.
    pub noise_unlabeled: B::Tensor,
}

/// What a step leaves on the device apart from the updated networks.
pub struct StepOut<B: Backend> {
    /// Supervised loss.
    pub loss_sup: B::Scalar,
    /// Labelled pixels: row = label, column = the student's largest class, in training mode with its noise.
    pub confusion: B::Counts,
    /// Unsupervised loss in its parts, not yet weighted; `None` without unlabelled data.
    pub unsup: Option<Unsup<B>>,
    /// Noise added to the labelled and the unlabelled features, if [`StepArgs::keep_noise`].
    pub noise: Option<(B::Tensor, B::Tensor)>,
    /// Stride-4 logits in the order they were computed, with what they are.
    pub logits: Vec<(&'static str, B::Tensor)>,
}

/// Parts of the unsupervised loss.
pub struct Unsup<B: Backend> {
    /// Terms with their weights; the unsupervised loss is their weighted sum.
    pub terms: Vec<(f64, B::Scalar)>,
    /// Counts of the pseudo labels; `None` for [`Algorithm::MeanTeacher`].
    pub pseudo: Option<PseudoCounts<B>>,
}

impl<B: Backend> Unsup<B> {
    /// The weighted sum. Waits for the device.
    pub fn loss(&self, b: &B) -> f64 {
        self.terms.iter().fold(0.0, |sum, (weight, term)| sum + weight * b.read_scalar(term))
    }
}

/// What is counted of a step's pseudo labels.
pub struct PseudoCounts<B: Backend> {
    /// Pixels that reached the confidence threshold.
    pub passed: B::Scalar,
    /// Confidences in equal bins.
    pub histogram: B::Counts,
    /// Passed pixels: row = pseudo label, column = the student's largest class.
    pub confusion: B::Counts,
    /// Passed pixels of the images before CutMix: row = true label, column = pseudo label; `None` without
    /// [`Unlabeled::truth`].
    pub truth: Option<B::Counts>,
}

impl<B: Backend> StepOut<B> {
    /// The weighted unsupervised loss (0 without unlabelled data). Waits for the device.
    pub fn loss_unsup(&self, b: &B) -> f64 {
        self.unsup.as_ref().map_or(0.0, |unsup| unsup.loss(b))
    }
}
