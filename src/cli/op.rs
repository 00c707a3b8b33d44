//! Placeholder until the checks are merged.

/// Flags.
#[derive(clap::Args)]
pub struct Args {}

/// Runs.
pub fn run(_: Args) -> crate::Result<()> {
    Ok(())
}
