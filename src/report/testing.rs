//! Run folders with given scores, for the tests of this module.

use super::run::{Run, label};
use std::path::Path;

/// Scores of a validation: mIoU by network, which is also the pixel accuracy and the IoU of the first of two
/// classes.
pub(super) type Scores<'a> = &'a [(&'a str, Option<f64>)];

/// What a run is to be.
pub(super) struct Made<'a> {
    pub name: &'a str,
    pub seed: u64,
    /// Tables of its configuration other than `data` and `schedule`.
    pub config: &'a str,
    /// Labelled images; 0 leaves out all records.
    pub labeled: usize,
    /// Its validations, one per epoch.
    pub scores: &'a [Scores<'a>],
    /// Epochs that are missing at the end.
    pub missing: u64,
}

impl Default for Made<'_> {
    fn default() -> Self {
        Made { name: "a-1", seed: 1, config: "", labeled: 4, scores: &[], missing: 0 }
    }
}

/// Writes the folders and reads them back.
pub(super) fn runs(root: &Path, all: &[Made<'_>]) -> Vec<Run> {
    let mut runs: Vec<Run> = all.iter().map(|made| run(root, made)).collect();
    label(&mut runs);
    runs
}

fn run(root: &Path, made: &Made<'_>) -> Run {
    let folder = root.join(made.name);
    std::fs::create_dir_all(&folder).unwrap();
    let Made { seed, config, .. } = made;
    let config = format!("[data]\npreset = \"demo\"\nnum_classes = 2\n[schedule]\nseed = {seed}\n{config}");
    std::fs::write(folder.join("config.toml"), config).unwrap();
    std::fs::write(folder.join("metrics.jsonl"), "").unwrap();
    let last = Run::read(&folder).unwrap().planned_epochs() - made.missing;
    let mut text = match made.labeled {
        0 => String::new(),
        labeled => format!(
            "{{\"kind\":\"run\",\"step\":0,\"labeled\":{labeled},\"unlabeled\":9,\"val\":3,\"voc_family\":null}}\n"
        ),
    };
    for (i, scores) in made.scores.iter().enumerate() {
        let epoch = last + 1 + i as u64 - made.scores.len() as u64;
        let by = |value: &dyn Fn(Option<f64>) -> serde_json::Value| {
            let map = scores.iter().map(|(network, v)| (network.to_string(), value(*v)));
            serde_json::Value::from(map.collect::<serde_json::Map<_, _>>())
        };
        let (miou, iou) = (by(&|v| v.into()), by(&|v| vec![v, None].into()));
        let record = serde_json::json!({"kind": "validation", "epoch": epoch, "step": epoch, "seconds": 1.5,
            "miou": miou.clone(), "pixel_accuracy": miou, "iou": iou});
        text += &format!("{record}\n");
    }
    std::fs::write(folder.join("metrics.jsonl"), text).unwrap();
    Run::read(&folder).unwrap()
}
