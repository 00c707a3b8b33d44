//! One step of a run on the device: its batch goes up, networks learn, and what is to be read later stays
//! there. Must not know loaders, records or files.

use super::state::State;
use super::watch::{Watch, Watched};
use crate::Result;
use crate::config::RunConfig;
use crate::data::{HostImages, LabeledBatch, UnlabeledBatch};
use crate::method::{self, Batch, NetworkName, Networks, StepArgs, StepOut, Unlabeled, Unsup, cut_mix};
use crate::model::Architecture;
use crate::ops::{self, Backend, Images, Normalize, Pixels, Shape, Span, View};
use crate::rng::{Domain, Key};

/// Kinds of [`Device::step`](crate::ops::Device::step) of the warm-up: the views take different memory.
fn warm_up_kind(view: View) -> &'static str {
    match view {
        View::Weak => "warm-up step",
        View::Strong => "warm-up step, strong view",
    }
}

/// Kind of [`Device::step`](crate::ops::Device::step) of the method and its baselines.
pub const METHOD: &str = "training step";
/// Kind of [`Device::step`](crate::ops::Device::step) of a picture.
pub(super) const PICTURE: &str = "picture of pseudo labels";
/// What memory is for, in the words of a plan.
const INPUT: &str = "images, labels and noise";

/// What a step leaves on the device.
pub(super) struct Outcome<B: Backend> {
    pub batches: Vec<BatchOutcome<B>>,
    /// Pixels with a pseudo label.
    pub pixels: u64,
    /// What was looked through for values that are not finite, in the order of computation.
    pub watched: Vec<Watched>,
}

/// What one batch leaves on the device.
pub(super) struct BatchOutcome<B: Backend> {
    /// Supervised loss of the network that learned.
    pub loss_sup: B::Scalar,
    /// Its confusion matrix over labelled pixels.
    pub confusion: B::Counts,
    /// The unsupervised loss in its parts; `None` in the warm-up and for the supervised baseline.
    pub unsup: Option<Unsup<B>>,
}

impl<B: Backend> BatchOutcome<B> {
    fn of(out: StepOut<B>) -> (BatchOutcome<B>, Vec<(&'static str, B::Tensor)>) {
        let StepOut { loss_sup, confusion, unsup, logits, .. } = out;
        (BatchOutcome { loss_sup, confusion, unsup }, logits)
    }
}

/// What all steps of a run work with.
pub(super) struct Setup<'a, B: Backend> {
    pub b: &'a B,
    pub arch: &'a Architecture,
    pub config: &'a RunConfig,
}

/// A step of the warm-up: `network` learns from the labelled batches, whose gradients are averaged. All of
/// them show `view`.
///
/// # Errors
/// Those of the ops, and a step without batches.
pub(super) fn warm_up<B: Backend>(
    &Setup { b, arch, config }: &Setup<'_, B>,
    state: &mut State<B>,
    (network, view): (NetworkName, View),
    batches: &[LabeledBatch],
    args: &StepArgs,
    watch: &mut Watch<B>,
) -> Result<Outcome<B>> {
    if batches.is_empty() {
        return Err(crate::Error::Usage("a warm-up step needs a batch".into()));
    }
    b.step(warm_up_kind(view), || {
        let mut outcome = Outcome { batches: Vec::new(), pixels: 0, watched: Vec::new() };
        let nets = &mut state.nets;
        let (net, momentum) = match network {
            NetworkName::Student => (&mut nets.student, &mut nets.momentum),
            NetworkName::Teacher1 => (&mut nets.teachers[0], &mut state.teacher_momenta[0]),
            NetworkName::Teacher2 => (&mut nets.teachers[1], &mut state.teacher_momenta[1]),
        };
        b.clear(&mut nets.grads);
        for batch in batches {
            b.phase(INPUT);
            let (x, y) = upload(b, batch, &config.normalize)?;
            let share = 1.0 / batches.len() as f64;
            let out = method::supervised_pass(b, arch, net, &mut nets.grads, (&x, &y), args, share)?;
            let (out, logits) = BatchOutcome::of(out);
            watch.batch(b, &logits, &nets.grads, (network.as_str(), true), 0, &mut outcome.watched);
            outcome.batches.push(out);
        }
        method::supervised_update(b, arch, net, momentum, &nets.grads, args)?;
        Ok(outcome)
    })
}

/// A step of the method or a baseline, number `step` of the epochs: its batches' gradients are averaged.
///
/// # Errors
/// Those of the ops.
pub(super) fn method<B: Backend>(
    &Setup { b, arch, config }: &Setup<'_, B>,
    state: &mut State<B>,
    (step, batches): (u64, &[(LabeledBatch, Option<UnlabeledBatch>)]),
    args: &StepArgs,
    watch: &mut Watch<B>,
) -> Result<Outcome<B>> {
    b.step(METHOD, || {
        let mut outcome = Outcome { batches: Vec::new(), pixels: 0, watched: Vec::new() };
        b.clear(&mut state.nets.grads);
        for (k, (labeled, unlabeled)) in batches.iter().enumerate() {
            b.phase(INPUT);
            let number = step * batches.len() as u64 + k as u64;
            let batch = batch(b, arch, config, number, labeled, unlabeled.as_ref())?;
            let share = 1.0 / batches.len() as f64;
            let out = method::accumulate(b, arch, &mut state.nets, &batch, args, share)?;
            let (out, logits) = BatchOutcome::of(out);
            watch.batch(b, &logits, &state.nets.grads, ("student", false), 0, &mut outcome.watched);
            outcome.pixels += batch.unlabeled.map_or(0, |u| B::shape(&u.weak).positions() as u64);
            outcome.batches.push(out);
        }
        method::update(b, arch, &mut state.nets, args)?;
        Ok(outcome)
    })
}

