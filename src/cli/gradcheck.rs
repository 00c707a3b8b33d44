//! `psmt-fast gradcheck`: compares every backward with finite differences.

use super::Device;
use crate::check::gradcheck;
use crate::{Error, Result};
use clap::Args as ClapArgs;

/// Compare every backward and tangent pass with central finite differences in double precision.
#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Check this one only
    #[arg(long)]
    op: Option<String>,
    /// Seed of the drawn inputs
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to compute: cpu, which alone has the double precision that finite differences need
    #[arg(long, default_value = "cpu")]
    device: Device,
}

/// Runs the subcommand.
///
/// # Errors
/// [`Error::CheckFailed`] where a derivative is wrong, [`Error::Usage`] for an unknown op, [`Error::Device`] for a device
/// other than the CPU.
pub fn run(args: Args) -> Result<()> {
    if args.device != Device::Cpu {
        let message = "has no double precision, which finite differences need; `psmt-fast op --check` compares its \
                       gradients with those of the CPU";
        return Err(Error::Device { name: args.device.to_string(), message: message.into() });
    }
    println!("{:<20} {:>5} {:>10}  result  case", "op", "dirs", "max error");
    let rows = gradcheck::run(args.op.as_deref(), args.seed, |row| {
        let result = if row.ok { "ok" } else { "FAILED" };
        println!("{:<20} {:>5} {:>10.2e}  {result:<6}  {}", row.op, row.directions, row.max_error, row.case);
    })?;
    let failed = rows.iter().filter(|row| !row.ok).count();
    println!("{} checks, {failed} over tolerance {:e}", rows.len(), gradcheck::TOLERANCE);
    if failed > 0 {
        return Err(Error::CheckFailed(format!("{failed} of {} gradient checks failed", rows.len())));
    }
    Ok(())
}
