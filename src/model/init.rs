//! Initial values of a network. Knows the table, not the layers.

use super::table::ParamTable;
use crate::rng::{Domain, Key};
use rayon::prelude::*;

/// Convolution weights: normal with variance 2 / fan-in (He et al., 2015, equation 10), in the flat (OHWI) order. Batch
/// norm weights and running variances are 1, all else 0. Each tensor has its own stream, so the result does not
/// depend on the number of threads.
pub(super) fn init(table: &ParamTable, seed: u64, network: u64) -> (Vec<f32>, Vec<f32>) {
    let drawn: Vec<Vec<f32>> = table
        .params
        .par_iter()
        .enumerate()
        .map(|(i, entry)| {
            if let &[_, inner, h, w] = entry.shape.as_slice() {
                let std = (2.0 / (inner * h * w) as f64).sqrt() as f32;
                let mut stream = Key::new(seed, Domain::Init, network << 32 | i as u64).stream();
                return (0..entry.span.len).map(|_| std * stream.normal()).collect();
            }
            vec![if entry.name.ends_with(".weight") { 1.0 } else { 0.0 }; entry.span.len]
        })
        .collect();
    let mut stats = vec![0.0; table.num_stats];
    for entry in table.stats.iter().filter(|e| e.name.ends_with(".running_var")) {
        stats[entry.span.range()].fill(1.0);
    }
    (drawn.concat(), stats)
}
