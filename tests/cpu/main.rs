//! Ops and networks on the processor, against plain loops and properties.

#[path = "../common/losses.rs"]
mod loss_common;

mod augmentation;
mod layers;
mod losses;
mod model;
mod ops;
mod properties;
