//! What is read from files and written to them: data sets, weights, exported models.

#[path = "../common/cli.rs"]
mod cli_common;
#[path = "../common/onnx.rs"]
mod onnx_run;
#[path = "../common/weight_files.rs"]
mod weight_files;

mod data;
mod data_fixtures;
mod export;
mod jpeg;
mod mutated_inputs;
mod torch_weights;
mod weights;
mod weights_several;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_psmt-fast");
