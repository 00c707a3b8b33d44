//! Keys of `[optim]` and `[schedule]`: losses on labelled images, learning rate, length.

use crate::method::SupervisedLoss;
use crate::ops::Ohem;
use serde::{Deserialize, Serialize};

/// Loss on labelled images, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SupervisedLossName {
    /// Cross entropy.
    Ce,
    /// Online hard example mining.
    Ohem,
}

/// Learning rate, losses and batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimConfig {
    /// Base learning rate: that of the warm-up, and of the first epoch's first step, from which it falls with
    /// (1 - step / steps of the epochs)^0.9.
    pub lr: f64,
    /// SGD momentum.
    pub momentum: f64,
    /// Weight decay of convolution weights.
    pub weight_decay: f64,
    /// Loss on labelled images.
    pub supervised_loss: SupervisedLossName,
    /// OHEM keeps pixels with a true-class probability up to this.
    pub ohem_threshold: f64,
    /// OHEM keeps at least this many pixels times the images of a batch.
    pub ohem_min_kept_per_image: usize,
    /// Labelled images that go through the networks together, and as many unlabelled ones.
    pub batch_size: usize,
    /// Batches per step, whose gradients are averaged.
    pub accumulate: usize,
}

impl OptimConfig {
    /// Labelled images per step, and as many unlabelled ones.
    pub fn images_a_step(&self) -> usize {
        self.batch_size * self.accumulate
    }
}

impl Default for OptimConfig {
    fn default() -> Self {
        OptimConfig {
            lr: 2.5e-3,
            momentum: 0.9,
            weight_decay: 1e-4,
            supervised_loss: SupervisedLossName::Ce,
            ohem_threshold: 0.7,
            ohem_min_kept_per_image: 50_000,
            batch_size: 8,
            accumulate: 1,
        }
    }
}

impl OptimConfig {
    /// The loss with its settings.
    pub fn loss(&self) -> SupervisedLoss {
        match self.supervised_loss {
            SupervisedLossName::Ce => SupervisedLoss::CrossEntropy,
            SupervisedLossName::Ohem => {
                let min_kept = self.ohem_min_kept_per_image.saturating_mul(self.batch_size);
                SupervisedLoss::Ohem(Ohem { threshold: self.ohem_threshold, min_kept })
            }
        }
    }
}

/// Length and seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Epochs of training by the algorithm; the warm-up stands before them.
    pub train_epochs: u64,
    /// Steps of an epoch; 0 is one pass over the unlabelled images in full batches.
    pub steps_per_epoch: u64,
    /// Seed of everything random in a run.
    pub seed: u64,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        ScheduleConfig { train_epochs: 80, steps_per_epoch: 0, seed: 1 }
    }
}
