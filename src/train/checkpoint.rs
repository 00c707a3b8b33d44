//! Checkpoint files: safetensors with PyTorch's layouts and the authors' tensor names, prefixed by
//! `student.`, `teacher1.` and `teacher2.`; momenta prefixed by `momentum.`; one JSON text of metadata.
//! Written whole or not at all.

use super::fingerprint::Fingerprint;
use super::state::{Progress, State};
use crate::config::{EvalConfig, RunConfig};
use crate::data::Preset;
use crate::eval::{Nets, Settings, Which};
use crate::method::Algorithm;
use crate::model::io::{TensorFile, prefixed, write_tensors};
use crate::model::{Architecture, ModelConfig, Network};
use crate::ops::{Backend, Normalize};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const METADATA_KEY: &str = "psmt-fast";
const MOMENTUM: &str = "momentum";
/// Counters stay below this; sums of theirs are still numbers.
const LARGEST_COUNTER: u64 = 1 << 56;

/// What a checkpoint says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// Sizes of the networks.
    pub model: ModelConfig,
    /// What was trained: decides which networks there are.
    pub algorithm: Algorithm,
    /// The known data set it was trained on, for names and colours.
    pub preset: Option<Preset>,
    /// Mean and deviation of the images that the networks know.
    pub normalize: Normalize,
    /// How validation images were predicted.
    pub eval: EvalConfig,
    /// Counters.
    pub progress: Progress,
    /// The images and settings that it is of; older versions did not say.
    #[serde(default)]
    pub fingerprint: Option<Fingerprint>,
    /// Whether the file was written with a checksum: without it, it is damaged. Older versions wrote none.
    #[serde(default)]
    pub checksum: bool,
}

impl Metadata {
    /// Of a run with this configuration, at its start.
    ///
    /// # Errors
    /// As [`RunConfig::model_config`].
    pub fn new(config: &RunConfig) -> Result<Metadata> {
        Ok(Metadata {
            model: config.model_config()?,
            algorithm: config.method.algorithm,
            preset: config.data.preset,
            normalize: config.normalize,
            eval: config.eval.clone(),
            progress: Progress::default(),
            fingerprint: None,
            checksum: true,
        })
    }

    /// Checks that its numbers are some that this program writes: files may come from anywhere.
    fn validate(&self) -> Result<()> {
        self.model.validate()?;
        self.normalize.validate()?;
        self.eval.validate()?;
        if self.progress.counters().any(|counter| counter > LARGEST_COUNTER) {
            return Err(Error::config("progress", "expected counters of a run, got larger numbers"));
        }
        Ok(())
    }

    /// How images become predictions.
    pub fn settings(&self) -> Settings {
        self.eval.settings(self.normalize)
    }

    /// The network whose mIoU decided which epoch was the best.
    pub fn decides(&self) -> Which {
        self.eval.decides(self.algorithm)
    }
}

/// Writes `state` to all of `paths`.
///
/// # Errors
/// [`Error::Io`]; an older checkpoint at a path stays as it was.
pub fn save<B: Backend>(
    b: &B,
    arch: &Architecture,
    state: &State<B>,
    meta: &Metadata,
    paths: &[PathBuf],
) -> Result<()> {
    let mut tensors = Vec::new();
    for (name, net) in state.named() {
        let (params, stats) = net.download(b);
        tensors.extend(prefixed(name, arch.table.export(&params, &stats)));
    }
    let momenta = std::iter::once(&state.nets.momentum).chain(&state.teacher_momenta);
    for ((name, _), momentum) in state.named().zip(momenta) {
        let values = arch.table.export(&b.download_vector(momentum), &[]);
        tensors.extend(prefixed(&format!("{MOMENTUM}.{name}"), values));
    }
    b.check()?; // a fault leaves the files as they were
    let json = serde_json::to_string(meta)
        .map_err(|e| Error::checkpoint(&paths[0], format!("metadata cannot be written: {e}")))?;
    let info = BTreeMap::from([(METADATA_KEY.to_string(), json)]);
    paths.iter().try_for_each(|path| write_tensors(path, &tensors, &info))
}

/// An open checkpoint file, checked to be whole.
pub struct Checkpoint {
    file: TensorFile,
    /// What it says about itself.
    pub meta: Metadata,
}

impl Checkpoint {
    /// Opens a file.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::Checkpoint`] where it is truncated or something else.
    pub fn open(path: &Path) -> Result<Checkpoint> {
        let file = TensorFile::open(path)?;
        let fail = |message: String| Error::checkpoint(path, message);
        let json = file.metadata(METADATA_KEY).ok_or_else(|| {
            fail(format!("expected a checkpoint of this program, got no {METADATA_KEY:?} metadata"))
        })?;
        let meta: Metadata =
            serde_json::from_str(json).map_err(|e| fail(format!("metadata cannot be read: {e}")))?;
        if meta.checksum && !file.has_checksum() {
            return Err(fail("damaged: the checksum that it was written with is missing".into()));
        }
        meta.validate().map_err(|e| fail(format!("metadata: {e}")))?;
        Ok(Checkpoint { file, meta })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Checks that the networks are of `model` and trained by `algorithm`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] with both.
    pub fn expect(&self, model: &ModelConfig, algorithm: Algorithm) -> Result<()> {
        let differ = |expected: String, got: String| {
            Err(Error::checkpoint(
                self.file.path(),
                format!("is of another run: expected {expected} as in its config.toml, got {got}"),
            ))
        };
        if self.meta.model != *model {
            return differ(format!("{model:?}"), format!("{:?}", self.meta.model));
        }
        if self.meta.algorithm != algorithm {
            return differ(format!("{algorithm:?}"), format!("{:?}", self.meta.algorithm));
        }
        Ok(())
    }

