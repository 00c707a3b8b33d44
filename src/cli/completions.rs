//! `completions` and `man`: what shells and `man` know of the command line, made from its definition.

use crate::{Error, Result};
use clap::CommandFactory;
use std::io::Write;
use std::path::PathBuf;

/// Print the completions of a shell.
#[derive(clap::Args)]
pub struct CompletionArgs {
    /// Which shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Write manual pages: one of the program, one a subcommand.
#[derive(clap::Args)]
pub struct ManArgs {
    /// Folder for the pages; made where it is missing
    #[arg(value_name = "DIR")]
    out: PathBuf,
}

/// Prints the completions.
///
/// # Errors
/// [`Error::Io`] where standard output is closed.
pub fn completions<C: CommandFactory>(args: CompletionArgs) -> Result<()> {
    let mut text = Vec::new();
    let mut command = C::command();
    let name = command.get_name().to_string();
    clap_complete::generate(args.shell, &mut command, name, &mut text);
    std::io::stdout().write_all(&text).map_err(Error::io("standard output"))
}

/// Writes the pages.
///
/// # Errors
/// [`Error::Io`].
pub fn man<C: CommandFactory>(args: ManArgs) -> Result<()> {
    std::fs::create_dir_all(&args.out).map_err(Error::io(&args.out))?;
    let command = C::command().disable_help_subcommand(true);
    clap_mangen::generate_to(command, &args.out).map_err(Error::io(&args.out))?;
    println!("manual pages in {}", args.out.display());
    Ok(())
}
