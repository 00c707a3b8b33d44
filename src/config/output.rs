//! Keys of `[eval]` and `[run]`: how predictions are made, and what a run writes when.

use crate::eval::{Overlap, Settings, Views, Which};
use crate::method::Algorithm;
use crate::ops::Normalize;
use serde::{Deserialize, Serialize};

/// How images are predicted in validation, `eval` and `predict`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// Images are resized to this long side before the network sees them; 0 keeps their size. Predictions are
    /// compared at the masks' own size.
    pub long_side: usize,
    /// Side of a sliding window (stride two thirds of it); 0 predicts whole images.
    pub window: usize,
    /// How the scores of overlapping windows combine.
    pub overlap: Overlap,
    /// Whole images are stretched to the next multiples of this many rows and columns before the network sees
    /// them; 0 and 1 keep their size.
    pub multiple: usize,
    /// Images of the same size that are predicted together.
    pub batch_size: usize,
    /// Whose mIoU decides which epoch is the best; without it, the ensemble's, else the only teacher's, else
    /// the student's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<Which>,
}

impl Default for EvalConfig {
    fn default() -> Self {
        EvalConfig {
            long_side: 0,
            window: 0,
            overlap: Overlap::Probabilities,
            multiple: 0,
            batch_size: 4,
            network: None,
        }
    }
}

impl EvalConfig {
    /// How validation images of these mean and deviation become predictions.
    pub fn settings(&self, normalize: Normalize) -> Settings {
        let EvalConfig { long_side, window, overlap, multiple, batch_size, network: _ } = *self;
        Settings { normalize, long_side, window, overlap, multiple, batch_size, views: Views::default() }
    }

    /// The network whose mIoU decides which epoch of a run of `algorithm` is the best; its predictions are
    /// shown first.
    pub fn decides(&self, algorithm: Algorithm) -> Which {
        self.network.unwrap_or(Which::best(algorithm.num_teachers()))
    }
}

/// What a run writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunSettings {
    /// Steps between checkpoints (one is written at each epoch's end too); 0 is at epoch ends only.
    pub checkpoint_every: u64,
    /// Epochs between validations; the last epoch is always validated.
    pub val_every: u64,
    /// After this share of the run every epoch is validated: those above `floor(val_all_from * (epochs +
    /// 1))`; 1 is never.
    pub val_all_from: f64,
    /// Steps between records in `metrics.jsonl`.
    pub log_every: u64,
    /// Pictures per validation.
    pub pictures: usize,
    /// Write an event file for TensorBoard next to `metrics.jsonl`.
    pub tensorboard: bool,
}

impl Default for RunSettings {
    fn default() -> Self {
        RunSettings {
            checkpoint_every: 500,
            val_every: 1,
            val_all_from: 1.0,
            log_every: 10,
            pictures: 4,
            tensorboard: true,
        }
    }
}
