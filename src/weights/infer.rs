//! The network that a file's tensors belong to, inferred from their names and shapes. Reads no values.

use super::file::WeightFile;
use super::names::{Backbone, Spelling, Wanted};
use crate::model::{MODEL_NAMES, ModelConfig, Stem};

/// The configuration of the network with `spelling`; what names and shapes do not show is as in
/// [`ModelConfig::default`]. `None` for other networks than bottleneck ResNets, or for invalid sizes.
pub fn config(file: &WeightFile, spelling: &Spelling) -> Option<ModelConfig> {
    let backbone = spelling.backbone_prefix();
    let kind = match spelling {
        Spelling::Backbone { kind, .. } => *kind,
        Spelling::Network { .. } => Backbone::Plain,
    };
    let shape = |name: String| file.find(&name).map(|(_, info)| info.shape.as_slice());
    let first = |name: String| shape(name)?.first().copied();
    let mut config = ModelConfig::default();
    for (stage, blocks) in config.blocks.iter_mut().enumerate() {
        let has = |i: &usize| shape(format!("{backbone}layer{}.{i}.conv1.weight", stage + 1)).is_some();
        *blocks = (0..=1000).take_while(has).count();
    }
    let at = |name: &str| shape(format!("{backbone}{name}"));
    // A second convolution at the top distinguishes a flat deep stem from the 7x7 one of the same name.
    let deep = match kind {
        Backbone::Plain => at("conv1.0.weight"),
        Backbone::V1c => at("stem.0.weight"),
        Backbone::Flat => at("conv1.weight").filter(|_| at("conv2.weight").is_some()),
    };
    (config.stem, config.stem_width) = match (deep, at("conv1.weight")) {
        (Some(&[width, ..]), _) => (Stem::Deep, width),
        (None, Some(&[width, _, 7, 7])) if kind == Backbone::Plain => (Stem::Single, width),
        _ => return None,
    };
    config.planes = first(format!("{backbone}layer1.0.conv1.weight"))?;
    first(format!("{backbone}layer1.0.conv3.weight"))?;
    if let Spelling::Network { .. } = spelling {
        let of = |name: &str| first(spelling.spell(name)?);
        config.aspp = of("encoder.head.aspp.red_conv.weight")?;
        config.low_level = of("encoder.head.reduce.0.weight")?;
        config.num_classes = of("decoder.upsample.classifier.weight")?;
    }
    config.validate().ok()?;
    Some(config)
}

/// Name and sizes of a network, without its classes, or of its backbone: `resnet50, 7x7 stem`, with the sizes
/// that differ from those of the name.
pub fn describe(config: &ModelConfig, wanted: Wanted) -> String {
    let named = MODEL_NAMES.into_iter().find_map(|name| {
        let known = ModelConfig::by_name(name, config.num_classes).ok()?;
        (known.blocks == config.blocks && known.planes == config.planes).then_some((name, known))
    });
    let stem = if config.stem == Stem::Deep { "deep stem" } else { "7x7 stem" };
    let mut text = match &named {
        Some((name, _)) => (*name).to_string(),
        None => format!("blocks {:?}, planes {}", config.blocks, config.planes),
    };
    text += &format!(", {stem}");
    let known = named.map_or_else(ModelConfig::default, |(_, known)| known);
    let sizes = [
        ("stem_width", config.stem_width, known.stem_width),
        ("aspp", config.aspp, known.aspp),
        ("low_level", config.low_level, known.low_level),
    ];
    let shown = if wanted == Wanted::Network { sizes.len() } else { 1 };
    for (key, value, usual) in &sizes[..shown] {
        if value != usual {
            text += &format!(", {key} {value}");
        }
    }
    text
}
