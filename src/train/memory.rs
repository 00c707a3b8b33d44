//! The memory of a run before it starts: a rehearsal of its steps on the device's planning twin. Depends on
//! steps and their sizes; must not know devices.

use super::dataset::Datasets;
use super::state::State;
use super::step;
use super::watch::Watch;
use crate::config::{self, ImageSizes, KEPT_IMAGES, RunConfig, VALIDATION};
use crate::data::{HostImages, LabeledBatch, UnlabeledBatch};
use crate::eval::{Predictor, memory as inference};
use crate::model::Architecture;
use crate::ops::{Backend, MemoryPlan, Strong, View};
use crate::{Error, Result, host};

/// Bytes of decoded images that a source keeps at most.
const LARGEST_CACHE: u64 = 1 << 30;
/// Larger batches are not looked for.
pub const MAX_BATCH: usize = 1 << 12;

/// `b` with the memory of `config`'s steps planned where it plans, and what the run takes in any case.
/// `measured` says whether unlabelled batches bring true labels to measure pseudo labels with.
///
/// # Errors
/// Those of the steps.
pub(super) fn plan<B: Backend>(
    b: &B,
    config: &RunConfig,
    measured: bool,
    images: &ImageSizes,
) -> Result<(Option<B>, MemoryPlan)> {
    plan_with_validation(b, config, measured, images, validation_bytes(b, config, images)?)
}

/// The same where it is known what a validation takes on a device that plans.
fn plan_with_validation<B: Backend>(
    b: &B,
    config: &RunConfig,
    measured: bool,
    images: &ImageSizes,
    validation: u64,
) -> Result<(Option<B>, MemoryPlan)> {
    let arch = Architecture::new(config.model_config()?)?;
    let Some((device, mut plan)) = b.planned(|twin| rehearse(twin, &arch, config, measured))? else {
        return Ok((None, config::estimated_memory(config, images)?));
    };
    // Its buffers lie next to those of the steps, and are kept for the next one.
    plan.hold(VALIDATION, validation);
    Ok((Some(device), plan))
}

/// What a validation takes on a device that plans. Others have it in their estimate, as a step of its own.
fn validation_bytes<B: Backend>(b: &B, config: &RunConfig, images: &ImageSizes) -> Result<u64> {
    if images.val == 0 {
        return Ok(0);
    }
    let arch = &Architecture::new(config.model_config()?)?;
    let (settings, asked) =
        (config.eval.settings(config.normalize), config::validation_asked(config, images));
    // Images that no host holds are not made up to find that out.
    let estimate = inference::bytes(arch, &settings, &asked);
    if host::available_memory().is_some_and(|available| estimate > available) {
        return Ok(estimate);
    }
    let planned = b.planned(|twin| {
        let state = State::zeros(twin, arch, config)?;
        let nets = state.eval_nets();
        let which = nets.available();
        let predictor = Predictor { b: twin, arch, nets: &nets, which: &which, settings: &settings };
        twin.step(VALIDATION, || inference::rehearse(&predictor, &asked))
    })?;
    Ok(planned.map_or(0, |(_, plan)| plan.step_bytes()))
}

/// Has each source keep decoded images in the memory that `plan` leaves of what the host has; half of it
/// stays free. The rest is decoded again each time.
pub(super) fn keep_images(data: &Datasets, images: &ImageSizes, plan: &mut MemoryPlan, on_host: bool) {
    let Some(available) = host::available_memory() else { return };
    let mut left = available.saturating_sub(if on_host { plan.bytes() } else { 0 }) / 2;
    let (mut kept, mut all) = (0, 0);
    for (source, decoded) in data.sources().zip(images.decoded) {
        let bytes = decoded.min(LARGEST_CACHE).min(left);
        source.keep(usize::try_from(bytes).unwrap_or(usize::MAX));
        left -= bytes;
        (kept, all) = (kept + bytes, all + decoded);
    }
    if kept < all {
        tracing::info!("{} of {} MiB of decoded images are kept in memory", kept >> 20, all >> 20);
    }
    if on_host {
        plan.hold(KEPT_IMAGES, kept);
    }
}

