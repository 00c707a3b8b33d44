//! `report`: one page about several runs.

use crate::{Error, Result, report};
use std::path::PathBuf;

/// Write one HTML page about runs, side by side: numbers, curves, IoU by class, confidence, pictures,
/// settings that differ.
///
/// Runs that differ in the seed alone share a column: mean ± standard deviation, and differences to the first
/// column paired by seed. The page needs nothing but a browser. Runs may still be going on.
#[derive(clap::Args)]
pub struct Args {
    /// Folders of runs; the first, with those that differ from it in the seed alone, is what the others are
    /// compared with.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The page; one that is there is replaced.
    #[arg(long, value_name = "FILE.html", required_unless_present = "markdown")]
    out: Option<PathBuf>,
    /// Write last mIoU, pixel accuracy and paired differences as Markdown tables, for documents; a file that
    /// is there is replaced.
    #[arg(long, value_name = "FILE.md")]
    markdown: Option<PathBuf>,
}

/// Runs the subcommand.
///
/// # Errors
/// Those of [`report::write`], and one file for both.
pub fn run(args: Args) -> Result<()> {
    let (out, markdown) = (args.out.as_deref(), args.markdown.as_deref());
    if out.is_some() && out == markdown {
        return Err(Error::Usage("--out and --markdown are the same file".into()));
    }
    report::write(&args.runs, out, markdown)?;
    for path in [out, markdown].into_iter().flatten() {
        println!("{}", path.display());
    }
    Ok(())
}
