//! Steps whose results are still on the device. Reading waits for the device, so it is done now and then, for
//! many steps at once. Must not know records or files.

use super::losses::{Losses, PseudoLabels};
use super::step::Outcome;
use super::watch::{Found, Watch};
use crate::Result;
use crate::method::Step;
use crate::model::Architecture;
use crate::ops::Backend;
use std::time::{Duration, Instant};

/// Time between readings, unless something needs them.
const READ_EVERY: Duration = Duration::from_secs(1);

/// A step that was run and not read.
pub(super) struct Pending<B: Backend> {
    /// Its number, from 0 over warm-up and epochs.
    pub number: u64,
    pub step: Step,
    /// What it left on the device.
    pub outcome: Outcome<B>,
}

/// Steps in the order they were run.
pub(super) struct Unread<B: Backend> {
    steps: Vec<Pending<B>>,
    /// Looks through the steps' tensors.
    pub watch: Watch<B>,
    since: Instant,
}

/// What a step found not finite.
pub(super) struct NonFinite {
    /// The first tensor or loss, in the order of computation.
    pub tensor: String,
    pub step: u64,
}

/// What a reading gives.
pub(super) struct Reading<B: Backend> {
    /// Steps with their losses, in order.
    pub steps: Vec<(Pending<B>, Losses)>,
    /// What was not finite in the step after them.
    pub bad: Option<NonFinite>,
}

impl<B: Backend> Unread<B> {
    pub fn new(b: &B) -> Unread<B> {
        Unread { steps: Vec::new(), watch: Watch::new(b), since: Instant::now() }
    }

    /// Adds the step that was just run.
    pub fn push(&mut self, step: Pending<B>) {
        self.steps.push(step);
        self.watch.next();
    }

    /// Whether it is time to read.
    pub fn due(&self) -> bool {
        self.since.elapsed() >= READ_EVERY || self.watch.full()
    }

    /// Takes all steps with their losses, up to the first that has something that is not finite. Waits for
    /// the device.
    ///
    /// # Errors
    /// A fault of the device.
    pub fn read(&mut self, b: &B, arch: &Architecture) -> Result<Reading<B>> {
        let found = self.watch.read(b);
        self.since = Instant::now();
        let mut steps = Vec::with_capacity(self.steps.len());
        for (number, pending) in std::mem::take(&mut self.steps).into_iter().enumerate() {
            let losses = losses(b, &pending.outcome);
            b.check()?;
            let found = found.as_ref().filter(|f| f.step == number);
            if let Some(tensor) = non_finite(arch, &pending.outcome, &losses, found) {
                return Ok(Reading { steps, bad: Some(NonFinite { tensor, step: pending.number }) });
            }
            steps.push((pending, losses));
        }
        Ok(Reading { steps, bad: None })
    }
}

fn losses<B: Backend>(b: &B, outcome: &Outcome<B>) -> Losses {
    let batches = &outcome.batches;
    let mean = |sum: f64| sum / batches.len().max(1) as f64;
    let unsup = || batches.iter().filter_map(|batch| batch.unsup.as_ref());
    let counts = || unsup().filter_map(|unsup| unsup.pseudo.as_ref());
    Losses {
        sup: mean(batches.iter().map(|batch| b.read_scalar(&batch.loss_sup)).sum()),
        unsup: mean(unsup().map(|unsup| unsup.loss(b)).sum()),
        confusion: add(batches.iter().map(|batch| b.read_counts(&batch.confusion))),
        pseudo: counts().next().is_some().then(|| PseudoLabels {
            passed: counts().map(|c| b.read_scalar(&c.passed) as u64).sum(),
            pixels: outcome.pixels,
            histogram: add(counts().map(|c| b.read_counts(&c.histogram))),
            confusion: add(counts().map(|c| b.read_counts(&c.confusion))),
            truth: counts()
                .any(|c| c.truth.is_some())
                .then(|| add(counts().filter_map(|c| c.truth.as_ref()).map(|c| b.read_counts(c)))),
        }),
    }
}

/// The element-wise sum of vectors of equal length.
fn add(counts: impl Iterator<Item = Vec<u64>>) -> Vec<u64> {
    let sum = |mut sum: Vec<u64>, more: Vec<u64>| {
        sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        sum
    };
    counts.reduce(sum).unwrap_or_default()
}

/// The first thing of a step that is not finite: logits come before losses, gradients after them.
fn non_finite<B: Backend>(
    arch: &Architecture,
    outcome: &Outcome<B>,
    losses: &Losses,
    found: Option<&Found>,
) -> Option<String> {
    let tensor = found.map(|f| (&outcome.watched[f.tensor], f.index));
    match tensor {
        Some((tensor, index)) if tensor.before_losses() => Some(tensor.describe(arch, index)),
        _ if !losses.sup.is_finite() => Some("supervised loss".into()),
        _ if !losses.unsup.is_finite() => Some("unsupervised loss".into()),
        _ => tensor.map(|(tensor, index)| tensor.describe(arch, index)),
    }
}
