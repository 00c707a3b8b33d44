//! Files that PyTorch itself wrote, read to the same bits. Needs a Python with torch, and says so where there
//! is none.

use crate::networks::arch;
use crate::python::python_with;
use crate::weight_files::put;
use psmt_fast::model::{ModelConfig, Stem};
use psmt_fast::weights::{WeightFile, Weights};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

#[derive(Deserialize)]
struct Tensor {
    name: String,
    shape: Vec<usize>,
    at: usize,
}

/// Whether every tensor of floats that PyTorch wrote to `path` is there, in order, bit by bit, and no other.
fn check(path: &Path, expected: &[Tensor]) {
    let bytes = std::fs::read(format!("{}.f32", path.display())).unwrap();
    let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|&v| f32::from_le_bytes(v)).collect();
    let file = WeightFile::open(path).unwrap();
    let floats: Vec<_> = file.tensors().iter().enumerate().filter(|(_, t)| t.element.is_float()).collect();
    let names: Vec<_> = floats.iter().map(|(_, t)| t.name.as_str()).collect();
    assert_eq!(names, expected.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), "{}", path.display());
    for ((index, info), want) in floats.into_iter().zip(expected) {
        let place = format!("{}: {}", path.display(), want.name);
        assert_eq!(info.shape, want.shape, "{place}");
        let got = file.read(index).unwrap();
        let want = &values[want.at..want.at + got.len()];
        let differ = got.iter().zip(want).position(|(a, b)| a.to_bits() != b.to_bits());
        assert!(differ.is_none(), "{place}: element {differ:?}, of {} and {}", got.len(), want.len());
    }
}

#[test]
fn files_of_torch_are_read_to_the_same_bits() {
    let Some(python) = python_with("torch") else { return };
    let dir = tempfile::tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/torch_weights.py");
    let out = Command::new(python).arg(script).arg(dir.path()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let index = std::fs::read(dir.path().join("index.json")).unwrap();
    let index: BTreeMap<String, Vec<Tensor>> = serde_json::from_slice(&index).unwrap();
    assert!(index.len() >= 15);
    for (name, tensors) in &index {
        check(&dir.path().join(name), tensors);
    }
    for name in ["resnet50.pth", "resnet50_legacy.pth"].iter().filter(|n| index.contains_key(**n)) {
        let path = dir.path().join(name);
        let single = arch(ModelConfig { stem: Stem::Single, ..ModelConfig::resnet50(21) });
        let (params, stats) = put(&Weights::backbone(&path, &single).unwrap(), &single, 0);
        let exported = single.table.export(&params, &stats);
        let file = WeightFile::open(&path).unwrap();
        for tensor in exported.iter().filter(|t| t.name.contains(".backbone.")) {
            let name = tensor.name.trim_start_matches("encoder.backbone.");
            let (at, _) = file.find(name).unwrap();
            assert!(file.read(at).unwrap() == tensor.data, "{name}");
        }
        let error = Weights::backbone(&path, &arch(ModelConfig::resnet101(21)));
        let text = error.map(|_| ()).unwrap_err().to_string();
        assert!(text.contains("is resnet50, 7x7 stem, the run's resnet101, deep stem"), "{text}");
    }
}
