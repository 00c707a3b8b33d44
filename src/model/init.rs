//! Initial values of a network, from its table of parameters alone.

use super::table::{Entry, ParamTable};
use crate::rng::{Domain, Key};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Law that convolutions' initial weights are drawn from. Before a batch norm the scale changes no output,
/// but at one learning rate small weights change direction faster than large ones: from scratch the law is a
/// part of the learning rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Initialization {
    /// Normal with variance 2 / fan-in (He et al., 2015, equation 10), biases zero: the published heads'.
    #[default]
    KaimingNormal,
    /// What PyTorch gives a `Conv2d`: weights and biases uniform between -1 / sqrt(fan-in) and 1 /
    /// sqrt(fan-in), of a sixth of that variance.
    Pytorch,
}

/// Convolution weights by `law`, in the flat (OHWI) order; batch norm weights and running variances are 1,
/// all else 0. Each tensor has its own stream, so the result does not depend on the number of threads.
pub(super) fn init(table: &ParamTable, law: Initialization, seed: u64, network: u64) -> (Vec<f32>, Vec<f32>) {
    let drawn: Vec<Vec<f32>> = table
        .params
        .par_iter()
        .enumerate()
        .map(|(i, entry)| {
            let mut stream = Key::new(seed, Domain::Init, network << 32 | i as u64).stream();
            let len = entry.span.len;
            match (fan_in(table, entry), law) {
                (Some(n), Initialization::KaimingNormal) if entry.shape.len() == 4 => {
                    let std = (2.0 / n as f64).sqrt() as f32;
                    (0..len).map(|_| std * stream.normal()).collect()
                }
                (Some(n), Initialization::Pytorch) => {
                    let bound = (1.0 / n as f64).sqrt() as f32;
                    (0..len).map(|_| stream.range(-bound, bound)).collect()
                }
                (None, _) if entry.name.ends_with(".weight") => vec![1.0; len],
                _ => vec![0.0; len],
            }
        })
        .collect();
    let mut stats = vec![0.0; table.num_stats];
    for entry in table.stats.iter().filter(|e| e.name.ends_with(".running_var")) {
        stats[entry.span.range()].fill(1.0);
    }
    (drawn.concat(), stats)
}

/// Inputs of one output of the convolution that `entry` is the weight or the bias of; `None` for batch norms.
fn fan_in(table: &ParamTable, entry: &Entry) -> Option<usize> {
    let weight = format!("{}.weight", entry.name.rsplit_once('.')?.0);
    match table.params.iter().find(|e| e.name == weight)?.shape.as_slice() {
        &[_, inner, h, w] => Some(inner * h * w),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Architecture, ModelConfig};

    /// Mean square and largest magnitude of the named parameters.
    fn moments(table: &ParamTable, values: &[f32], name: &str) -> (f64, f64) {
        let entry = table.params.iter().find(|e| e.name == name).unwrap();
        let values = &values[entry.span.range()];
        let square = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / values.len() as f64;
        (square, values.iter().fold(0.0, |m, &v| m.max(f64::from(v.abs()))))
    }

    #[test]
    fn weights_follow_their_law_and_all_else_is_neutral() {
        let arch = Architecture::new(ModelConfig::by_name("tiny", 5).unwrap()).unwrap();
        let (conv, bias) = ("decoder.upsample.last_conv.0.weight", "decoder.upsample.classifier.bias");
        let entry = arch.table.params.iter().find(|e| e.name == conv).unwrap();
        let n = entry.shape[1..].iter().product::<usize>() as f64;
        for (law, variance, bound) in [
            (Initialization::KaimingNormal, 2.0 / n, f64::INFINITY),
            (Initialization::Pytorch, 1.0 / (3.0 * n), n.powf(-0.5)),
        ] {
            let (params, stats) = init(&arch.table, law, 3, 1);
            let (square, largest) = moments(&arch.table, &params, conv);
            assert!((square / variance - 1.0).abs() < 0.1, "{law:?}: {square} for {variance}");
            assert!(largest <= bound, "{law:?}: {largest} for {bound}");
            let (_, largest) = moments(&arch.table, &params, bias);
            assert_eq!(largest > 0.0, law == Initialization::Pytorch);
            let scale =
                arch.table.params.iter().find(|e| e.shape.len() == 1 && e.name.ends_with(".weight")).unwrap();
            assert!(params[scale.span.range()].iter().all(|&v| v == 1.0));
            assert_eq!(stats.iter().filter(|&&v| v == 1.0).count() * 2, stats.len());
            assert_ne!(params, init(&arch.table, law, 3, 2).0);
            assert_eq!(params, init(&arch.table, law, 3, 1).0);
        }
    }
}
