//! `bench layers`: every distinct convolution of a training step, in all directions.

use super::kernels::Ceilings;
use super::report::{self, record};
use super::{CallFlags, LayersFlags, Run};
use crate::bench::{DIRECTIONS, Layer, Timing, conv_text, known_calls, layers, time_call, working_sets};
use crate::cli::tile::{refuse_tile, with_tile};
use psmt_fast::cli::device::Precision;
use psmt_fast::cli::device::{Opened, finish};
use psmt_fast::method::Tvat;
use psmt_fast::ops::{Backend, Conv2d, Shape};
use psmt_fast::{Error, Result};
use serde_json::{Value, json};

/// The launch plans of the three directions of a convolution, `None` on a processor.
type Plans<'a> = &'a dyn Fn(&Conv2d, Shape) -> Result<Option<[String; 3]>>;

pub(super) fn run(flags: &LayersFlags) -> Result<()> {
    let LayersFlags { calls, tile } = flags;
    let run = calls.shared.resolve()?;
    let mut layers = layers(&known_calls(&run.sizes, Tvat::Exact)?);
    layers.retain(|l| conv_text(&l.conv, l.x).contains(&calls.filter));
    if layers.is_empty() {
        return Err(report::nothing(&calls.filter));
    }
    match run.open()? {
        Opened::Cpu(b) => {
            refuse_tile(*tile)?;
            let ceilings = Ceilings::measure(&b, &run)?;
            finish(&b, time(&b, &run, calls, layers, &ceilings, &|_, _| Ok(None)))
        }
        Opened::Cuda(b) => {
            let forced = with_tile(b.clone(), *tile)?;
            // The ceiling is that of the best tile, whichever is asked for.
            let ceilings = finish(&b, Ceilings::measure(&b, &run))?;
            let plans = |conv: &Conv2d, x| forced.conv2d_plans(conv, x).map(Some);
            finish(&forced, time(&forced, &run, calls, layers, &ceilings, &plans))?;
            match (tile, forced.tile_uses().asked) {
                (Some(tile), 0) => {
                    Err(Error::CheckFailed(format!("--tile {}: it fits none of these layers", tile.name())))
                }
                _ => Ok(()),
            }
        }
    }
}

/// One layer's times.
struct Row {
    layer: Layer,
    timings: Vec<Timing>,
    /// Elements of each direction that were compared.
    checked: [usize; 3],
    cold: bool,
    plans: Option<[String; 3]>,
}

impl Row {
    /// Milliseconds of all its calls in a step.
    fn step_ms(&self) -> f64 {
        let calls = self.timings.iter().zip(self.layer.counts);
        calls.map(|(timing, count)| timing.median() * count as f64).sum()
    }
}

fn time<B: Backend>(
    b: &B,
    run: &Run,
    flags: &CallFlags,
    layers: Vec<Layer>,
    ceilings: &Ceilings,
    plans: Plans,
) -> Result<()> {
    let mut rows = Vec::new();
    for layer in layers {
        let checked = layer.check(b, tolerance(run))?;
        let (mut timings, mut all_cold) = (Vec::new(), true);
        for direction in 0..DIRECTIONS.len() {
            let call = layer.call(direction);
            let (sets, cold) = working_sets(&call, run.value_bytes(), run.cold(flags.cache));
            all_cold &= cold;
            timings.push(time_call(b, &call, run.sampling(), sets)?);
        }
        let plans = plans(&layer.conv, layer.x)?;
        rows.push(Row { layer, timings, checked, cold: all_cold, plans });
    }
    let step_ms: f64 = rows.iter().map(Row::step_ms).sum();
    print(run, &rows, ceilings, step_ms);
    let figures: Vec<Value> = rows.iter().flat_map(|row| figures(row, ceilings, step_ms)).collect();
    let mut out = report::header(run, "layers");
    out.extend(record(json!({
        "product_gflop_s": 1e-9 * ceilings.product,
        "step_ms": step_ms,
        "rows": figures,
    })));
    report::write(run, &out)
}

