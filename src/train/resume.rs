//! Where a resumed run goes on, and whether it is the same run: nothing begins again, and nothing goes on to
//! other bits, without a word. Must not know devices.

use super::checkpoint::Checkpoint;
use super::dataset::Datasets;
use super::fingerprint::Fingerprint;
use super::run_dir::RunDir;
use crate::config::RunConfig;
use crate::method::Schedule;
use crate::{Error, Result};
use std::path::Path;

/// Where a run goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ResumeFrom {
    /// At the newest checkpoint.
    #[default]
    Last,
    /// At the checkpoint of the best validation.
    Best,
    /// At step 0.
    Start,
}

/// How a run is resumed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// Where it goes on.
    pub from: ResumeFrom,
    /// Whether other images or settings than the checkpoint's are meant.
    pub accept_changes: bool,
}

/// The checkpoint that the run in `dir` goes on from; `None` where it begins at step 0 because it was asked
/// to, or has not written one yet.
///
/// # Errors
/// A checkpoint that is damaged, cannot be read, or is gone though the run had written it; the message has
/// the ways on.
pub(super) fn checkpoint(
    dir: &RunDir,
    from: ResumeFrom,
    config: &RunConfig,
    schedule: &Schedule,
) -> Result<Option<Checkpoint>> {
    match from {
        ResumeFrom::Start => return Ok(None),
        ResumeFrom::Best => return Checkpoint::open(&dir.best()).map(Some),
        ResumeFrom::Last => {}
    }
    let last = dir.last();
    match Checkpoint::open(&last) {
        Ok(checkpoint) => Ok(Some(checkpoint)),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            if !dir.had_checkpoint(first_checkpoint(config, schedule)) {
                return Ok(None);
            }
            let message = format!("is missing, though this run has written it{}", ways_on(dir));
            Err(Error::checkpoint(&last, message))
        }
        Err(Error::Io { path, source }) => {
            let message = format!("{source}{}", ways_on(dir));
            Err(Error::Io { path, source: std::io::Error::new(source.kind(), message) })
        }
        Err(Error::Checkpoint { path, message }) => {
            Err(Error::Checkpoint { path, message: message + &ways_on(dir) })
        }
        Err(other) => Err(other),
    }
}

/// What can be done without the last checkpoint.
fn ways_on(dir: &RunDir) -> String {
    let best = match Checkpoint::open(&dir.best()) {
        Ok(best) => format!(
            "--resume-from best goes on at step {} from {}, ",
            best.meta.progress.step,
            dir.best().display()
        ),
        Err(_) => String::new(),
    };
    format!("; {best}--resume-from start begins again at step 0; either cuts the records after it")
}

/// The step after which a run writes its first checkpoint.
fn first_checkpoint(config: &RunConfig, schedule: &Schedule) -> u64 {
    let end = match schedule.warm_up_steps() {
        0 => schedule.steps_per_epoch,
        steps => steps,
    };
    match config.run.checkpoint_every {
        0 => end,
        every => end.min(every),
    }
}

/// Checks that `checkpoint` is of a run of `config` on the images of `now`.
///
/// # Errors
/// [`Error::Checkpoint`] for another model, and, unless they are accepted, for other images or settings.
pub(super) fn check_same(
    checkpoint: &Checkpoint,
    config: &RunConfig,
    data: &Datasets,
    now: &Fingerprint,
    accept_changes: bool,
) -> Result<()> {
    checkpoint.expect(&config.model_config()?, config.method.algorithm)?;
    let path = checkpoint.path();
    let Some(before) = &checkpoint.meta.fingerprint else {
        tracing::info!(
            "{} is of an older version and does not say which images and settings it is of: they are not compared",
            path.display()
        );
        return Ok(());
    };
    let changes = before.changes(now, data)?;
    if changes.is_empty() {
        return Ok(());
    }
    if !accept_changes {
        return Err(refused(path, &changes));
    }
    for change in &changes {
        tracing::warn!("going on with what is not as it was at {}: {change}", path.display());
    }
    Ok(())
}

fn refused(path: &Path, changes: &[String]) -> Error {
    Error::checkpoint(
        path,
        format!(
            "is of this run with other images or settings: {}; --accept-changes goes on all the same, to other results",
            changes.join("; ")
        ),
    )
}
