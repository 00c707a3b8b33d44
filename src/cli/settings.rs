//! Flags that set keys of the configuration. The serialised name of a flag is its key, so that a flag is
//! declared in one place; must not know what the keys mean.

use crate::config::SupervisedLossName;
use crate::data::{ExifMasks, Preset};
use crate::method::cut_mix::CutMixForm;
use crate::method::schedule::RampUp;
use crate::method::{Algorithm, Tvat};
use crate::model::{MODEL_NAMES, Stem};
use crate::ops::View;
use serde::ser::Error as _;
use serde::{Serialize, Serializer};
use std::path::PathBuf;

/// Flags of the data, shared with `eval`.
#[derive(clap::Args, Serialize)]
#[command(next_help_heading = "Data")]
pub(super) struct DataArgs {
    /// Known data set: layout, classes and fitting defaults.
    #[arg(long, value_enum)]
    #[serde(rename = "data.preset")]
    preset: Option<Preset>,
    /// Folder that the lists' paths are relative to.
    #[arg(long, value_name = "DIR")]
    #[serde(rename = "data.dir", serialize_with = "utf8")]
    data: Option<PathBuf>,
    /// List of validation images: one `image mask` per line.
    #[arg(long, value_name = "LIST")]
    #[serde(rename = "data.val", serialize_with = "utf8")]
    val: Option<PathBuf>,
    /// Number of classes (masks hold 0 to N-1, and 255 for ignored pixels).
    #[arg(long, value_name = "N")]
    #[serde(rename = "data.num_classes")]
    num_classes: Option<u32>,
    /// How masks of images lie that are turned by their EXIF orientation, where their size does not tell.
    #[arg(long, value_enum)]
    #[serde(rename = "data.exif_masks")]
    exif_masks: Option<ExifMasks>,
}

impl DataArgs {
    /// Whether no flag says which images.
    pub(super) fn is_empty(&self) -> bool {
        self.preset.is_none() && self.data.is_none() && self.val.is_none() && self.num_classes.is_none()
    }

    /// Whether a folder of images is named.
    pub(super) fn has_dir(&self) -> bool {
        self.data.is_some()
    }
}

/// Flags of `train` that set keys of the configuration.
#[derive(clap::Args, Serialize)]
pub(super) struct SettingsArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub(super) data: DataArgs,
    #[command(flatten)]
    #[serde(flatten)]
    train_data: TrainDataArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub(super) method: MethodArgs,
    #[command(flatten)]
    #[serde(flatten)]
    training: TrainingArgs,
}

#[derive(clap::Args, Serialize)]
#[command(next_help_heading = "Data")]
struct TrainDataArgs {
    /// List of labelled images: one `image mask` per line.
    #[arg(long, value_name = "LIST")]
    #[serde(rename = "data.labeled", serialize_with = "utf8")]
    labeled: Option<PathBuf>,
    /// List of unlabelled images. Masks that it names measure pseudo labels and do nothing else.
    #[arg(long, value_name = "LIST")]
    #[serde(rename = "data.unlabeled", serialize_with = "utf8")]
    unlabeled: Option<PathBuf>,
    /// Crop: a side, or ROWSxCOLUMNS.
    #[arg(long, value_parser = parse_crop)]
    #[serde(rename = "augment.crop")]
    crop: Option<[u32; 2]>,
    /// Long side of images at scale 1.
    #[arg(long, value_name = "PIXELS")]
    #[serde(rename = "augment.base_size")]
    base_size: Option<u32>,
    /// Long side at which validation images are predicted (0: their own).
    #[arg(long, value_name = "PIXELS")]
    #[serde(rename = "eval.long_side")]
    eval_size: Option<u32>,
}

#[derive(clap::Args, Serialize)]
#[command(next_help_heading = "Model and method")]
pub(super) struct MethodArgs {
    /// Network.
    #[arg(long, value_parser = MODEL_NAMES)]
    #[serde(rename = "model.name")]
    model: Option<String>,
    /// Stem of the network: deep (three 3x3 convolutions), or 7x7 as in torchvision's weights.
    #[arg(long, value_enum)]
    #[serde(rename = "model.stem")]
    stem: Option<Stem>,
    /// Start student and teachers (or the student alone, see model.pretrained_networks) from a backbone's weights, for example --pretrained resnet50.pth, or
    /// --model resnet50 --stem 7x7 --pretrained resnet50-0676ba61.pth for torchvision's; .safetensors, .pth or .pt. Of
    /// several networks in a file, #PREFIX chooses one, as inspect says.
    #[arg(long, value_name = "FILE[#PREFIX]")]
    #[serde(rename = "model.pretrained", serialize_with = "utf8")]
    pretrained: Option<PathBuf>,
    /// Start from whole networks, for example --init runs/old/checkpoints/best.safetensors, or a file of
    /// PS-MT's authors; a file with one network starts all three.
    #[arg(long, value_name = "FILE[#PREFIX]", conflicts_with = "pretrained")]
    #[serde(rename = "model.init", serialize_with = "utf8")]
    init: Option<PathBuf>,
    /// Method or baseline.
    #[arg(long, value_enum)]
    #[serde(rename = "method.algorithm")]
    algorithm: Option<Algorithm>,
    /// Noise in the student's features.
    #[arg(long, value_enum)]
    #[serde(rename = "method.tvat")]
    tvat: Option<Tvat>,
    /// CutMix boxes.
    #[arg(long, value_enum)]
    #[serde(rename = "method.cut_mix")]
    cut_mix: Option<CutMixForm>,
    /// Confidence from which a pixel learns from its pseudo label.
    #[arg(long, value_name = "P")]
    #[serde(rename = "method.threshold")]
    threshold: Option<f64>,
    /// Negative learning below this probability (0: off).
    #[arg(long, value_name = "P")]
    #[serde(rename = "method.negative_threshold")]
    negative_threshold: Option<f64>,
    /// Weight of the unsupervised loss.
    #[arg(long, value_name = "W")]
    #[serde(rename = "method.unsup_weight")]
    unsup_weight: Option<f64>,
    /// Shape of that weight's rise.
    #[arg(long, value_enum)]
    #[serde(rename = "method.ramp_up")]
    ramp_up: Option<RampUp>,
    /// Epochs of that weight's rise.
    #[arg(long, value_name = "N")]
    #[serde(rename = "method.ramp_up_epochs")]
    ramp_up_epochs: Option<f64>,
    /// Share of itself that the active teacher keeps each step.
    #[arg(long, value_name = "P")]
    #[serde(rename = "method.ema_decay")]
    ema_decay: Option<f64>,
    /// Passes over the labelled images before the epochs, in which networks learn from them alone.
    #[arg(long, value_name = "N")]
    #[serde(rename = "method.warm_up_passes")]
    warm_up_passes: Option<u32>,
    /// The flag of before, whose number now counts passes.
    #[arg(long, value_name = "N", hide = true, conflicts_with = "warm_up_passes")]
    #[serde(rename = "method.warm_up_passes")]
    pub(super) warm_up_epochs: Option<u32>,
    /// View of the labelled images that the student learns from.
    #[arg(long, value_enum)]
    #[serde(rename = "method.labeled_view")]
    labeled_view: Option<View>,
}