/// Largest errors that pass, relative to the sum of the terms' sizes and to the value. Drawn weights are
/// exact in bf16, so what remains there is the rounding of the result.
fn tolerance(run: &Run) -> (f64, f64) {
    (
        if run.on_gpu() || run.emulated() { 1e-4 } else { 1e-5 },
        if run.precision == Precision::Bf16 { 4e-3 } else { 0.0 },
    )
}

fn print(run: &Run, rows: &[Row], ceilings: &Ceilings, step_ms: f64) {
    println!("convolutions of a step, {}", report::sizes(run));
    println!(
        "median ms, GFLOP/s, share of the best product ({:.1} GFLOP/s, a square 1x1 convolution); calls: how often in a step \
         forward, data gradient, weight gradient; share: of all convolutions of a step ({} ms)",
        1e-9 * ceilings.product,
        report::ms(step_ms)
    );
    let least = rows.iter().flat_map(|row| row.checked).min().unwrap_or(0);
    println!("all three directions agree with the definition at {least} or more elements each");
    let heads = ["forward", "data gradient", "weight gradient"].map(|head| format!("{head:>27}")).join("");
    println!("{:<48} {:>9}{heads} {:>6}  cache", "layer", "calls", "share");
    for row in rows {
        let (layer, flops) = (&row.layer, row.layer.conv.flops(row.layer.x) as f64);
        print!(
            "{:<48} {:>9}",
            conv_text(&layer.conv, layer.x),
            layer.counts.map(|c| c.to_string()).join("/")
        );
        for timing in &row.timings {
            let rate = flops / (1e-3 * timing.median());
            print!(
                " {:>9} {:>10.1} {:>4.0}%",
                report::ms(timing.median()),
                1e-9 * rate,
                1e2 * rate / ceilings.product
            );
        }
        println!(" {:>5.1}%  {}", 1e2 * row.step_ms() / step_ms, if row.cold { "cold" } else { "warm" });
        if let Some(plans) = &row.plans {
            println!("    {}", plans.join("; "));
        }
    }
    let calls = |row: &Row| row.layer.conv.flops(row.layer.x) * row.layer.counts.iter().sum::<usize>() as u64;
    let flops = rows.iter().map(calls).sum::<u64>() as f64;
    if step_ms > 0.0 {
        println!("these of a step: {} ms, {:.1} GFLOP/s", report::ms(step_ms), 1e-6 * flops / step_ms);
    }
}

/// A JSON object for each direction, sizes as PyTorch has them.
fn figures(row: &Row, ceilings: &Ceilings, step_ms: f64) -> Vec<Value> {
    let Layer { conv, x, counts } = &row.layer;
    let flops = conv.flops(*x) as f64;
    let direction = |(d, timing): (usize, &Timing)| {
        let rate = flops / (1e-3 * timing.median());
        let mut out = record(json!({
            "what": DIRECTIONS[d],
            "x": [x.n, x.c, x.h, x.w],
            "w": [conv.out_channels, conv.in_channels / conv.groups, conv.kernel, conv.kernel],
            "stride": conv.stride,
            "padding": conv.padding,
            "dilation": conv.dilation,
            "groups": conv.groups,
            "bias": conv.bias.is_some(),
            "gflop": 1e-9 * flops,
            "gflop_s": 1e-9 * rate,
            "share_of_product": rate / ceilings.product,
            "count": counts[d],
            "share_of_step": timing.median() * counts[d] as f64 / step_ms,
            "cache": if row.cold { "cold" } else { "warm" },
            "plan": row.plans.as_ref().map(|plans| &plans[d]),
            "check": format!("the definition at {} elements", row.checked[d]),
        }));
        out.extend(report::times(timing));
        Value::from(out)
    };
    row.timings.iter().enumerate().map(direction).collect()
}