/// Refuses steps whose images alone are more than this machine's memory: they are brought together before
/// each step, and before a plan is made.
///
/// # Errors
/// [`Error::Memory`] with the settings that decide.
pub(super) fn check_images<B: Backend>(b: &B, config: &RunConfig) -> Result<()> {
    match host::available_memory() {
        Some(available) if config::step_images_bytes(config) > available => Err(Error::Memory {
            what: format!(
                "the images of a step, {} batches (optim.accumulate) of {} (optim.batch_size) with crops of {} x {} \
                 (augment.crop), on {},",
                config.optim.accumulate,
                config.optim.batch_size,
                config.augment.crop[0],
                config.augment.crop[1],
                b.name()
            ),
            needed_mib: config::step_images_bytes(config).div_ceil(1 << 20),
            available_mib: available >> 20,
        }),
        _ => Ok(()),
    }
}

/// Refuses a plan that is larger than what `b` has left.
///
/// # Errors
/// [`Error::Memory`] with both and the settings that decide.
pub fn check<B: Backend>(
    b: &B,
    config: &RunConfig,
    measured: bool,
    images: &ImageSizes,
    plan: &MemoryPlan,
) -> Result<()> {
    let [h, w] = config.augment.crop;
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let Some(available) = b.available_memory().filter(|&available| plan.bytes() > available) else {
        return Ok(());
    };
    let without = self::plan(b, config, measured, &ImageSizes::default())?.1;
    let what = if without.bytes() <= available {
        let (rows, columns) = images.largest_val;
        let fitting = smaller_validations(b, config, measured, images, available)?;
        format!(
            "validation on {} of images of up to {rows} x {columns} (rows x columns), {} at a time{}",
            b.name(),
            config.eval.batch_size.clamp(1, images.val.max(1)),
            if fitting.is_empty() { String::new() } else { format!(" ({} fits)", fitting.join(" or ")) }
        )
    } else {
        format!(
                "training {} with crops of {h} x {w} (augment.crop) and batches of {} (optim.batch_size) on {}{}",
                config.model.name,
                config.optim.batch_size,
                b.name(),
                smaller_batches(b, config, measured, images)?.map_or_else(String::new, |(batch, accumulate)| format!(
                    " (--batch-size {batch} --accumulate {accumulate} fits: as many images per step, batch norms that see \
                     {batch} at a time)"
                ))
            )
    };
    Err(Error::Memory { what, needed_mib: mib(plan.bytes()), available_mib: available >> 20 })
}

/// Flags that make validation fit into `available` bytes.
fn smaller_validations<B: Backend>(
    b: &B,
    config: &RunConfig,
    measured: bool,
    images: &ImageSizes,
    available: u64,
) -> Result<Vec<String>> {
    let side = config.augment.crop.into_iter().max().unwrap_or_default();
    let mut ways = [config.clone(), config.clone(), config.clone()];
    ways[0].eval.batch_size = 1;
    (ways[1].eval.window, ways[1].eval.batch_size) = (side, 1);
    (ways[2].eval.long_side, ways[2].eval.batch_size) = (2 * side, 1);
    let flags = [
        "--set eval.batch_size=1".to_string(),
        format!("--set eval.batch_size=1 --set eval.window={side}"),
        format!("--set eval.batch_size=1 --eval-size {}", 2 * side),
    ];
    let mut fitting = Vec::new();
    for (way, flags) in ways.iter().zip(flags) {
        if plan(b, way, measured, images)?.1.bytes() <= available {
            fitting.push(flags);
        }
    }
    Ok(fitting)
}

