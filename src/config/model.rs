//! Keys of `[model]`: which network, and what it starts from.

use crate::Result;
use crate::model::{Initialization, ModelConfig, Stem};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

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

/// Which networks start from a pretrained backbone. A moving average of weights is a good network only while
/// teacher and student are near each other, and a common backbone keeps them near.
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
    pub(super) fn spell_out(&mut self, c: &ModelConfig) {
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
