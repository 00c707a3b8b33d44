//! `psmt-lab gradcheck`: compares every backward with finite differences.

use crate::check::gradcheck::{self, Claimant};
use clap::Args as ClapArgs;
use psmt_fast::backend::cpu::Cpu;
use psmt_fast::backend::cuda::{Cuda, Dtype};
use psmt_fast::cli::device::finish;
use psmt_fast::cli::device::{Device, Precision};
use psmt_fast::{Error, Result};

/// Compare every backward and tangent pass of a device with central finite differences.
///
/// Functions and differences are computed on the CPU in double precision, derivatives on the device: in
/// double precision on the CPU, else in f32.
#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Check this one only
    #[arg(long)]
    op: Option<String>,
    /// Seed of the drawn inputs
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Whose derivatives to check: cpu, cuda, cuda:INDEX, emulated, emulated-check, or auto (a GPU where
    /// there is one)
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Type that derivatives are computed in: f64 on the CPU, else f32, and no other
    #[arg(long, value_enum)]
    precision: Option<Precision>,
}

/// Runs the subcommand.
///
/// # Errors
/// [`Error::CheckFailed`] where a derivative is wrong, [`Error::Usage`] for an unknown op or a precision that
/// finite differences cannot judge, [`Error::Device`] for a device that this machine lacks, or its fault.
pub fn run(args: Args) -> Result<()> {
    let device = args.device.resolve();
    let expected = if device == Device::Cpu { Precision::F64 } else { Precision::F32 };
    match args.precision.unwrap_or(expected) {
        Precision::Bf16 => {
            return Err(Error::Usage(
                "gradcheck: bf16 keeps 8 bits, of which finite differences say nothing; `psmt-lab op --check --precision \
                 bf16` compares its gradients with those of the CPU"
                    .into(),
            ));
        }
        precision if precision != expected => {
            let (f64, f32) = ("f64 (and f32 on a GPU or the emulator)", "f32 (and f64 on the CPU)");
            let known = if device == Device::Cpu { f64 } else { f32 };
            return Err(Error::Usage(format!("gradcheck: derivatives of {device} are checked in {known}")));
        }
        _ => {}
    }
    match device.driver()? {
        None => run_on(&Cpu::<f64>::new(), &args),
        Some(driver) => {
            let b = Cuda::new(driver, Dtype::F32);
            finish(&b, run_on(&b, &args))
        }
    }
}

fn run_on<B: Claimant>(b: &B, args: &Args) -> Result<()> {
    println!("{:<20} {:>5} {:>10} {:>8}  result  case", "op", "dirs", "max error", "bar");
    let rows = gradcheck::run(b, args.op.as_deref(), args.seed, |row| {
        let result = if row.ok { "ok" } else { "FAILED" };
        println!(
            "{:<20} {:>5} {:>10.2e} {:>8.0e}  {result:<6}  {}",
            row.op, row.directions, row.max_error, row.tolerance, row.case
        );
    })?;
    let failed = rows.iter().filter(|row| !row.ok).count();
    println!("{} checks on {}, {failed} over their bar", rows.len(), b.name());
    if failed > 0 {
        return Err(Error::CheckFailed(format!("{failed} of {} gradient checks failed", rows.len())));
    }
    Ok(())
}
