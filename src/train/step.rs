//! One step of a run on the device: its batch goes up, networks learn, and what is to be read later stays there. Knows the
//! method; must not know loaders, records or files.

use super::state::State;
use super::watch::{Watch, Watched};
use crate::Result;
use crate::config::RunConfig;
use crate::data::{HostImages, LabeledBatch, UnlabeledBatch};
use crate::method::{self, Batch, StepArgs, StepOut, Unsup, cut_mix};
use crate::model::DeepLab;
use crate::ops::{self, Backend, Images, Normalize, Pixels, Shape};
use crate::rng::{Domain, Key};

/// Kind of [`Backend::step`] of the warm-up.
pub const WARM_UP: &str = "warm-up step";
/// Kind of [`Backend::step`] of the method and its baselines.
pub const METHOD: &str = "training step";
/// What memory is for, in the words of a plan.
const INPUT: &str = "images, labels and noise";

/// What a step leaves on the device.
pub struct Outcome<B: Backend> {
    /// What each of its batches does.
    pub batches: Vec<BatchOutcome<B>>,
    /// Pixels with a pseudo label.
    pub pixels: u64,
    /// What was looked through for values that are not finite, in the order of computation.
    pub watched: Vec<Watched>,
}

/// What one batch leaves on the device.
pub struct BatchOutcome<B: Backend> {
    /// The student's supervised loss.
    pub loss_sup: B::Scalar,
    /// The student's confusion matrix over labelled pixels.
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

/// A step of the warm-up: each of the networks learns from the labelled batches of its number.
///
/// # Errors
/// Those of the ops, and a step without batches.
pub fn warm_up<B: Backend>(
    b: &B,
    arch: &DeepLab,
    config: &RunConfig,
    state: &mut State<B>,
    networks: &[Vec<LabeledBatch>],
    args: &StepArgs,
    watch: &mut Watch<B>,
) -> Result<Outcome<B>> {
    b.step(WARM_UP, || {
        let mut outcome = Outcome { batches: Vec::new(), pixels: 0, watched: Vec::new() };
        for (number, batches) in networks.iter().enumerate() {
            let nets = &mut state.nets;
            let (name, net, momentum) = match number {
                0 => ("student", &mut nets.student, &mut nets.momentum),
                1 => ("teacher1", &mut nets.teacher1, &mut state.teacher_momenta[0]),
                _ => ("teacher2", &mut nets.teacher2, &mut state.teacher_momenta[1]),
            };
            b.clear(&mut nets.grads);
            let before = outcome.watched.len();
            for batch in batches {
                b.phase(INPUT);
                let (x, y) = upload(b, batch, &config.normalize)?;
                let share = 1.0 / batches.len() as f64;
                let out = method::supervised_pass(b, arch, net, &mut nets.grads, (&x, &y), args, share)?;
                let (out, logits) = BatchOutcome::of(out);
                watch.batch(b, &logits, &nets.grads, (name, true), before, &mut outcome.watched);
                if number == 0 {
                    outcome.batches.push(out);
                }
            }
            method::supervised_update(b, arch, net, momentum, &nets.grads, args)?;
        }
        match outcome.batches.is_empty() {
            true => Err(crate::Error::Usage("a warm-up step needs a batch".into())),
            false => Ok(outcome),
        }
    })
}

/// A step of the method or a baseline: its batches' gradients are averaged.
///
/// # Errors
/// Those of the ops.
pub fn method<B: Backend>(
    b: &B,
    arch: &DeepLab,
    config: &RunConfig,
    state: &mut State<B>,
    batches: &[(LabeledBatch, Option<UnlabeledBatch>)],
    args: &StepArgs,
    watch: &mut Watch<B>,
) -> Result<Outcome<B>> {
    b.step(METHOD, || {
        let mut outcome = Outcome { batches: Vec::new(), pixels: 0, watched: Vec::new() };
        b.clear(&mut state.nets.grads);
        for (k, (labeled, unlabeled)) in batches.iter().enumerate() {
            b.phase(INPUT);
            let number = state.progress.step * batches.len() as u64 + k as u64;
            let batch = batch(b, arch, config, number, labeled, unlabeled.as_ref())?;
            let shape = B::shape(&batch.x_u_weak);
            let share = 1.0 / batches.len() as f64;
            let out = method::accumulate(b, arch, &mut state.nets, &batch, args, share)?;
            let (out, logits) = BatchOutcome::of(out);
            watch.batch(b, &logits, &state.nets.grads, ("student", false), 0, &mut outcome.watched);
            outcome.pixels += if out.unsup.is_some() { shape.positions() as u64 } else { 0 };
            outcome.batches.push(out);
        }
        method::update(b, arch, &mut state.nets, args)?;
        Ok(outcome)
    })
}

/// The input of the run's batch `number`. Without unlabelled images only the labelled part is read.
fn batch<B: Backend>(
    b: &B,
    arch: &DeepLab,
    config: &RunConfig,
    number: u64,
    labeled: &LabeledBatch,
    unlabeled: Option<&UnlabeledBatch>,
) -> Result<Batch<B>> {
    let (seed, normalize) = (config.schedule.seed, &config.normalize);
    let noise = |shape: Shape, domain| b.uniform_noise(shape, Key::new(seed, domain, number));
    let (x_l, y_l) = upload(b, labeled, normalize)?;
    let Some(unlabeled) = unlabeled else {
        let d = noise(Shape::new(1, 1, 1, 1), Domain::NoiseLabeled);
        let (x_u_weak, x_u_strong) = (x_l.clone(), x_l.clone());
        return Ok(Batch { x_l, y_l, x_u_weak, x_u_strong, mix: Default::default(), d_l: d.clone(), d_u: d });
    };
    let Shape { n, h, w, .. } = unlabeled.images.shape;
    let images = images(b, &unlabeled.images)?;
    let x_u_weak = ops::normalize_bytes(b, &images, normalize)?;
    let x_u_strong = ops::photometric(b, Pixels::Bytes(&images), &unlabeled.strong, normalize)?;
    Ok(Batch {
        d_l: noise(arch.feature_shape(B::shape(&x_l)), Domain::NoiseLabeled),
        d_u: noise(arch.feature_shape(B::shape(&x_u_weak)), Domain::NoiseUnlabeled),
        mix: cut_mix::sample(config.method.cut_mix, n, (h, w), Key::new(seed, Domain::CutMix, number)),
        x_l,
        y_l,
        x_u_weak,
        x_u_strong,
    })
}

fn images<B: Backend>(b: &B, images: &HostImages) -> Result<Images<B>> {
    ops::upload_images(b, images.shape, &images.data, images.shown.clone())
}

fn upload<B: Backend>(b: &B, batch: &LabeledBatch, normalize: &Normalize) -> Result<(B::Tensor, B::Labels)> {
    let x = ops::normalize_bytes(b, &images(b, &batch.images)?, normalize)?;
    Ok((x, b.upload_labels(batch.images.shape.with_channels(1), &batch.labels)))
}
