//! `report`: one page about several runs.

use crate::{Result, report};
use std::path::PathBuf;

/// Write one HTML page about runs, side by side: numbers, curves, IoU by class, confidence, pictures, settings that differ.
///
/// The page needs nothing but a browser. Runs may still be going on.
#[derive(clap::Args)]
pub struct Args {
    /// Folders of runs; the first is what the others are compared with.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The page; one that is there is replaced.
    #[arg(long, value_name = "FILE.html")]
    out: PathBuf,
}

/// Runs the subcommand.
///
/// # Errors
/// Those of [`report::write`].
pub fn run(args: Args) -> Result<()> {
    report::write(&args.runs, &args.out)?;
    println!("{}", args.out.display());
    Ok(())
}
