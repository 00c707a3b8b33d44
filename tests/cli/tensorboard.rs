//! TensorBoard's own reader opens what a run leaves, also after a resume; skipped where there is no Python
//! with TensorBoard (`pip install tensorboard`; PSMT_TEST_PYTHON names another Python than python3).

use crate::cli_common::{Project, expect, text};
use crate::python::python_with;
use std::process::Command;

const SCRIPT: &str = "
import json, sys
from tensorboard.backend.event_processing import event_accumulator as ea
a = ea.EventAccumulator(sys.argv[1], size_guidance={ea.SCALARS: 0, ea.HISTOGRAMS: 0, ea.IMAGES: 0})
a.Reload()
scalars = {tag: [[e.step, e.value] for e in a.Scalars(tag)] for tag in a.Tags()['scalars']}
h = a.Histograms('epoch/confidence')[-1].histogram_value
images = [[i.step, i.width, i.height] for i in a.Images('validation')]
print(json.dumps({'scalars': scalars, 'bins': list(h.bucket), 'num': h.num, 'images': images}))
";

#[test]
fn tensorboard_reads_a_resumed_run() {
    let Some(python) = python_with("tensorboard") else { return };
    let p = Project::new();
    p.train_and_kill("o", &[]);
    expect(&p.train("o", &[]), 2, &["not empty", "--resume o"]);
    expect(&p.resume("o", &[]), 0, &["results in o"]);

    let out = Command::new(&python).args(["-c", SCRIPT]).arg(p.path("o")).output().unwrap();
    assert!(out.status.success(), "{}", text(&out));
    let seen: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let records = p.read_text("o/metrics.jsonl");
    let records: Vec<serde_json::Value> =
        records.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (tag, kind, key) in [
        ("train/loss_sup", "step", "loss_sup"),
        ("train/lr", "step", "lr"),
        ("epoch/train_miou", "epoch", "train_miou"),
        ("epoch/pass_rate", "epoch", "pass_rate"),
    ] {
        let want: Vec<(u64, f64)> = records
            .iter()
            .filter(|r| r["kind"] == kind && r[key].is_number())
            .map(|r| (r["step"].as_u64().unwrap(), r[key].as_f64().unwrap()))
            .collect();
        let got = seen["scalars"][tag].as_array().unwrap();
        assert_eq!(got.len(), want.len(), "{tag}");
        for (got, (step, value)) in got.iter().zip(want) {
            assert_eq!(got[0], step, "{tag}");
            assert!((got[1].as_f64().unwrap() - value).abs() <= 1e-6 * value.abs(), "{tag} {step}");
        }
    }
    let last = records.iter().rfind(|r| r["kind"] == "epoch").unwrap();
    let sum: f64 = last["confidence_histogram"].as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).sum();
    assert_eq!(seen["num"], sum);
    assert!(seen["scalars"]["mIoU/student"].is_array() && seen["scalars"]["iou_student/class_00"].is_array());
    assert_eq!(seen["images"].as_array().unwrap().last().unwrap()[0], 18);
}
