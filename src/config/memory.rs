//! How much memory a run on the processor needs, estimated from sizes.

use super::RunConfig;
use crate::Result;
use crate::model::DeepLab;
use crate::ops::{MemoryPlan, MemoryUse, Shape, StepMemory};

/// Bytes of all images and labels of one step, which are brought together before it: those of `optim.accumulate` batches.
pub fn step_images_bytes(config: &RunConfig) -> u64 {
    let [h, w] = config.augment.crop;
    // Labelled and unlabelled, three colours and a label each.
    [config.optim.batch_size, config.optim.accumulate, h, w]
        .iter()
        .fold(8, |n, &v| n.saturating_mul(v as u64))
}

/// Estimated memory of a run on a processor.
///
/// # Errors
/// As [`RunConfig::model_config`].
pub fn estimated_memory(config: &RunConfig) -> Result<MemoryPlan> {
    let arch = DeepLab::new(config.model_config()?)?;
    let ([h, w], n) = (config.augment.crop, config.optim.batch_size);
    let values = 4 * (arch.table.num_params + arch.table.num_stats) as u64;
    let kept = arch.activation_bytes(Shape::new(n, h, w, 3));
    // Batches in use, ready and in the making: labelled and unlabelled images of bytes. Of one step labelled, weak and
    // strong images of f32.
    let pixel = 8 * 2 * 3 + 3 * 3 * 4;
    let batches = (pixel * (n as u64)).saturating_mul(h as u64).saturating_mul(w as u64);
    let further = step_images_bytes(config) / config.optim.accumulate.max(1) as u64;
    let batches =
        batches.saturating_add(further.saturating_mul(config.optim.accumulate.saturating_sub(1) as u64));
    let part = |what: &str, bytes: u64| MemoryUse { what: what.into(), bytes };
    // At the height of the backward pass: gradients of the largest layers, the convolutions' buffers; T-VAT's passes of the
    // teachers take about as much.
    let mut at_peak = vec![part("student's activations", kept), part("student's backward pass", kept / 2)];
    // Between steps a checkpoint is made from copies of three networks and up to three momenta.
    let checkpoint = 6 * values;
    if checkpoint > kept.saturating_mul(3) / 2 {
        at_peak = vec![part("copies for a checkpoint", checkpoint)];
    }
    let bytes = at_peak.iter().fold(0u64, |sum, u| sum.saturating_add(u.bytes));
    Ok(MemoryPlan {
        held: vec![
            part("networks", 3 * values),
            part("momentum and gradient", 4 * values),
            part("images, labels and noise", batches),
        ],
        steps: vec![StepMemory { kind: "training step", bytes, at_peak, buffers: 0 }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_crops_need_more() {
        let mut c = RunConfig::preset(Some(crate::data::Preset::Demo));
        let small = estimated_memory(&c).unwrap();
        c.augment.crop = [100_000, 100_000];
        assert!(estimated_memory(&c).unwrap().bytes() > 100 * small.bytes());
    }
}
