//! `bench floor`: what a step has to move and to compute at least, and how long that takes at given ceilings.
//! Runs nothing.

use super::{StepFlags, report};
use crate::bench::{Counted, step_calls};
use psmt_fast::backend::cuda::Dtype;
use psmt_fast::files::write_json;
use psmt_fast::method::Tvat;
use psmt_fast::{Error, Result};
use serde_json::json;
use std::collections::BTreeMap;

/// Flags of `bench floor`.
#[derive(clap::Args)]
pub(super) struct FloorFlags {
    #[command(flatten)]
    step: StepFlags,
    /// Feature noise.
    #[arg(long, value_enum, default_value = "exact")]
    tvat: Tvat,
    /// Memory's ceiling, in GB/s [default: 4300, measured on an H200]
    #[arg(long, value_name = "GB/S", default_value_t = 4300.0)]
    bandwidth: f64,
    /// Ceiling of matrix products, in TFLOP/s [default: 790 in bf16, measured on an H200; 67 in f32, its data
    /// sheet's]
    #[arg(long, value_name = "TFLOP/S")]
    compute: Option<f64>,
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

pub(super) fn run(flags: &FloorFlags) -> Result<()> {
    let f = &flags.step;
    let (value, compute) = if f.dtype()? == Dtype::F32 { (4, 67.0) } else { (2, 790.0) };
    let compute = flags.compute.unwrap_or(compute);
    if !(flags.bandwidth > 0.0 && compute > 0.0) {
        return Err(Error::Usage("--bandwidth and --compute: expected numbers above 0".into()));
    }
    let sizes = f.sizes()?;
    let mut ops: BTreeMap<&str, Sum> = BTreeMap::new();
    for Counted { call, count } in step_calls(&sizes, &crate::bench::step_args(flags.tvat), &[])? {
        let (bytes, flops) = (call.least_bytes(value), call.flops().unwrap_or(0));
        let seconds = (bytes as f64 / (1e9 * flags.bandwidth)).max(flops as f64 / (1e12 * compute));
        let n = count as u64;
        let sum = Sum { calls: count, bytes: n * bytes, flops: n * flops, seconds: count as f64 * seconds };
        ops.entry(call.name()).or_default().add(sum);
    }
    let mut total = Sum::default();
    ops.values().for_each(|sum| total.add(*sum));
    let mut rows: Vec<_> = ops.into_iter().collect();
    rows.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));

    println!("floor of a step of {}, at {} GB/s and {compute} TFLOP/s", f.describe(), flags.bandwidth);
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
        "what": "floor", "model": f.model, "crop": f.crop, "batch": f.batch, "classes": f.classes, "tvat": flags.tvat,
        "precision": report::precision(f.precision), "bandwidth_gb_s": flags.bandwidth, "compute_tflop_s": compute,
        "floor_ms": 1e3 * total.seconds,
        "rows": rows.iter().map(|(name, sum)| figures(name, sum)).collect::<Vec<_>>(),
    });
    write_json(path, &record)
}
