//! Ops, memory plans and steps of the CUDA device, run by the emulator, against the processor in f64.

#[path = "../common/compare.rs"]
mod compare;
#[path = "../common/cuda.rs"]
mod cuda_common;
#[path = "../common/draw.rs"]
mod draw;
#[path = "../common/driver.rs"]
mod driver_common;
#[path = "../common/layers.rs"]
mod layer_common;
#[path = "../common/losses.rs"]
mod loss_common;
#[path = "../common/networks.rs"]
mod networks;
#[path = "../common/step.rs"]
mod step_common;

mod batch_norm;
mod branches;
mod conv2d;
mod headers;
mod layers;
mod loss_cases;
mod losses;
mod memory;
mod optimizer;
mod photometric;
mod pseudo_labels;
mod published_evaluation;
mod tvat;
