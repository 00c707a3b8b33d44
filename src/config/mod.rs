//! Typed configuration of a run: all settings with their defaults in one place. Names data, model and method settings;
//! must not know devices, nor how anything is computed.
//!
//! [`load`] layers preset, file and command line; [`validate`] refuses what cannot train; the resolved copy that a run
//! keeps is itself a configuration file.

mod compare;
pub mod load;
mod memory;
mod preset;
pub mod recipe;
mod renamed;
mod step;
mod validate;

pub use compare::{changed_keys, flatten};
pub use load::{Overrides, parse};
pub use memory::{
    ImageSizes, KEPT_IMAGES, VALIDATION, estimated_memory, step_images_bytes, validation_asked,
};
pub use validate::{LARGEST_SIDE, check_batch, check_sizes, validate};

use crate::data::{Augment, ExifMasks, Preset};
use crate::eval::{Overlap, Settings, Views, Which};
use crate::method::cut_mix::CutMixForm;
use crate::method::schedule::RampUp;
use crate::method::{Algorithm, SupervisedLoss, Tvat, TvatArgs};
use crate::model::{Initialization, ModelConfig, Stem};
use crate::ops::{ConfCe, Ensemble, Normalize, Ohem, View};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Everything that decides a run. Every table and key may be left out of a file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Which images.
    pub data: DataConfig,
    /// Random crops, flips and colours of training images.
    pub augment: Augment,
    /// Colours to network input.
    pub normalize: Normalize,
    /// Which network.
    pub model: ModelSettings,
    /// PS-MT or a baseline.
    pub method: MethodConfig,
    /// Learning rate and losses.
    pub optim: OptimConfig,
    /// How long.
    pub schedule: ScheduleConfig,
    /// How validation images are read and predicted.
    pub eval: EvalConfig,
    /// What is written and when.
    pub run: RunSettings,
}

/// Which images are trained and validated on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// A known data set: its layout, and defaults that fit it (see `config/preset.rs`). Without one, any folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// Folder that the lists' paths are relative to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// List of labelled images: one `image mask` per line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labeled: Option<PathBuf>,
    /// List of unlabelled images. Masks that it names measure pseudo labels and do nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unlabeled: Option<PathBuf>,
    /// List of validation images with masks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val: Option<PathBuf>,
    /// Number of classes; 0 where neither preset nor file nor command line says it.
    pub num_classes: usize,
    /// How masks of images that their EXIF orientation turns lie where their size does not tell.
    pub exif_masks: ExifMasks,
    /// Drawn scenes with masks for training (preset `demo`).
    pub demo_labeled: usize,
    /// Drawn scenes without masks (preset `demo`).
    pub demo_unlabeled: usize,
    /// Drawn scenes for validation (preset `demo`).
    pub demo_val: usize,
    /// Side of the drawn scenes in pixels (preset `demo`).
    pub demo_size: usize,
    /// Seed of the drawn scenes, apart from the training's (preset `demo`).
    pub demo_seed: u64,
}

impl Default for DataConfig {
    fn default() -> Self {
        DataConfig {
            preset: None,
            dir: None,
            labeled: None,
            unlabeled: None,
            val: None,
            num_classes: 0,
            exif_masks: ExifMasks::default(),
            demo_labeled: 24,
            demo_unlabeled: 240,
            demo_val: 60,
            demo_size: 96,
            demo_seed: 1,
        }
    }
}

/// A named network; sizes that are given replace those of the name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSettings {
    /// `tiny`, `resnet50` or `resnet101`.
    pub name: String,
    /// Bottlenecks of the four stages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocks: Option<[usize; 4]>,
    /// Kind of stem: `deep` (three 3x3 convolutions) or `7x7`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stem: Option<Stem>,
    /// Channels of the first two convolutions of a deep stem, or of the 7x7 one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stem_width: Option<usize>,
    /// Bottleneck width of the first stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub planes: Option<usize>,
    /// Channels of each ASPP branch and of the decoder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aspp: Option<usize>,
    /// Channels of the reduced stride-4 features.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low_level: Option<usize>,
    /// Dilations of the three ASPP branches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dilations: Option<[usize; 3]>,
    /// Weight of a new batch in batch norm's running statistics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bn_momentum: Option<f64>,
    /// Added to batch norm's variance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bn_eps: Option<f64>,
    /// Law of the convolutions' initial weights.
    pub initialization: Initialization,
    /// File with a backbone's weights to start from. Not read again by a resumed run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pretrained: Option<PathBuf>,
    /// Which networks start from [`ModelSettings::pretrained`].
    pub pretrained_networks: PretrainedNetworks,
    /// File with whole networks, from which student and teachers start. Not read again by a resumed run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
}

/// Which networks start from a pretrained backbone. A moving average of weights is a good network only while teacher and
/// student are near each other, and a common backbone keeps them near.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PretrainedNetworks {
    /// Student and teachers.
    #[default]
    All,
    /// The student alone, as published: the teachers' backbones are random until the warm-up trains them.
    Student,
}

