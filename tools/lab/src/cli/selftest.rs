//! `psmt-lab selftest`: proves on a device what every kernel relies on.

use crate::check::selftest;
use clap::Args as ClapArgs;
use psmt_fast::cli::device::Device;
use psmt_fast::files::write_json;
use psmt_fast::{Error, Result};
use serde_json::json;
use std::path::PathBuf;

/// Compare what the kernels' instructions do on a device with what they are defined to do.
///
/// Kernels are built on some twenty instructions of the GPU: barriers, shuffles, atomics, asynchronous
/// copies, matrix products. Each is compared with plain loops or known values; the exit code is 1 where one
/// differs.
#[derive(ClapArgs, Debug)]
pub struct Args {
    /// What to test: cuda, cuda:INDEX, emulated or emulated-check
    #[arg(long, default_value = "cuda")]
    device: Device,
    /// Write the rows to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs the subcommand.
///
/// # Errors
/// [`Error::CheckFailed`] where a value differs, [`Error::Usage`] for the CPU, which runs no kernels,
/// [`Error::Device`] for a device that this machine lacks, or its fault, [`Error::Io`] where FILE cannot be
/// written.
pub fn run(args: Args) -> Result<()> {
    let Some(driver) = args.device.driver()? else {
        return Err(Error::Usage(
            "selftest: the processor runs no kernels, expected cuda, cuda:INDEX, emulated or emulated-check"
                .into(),
        ));
    };
    println!("{:<44} {:>7} {:>10}  result", "instruction", "values", "worst");
    let rows = selftest::run(&*driver, |row| {
        let result = if row.ok { "ok".to_string() } else { format!("FAILED ({})", row.message) };
        println!("{:<44} {:>7} {:>10.2e}  {result}", row.name, row.values, row.worst);
    })?;
    let failed = rows.iter().filter(|row| !row.ok).count();
    if let Some(path) = &args.json {
        write_json(path, &json!({ "device": driver.name(), "failed": failed, "rows": rows }))?;
    }
    println!("{} checks on {}, {failed} failed", rows.len(), driver.name());
    if failed > 0 {
        return Err(Error::CheckFailed(format!("{failed} of {} instructions differ", rows.len())));
    }
    Ok(())
}
