//! What is read from files and written to them: data sets, weights, exported models.

#[path = "../common/cli.rs"]
mod cli_common;
#[path = "../common/compare.rs"]
mod compare;
#[path = "../common/networks.rs"]
mod networks;
#[path = "../common/onnx.rs"]
mod onnx_run;
#[path = "../common/python.rs"]
mod python;
#[path = "../common/weight_files.rs"]
mod weight_files;

mod data;
mod data_fixtures;
mod decoding;
mod export;
mod export_program;
mod folder;
mod jpeg;
mod loader;
mod mutated_inputs;
mod torch_weights;
mod weight_names;
mod weights;
mod weights_several;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_psmt-fast");