impl Default for ModelSettings {
    fn default() -> Self {
        ModelSettings {
            name: "resnet50".into(),
            blocks: None,
            stem: None,
            stem_width: None,
            planes: None,
            aspp: None,
            low_level: None,
            dilations: None,
            bn_momentum: None,
            bn_eps: None,
            initialization: Initialization::KaimingNormal,
            pretrained: None,
            pretrained_networks: PretrainedNetworks::All,
            init: None,
        }
    }
}

impl ModelSettings {
    /// The network's sizes for `num_classes` classes.
    ///
    /// # Errors
    /// An unknown name, or sizes that make no network.
    pub fn resolve(&self, num_classes: usize) -> Result<ModelConfig> {
        let mut c = ModelConfig::by_name(&self.name, num_classes)?;
        c.blocks = self.blocks.unwrap_or(c.blocks);
        c.stem = self.stem.unwrap_or(c.stem);
        c.stem_width = self.stem_width.unwrap_or(c.stem_width);
        c.planes = self.planes.unwrap_or(c.planes);
        c.aspp = self.aspp.unwrap_or(c.aspp);
        c.low_level = self.low_level.unwrap_or(c.low_level);
        c.dilations = self.dilations.unwrap_or(c.dilations);
        c.bn_momentum = self.bn_momentum.unwrap_or(c.bn_momentum);
        c.bn_eps = self.bn_eps.unwrap_or(c.bn_eps);
        c.validate()?;
        Ok(c)
    }

    /// Writes every size out, so that a later change of a named network does not change a saved run.
    fn spell_out(&mut self, c: &ModelConfig) {
        self.blocks = Some(c.blocks);
        self.stem = Some(c.stem);
        self.stem_width = Some(c.stem_width);
        self.planes = Some(c.planes);
        self.aspp = Some(c.aspp);
        self.low_level = Some(c.low_level);
        self.dilations = Some(c.dilations);
        self.bn_momentum = Some(c.bn_momentum);
        self.bn_eps = Some(c.bn_eps);
    }
}

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
    /// Passes over the labelled images before the epochs, in which networks learn from them alone at the base rate.
    pub warm_up_passes: u64,
    /// View of the labelled images that the student learns from.
    pub labeled_view: View,
    /// Where the teachers stand when the epochs begin.
    pub teacher_start: TeacherStart,
    /// Whether all networks begin with the same weights, as those with a pretrained backbone nearly do.
    pub shared_init: bool,
}

/// Where the teachers stand when the epochs begin. A moving average of weights is a good network only while student and
/// teacher are near each other; networks that began from different random weights are not (see `docs/`).
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

/// How images are predicted in validation, `eval` and `predict`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// Images are resized to this long side before the network sees them; 0 keeps their size. Predictions are compared at
    /// the masks' own size.
    pub long_side: usize,
    /// Side of a sliding window (stride two thirds of it); 0 predicts whole images.
    pub window: usize,
    /// How the scores of overlapping windows combine.
    pub overlap: Overlap,
    /// Whole images are stretched to the next multiples of this many rows and columns before the network sees them; 0 and 1
    /// keep their size.
    pub multiple: usize,
    /// Images of the same size that are predicted together.
    pub batch_size: usize,
    /// Whose mIoU decides which epoch is the best; without it, the ensemble's, else the only teacher's, else the student's.
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

    /// The network whose mIoU decides which epoch of a run of `algorithm` is the best; its predictions are shown first.
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
    /// After this share of the run every epoch is validated: those above `floor(val_all_from * (epochs + 1))`; 1 is never.
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

impl RunConfig {
    /// Writes out what a named network means, and where relative paths lead, for the copy that a run keeps: it is read from
    /// other folders too.
    ///
    /// # Errors
    /// As [`ModelSettings::resolve`], and [`Error::Io`] where there is no current folder.
    pub fn spell_out(&mut self) -> Result<()> {
        let (data, model) = (&mut self.data, &mut self.model);
        let paths = [&mut data.dir, &mut data.labeled, &mut data.unlabeled, &mut data.val];
        for path in paths.into_iter().chain([&mut model.pretrained, &mut model.init]).flatten() {
            *path = std::path::absolute(&*path).map_err(Error::io(&*path))?;
        }
        if self.data.num_classes > 0 {
            let model = self.model_config()?;
            self.model.spell_out(&model);
        }
        Ok(())
    }

    /// The network's sizes.
    ///
    /// # Errors
    /// As [`ModelSettings::resolve`].
    pub fn model_config(&self) -> Result<ModelConfig> {
        self.model.resolve(self.data.num_classes)
    }

    /// As TOML text that [`parse`] reads back.
    ///
    /// # Errors
    /// A number that TOML cannot hold (a seed above 2^63).
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::config("resolved", e.to_string()))
    }
}
