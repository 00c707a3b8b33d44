//! Training: the loop with its schedule, checkpoints, records and pictures. Must not know kernels or flags.

pub mod checkpoint;
mod dataset;
mod event_proto;
mod events;
mod fingerprint;
mod losses;
mod memory;
pub mod pictures;
mod progress;
mod records;
mod resume;
mod run_dir;
mod signal;
mod state;
mod step;
mod trainer;
mod unlabeled;
mod unread;
mod validation;
mod watch;

pub use checkpoint::{Checkpoint, Metadata};
pub use dataset::{Datasets, val_source};
pub use fingerprint::{Fingerprint, Images};
pub use losses::Sums;
pub use memory::{MAX_BATCH, check as check_memory};
pub use resume::{Resume, ResumeFrom};
pub use run_dir::RunDir;
pub use state::{Progress, State};
pub use step::METHOD;

use crate::config::{self, ImageSizes, PretrainedNetworks, RunConfig};
use crate::error::shell_word;
use crate::eval::Scores;
use crate::files::write_atomically;
use crate::model::Architecture;
use crate::ops::{Backend, MemoryPlan};
use crate::weights::Weights;
use crate::{Error, Result};
use events::Events;
use run_dir::Metrics;
use std::collections::BTreeMap;
use std::io::Write;
use trainer::Trainer;
use unread::Unread;

/// Scores of the last validation by the network's name, see [`crate::eval::Which::name`].
pub type Summary = BTreeMap<String, Scores>;

/// A run that was checked and can start.
pub struct Prepared<B: Backend> {
    /// The opened and checked image sources.
    pub data: Datasets,
    /// Sizes of the images, which decide the memory that they take.
    pub images: ImageSizes,
    /// Bytes that the run takes, by what they are for.
    pub memory: MemoryPlan,
    /// The device with that plan, where it plans.
    device: Option<B>,
    /// What its networks start from, where that is a file and the run is at its start.
    weights: Option<Weights>,
    /// Its images and settings, for its checkpoints.
    fingerprint: Fingerprint,
}

impl<B: Backend> Prepared<B> {
    /// What the networks start from, in words, where that is a file.
    pub fn start(&self) -> Option<String> {
        self.weights.as_ref().map(Weights::describe)
    }

    /// Refuses a run that needs more memory than `b` has left.
    ///
    /// # Errors
    /// [`crate::Error::Memory`] with the settings that decide.
    pub fn check_memory(&self, b: &B, config: &RunConfig) -> Result<()> {
        check_memory(b, config, self.data.measures_pseudo_labels(config), &self.images, &self.memory)
    }

    /// The largest batch that fits, where that is known.
    ///
    /// # Errors
    /// Those of planning.
    pub fn largest_batch(&self, b: &B, config: &RunConfig) -> Result<Option<usize>> {
        memory::largest_batch(b, config, self.data.measures_pseudo_labels(config), &self.images)
    }
}

/// Checks that `config` can train on `b`, before anything is written: its values, the lists and their files,
/// the weights that it starts from. Memory is planned; [`Prepared::check_memory`] says whether there is
/// enough.
///
/// # Errors
/// Each kind of bad input, see [`crate::Error`].
pub fn check<B: Backend>(b: &B, config: &RunConfig) -> Result<Prepared<B>> {
    prepare(b, config, None)
}

/// The same of the run in `dir`, which needs the weights that it started from only while it has no
/// checkpoint; and that its checkpoint is of these images and settings.
///
/// # Errors
/// As [`check`], and a checkpoint that cannot be read, is gone, or is of other images or settings that are
/// not accepted.
pub fn check_resumed<B: Backend>(
    b: &B,
    config: &RunConfig,
    dir: &RunDir,
    how: Resume,
) -> Result<Prepared<B>> {
    prepare(b, config, Some((dir, how)))
}

fn prepare<B: Backend>(b: &B, config: &RunConfig, resumed: Option<(&RunDir, Resume)>) -> Result<Prepared<B>> {
    config::validate(config)?;
    let weights = if resumed.is_none() { open_weights(config)? } else { None };
    let data = Datasets::open(config)?;
    let fingerprint = Fingerprint::new(config, &data)?;
    let weights = match resumed {
        Some((dir, how)) => match resume::checkpoint(dir, how.from, config, &data.schedule(config))? {
            Some(checkpoint) => {
                resume::check_same(&checkpoint, config, &data, &fingerprint, how.accept_changes)?;
                None
            }
            None => open_weights(config)?,
        },
        None => weights,
    };
    memory::check_images(b, config)?;
    let measured = data.measures_pseudo_labels(config);
    let images = data.image_sizes()?;
    let (device, mut memory) = memory::plan(b, config, measured, &images)?;
    memory::keep_images(&data, &images, &mut memory, device.is_none());
    Ok(Prepared { data, images, memory, device, weights, fingerprint })
}

