//! Keys of `[data]`: which images.

use crate::data::{ExifMasks, Preset};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Which images are trained and validated on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// A known data set: its layout, and defaults that fit it (see `config/preset.rs`). Without one, any
    /// folder.
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
