//! Kernels with one fault each, which the emulator must report.

#[macro_use]
mod common;
mod mutants;
mod mutants_sm90;

use psmt_emulator::EmulatorOptions;
use psmt_fast::Result;
use psmt_fast::backend::cuda::driver::Driver;
use std::sync::Arc;

/// An emulator for the faulty kernels.
fn emulator(options: EmulatorOptions) -> Result<Arc<dyn Driver>> {
    psmt_emulator::open_with(options, psmt_emulator_faults::FILES)
}