/// The file that the networks start from, checked against them.
fn open_weights(config: &RunConfig) -> Result<Option<Weights>> {
    let student_alone = config.model.pretrained_networks == PretrainedNetworks::Student;
    let open = match (&config.model.pretrained, &config.model.init) {
        (Some(path), _) => {
            let weights = Weights::backbone(path, &Architecture::new(config.model_config()?)?);
            if student_alone { weights.map(Weights::for_student) } else { weights }
        }
        (None, Some(path)) => Weights::networks(path, &Architecture::new(config.model_config()?)?),
        (None, None) => return Ok(None),
    };
    open.map(Some)
}

/// Trains a new run into `dir`.
///
/// # Errors
/// As [`resume`].
pub fn start<B: Backend>(b: &B, config: &RunConfig, ready: &Prepared<B>, dir: &RunDir) -> Result<Summary> {
    let _lock = dir.lock()?;
    let text = config.to_toml()?;
    write_atomically(&dir.config(), |file| file.write_all(text.as_bytes()))?;
    run(b, config, ready, dir, None)
}

/// Continues the run in `dir` from where `from` says; from its last checkpoint, or from the start where it
/// had not written one, to the same bits as a run that was never interrupted.
///
/// # Errors
/// A checkpoint of another model, bad data, a value that is not finite, a failed write, or Ctrl-C.
pub fn resume<B: Backend>(
    b: &B,
    config: &RunConfig,
    ready: &Prepared<B>,
    dir: &RunDir,
    from: ResumeFrom,
) -> Result<Summary> {
    let _lock = dir.lock()?;
    dir.remove_temporary_files();
    let checkpoint = resume::checkpoint(dir, from, config, &ready.data.schedule(config))?;
    match (&checkpoint, from) {
        (Some(_), _) => {}
        (None, ResumeFrom::Start) => tracing::info!("beginning again at step 0, as asked"),
        (None, _) => tracing::info!("no checkpoint was written yet: beginning at step 0"),
    }
    run(b, config, ready, dir, checkpoint)
}

fn run<B: Backend>(
    b: &B,
    config: &RunConfig,
    ready: &Prepared<B>,
    dir: &RunDir,
    checkpoint: Option<Checkpoint>,
) -> Result<Summary> {
    ready.check_memory(b, config)?;
    let (b, data) = (ready.device.as_ref().unwrap_or(b), &ready.data);
    signal::install();
    let arch = Architecture::new(config.model_config()?)?;
    let weights = ready.weights.as_ref().filter(|_| checkpoint.is_none());
    if let Some(weights) = weights {
        tracing::info!("starting with {}", weights.describe());
    }
    let schedule = data.schedule(config);
    let mut state = State::new(b, &arch, config, weights)?;
    if let Some(c) = &checkpoint {
        c.expect(&arch.config, config.method.algorithm)?;
        c.restore(b, &arch, &mut state)?;
        let Progress { step, end_pending, .. } = state.progress;
        let left = schedule.warm_up_steps().checked_sub(step);
        state.fit_momenta(b, &arch, config, left.is_some_and(|left| left > 0 || end_pending));
        tracing::info!("continuing at step {} from {}", state.progress.step, c.path().display());
    }
    drop(checkpoint);
    let metrics = Metrics::open(&dir.metrics(), state.progress.metrics_lines)?;
    let meta = Metadata { fingerprint: Some(ready.fingerprint.clone()), ..Metadata::new(config)? };
    let step = state.progress.step;
    // Records at the checkpoint's own step are kept.
    let first = if step > 0 { step.saturating_add(1) } else { 0 };
    let events = config.run.tensorboard.then(|| Events::create(dir.root(), first)).transpose()?;
    let unread = Unread::new(b);
    let mut trainer =
        Trainer { b, arch: &arch, config, schedule, dir, data, state, meta, metrics, events, unread };
    trainer.run().map_err(|e| with_way_on(e, dir))
}

/// Says how a run goes on that a file stopped which was sound by its header and its end.
fn with_way_on(error: Error, dir: &RunDir) -> Error {
    match error {
        Error::Data { path, line, message } => {
            let resume = format!("psmt-fast train --resume {}", shell_word(dir.root()));
            Error::Data {
                path,
                line,
                // Whole, the file is another than the one that the run began with.
                message: format!("{message}; replace the file and continue with: {resume} --accept-changes"),
            }
        }
        other => other,
    }
}
