//! `bench kernels`: every op of a training step at its sizes.

use super::report::{self, record};
use super::{CallFlags, Run};
use crate::bench::{Call, Counted, Timing, copy_rate, known_calls, product_rate, time_call, working_sets};
use psmt_fast::Result;
use psmt_fast::method::Tvat;
use psmt_fast::on_device;
use psmt_fast::ops::Backend;
use serde_json::{Value, json};

/// Measured ceilings.
pub(super) struct Ceilings {
    /// Bytes per second of a copy.
    pub copy: f64,
    /// Operations per second of a matrix product.
    pub product: f64,
}

impl Ceilings {
    /// Both, with sizes that fill the device.
    pub fn measure<B: Backend>(b: &B, run: &Run) -> Result<Ceilings> {
        let (bytes, side) = match (run.on_gpu(), run.emulated()) {
            (true, _) => (1 << 28, 8192),
            (_, true) => (1 << 16, 64),
            _ => (1 << 25, 512),
        };
        let copy = copy_rate(b, bytes / run.value_bytes(), run.value_bytes(), run.sampling())?;
        Ok(Ceilings { copy, product: product_rate(b, side, run.sampling())? })
    }
}

pub(super) fn run(flags: &CallFlags) -> Result<()> {
    let run = flags.shared.resolve()?;
    on_device!(run.open()?, b => kernels(b, &run, flags))
}

fn kernels<B: Backend>(b: &B, run: &Run, flags: &CallFlags) -> Result<()> {
    let mut calls = known_calls(&run.sizes, Tvat::Exact)?;
    calls.retain(|c| format!("{} {}", c.call.name(), c.call.sizes()).contains(&flags.filter));
    if calls.is_empty() {
        return Err(report::nothing(&flags.filter));
    }
    // Grouped by op; the sort keeps the order of a step within each.
    calls.sort_by_key(|c| c.call.name());
    let (mut oracle, ceilings) = (run.oracle()?, Ceilings::measure(b, run)?);
    println!("kernels of a step, {}", report::sizes(run));
    println!(
        "ceilings: copy {:.1} GB/s (a sum, read and written), product {:.1} GFLOP/s (square 1x1 convolution)",
        1e-9 * ceilings.copy,
        1e-9 * ceilings.product
    );
    println!(
        "each op agrees with the processor in f64 on small inputs, and gives no value that is not finite here"
    );
    println!(
        "{:<24} {:<50} {:>5} {:>9} {:>9} {:>9} {:>9} {:>10} {:>6}  cache",
        "op", "sizes", "calls", "ms", "min", "max", "MB", "GB/s", "share"
    );
    let (mut rows, mut step_ms) = (Vec::new(), 0.0);
    for Counted { call, count } in &calls {
        let (compared, error) = oracle.check(b, call.name())?;
        let (sets, cold) = working_sets(call, run.value_bytes(), run.cold(flags.cache));
        let timing = time_call(b, call, run.sampling(), sets)?;
        step_ms += timing.median() * *count as f64;
        let check = format!("{compared} small calls beside the processor in f64, off by at most {error:.1e}");
        rows.push(row(run, call, *count, &timing, &ceilings, cold, check));
    }
    if step_ms > 0.0 {
        println!("these calls of a step, one after another: {} ms", report::ms(step_ms));
    }
    let mut out = report::header(run, "kernels");
    out.extend(record(json!({
        "copy_gb_s": 1e-9 * ceilings.copy,
        "product_gflop_s": 1e-9 * ceilings.product,
        "step_ms": step_ms,
        "rows": rows,
    })));
    report::write(run, &out)
}

/// Prints a line and returns its figures.
fn row(
    run: &Run,
    call: &Call,
    count: usize,
    timing: &Timing,
    ceilings: &Ceilings,
    cold: bool,
    check: String,
) -> Value {
    let seconds = 1e-3 * timing.median();
    let bytes = call.least_bytes(run.value_bytes());
    let moved = bytes as f64 / seconds;
    let computed = call.flops().map(|flops| flops as f64 / seconds);
    let (rate, share) = match computed {
        Some(computed) => (format!("{:.1} GF", 1e-9 * computed), computed / ceilings.product),
        None => (format!("{:.1}", 1e-9 * moved), moved / ceilings.copy),
    };
    let cache = if cold { "cold" } else { "warm" };
    // Only a device that works asynchronously can wait for the program.
    let waits = run.on_gpu() && timing.waits_for_program();
    println!(
        "{:<24} {:<50} {:>5} {:>9} {:>9} {:>9} {:>9.3} {:>10} {:>5.0}%  {cache}{}",
        call.name(),
        call.sizes(),
        count,
        report::ms(timing.median()),
        report::ms(timing.min()),
        report::ms(timing.spread()[2]),
        1e-6 * bytes as f64,
        rate,
        1e2 * share,
        if waits { ", waits for launches" } else { "" },
    );
    let mut out = record(json!({
        "what": call.name(),
        "sizes": call.sizes(),
        "count": count,
        "bytes": bytes,
        "gb_s": 1e-9 * moved,
        "gflop": call.flops().map(|flops| 1e-9 * flops as f64),
        "gflop_s": computed.map(|rate| 1e-9 * rate),
        "share": share,
        "cache": cache,
        "waits_for_launches": waits,
        "check": check,
    }));
    out.extend(report::times(timing));
    out.into()
}
