//! The command line: that of psmt-fast with the emulated devices, and one file for each command of its own.
//! Turns flags into library calls and results into tables; must not know how anything is computed.

mod bench;
mod examples;
mod gradcheck;
mod op;
mod selftest;
mod tile;

use clap::{Parser, Subcommand};
use psmt_emulator::EmulatorOptions;
use psmt_fast::Result;
use psmt_fast::backend::cuda::driver::Driver;
use psmt_fast::cli::{self, Common, ExtraDevice, Program};
use std::process::ExitCode;
use std::sync::Arc;

/// psmt-fast with its kernels on an emulator too, and with what measures and proves it.
#[derive(Parser)]
#[command(version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Product(cli::Command),
    /// Time kernels, layers and stages of a training step on drawn data.
    #[command(after_help = examples::BENCH)]
    Bench(bench::Args),
    /// Run or check single operations on tensor files.
    #[command(after_help = examples::OP)]
    Op(op::Args),
    /// Check every backward pass against finite differences.
    #[command(after_help = examples::GRADCHECK)]
    Gradcheck(gradcheck::Args),
    /// Check what the kernels' instructions do on a device.
    #[command(after_help = examples::SELFTEST)]
    Selftest(selftest::Args),
}

impl Program for Cli {
    fn common(&self) -> &Common {
        &self.common
    }

    fn outlives_its_reader(&self) -> bool {
        matches!(&self.command, Command::Product(command) if command.outlives_its_reader())
    }

    fn run(self) -> Result<()> {
        match self.command {
            Command::Product(command) => command.run::<Cli>(),
            Command::Bench(args) => bench::run(args),
            Command::Op(args) => op::run(args),
            Command::Gradcheck(args) => gradcheck::run(args),
            Command::Selftest(args) => selftest::run(args),
        }
    }
}

fn open(check: bool) -> Result<Arc<dyn Driver>> {
    psmt_emulator::open(EmulatorOptions { check, ..EmulatorOptions::default() })
}

/// The kernels of the GPU run on the processor, the second with every access to memory checked.
const DEVICES: [ExtraDevice; 2] = [
    ExtraDevice { name: "emulated", open: || open(false) },
    ExtraDevice { name: "emulated-check", open: || open(true) },
];

/// Runs the program.
pub fn main() -> ExitCode {
    cli::start::<Cli>(&DEVICES)
}