/// The largest batch whose plan takes no more than what `b` has left; `None` where not even two images fit,
/// or what is left is unknown.
///
/// # Errors
/// Those of planning, see [`Backend::planned`].
pub(super) fn largest_batch<B: Backend>(
    b: &B,
    config: &RunConfig,
    measured: bool,
    images: &ImageSizes,
) -> Result<Option<usize>> {
    let Some(available) = b.available_memory() else { return Ok(None) };
    // The same for every batch.
    let validation = validation_bytes(b, config, images)?;
    let fits = |batch_size: usize| -> Result<bool> {
        let mut sized = config.clone();
        sized.optim.batch_size = batch_size;
        if check_images(b, &sized).is_err() {
            return Ok(false);
        }
        Ok(plan_with_validation(b, &sized, measured, images, validation)?.1.bytes() <= available)
    };
    if !fits(2)? {
        return Ok(None);
    }
    let (mut fitting, mut step) = (2, 2);
    while fitting + step <= MAX_BATCH && fits(fitting + step)? {
        fitting += step;
        step *= 2;
    }
    // Between `fitting`, which fits, and `step` more, which does not.
    while step > 1 {
        step /= 2;
        if fitting + step <= MAX_BATCH && fits(fitting + step)? {
            fitting += step;
        }
    }
    Ok(Some(fitting))
}

/// Batch and number of batches that make up as many images per step as `config`'s and fit; `None` where
/// nothing does.
///
/// # Errors
/// Those of planning, see [`Backend::planned`].
pub(super) fn smaller_batches<B: Backend>(
    b: &B,
    config: &RunConfig,
    measured: bool,
    images: &ImageSizes,
) -> Result<Option<(usize, usize)>> {
    let Some(largest) = largest_batch(b, config, measured, images)? else { return Ok(None) };
    let images = config.optim.images_a_step();
    let batch = (2..=largest.min(images)).rev().find(|batch| images.is_multiple_of(*batch));
    Ok(batch.map(|batch| (batch, images / batch)))
}

