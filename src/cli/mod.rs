//! The command line: one file a subcommand. Turns flags into library calls and results into tables; must not
//! know how anything is computed.

mod check_data;
mod completions;
pub mod device;
mod doctor;
mod eval;
mod examples;
mod export;
mod inference;
mod inspect;
mod memory;
mod predict;
mod presets;
mod report;
mod settings;
mod split;
mod train;

use crate::on_device;
use crate::{Error, Result};
use clap::{Parser, Subcommand};
use device::DeviceArgs;
pub use device::ExtraDevice;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// Trains semantic-segmentation networks from few labelled and many unlabelled images by PS-MT.
#[derive(Parser)]
#[command(version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

/// Flags of every command.
#[derive(clap::Args)]
pub struct Common {
    /// Threads to compute with (default: all cores). Results do not depend on it.
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
}

/// The commands of this program.
#[derive(Subcommand)]
pub enum Command {
    /// Train; without arguments on built-in drawn scenes.
    #[command(after_help = examples::TRAIN)]
    Train(Box<train::Args>),
    /// Write one HTML page about runs, side by side.
    #[command(after_help = examples::REPORT)]
    Report(report::Args),
    /// Score a checkpoint on images with masks.
    #[command(after_help = examples::EVAL)]
    Eval(eval::Args),
    /// Write masks and confidences for images.
    #[command(after_help = examples::PREDICT)]
    Predict(predict::Args),
    /// Write a checkpoint's networks for other programs: ONNX, or plain tensors.
    #[command(after_help = examples::EXPORT)]
    Export(export::Args),
    /// Show what a file with weights holds and what takes it.
    #[command(after_help = examples::INSPECT)]
    Inspect(inspect::Args),
    /// List published settings and their mIoU.
    #[command(after_help = examples::PRESETS)]
    Presets(presets::Args),
    /// Read a data set through: sizes, class frequencies, every fault.
    #[command(after_help = examples::CHECK_DATA)]
    CheckData(check_data::Args),
    /// Choose which images of a labelled set stay labelled.
    #[command(after_help = examples::SPLIT)]
    Split(split::Args),
    /// Print what this machine and this build offer.
    #[command(after_help = examples::DOCTOR)]
    Doctor(doctor::Args),
    /// Print the completions of a shell.
    #[command(after_help = examples::COMPLETIONS)]
    Completions(completions::CompletionArgs),
    /// Write manual pages.
    #[command(after_help = examples::MAN)]
    Man(completions::ManArgs),
}

/// Ends the program like any other where nobody reads its output any more, as in `psmt-fast presets | head
/// -1`; Rust's own way is to panic at the next line printed. Training goes on without a reader.
fn end_with_the_reader() {
    #[cfg(unix)]
    // SAFETY: no other thread runs yet, and the default action needs no handler.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// A command line that [`start`] runs.
pub trait Program: Parser {
    /// Flags of every command.
    fn common(&self) -> &Common;
    /// Whether the program goes on where nobody reads its output any more.
    fn outlives_its_reader(&self) -> bool;
    /// Does what the command says.
    ///
    /// # Errors
    /// Those of the command.
    fn run(self) -> Result<()>;
}

impl Program for Cli {
    fn common(&self) -> &Common {
        &self.common
    }

    fn outlives_its_reader(&self) -> bool {
        self.command.outlives_its_reader()
    }

    fn run(self) -> Result<()> {
        self.command.run::<Cli>()
    }
}

/// Runs psmt-fast.
pub fn main() -> ExitCode {
    start::<Cli>(&[])
}

/// Parses the command line and runs it; `devices` are there besides those of psmt-fast.
pub fn start<P: Program>(devices: &'static [ExtraDevice]) -> ExitCode {
    device::add_devices(devices);
    let program = P::parse();
    if !program.outlives_its_reader() {
        end_with_the_reader();
    }
    let filter = tracing_subscriber::EnvFilter::try_from_env("PSMT_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .without_time()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .log_internal_errors(false) // a full or closed standard error is no reason to stop
        .init();
    match check_processor().and_then(|()| run(program)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "error: {}", printable(&e.to_string()));
            ExitCode::from(e.exit_code())
        }
    }
}

/// Text that may hold what files say, for a terminal: control characters other than the ends of lines and
/// tabs are spelled out, so that none is obeyed.
fn printable(text: &str) -> String {
    let shown = |c: char| !c.is_control() || c == '\n' || c == '\t';
    let spelled = text.chars().map(|c| if shown(c) { c.to_string() } else { c.escape_default().to_string() });
    spelled.collect()
}

fn run(program: impl Program) -> Result<()> {
    // Made here, as a pool that is made when it is first needed panics where the system has no threads left.
    rayon::ThreadPoolBuilder::new()
        .num_threads(program.common().threads.unwrap_or(0).into())
        .build_global()
        .map_err(|e| {
            Error::Usage(format!("cannot make the threads to compute with: {e}; --threads N asks for fewer"))
        })?;
    program.run()
}

impl Command {
    /// Whether the program goes on where nobody reads its output any more.
    pub fn outlives_its_reader(&self) -> bool {
        matches!(self, Command::Train(args) if args.trains())
    }

    /// Runs the command of the program `P`.
    ///
    /// # Errors
    /// Those of the command.
    pub fn run<P: Program>(self) -> Result<()> {
        match self {
            Command::Train(args) => train::run(*args),
            Command::Report(args) => report::run(args),
            Command::Eval(args) => eval::run(args),
            Command::Predict(args) => predict::run(args),
            Command::Export(args) => export::run(args),
            Command::Inspect(args) => inspect::run(args),
            Command::Presets(args) => presets::run(args),
            Command::CheckData(args) => check_data::run(args),
            Command::Split(args) => split::run(args),
            Command::Doctor(args) => doctor::run(args),
            Command::Completions(args) => completions::completions::<P>(args),
            Command::Man(args) => completions::man::<P>(args),
        }
    }
}

/// The program is compiled for AVX2 and FMA; without them it would end on an illegal instruction.
fn check_processor() -> Result<()> {
    #[cfg(target_arch = "x86_64")]
    if !(std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")) {
        return Err(Error::Device {
            name: "cpu".into(),
            message: "this build needs a processor with AVX2 and FMA (x86-64-v3, any since about 2013); build with \
                      RUSTFLAGS=-Ctarget-cpu=x86-64 for an older one"
                .into(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_spelled_out() {
        assert_eq!(printable("a\tb\nü \u{1b}[31m\u{9b}\r"), "a\tb\nü \\u{1b}[31m\\u{9b}\\r");
    }
}