#[derive(clap::Args, Serialize)]
#[command(next_help_heading = "Training")]
struct TrainingArgs {
    /// Loss on labelled images.
    #[arg(long, value_enum)]
    #[serde(rename = "optim.supervised_loss")]
    supervised_loss: Option<SupervisedLossName>,
    /// Learning rate.
    #[arg(long)]
    #[serde(rename = "optim.lr")]
    lr: Option<f64>,
    /// Labelled images that go through the networks together, and as many unlabelled ones.
    #[arg(long, value_name = "N")]
    #[serde(rename = "optim.batch_size")]
    batch_size: Option<u32>,
    /// Batches per step, whose gradients are averaged: more images per step than fit into memory. Batch norms
    /// still see one batch at a time, which may cost accuracy (docs/recipes.md).
    #[arg(long, value_name = "N")]
    #[serde(rename = "optim.accumulate")]
    accumulate: Option<u32>,
    /// Epochs; the warm-up stands before them.
    #[arg(long, value_name = "N")]
    #[serde(rename = "schedule.train_epochs")]
    epochs: Option<u32>,
    /// Steps per epoch (default: one pass over the unlabelled images).
    #[arg(long, value_name = "N")]
    #[serde(rename = "schedule.steps_per_epoch")]
    steps_per_epoch: Option<u32>,
    /// Seed of everything random.
    #[arg(long, value_name = "N")]
    #[serde(rename = "schedule.seed")]
    seed: Option<u32>,
    /// Steps between checkpoints (0: at the ends of epochs only).
    #[arg(long, value_name = "N")]
    #[serde(rename = "run.checkpoint_every")]
    checkpoint_every: Option<u32>,
    /// Epochs between validations.
    #[arg(long, value_name = "N")]
    #[serde(rename = "run.val_every")]
    val_every: Option<u32>,
}

fn parse_crop(text: &str) -> std::result::Result<[u32; 2], String> {
    let side =
        |t: &str| t.trim().parse::<u32>().map_err(|_| format!("expected 256 or 256x512, got {text:?}"));
    match text.split_once('x') {
        Some((h, w)) => Ok([side(h)?, side(w)?]),
        None => side(text).map(|s| [s, s]),
    }
}

/// A path as TOML text, with an error that names the path.
fn utf8<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    let Some(path) = path else { return serializer.serialize_none() };
    let text = path.to_str().ok_or_else(|| S::Error::custom(format!("{} is not UTF-8", path.display())))?;
    serializer.serialize_str(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;
    use crate::config::load::load;
    use clap::{Args, Command, FromArgMatches};

    fn command() -> Command {
        SettingsArgs::augment_args(Command::new("train"))
    }

    fn overrides(flag: &std::ffi::OsStr) -> crate::Result<Overrides> {
        let matches = command().get_matches_from([std::ffi::OsStr::new("train"), flag]);
        let mut over = Overrides::default();
        over.set_all(&SettingsArgs::from_arg_matches(&matches).unwrap())?;
        Ok(over)
    }

    #[test]
    fn each_flag_sets_a_key_of_the_configuration() {
        for arg in command().get_arguments() {
            let possible = arg.get_possible_values();
            let value = possible.first().map_or("1", |v| v.get_name());
            let flag = format!("--{}={value}", arg.get_long().unwrap());
            let over = overrides(flag.as_ref()).unwrap();
            assert!(!over.is_empty(), "{flag} sets nothing");
            load(None, &over, None).unwrap_or_else(|e| panic!("{flag}: {e}"));
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_path_that_is_not_utf8_is_named() {
        use std::os::unix::ffi::OsStrExt;
        let error = overrides(std::ffi::OsStr::from_bytes(b"--data=sc\xffnes")).err().unwrap();
        assert_eq!(error.to_string(), "sc\u{fffd}nes is not UTF-8");
    }
}
