//! How much memory a run on the processor needs, estimated from sizes.

use super::RunConfig;
use crate::Result;
use crate::eval::Which;
use crate::eval::memory as inference;
use crate::model::Architecture;
use crate::ops::{MemoryPlan, MemoryUse, Shape, Size, StepMemory};

/// Kind of step of a validation in a plan.
pub const VALIDATION: &str = "validation";
/// Decoded images that a run keeps, in the words of a plan.
pub const KEPT_IMAGES: &str = "decoded images that are kept";

/// Images of a run, as far as they decide its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageSizes {
    /// Rows and columns of the largest validation image; none where nothing is validated.
    pub largest_val: Size,
    /// Number of validation images.
    pub val: usize,
    /// Bytes of the decoded images and masks of each list: labelled, unlabelled where there is one,
    /// validation.
    pub decoded: [u64; 3],
}

/// Bytes of all images and labels of one step, which are brought together before it: those of
/// `optim.accumulate` batches.
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
pub fn estimated_memory(config: &RunConfig, images: &ImageSizes) -> Result<MemoryPlan> {
    let arch = Architecture::new(config.model_config()?)?;
    let ([h, w], n) = (config.augment.crop, config.optim.batch_size);
    let values = 4 * (arch.table.num_params + arch.table.num_stats) as u64;
    let kept = arch.activation_bytes(Shape::new(n, h, w, 3));
    // Batches ready and in the making: labelled and unlabelled images of bytes. Of one batch labelled, weak
    // and strong images of f32.
    let pixel = 7 * 2 * 4 + 3 * 3 * 4;
    let batches = (pixel * n as u64).saturating_mul(h as u64).saturating_mul(w as u64);
    let batches = batches.saturating_add(step_images_bytes(config));
    let part = |what: &str, bytes: u64| MemoryUse { what: what.into(), bytes };
    // At the height of the backward pass: gradients of the largest layers, the convolutions' buffers; T-VAT's
    // passes of the teachers take about as much.
    let mut at_peak = vec![part("student's activations", kept), part("student's backward pass", kept / 2)];
    // Between steps a checkpoint is made from copies of three networks and up to three momenta.
    let checkpoint = 6 * values;
    if checkpoint > kept.saturating_mul(3) / 2 {
        at_peak = vec![part("copies for a checkpoint", checkpoint)];
    }
    let step = |kind: &'static str, at_peak: Vec<MemoryUse>| {
        let bytes = at_peak.iter().fold(0u64, |sum, u| sum.saturating_add(u.bytes));
        StepMemory { kind, bytes, at_peak, buffers: 0 }
    };
    let held = vec![
        part("networks", 3 * values),
        part("momentum and gradient", 4 * values),
        part("images, labels and noise", batches),
    ];
    let mut steps = vec![step("training step", at_peak)];
    if images.val > 0 {
        steps.push(step(VALIDATION, validation(config, &arch, images)));
    }
    Ok(MemoryPlan { held, steps })
}

/// What a validation predicts at a time.
pub fn validation_asked(config: &RunConfig, images: &ImageSizes) -> inference::Asked {
    let teachers = config.method.algorithm.num_teachers();
    inference::Asked {
        size: images.largest_val,
        images: config.eval.batch_size.clamp(1, images.val.max(1)),
        networks: 1 + teachers,
        predictions: Which::available(teachers).len(),
    }
}

/// What a validation takes.
fn validation(config: &RunConfig, arch: &Architecture, images: &ImageSizes) -> Vec<MemoryUse> {
    let asked = validation_asked(config, images);
    let (together, (rows, columns)) = (asked.images, asked.size);
    let mut uses = vec![MemoryUse {
        what: format!("{together} images of {rows} x {columns} (rows x columns)"),
        bytes: inference::bytes(arch, &config.eval.settings(config.normalize), &asked),
    }];
    // A row of a picture: image, truth, prediction and confidence in colour, twice while they are put
    // together.
    let pixels = (rows as u64).saturating_mul(columns as u64);
    let pictures = config.run.pictures.min(images.val) as u64;
    if pictures > 0 {
        uses.push(MemoryUse { what: "pictures".into(), bytes: pixels.saturating_mul(24 * pictures) });
    }
    uses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_crops_need_more() {
        let mut c = RunConfig::preset(Some(crate::data::Preset::Demo));
        let none = ImageSizes::default();
        let small = estimated_memory(&c, &none).unwrap();
        c.augment.crop = [100_000, 100_000];
        assert!(estimated_memory(&c, &none).unwrap().bytes() > 100 * small.bytes());
    }

    #[test]
    fn validation_is_in_the_plan() {
        let mut c = RunConfig::preset(Some(crate::data::Preset::Demo));
        let step = estimated_memory(&c, &ImageSizes::default()).unwrap();
        let images = ImageSizes { largest_val: (2000, 3000), val: 2, ..ImageSizes::default() };
        let plan = estimated_memory(&c, &images).unwrap();
        assert_eq!(plan.held_bytes(), step.held_bytes());
        assert!(plan.step_bytes() > 10 * step.step_bytes(), "{plan:?}");
        c.eval.batch_size = 1;
        let one = estimated_memory(&c, &images).unwrap();
        assert!(one.step_bytes() < plan.step_bytes() * 2 / 3, "{one:?} {plan:?}");
    }
}