/// Does what a run does, with images of zeros: the networks, then each kind of step twice.
fn rehearse<B: Backend>(b: &B, arch: &Architecture, config: &RunConfig, measured: bool) -> Result<()> {
    let mut state = State::zeros(b, arch, config)?;
    let mut watch = Watch::new(b);
    let images = || {
        let [h, w] = config.augment.crop;
        let n = config.optim.batch_size;
        HostImages::whole(n, (h, w), vec![0; n * h * w * 3])
    };
    let strong = || vec![Strong::default(); config.optim.batch_size];
    let labeled = |view: View| {
        let images = images();
        let labels = vec![0; images.shape.positions()];
        let strong = (view == View::Strong).then(strong);
        LabeledBatch { images, strong, labels, indices: Vec::new() }
    };
    // All batches of a step, as a plan says what each takes in turn.
    let batches = || 0..config.optim.accumulate;
    let setup = step::Setup { b, arch, config };
    let args = config.warm_up_args();
    for learner in config.warm_up_networks() {
        let batches: Vec<LabeledBatch> = batches().map(|_| labeled(learner.1)).collect();
        for _ in 0..2 {
            step::warm_up(&setup, &mut state, learner, &batches, &args, &mut watch)?;
        }
    }
    state.teacher_momenta.clear();
    let args = config.step_args();
    let learns_unlabeled = config.method.algorithm.learns_unlabeled();
    let unlabeled = || {
        let images = images();
        let labels = measured.then(|| vec![0; images.shape.positions()]);
        UnlabeledBatch { images, strong: strong(), labels, indices: Vec::new() }
    };
    let view = config.method.labeled_view;
    let batches: Vec<_> = batches().map(|_| (labeled(view), learns_unlabeled.then(unlabeled))).collect();
    for _ in 0..2 {
        step::method(&setup, &mut state, (0, &batches), &args, &mut watch)?;
    }
    if config.method.algorithm.has_pseudo_labels() && config.run.pictures > 0 {
        for _ in 0..2 {
            step::pseudo_labels(&setup, &mut state.nets, &unlabeled(), 1)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cuda::{self, Dtype};
    use crate::data::{Preset, SceneSource, SceneSpec};
    use crate::eval::Overlap;
    use crate::method::Algorithm;
    use crate::ops::{Device, StepMemory};

    #[test]
    fn true_labels_and_pictures_are_in_the_plan() {
        let b = cuda::noting(Dtype::F32);
        let mut config = RunConfig::preset(Some(Preset::Demo));
        config.augment.crop = [49, 49];
        let planned =
            |config: &RunConfig, measured| plan(&b, config, measured, &ImageSizes::default()).unwrap().1;
        let arrives =
            |plan: &MemoryPlan| plan.held.iter().find(|u| u.what == "data that arrives").unwrap().bytes;
        let (with, without) = (planned(&config, true), planned(&config, false));
        // One byte per pixel in blocks of 256, of a step and of the next.
        let pixels = (config.optim.images_a_step() * 49 * 49) as u64;
        assert_eq!(arrives(&with) - arrives(&without), 2 * pixels.next_multiple_of(256));

        // The picture's teachers take the place of a step that is done.
        let find = |plan: &MemoryPlan, kind: &str| -> Option<StepMemory> {
            plan.steps.iter().find(|s| s.kind == kind).cloned()
        };
        let (picture, step) = (find(&with, step::PICTURE).unwrap(), find(&with, step::METHOD).unwrap());
        assert!(picture.bytes > 0 && picture.bytes < step.bytes, "{picture:?} {step:?}");
        config.run.pictures = 0;
        assert!(find(&planned(&config, true), step::PICTURE).is_none());
        config.run.pictures = 1;
        config.method.algorithm = Algorithm::MeanTeacher;
        assert!(find(&planned(&config, false), step::PICTURE).is_none());
    }

    /// Beside what predicting images takes in truth, on a device that notes it.
    #[test]
    fn validation_is_planned_as_it_is_done() {
        let b = cuda::noting(Dtype::Bf16);
        let source =
            SceneSource::new(SceneSpec { seed: 1, first: 0, len: 2, size: (40, 56) }).expect("large enough");
        let mut config = RunConfig::preset(Some(Preset::Demo));
        let images = ImageSizes { largest_val: (40, 56), val: 2, ..ImageSizes::default() };
        let arch = Architecture::new(config.model_config().unwrap()).unwrap();
        let mut seen = Vec::new();
        for (long_side, window, overlap, batch_size) in [
            (0, 0, Overlap::Probabilities, 1),
            (0, 0, Overlap::Probabilities, 2),
            (112, 0, Overlap::Probabilities, 1),
            (0, 33, Overlap::Probabilities, 1),
            (112, 33, Overlap::Logits, 2),
        ] {
            (config.eval.long_side, config.eval.window) = (long_side, window);
            (config.eval.overlap, config.eval.batch_size) = (overlap, batch_size);
            let (_, plan) = b
                .planned(|twin| {
                    let state = State::zeros(twin, &arch, &config)?;
                    let nets = state.eval_nets();
                    let settings = config.eval.settings(config.normalize);
                    let which = nets.available();
                    let predictor =
                        Predictor { b: twin, arch: &arch, nets: &nets, which: &which, settings: &settings };
                    twin.step(VALIDATION, || predictor.evaluate(&source, |_| true))?;
                    Ok(())
                })
                .unwrap()
                .unwrap();
            let planned = validation_bytes(&b, &config, &images).unwrap();
            let taken = plan.step_bytes();
            assert!(taken <= planned && planned <= taken + taken / 8, "{planned} planned, {taken} taken");
            seen.push(planned);
        }
        assert!(seen[1] > seen[0] && seen[2] > seen[0] && seen[3] < seen[0], "{seen:?}");
        let (_, plan) = plan(&b, &config, false, &images).unwrap();
        assert!(plan.held.iter().any(|u| u.what == VALIDATION && u.bytes == seen[4]), "{plan:?}");
        assert!(plan.held.iter().any(|u| u.what.starts_with("reserve")), "{plan:?}");
    }
}
