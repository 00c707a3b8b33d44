//! DeepLabv3+ (Chen et al., 2018) as PS-MT uses it. Features are those of the ASPP and the reduced stride-4
//! features next to each other, both at stride 4; the decoder's logits have the same stride.

mod aspp;
mod decoder;
mod encoder;

pub(super) use decoder::DeepLabDecoder;
pub(super) use encoder::DeepLabEncoder;
