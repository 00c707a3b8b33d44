//! The laboratory's own commands, and training on the emulated devices, by the built program.

#[path = "../../../../tests/common/cli.rs"]
mod cli_common;
#[path = "../../../../tests/common/driver.rs"]
mod driver_common;

#[macro_use]
#[path = "../../../emulator/faults/tests/faults/common.rs"]
mod common;
mod bench;
mod devices;
mod fixtures;
mod gradcheck;
mod promises;
mod selftest;
mod steps;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_psmt-lab");

/// An emulator for the kernels of psmt-fast.
fn emulator(
    options: psmt_emulator::EmulatorOptions,
) -> psmt_fast::Result<std::sync::Arc<dyn psmt_fast::backend::cuda::driver::Driver>> {
    psmt_emulator::open(options)
}
