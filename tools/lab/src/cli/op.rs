//! `psmt-lab op`: runs the op of a fixture file, or checks files against the results they hold.

use super::tile::{refuse_tile, tile_parser, with_tile};
use crate::check::{Bars, Fixture, Row, UNJUDGED, compare, run_op, with_bf16_inputs};
use clap::Args as ClapArgs;
use psmt_fast::backend::cpu::Cpu;
use psmt_fast::backend::cuda::{Tile, TileUses};
use psmt_fast::cli::device::{Device, Precision};
use psmt_fast::cli::device::{Opened, finish};
use psmt_fast::ops::Backend;
use psmt_fast::{Error, Result};
use std::path::{Path, PathBuf};

/// Run one op on the tensors of a safetensors file, or check files against the results they hold.
///
/// A file holds tensors `in.*` (NCHW) and, in its metadata, the op's name and settings. With --check every
/// file also holds the expected `out.*`; a row for each is printed, and the exit code is 1 when one is off.
#[derive(ClapArgs, Debug)]
pub struct Args {
    /// IN OUT: reads IN and writes the results to OUT. With --check: the files to check
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Compare with the results in the files instead of writing
    #[arg(long)]
    check: bool,
    /// Largest relative error that passes, for all tensors [default: by op and tensor, 1e-4 or in bf16 2e-2
    /// for single ops and more for whole networks, see docs/precision.md]
    #[arg(long, requires = "check", value_parser = tolerance)]
    tolerance: Option<f64>,
    /// Where to compute: cpu, cuda, cuda:INDEX, emulated, emulated-check, or auto (a GPU where there is one)
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Type that the device computes in [default: f64 on the CPU, else f32]: f64 judges the algorithm, f32 is
    /// what training uses on a CPU. In bf16 the files' inputs are rounded to it, and compared with is what
    /// the CPU makes of them in f64
    #[arg(long, value_enum)]
    precision: Option<Precision>,
    /// Tile of the convolution kernels, in place of the one that is expected to be fastest. Convolutions that
    /// it does not fit run in another and are counted; without one that ran in it the check fails
    #[arg(long, requires = "check", value_parser = tile_parser())]
    tile: Option<Tile>,
}

/// How many convolutions ran in the tile that was asked for.
type Uses<'a> = &'a dyn Fn() -> TileUses;

fn tolerance(text: &str) -> std::result::Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "expected a number".to_string())?;
    if value >= 0.0 { Ok(value) } else { Err("expected a number that is not negative".into()) }
}

/// Runs the subcommand.
///
/// # Errors
/// [`Error::CheckFailed`] where results differ, [`Error::Usage`] for a tile that the device lacks,
/// [`Error::Device`] for a device or precision that this build lacks, and those of reading, running and
/// writing.
pub fn run(args: Args) -> Result<()> {
    let device = args.device.resolve();
    let default = if device == Device::Cpu { Precision::F64 } else { Precision::F32 };
    let precision = args.precision.unwrap_or(default);
    if device == Device::Cpu {
        refuse_tile(args.tile)?;
    }
    if device == Device::Cpu && precision == Precision::F64 {
        return run_on(&Cpu::<f64>::new(), &args, precision, &TileUses::default);
    }
    match device.open(precision)? {
        Opened::Cpu(b) => finish(&b, run_on(&b, &args, precision, &TileUses::default)),
        Opened::Cuda(b) => {
            let b = with_tile(b, args.tile)?;
            finish(&b, run_on(&b, &args, precision, &|| b.tile_uses()))
        }
    }
}

fn run_on<B: Backend>(b: &B, args: &Args, precision: Precision, uses: Uses) -> Result<()> {
    if args.check {
        return check(b, args, precision == Precision::Bf16, uses);
    }
    let [input, output] = args.files.as_slice() else {
        let found = args.files.len();
        return Err(Error::Usage(format!("op: expected two files, IN and OUT, found {found} (or --check)")));
    };
    let fixture = Fixture::read(input)?;
    fixture.write_outputs(output, &run_op(b, &fixture)?)
}

/// Prints one row per tensor. A file that cannot be run does not keep the others from being checked; its
/// error is printed in its place and returned in the end.
fn check<B: Backend>(b: &B, args: &Args, bf16: bool, uses: Uses) -> Result<()> {
    let table = if bf16 { Bars::Bf16 } else { Bars::F32 };
    let bars = args.tolerance.map_or(table, Bars::Flat);
    println!("{:<28} {:<58} {:>10} {:>8}  result", "file", "tensor", "error", "bar");
    let (mut rows, mut failed, mut unjudged, mut error) = (0, 0, 0, None);
    for path in &args.files {
        let before = uses();
        match check_file(b, path, bars, bf16) {
            Ok(found) => {
                rows += found.len();
                failed += found.iter().filter(|row| !row.ok).count();
                unjudged += found.iter().filter(|row| row.bar == UNJUDGED).count();
            }
            Err(e) => {
                println!("{:<28} {e}", stem(path));
                error.get_or_insert(e);
            }
        }
        if let Some(tile) = args.tile {
            print_uses(path, tile, before, uses());
        }
    }
    let but = if unjudged > 0 { format!(", {unjudged} not judged in this precision") } else { String::new() };
    let TileUses { asked, others } = uses();
    let forced =
        args.tile.map(|tile| format!(", {asked} of {} convolutions in {}", asked + others, tile.name()));
    println!(
        "{} files, {rows} rows, {failed} over their bar{but}{}",
        args.files.len(),
        forced.unwrap_or_default()
    );
    match (error, args.tile) {
        (Some(error), _) => Err(error),
        _ if failed > 0 => Err(Error::CheckFailed(format!("{failed} of {rows} rows differ"))),
        (None, Some(tile)) if asked == 0 && others > 0 => Err(Error::CheckFailed(format!(
            "--tile {}: it fits none of the {others} convolutions that ran",
            tile.name()
        ))),
        _ => Ok(()),
    }
}

/// Prints how many of a file's convolutions ran in the tile that was asked for, where there are any.
fn print_uses(path: &Path, tile: Tile, before: TileUses, after: TileUses) {
    let (asked, others) = (after.asked - before.asked, after.others - before.others);
    let rest = match (asked, others) {
        (0, 0) => return,
        (_, 0) => "",
        (0, _) => "; it does not fit them and was not forced",
        _ => "; it does not fit the others and was not forced on them",
    };
    println!("{:<28} {asked} of {} convolutions ran in {}{rest}", stem(path), asked + others, tile.name());
}

/// Prints and returns a file's rows.
fn check_file<B: Backend>(b: &B, path: &Path, bars: Bars, bf16: bool) -> Result<Vec<Row>> {
    let mut fixture = Fixture::read(path)?;
    if fixture.outputs.is_empty() {
        return Err(Error::checkpoint(path, "expected tensors 'out.*' to check against, found none"));
    }
    if bf16 {
        fixture = with_bf16_inputs(&fixture)?;
    }
    let got = run_op(b, &fixture)?;
    let rows = compare(&fixture, &got, bars)?;
    for row in &rows {
        let result = if row.ok { "ok" } else { "FAILED" };
        let note = if row.note.is_empty() { String::new() } else { format!(" ({})", row.note) };
        let bar = match row.bar {
            UNJUDGED => "none".to_string(),
            0.0 => "exact".to_string(),
            bar => format!("{bar:.1e}"),
        };
        println!("{:<28} {:<58} {:>10.2e} {bar:>8}  {result}{note}", stem(path), row.tensor, row.error);
    }
    Ok(rows)
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
