//! Typed configuration of a run: all settings with their defaults in one place. Names data, model and method
//! settings; must not know devices, nor how anything is computed.
//!
//! [`load`] layers preset, file and command line; [`validate`] refuses what cannot train; the resolved copy
//! that a run keeps is itself a configuration file.

mod compare;
mod data;
pub mod load;
mod memory;
mod method;
mod model;
mod optim;
mod output;
mod preset;
pub mod recipe;
mod renamed;
mod step;
mod validate;

pub use compare::{changed_keys, flatten};
pub use data::DataConfig;
pub use load::{Overrides, parse};
pub use memory::{
    ImageSizes, KEPT_IMAGES, VALIDATION, estimated_memory, step_images_bytes, validation_asked,
};
pub use method::{MethodConfig, TeacherStart};
pub use model::{ModelSettings, PretrainedNetworks};
pub use optim::{OptimConfig, ScheduleConfig, SupervisedLossName};
pub use output::{EvalConfig, RunSettings};
pub use validate::{LARGEST_SIDE, check_batch, check_sizes, validate};

use crate::data::Augment;
use crate::model::ModelConfig;
use crate::ops::Normalize;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

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

impl RunConfig {
    /// Writes out what a named network means, and where relative paths lead, for the copy that a run keeps:
    /// it is read from other folders too.
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
