//! What a run wrote, read back: configuration, records, and where its newest picture is.

use crate::config::{self, RunConfig, flatten};
use crate::data::{Preset, VocFamily};
use crate::eval::Palette;
use crate::train::RunDir;
use crate::{Error, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One run.
pub(super) struct Run {
    /// Name on the page.
    pub label: String,
    pub folder: PathBuf,
    /// As resolved when the run began.
    pub config: RunConfig,
    /// The configuration by dotted key.
    pub keys: BTreeMap<String, String>,
    /// `None` for runs of older versions, which did not record it.
    pub start: Option<Start>,
    pub steps: Vec<Step>,
    pub epochs: Vec<Epoch>,
    pub validations: Vec<Validation>,
    /// The picture of the last validation that has one.
    pub picture: Option<PathBuf>,
    /// The newest picture of unlabelled crops.
    pub unlabeled_picture: Option<PathBuf>,
}

/// The first record: what the run trains on.
#[derive(Debug, PartialEq, Deserialize)]
pub(super) struct Start {
    pub labeled: usize,
    pub unlabeled: usize,
    pub val: usize,
    /// The family of Pascal VOC's labelled list.
    pub voc_family: Option<VocFamily>,
}

/// The record of a step, with keys as in `docs/runs.md`; numbers that were not finite are `None`.
#[derive(Deserialize)]
pub(super) struct Step {
    pub step: u64,
    pub lr: Option<f64>,
    pub unsup_weight: Option<f64>,
}

#[derive(Deserialize)]
pub(super) struct Epoch {
    pub epoch: u64,
    pub loss_sup: Option<f64>,
    pub loss_unsup: Option<f64>,
    pub pass_rate: Option<f64>,
    pub pseudo_agreement: Option<f64>,
    pub pseudo_label_miou: Option<f64>,
    pub pseudo_label_accuracy: Option<f64>,
    pub confidence_histogram: Option<Vec<u64>>,
    pub images_per_second: Option<f64>,
    pub seconds: Option<f64>,
    pub memory_mib: Option<u64>,
}

/// Of a validation, by network.
#[derive(Deserialize)]
pub(super) struct Validation {
    pub epoch: u64,
    pub miou: BTreeMap<String, Option<f64>>,
    pub pixel_accuracy: BTreeMap<String, Option<f64>>,
    pub iou: BTreeMap<String, Vec<Option<f64>>>,
    pub seconds: Option<f64>,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Record {
    Run(Start),
    Step(Step),
    Epoch(Epoch),
    Validation(Validation),
    /// Of a newer version.
    #[serde(other)]
    Other,
}

impl Run {
    /// Reads the run in `folder`. A last line that is still being written is left out.
    ///
    /// # Errors
    /// [`Error::Io`] for a folder without configuration or records, [`Error::Config`] and [`Error::Data`] for
    /// what is wrong in them, by line.
    pub fn read(folder: &Path) -> Result<Run> {
        let dir = RunDir::open(folder)?;
        let read = |path: &Path| std::fs::read_to_string(path).map_err(Error::io(path));
        let text = read(&dir.config())?;
        let config = config::parse(&dir.config().display().to_string(), &text)?;
        let keys = flatten(&config)?;
        let mut run = Run {
            label: String::new(),
            folder: folder.to_path_buf(),
            config,
            keys,
            start: None,
            steps: Vec::new(),
            epochs: Vec::new(),
            validations: Vec::new(),
            picture: newest_picture(&dir.pictures(), "epoch-")?,
            unlabeled_picture: newest_picture(&dir.pictures(), "unlabeled-")?,
        };
        let text = read(&dir.metrics())?;
        for (number, line) in text.split_inclusive('\n').enumerate().filter(|(_, line)| line.ends_with('\n'))
        {
            let record = serde_json::from_str(line).map_err(|e| Error::Data {
                path: dir.metrics(),
                line: Some(number + 1),
                message: format!("expected a record of a run, got {e}"),
            })?;
            match record {
                Record::Run(start) => run.start = Some(start),
                Record::Step(step) => run.steps.push(step),
                Record::Epoch(epoch) => run.epochs.push(epoch),
                Record::Validation(validation) => run.validations.push(validation),
                Record::Other => {}
            }
        }
        Ok(run)
    }

    /// The last validation.
    pub fn last(&self) -> Option<&Validation> {
        self.validations.last()
    }

    /// The best mIoU of a network, with its epoch.
    pub fn best(&self, network: &str) -> Option<(f64, u64)> {
        // Epoch 0 is the end of the warm-up, not of the method.
        let epochs = self.validations.iter().filter(|v| v.epoch > 0);
        let scores = epochs.filter_map(|v| Some((v.miou.get(network).copied()??, v.epoch)));
        scores.max_by(|a, b| a.0.total_cmp(&b.0))
    }

    /// Whether the last epoch was validated, which ends a run.
    pub fn ended(&self) -> bool {
        self.last().is_some_and(|v| v.epoch == self.planned_epochs())
    }

    /// Whether there is no record yet, so that nothing is known of the run but its configuration.
    pub fn is_empty(&self) -> bool {
        self.start.is_none() && self.steps.is_empty() && self.epochs.is_empty() && self.validations.is_empty()
    }

    /// Seconds that epochs and validations took together.
    pub fn seconds(&self) -> f64 {
        let epochs = self.epochs.iter().filter_map(|e| e.seconds);
        epochs.chain(self.validations.iter().filter_map(|v| v.seconds)).sum()
    }

    /// The last part of the folder's path, or the path where it has none.
    pub fn name(&self) -> String {
        match self.folder.file_name() {
            Some(name) => name.to_string_lossy().into_owned(),
            None => self.folder.display().to_string(),
        }
    }
}

/// What the page reads from fields of the configuration, in one place.
impl Run {
    /// The seed, in which runs of one group differ.
    pub fn seed(&self) -> u64 {
        self.config.schedule.seed
    }

    /// The epoch whose validation is the last of a run.
    pub fn planned_epochs(&self) -> u64 {
        self.config.schedule.train_epochs
    }

    /// Confidence from which on pixels get a pseudo label.
    pub fn threshold(&self) -> f64 {
        self.config.method.threshold
    }

    /// Whether the run trains on unlabelled images; one without them records zeros of what it does not have.
    pub fn uses_unlabeled(&self) -> bool {
        self.config.method.algorithm.learns_unlabeled()
    }

    /// Names and colours of the classes.
    pub fn palette(&self) -> Palette {
        Palette::new(self.config.data.preset, self.config.data.num_classes)
    }

    /// Which kind of labelled list the run has, in words.
    pub fn protocol(&self) -> String {
        match (&self.start, self.config.data.preset) {
            (Some(Start { voc_family: Some(family), .. }), _) => family.to_string(),
            (Some(_), Some(Preset::Voc)) => {
                "not known: VOC's own train.txt was not in the data folder".into()
            }
            (Some(_), _) => "the run's own lists".into(),
            (None, _) => "not recorded".into(),
        }
    }
}

/// Networks as records name them; the first that a run has stands for it.
pub(super) const NETWORKS: [&str; 4] = ["ensemble", "student", "teacher1", "teacher2"];

/// Names runs by their folders: the last part, or the whole path where two have the same.
pub(super) fn label(runs: &mut [Run]) {
    let names = runs.iter().map(|run| (run.name(), run.folder.display().to_string())).collect::<Vec<_>>();
    runs.iter_mut().zip(distinct(&names)).for_each(|(run, label)| run.label = label);
}

/// One label per pair of a short and a long name: the short one where it is the only one, else the long one,
/// numbered where that is not enough.
pub(super) fn distinct(names: &[(String, String)]) -> Vec<String> {
    let mut labels: Vec<String> = Vec::with_capacity(names.len());
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for (short, long) in names {
        let same = names.iter().filter(|(other, _)| other == short).count();
        let name = if same > 1 { long } else { short };
        let time = times.entry(name).or_default();
        *time += 1;
        labels.push(if *time > 1 { format!("{name} ({time})") } else { name.clone() });
    }
    labels
}

/// The last picture by name, of those whose names begin with `kind`.
fn newest_picture(folder: &Path, kind: &str) -> Result<Option<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(folder)(e)),
    };
    let paths = entries.map(|entry| entry.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>();
    let paths = paths.map_err(Error::io(folder))?;
    let is_kind = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(kind));
    Ok(paths.into_iter().filter(|p| p.extension().is_some_and(|e| e == "png") && is_kind(p)).max())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(root: &Path, name: &str, metrics: &str) -> PathBuf {
        let path = root.join(name);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("config.toml"), "[data]\npreset = \"demo\"\nnum_classes = 5\n").unwrap();
        std::fs::write(path.join("metrics.jsonl"), metrics).unwrap();
        path
    }

    #[test]
    fn records_are_read_but_for_the_one_being_written() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = "{\"kind\":\"run\",\"step\":0,\"labeled\":4,\"unlabeled\":9,\"val\":3,\"voc_family\":\"augmented\"}\n\
            {\"kind\":\"epoch\",\"epoch\":1,\"step\":3,\"loss_sup\":null,\"loss_unsup\":0.5}\n\
            {\"kind\":\"validation\",\"epoch\":1,\"miou\":{\"student\":0.25},\"pixel_accuracy\":{},\"iou\":{\"student\":[0.5,null]}}\n\
            {\"kind\":\"validation\",\"epoch\":2,\"miou\":{\"student\":0.125},\"pixel_accuracy\":{},\"iou\":{}}\n\
            {\"kind\":\"later\"}\n{\"kind\":\"epoch\",\"epo";
        let run = Run::read(&folder(dir.path(), "a", metrics)).unwrap();
        assert_eq!((run.epochs.len(), run.validations.len(), run.steps.len()), (1, 2, 0));
        assert_eq!((run.best("student"), run.best("ensemble")), (Some((0.25, 1)), None));
        assert!(run.protocol().starts_with("augmented"), "{}", run.protocol());
        assert_eq!(run.keys["data.num_classes"], "5");
        assert_eq!(run.picture, None);
    }

    #[test]
    fn what_is_wrong_is_named_by_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = "{\"kind\":\"later\"}\n{\"kind\":\"epoch\",\"epoch\":\"x\"}\n";
        let error = Run::read(&folder(dir.path(), "a", metrics)).err().unwrap();
        assert!(error.to_string().contains("metrics.jsonl:2") && error.exit_code() == 4, "{error}");
        let error = Run::read(dir.path()).err().unwrap();
        assert!(error.to_string().contains("config.toml") && error.exit_code() == 9, "{error}");
    }

    #[test]
    fn labels_differ() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["x/a", "y/a", "b", "b"].map(|name| folder(dir.path(), name, ""));
        let mut runs: Vec<Run> = paths.iter().map(|p| Run::read(p).unwrap()).collect();
        label(&mut runs);
        let labels: Vec<&str> = runs.iter().map(|r| r.label.as_str()).collect();
        assert!(labels[0].ends_with("x/a") && labels[1].ends_with("y/a"), "{labels:?}");
        let path = paths[2].display().to_string();
        assert_eq!(labels[2..], [path.clone(), format!("{path} (2)")]);
    }
}
