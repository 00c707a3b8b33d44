//! Sizes of a network.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Names that [`ModelConfig::by_name`] knows.
pub const NAMES: [&str; 3] = ["resnet50", "resnet101", "tiny"];

/// The convolutions before the first stage, of stride 2 together; a max pooling of stride 2 follows either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Stem {
    /// Three 3x3 convolutions (He et al., 2019), as published for PS-MT.
    #[default]
    #[serde(rename = "deep")]
    Deep,
    /// One 7x7 convolution (He et al., 2016), as torchvision's weights have it.
    #[serde(rename = "7x7")]
    #[value(name = "7x7")]
    Single,
}

/// DeepLabv3+ (Chen et al., 2018) on a bottleneck ResNet, output stride 16, multi-grid 2-4-8 in the last
/// stage. Keys that are not given are those of [`ModelConfig::resnet50`] with 21 classes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// Bottlenecks in each of the four stages.
    pub blocks: [usize; 4],
    /// Kind of stem.
    pub stem: Stem,
    /// Channels of the first two convolutions of a deep stem, whose third has twice as many, or of the 7x7
    /// convolution.
    pub stem_width: usize,
    /// Bottleneck width of the first stage, doubled each stage; blocks put out four times as many.
    pub planes: usize,
    /// Channels of each ASPP branch, of its output and of the decoder.
    pub aspp: usize,
    /// Channels that the stride-4 features are reduced to.
    pub low_level: usize,
    /// Channels of the logits, 1 to 255.
    pub num_classes: usize,
    /// Dilations of the ASPP's three 3x3 branches.
    pub dilations: [usize; 3],
    /// Weight of a new batch in the running statistics of backbone, reduction and decoder (the ASPP has 0.1).
    pub bn_momentum: f64,
    /// Added to the variance in the backbone's batch norms (1e-5 elsewhere).
    pub bn_eps: f64,
}

impl Default for ModelConfig {
    fn default() -> ModelConfig {
        ModelConfig::resnet50(21)
    }
}

impl ModelConfig {
    /// ResNet-50.
    pub fn resnet50(num_classes: usize) -> ModelConfig {
        ModelConfig {
            blocks: [3, 4, 6, 3],
            stem: Stem::Deep,
            stem_width: 64,
            planes: 64,
            aspp: 256,
            low_level: 48,
            num_classes,
            dilations: [6, 12, 18],
            bn_momentum: 0.1,
            bn_eps: 1e-5,
        }
    }

    /// ResNet-101.
    pub fn resnet101(num_classes: usize) -> ModelConfig {
        ModelConfig { blocks: [3, 4, 23, 3], ..ModelConfig::resnet50(num_classes) }
    }

    /// The same architecture at the smallest size that trains on a processor in minutes, for checks and the
    /// demo.
    pub fn tiny(num_classes: usize) -> ModelConfig {
        ModelConfig {
            blocks: [1, 1, 1, 1],
            stem_width: 8,
            planes: 4,
            aspp: 16,
            low_level: 8,
            ..ModelConfig::resnet50(num_classes)
        }
    }

    /// A network by its name on the command line, one of [`MODEL_NAMES`](super::MODEL_NAMES).
    ///
    /// # Errors
    /// [`Error::Config`] for another name.
    pub fn by_name(name: &str, num_classes: usize) -> Result<ModelConfig> {
        match name {
            "resnet50" => Ok(ModelConfig::resnet50(num_classes)),
            "resnet101" => Ok(ModelConfig::resnet101(num_classes)),
            "tiny" => Ok(ModelConfig::tiny(num_classes)),
            _ => Err(Error::config("model", format!("expected one of {}, got {name:?}", NAMES.join(", ")))),
        }
    }

    /// Checks that every size is usable.
    ///
    /// # Errors
    /// [`Error::Config`] that names the key.
    pub fn validate(&self) -> Result<()> {
        let check = |key: &str, value: usize, max: usize| {
            if (1..=max).contains(&value) {
                return Ok(());
            }
            Err(Error::config("model", format!("{key}: expected 1 to {max}, got {value}")))
        };
        for &n in &self.blocks[..3] {
            check("blocks", n, 200)?;
        }
        check("blocks (last stage, whose dilation doubles with each)", self.blocks[3], 8)?;
        for (key, value) in [
            ("stem_width", self.stem_width),
            ("planes", self.planes),
            ("aspp", self.aspp),
            ("low_level", self.low_level),
        ] {
            check(key, value, 4096)?;
        }
        check("num_classes", self.num_classes, 255)?;
        for d in self.dilations {
            check("dilations", d, 1024)?;
        }
        if !(self.bn_momentum > 0.0 && self.bn_momentum <= 1.0) {
            let message = format!("bn_momentum: expected above 0 and up to 1, got {}", self.bn_momentum);
            return Err(Error::config("model", message));
        }
        if !(self.bn_eps > 0.0 && self.bn_eps.is_finite()) {
            return Err(Error::config("model", format!("bn_eps: expected above 0, got {}", self.bn_eps)));
        }
        Ok(())
    }
}
