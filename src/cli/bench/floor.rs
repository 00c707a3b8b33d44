//! `bench floor`: what a step has to move and to compute at least, and how long that takes at given ceilings. Runs nothing.

use super::{full_name, report};
use crate::bench::{Counted, Sizes, step_calls};
use crate::cli::Precision;
use crate::method::Tvat;
use crate::model::ModelConfig;
use crate::model::io::write_json;
use crate::{Error, Result};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Flags of `bench floor`.
#[derive(clap::Args)]
pub(super) struct FloorFlags {
    /// Network.
    #[arg(long, default_value = "r50", value_parser = ["tiny", "r50", "r101", "resnet50", "resnet101"])]
    model: String,
    /// Side of the images
    #[arg(long, default_value_t = 512)]
    crop: usize,
    /// Labelled images, and as many unlabelled ones
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Classes.
    #[arg(long, default_value_t = 21)]
    classes: usize,
    /// Feature noise.
    #[arg(long, value_enum, default_value = "exact")]
    tvat: Tvat,
    /// Type of activations: f32 or bf16
    #[arg(long, value_enum, default_value = "bf16")]
    precision: Precision,
    /// Memory's ceiling, in GB/s [default: 4300, measured on an H200]
    #[arg(long, value_name = "GB/S", default_value_t = 4300.0)]
    bandwidth: f64,
    /// Ceiling of matrix products, in TFLOP/s [default: 790 in bf16, measured on an H200; 67 in f32, its data sheet's]
    #[arg(long, value_name = "TFLOP/S")]
    compute: Option<f64>,
    /// Write the figures to this file too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Sums over the calls of an op.
#[derive(Clone, Copy, Default)]
struct Sum {
    calls: usize,
    bytes: u64,
    flops: u64,
    seconds: f64,
}

impl Sum {
    fn add(&mut self, other: Sum) {
        self.calls += other.calls;
        self.bytes += other.bytes;
        self.flops += other.flops;
        self.seconds += other.seconds;
    }
}

pub(super) fn run(f: &FloorFlags) -> Result<()> {
    let (value, compute) = match f.precision {
        Precision::F32 => (4, 67.0),
        Precision::Bf16 => (2, 790.0),
        Precision::F64 => return Err(Error::Usage("--precision: expected f32 or bf16".into())),
    };
    let compute = f.compute.unwrap_or(compute);
    if !(f.bandwidth > 0.0 && compute > 0.0) {
        return Err(Error::Usage("--bandwidth and --compute: expected numbers above 0".into()));
    }
    let sizes = Sizes::new(ModelConfig::by_name(full_name(&f.model), f.classes)?, f.crop, f.batch)?;
    let mut ops: BTreeMap<&str, Sum> = BTreeMap::new();
    for Counted { call, count } in step_calls(&sizes, &crate::bench::step_args(f.tvat), &[])? {
        let (bytes, flops) = (call.least_bytes(value), call.flops().unwrap_or(0));
        let seconds = (bytes as f64 / (1e9 * f.bandwidth)).max(flops as f64 / (1e12 * compute));
        let n = count as u64;
        let sum = Sum { calls: count, bytes: n * bytes, flops: n * flops, seconds: count as f64 * seconds };
        ops.entry(call.name()).or_default().add(sum);
    }
    let mut total = Sum::default();
    ops.values().for_each(|sum| total.add(*sum));
    let mut rows: Vec<_> = ops.into_iter().collect();
    rows.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));

    println!(
        "floor of a step of {} at {}x{}, batch {}+{}, {} classes, at {} GB/s and {compute} TFLOP/s",
        f.model, f.crop, f.crop, f.batch, f.batch, f.classes, f.bandwidth
    );
    println!("{:<24} {:>6} {:>9} {:>9} {:>9} {:>6}", "op", "calls", "GB", "TFLOP", "ms", "share");
    let line = |name: &str, s: &Sum| {
        println!(
            "{name:<24} {:>6} {:>9.3} {:>9.3} {:>9} {:>5.1}%",
            s.calls,
            1e-9 * s.bytes as f64,
            1e-12 * s.flops as f64,
            report::ms(1e3 * s.seconds),
            1e2 * s.seconds / total.seconds
        );
    };
    rows.iter().for_each(|(name, sum)| line(name, sum));
    line("in all", &total);
    let Some(path) = &f.json else { return Ok(()) };
    let figures = |name: &str, s: &Sum| json!({"what": name, "count": s.calls, "bytes": s.bytes, "gflop": 1e-9 * s.flops as f64, "floor_ms": 1e3 * s.seconds});
    let record = json!({
        "what": "floor", "model": f.model, "crop": f.crop, "batch": f.batch, "classes": f.classes, "tvat": f.tvat,
        "precision": report::precision(f.precision), "bandwidth_gb_s": f.bandwidth, "compute_tflop_s": compute,
        "floor_ms": 1e3 * total.seconds,
        "rows": rows.iter().map(|(name, sum)| figures(name, sum)).collect::<Vec<_>>(),
    });
    write_json(path, &record)
}