    /// Compares the network `name` with `arch` by the file's header alone.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming a tensor that is missing or has another shape.
    pub fn check(&self, arch: &Architecture, name: &str) -> Result<()> {
        self.file.check_network(&arch.table, name)
    }

    /// Flat (parameters, running statistics) of the network `name`: `student`, `teacher1` or `teacher2`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming a tensor that is missing or has another shape.
    pub fn values(&self, arch: &Architecture, name: &str) -> Result<(Vec<f32>, Vec<f32>)> {
        self.file.network(&arch.table, name)
    }

    fn network<B: Backend>(&self, b: &B, arch: &Architecture, name: &str) -> Result<Network<B>> {
        let (params, stats) = self.values(arch, name)?;
        Ok(Network::upload(b, &params, &stats))
    }

    /// The flat momentum of the network `name`; `None` where the file has none.
    fn momentum(&self, arch: &Architecture, name: &str) -> Result<Option<Vec<f32>>> {
        let prefix = format!("{MOMENTUM}.{name}");
        if !self.file.names().iter().any(|n| n.starts_with(&prefix)) {
            return Ok(None);
        }
        self.file.params(&arch.table, &prefix).map(Some)
    }

    /// Puts the file's values and counters into `state`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming a tensor that is missing or has another shape.
    pub fn restore<B: Backend>(&self, b: &B, arch: &Architecture, state: &mut State<B>) -> Result<()> {
        let names: Vec<_> = state.named().map(|(name, _)| name).collect();
        let (mut nets, mut momenta) = (Vec::new(), Vec::new());
        for name in names {
            nets.push(self.network(b, arch, name)?);
            momenta.extend(self.momentum(arch, name)?.map(|m| b.upload_vector(&m)));
        }
        if momenta.is_empty() {
            return Err(Error::checkpoint(self.file.path(), "expected the student's momentum, got none"));
        }
        state.nets.momentum = momenta.remove(0);
        state.teacher_momenta = momenta;
        let slots = [&mut state.nets.student].into_iter().chain(&mut state.nets.teachers);
        for (slot, net) in slots.zip(nets) {
            *slot = net;
        }
        state.progress = self.meta.progress.clone();
        Ok(())
    }

    /// Only the networks, for predictions.
    ///
    /// # Errors
    /// As [`Checkpoint::restore`].
    pub fn networks<B: Backend>(&self, b: &B, arch: &Architecture) -> Result<Owned<B>> {
        let teachers = ["teacher1", "teacher2"].into_iter().take(self.meta.algorithm.num_teachers());
        Ok(Owned {
            student: self.network(b, arch, "student")?,
            teachers: teachers.map(|name| self.network(b, arch, name)).collect::<Result<_>>()?,
        })
    }
}

/// Networks read from a checkpoint.
pub struct Owned<B: Backend> {
    student: Network<B>,
    teachers: Vec<Network<B>>,
}

impl<B: Backend> Owned<B> {
    /// For predictions.
    pub fn nets(&self) -> Nets<'_, B> {
        Nets { student: &self.student, teachers: self.teachers.iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::{Overrides, load};
    use crate::eval::Overlap;

    /// Checkpoints of older programs say nothing of overlap, multiple and network: they mean what they meant.
    #[test]
    fn older_metadata_reads_with_the_behaviour_it_was_written_for() {
        let config = load(None, &Overrides::default(), Some(Preset::Cityscapes)).unwrap();
        let meta = Metadata::new(&config).unwrap();
        let mut json = serde_json::to_value(&meta).unwrap();
        json["eval"] = serde_json::json!({ "long_side": 0, "window": 800, "batch_size": 1 });
        let old: Metadata = serde_json::from_value(json).unwrap();
        assert_eq!(old, meta);
        let settings = old.settings();
        assert_eq!((settings.window, settings.multiple), (800, 0));
        assert_eq!((settings.overlap, old.decides()), (Overlap::Probabilities, Which::Ensemble));
    }

    #[test]
    fn the_network_that_decides_is_kept() {
        let mut config = load(None, &Overrides::default(), Some(Preset::Demo)).unwrap();
        config.eval.network = Some(Which::Teacher1);
        config.eval.multiple = 8;
        let text = serde_json::to_string(&Metadata::new(&config).unwrap()).unwrap();
        let read: Metadata = serde_json::from_str(&text).unwrap();
        assert_eq!((read.decides(), read.settings().multiple), (Which::Teacher1, 8));
    }
}
