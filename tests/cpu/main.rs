//! Ops and networks on the processor, against plain loops and properties.

#[path = "../common/compare.rs"]
mod compare;
#[path = "../common/draw.rs"]
mod draw;
#[path = "../common/layers.rs"]
mod layer_common;
#[path = "../common/losses.rs"]
mod loss_common;
#[path = "../common/networks.rs"]
mod networks;

mod augmentation;
mod batch_norm;
mod layers;
mod losses;
mod model;
mod plain;
mod properties;
mod pseudo_labels;
mod refusals;
mod resampling;
mod tvat;
mod updates;
