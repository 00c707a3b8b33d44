//! Ops, memory plans and steps of the CUDA device, run by the emulator, against the processor in f64.

#[path = "../common/cuda.rs"]
mod cuda_common;
#[path = "../common/driver.rs"]
mod driver_common;
#[path = "../common/losses.rs"]
mod loss_common;
#[path = "../common/step.rs"]
mod step_common;

mod branches;
mod conv2d;
mod headers;
mod layers;
mod losses;
mod memory;
mod optimizer;
mod photometric;
mod published_evaluation;