/// Labels and confidences, `[batch, crop]`, that a training step with teacher `core` leading would give to
/// the images of `batch`; `None` for an algorithm without pseudo labels. Networks stay as they are. Waits for
/// the device.
///
/// # Errors
/// Those of the ops.
pub(super) fn pseudo_labels<B: Backend>(
    &Setup { b, arch, config }: &Setup<'_, B>,
    nets: &mut Networks<B>,
    batch: &UnlabeledBatch,
    core: usize,
) -> Result<Option<(Vec<u8>, Vec<f32>)>> {
    b.step(PICTURE, || {
        b.phase(INPUT);
        let images = images(b, &batch.images)?;
        let x = ops::normalize_bytes(b, &images, &config.normalize)?;
        let args = StepArgs { active_teacher: core, ..config.step_args() };
        // Teachers use the batch's statistics, which moves the running ones: these are put back.
        let teachers = &mut nets.teachers;
        let stats: Vec<B::Vector> = teachers.iter().map(|t| copy(b, &t.stats)).collect::<Result<_>>()?;
        let pseudo = method::pseudo_labels(b, arch, teachers, &x, &args)?;
        for (teacher, stats) in teachers.iter_mut().zip(&stats) {
            let all = Span { offset: 0, len: B::vector_len(stats) };
            ops::copy_spans(b, &mut teacher.stats, stats, &[(all, 0)])?;
        }
        Ok(pseudo.map(|p| (b.download_labels(&p.label), b.download(&p.confidence))))
    })
}

fn copy<B: Backend>(b: &B, v: &B::Vector) -> Result<B::Vector> {
    let len = B::vector_len(v);
    let mut copied = b.zeros(len);
    ops::copy_spans(b, &mut copied, v, &[(Span { offset: 0, len }, 0)])?;
    Ok(copied)
}

/// The input of batch `number` of the epochs.
fn batch<B: Backend>(
    b: &B,
    arch: &Architecture,
    config: &RunConfig,
    number: u64,
    labeled: &LabeledBatch,
    unlabeled: Option<&UnlabeledBatch>,
) -> Result<Batch<B>> {
    let (x, y) = upload(b, labeled, &config.normalize)?;
    let features = arch.feature_shape(B::shape(&x));
    let unlabeled =
        unlabeled.map(|images| self::unlabeled(b, arch, config, number, images, features)).transpose()?;
    Ok(Batch { x, y, unlabeled })
}

/// The unlabelled part of batch `number`; `features` is the shape of the labelled images' features.
fn unlabeled<B: Backend>(
    b: &B,
    arch: &Architecture,
    config: &RunConfig,
    number: u64,
    unlabeled: &UnlabeledBatch,
    features: Shape,
) -> Result<Unlabeled<B>> {
    let (seed, normalize) = (config.schedule.seed, &config.normalize);
    let noise = |shape: Shape, domain| b.uniform_noise(shape, Key::new(seed, domain, number));
    let shape = unlabeled.images.shape;
    let Shape { n, h, w, .. } = shape;
    // Pseudo labels are measured with them where there are any.
    let truth = unlabeled.labels.as_ref().filter(|_| config.method.algorithm.has_pseudo_labels());
    let images = images(b, &unlabeled.images)?;
    let weak = ops::normalize_bytes(b, &images, normalize)?;
    let strong = ops::photometric(b, Pixels::Bytes(&images), &unlabeled.strong, normalize)?;
    Ok(Unlabeled {
        noise_labeled: noise(features, Domain::NoiseLabeled),
        noise_unlabeled: noise(arch.feature_shape(B::shape(&weak)), Domain::NoiseUnlabeled),
        mix: cut_mix::sample(config.method.cut_mix, n, (h, w), Key::new(seed, Domain::CutMix, number)),
        weak,
        strong,
        truth: truth.map(|labels| b.upload_labels(shape.with_channels(1), labels)),
    })
}

fn images<B: Backend>(b: &B, images: &HostImages) -> Result<Images<B>> {
    ops::upload_images(b, images.shape, &images.data, images.shown.clone())
}

fn upload<B: Backend>(b: &B, batch: &LabeledBatch, normalize: &Normalize) -> Result<(B::Tensor, B::Labels)> {
    let images = images(b, &batch.images)?;
    let x = match &batch.strong {
        Some(strong) => ops::photometric(b, Pixels::Bytes(&images), strong, normalize)?,
        None => ops::normalize_bytes(b, &images, normalize)?,
    };
    Ok((x, b.upload_labels(batch.images.shape.with_channels(1), &batch.labels)))
}
