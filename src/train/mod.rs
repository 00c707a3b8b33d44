//! Training: the loop with its schedule, checkpoints, records and pictures. Knows method, model, data and evaluation;
//! must not know kernels or flags.

pub mod checkpoint;
mod dataset;
pub mod pictures;
mod progress;
mod records;
mod run_dir;
mod signal;
mod state;
mod trainer;

pub use checkpoint::{Checkpoint, Metadata};
pub use dataset::{Datasets, val_source};
pub use run_dir::RunDir;
pub use state::{Progress, State};

use crate::Result;
use crate::config::{self, RunConfig};
use crate::eval::Scores;
use crate::model::DeepLab;
use crate::model::io::write_atomically;
use crate::ops::Backend;
use run_dir::Metrics;
use std::collections::BTreeMap;
use std::io::Write;
use trainer::Trainer;

/// The last validation, a name of [`crate::eval::Which`] each.
pub type Summary = BTreeMap<String, Scores>;

/// Checks that `config` can train here, before anything is written: its values, the lists and their files, memory.
///
/// # Errors
/// Each kind of bad input, see [`crate::Error`].
pub fn check(config: &RunConfig) -> Result<Datasets> {
    config::validate(config)?;
    let data = Datasets::open(config)?;
    config::check_memory(config)?;
    Ok(data)
}

/// Trains a new run into `dir`.
///
/// # Errors
/// As [`resume`].
pub fn start<B: Backend>(b: &B, config: &RunConfig, data: &Datasets, dir: &RunDir) -> Result<Summary> {
    let text = config.to_toml()?;
    write_atomically(&dir.config(), |file| file.write_all(text.as_bytes()))?;
    run(b, config, data, dir, None)
}

/// Continues the run in `dir` from its last checkpoint, or from the start where it had not written one, to the same bits as
/// a run that was never interrupted.
///
/// # Errors
/// A checkpoint of another model, bad data, a value that is not finite, a failed write, or Ctrl-C.
pub fn resume<B: Backend>(b: &B, config: &RunConfig, data: &Datasets, dir: &RunDir) -> Result<Summary> {
    let last = dir.last();
    let checkpoint = if last.exists() { Some(Checkpoint::open(&last)?) } else { None };
    run(b, config, data, dir, checkpoint)
}

fn run<B: Backend>(
    b: &B,
    config: &RunConfig,
    data: &Datasets,
    dir: &RunDir,
    checkpoint: Option<Checkpoint>,
) -> Result<Summary> {
    signal::install();
    let arch = DeepLab::new(config.model_config()?)?;
    let mut state = State::new(b, &arch, config);
    if let Some(c) = &checkpoint {
        c.expect(&arch.config, config.method.algorithm)?;
        c.restore(b, &arch, &mut state)?;
        tracing::info!("continuing at step {} from {}", state.progress.step, dir.last().display());
    }
    drop(checkpoint);
    let metrics = Metrics::open(&dir.metrics(), state.progress.metrics_lines)?;
    let meta = Metadata::new(config)?;
    Trainer { b, arch: &arch, config, dir, data, state, meta, metrics }.run()
}
