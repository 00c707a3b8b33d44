//! `bench tiles`: the tiles of the convolution kernels that a step's convolutions take, by the model that
//! chooses them. Runs nothing.

use super::{StepFlags, report};
use crate::bench::{DIRECTIONS, conv_text, known_calls, layers};
use psmt_fast::Result;
use psmt_fast::backend::cuda::{Direction, modelled_tiles};
use psmt_fast::files::write_json;
use psmt_fast::method::Tvat;
use serde_json::{Value, json};

/// Flags of `bench tiles`.
#[derive(clap::Args)]
pub(super) struct TilesFlags {
    #[command(flatten)]
    step: StepFlags,
    /// As on cards without WGMMA: those of compute capability 8.x, and 10.0 and newer
    #[arg(long)]
    no_warpgroups: bool,
}

/// In the order of [`DIRECTIONS`].
const PRODUCTS: [Direction; 3] = [Direction::Fprop, Direction::Dgrad, Direction::Wgrad];

pub(super) fn run(flags: &TilesFlags) -> Result<()> {
    let (f, dtype) = (&flags.step, flags.step.dtype()?);
    println!("tiles of the convolutions of a step of {}", f.describe());
    println!(
        "modelled microseconds on an H200, fastest first; the first is taken; calls: how often in a step"
    );
    let (mut rows, mut total_ms) = (Vec::new(), 0.0);
    for layer in layers(&known_calls(&f.sizes()?, Tvat::Exact)?) {
        println!("{}", conv_text(&layer.conv, layer.x));
        for ((product, name), count) in PRODUCTS.into_iter().zip(DIRECTIONS).zip(layer.counts) {
            let mut times = modelled_tiles(product, &layer.conv, layer.x, dtype, !flags.no_warpgroups)?;
            times.sort_by(|a, b| a.1.total_cmp(&b.1));
            let words: Vec<_> =
                times.iter().map(|(t, ns)| format!("{} {:.1}", t.name(), 1e-3 * ns)).collect();
            println!("    {name:<16} {count:>3} calls   {}", words.join(", "));
            let fastest = times.first().map_or(0.0, |(_, ns)| 1e-6 * ns);
            total_ms += count as f64 * fastest;
            let tiles: Vec<Value> = times
                .iter()
                .map(|(tile, ns)| json!({ "tile": tile.name(), "model_ms": 1e-6 * ns }))
                .collect();
            rows.push(json!({
                "what": name, "layer": conv_text(&layer.conv, layer.x), "count": count, "tiles": tiles,
            }));
        }
    }
    println!("all of a step by the model: {} ms", report::ms(total_ms));
    let Some(path) = &f.json else { return Ok(()) };
    write_json(
        path,
        &json!({
            "what": "tiles", "model": f.model, "crop": f.crop, "batch": f.batch, "classes": f.classes,
            "precision": report::precision(f.precision), "warpgroups": !flags.no_warpgroups,
            "model_ms": total_ms, "rows": rows,
        }),
    )
}
