//! The command line, by the built program.

#[path = "../common/cli.rs"]
mod cli_common;
#[path = "../common/compare.rs"]
mod compare;
#[path = "../common/networks.rs"]
mod networks;
#[path = "../common/python.rs"]
mod python;
#[path = "../common/step.rs"]
mod step_common;
#[path = "../common/weight_files.rs"]
mod weight_files;

mod accumulate;
mod data;
mod docs;
mod driver;
mod errors;
mod files;
mod hostile;
mod images;
mod predict;
mod pseudo;
mod report;
mod resume;
mod schedule;
mod sound;
mod tensorboard;
mod train;
mod weights;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_psmt-fast");
