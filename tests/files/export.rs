//! Exported files: ONNX models through an interpreter and, where Python has it, onnxruntime; tensor files;
//! refusals.

use crate::cli_common::read;
use crate::compare::{assert_within, largest};
use crate::networks;
use crate::python::python_with;
use psmt_fast::Error;
use psmt_fast::backend::cpu::Cpu;
use psmt_fast::data::HostImages;
use psmt_fast::eval::{self, Nets, Palette, Predictor, Which};
use psmt_fast::export::{
    Info, Input, Naming, OnnxOptions, Output, Values, proto, write_networks, write_onnx,
};
use psmt_fast::model::io::{Float, write_tensors};
use psmt_fast::model::{Architecture, Initialization, ModelConfig, NamedTensor, Network};
use psmt_fast::ops::{self, Device, Normalize, Shape};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const CLASSES: usize = 5;

/// Numbers in [0, 1) that only look random.
fn noise(seed: usize) -> impl FnMut() -> f32 {
    let mut state = seed as u64 + 1;
    move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32
    }
}

/// Networks as training leaves them: no batch norm is the identity, some scales are negative.
struct Trained {
    arch: Architecture,
    networks: Vec<Values>,
}

impl Trained {
    fn new() -> Trained {
        let config = ModelConfig { blocks: [2, 1, 1, 2], ..ModelConfig::tiny(CLASSES) };
        let arch = networks::arch(config);
        let network = |i: usize, name: &str| {
            let (mut params, mut stats) = arch.init(Initialization::default(), 3, i as u64);
            let mut noise = noise(i);
            params[arch.table.num_decayed..].iter_mut().for_each(|v| *v += 1.2 * (noise() - 0.7));
            stats.iter_mut().for_each(|v| *v = 0.3 * *v + 0.5 * noise() + 0.1);
            center(&arch, &mut params, &stats);
            Values { name: name.into(), params, stats }
        };
        let networks = ["student", "teacher1", "teacher2"].iter().enumerate().map(|(i, n)| network(i, n));
        Trained { networks: networks.collect(), arch }
    }

    fn of(&self, which: Which) -> &[Values] {
        match which {
            Which::Student => &self.networks[..1],
            Which::Teacher1 => &self.networks[1..2],
            Which::Teacher2 => &self.networks[2..],
            Which::Ensemble => &self.networks[1..],
        }
    }

    fn export(&self, path: &Path, which: Which, options: OnnxOptions) -> psmt_fast::export::Written {
        write_onnx(path, &self.arch, self.of(which), &info(which.name()), &options).unwrap()
    }

    /// Outputs by name as `predict` computes them, NHWC.
    fn expected(&self, which: Which, images: &HostImages) -> BTreeMap<&'static str, Vec<f32>> {
        let b = Cpu::<f32>::new();
        let nets: Vec<Network<Cpu<f32>>> =
            self.networks.iter().map(|v| Network::upload(&b, &v.params, &v.stats)).collect();
        let all = Nets { student: &nets[0], teachers: nets[1..].iter().collect() };
        let size = (images.shape.h, images.shape.w);
        let settings = eval::Settings { normalize: normalize(), ..Default::default() };
        let predictor =
            Predictor { b: &b, arch: &self.arch, nets: &all, which: &[which], settings: &settings };
        let p = predictor.predict(images, size).unwrap();
        let mut out = BTreeMap::from([
            ("labels", b.download_labels(&p[0].label).into_iter().map(f32::from).collect()),
            ("confidence", b.download(&p[0].confidence)),
        ]);
        let shown = images.shown.clone();
        let bytes = ops::upload_images(&b, images.shape, &images.data, shown).unwrap();
        let x = ops::normalize_bytes(&b, &bytes, &normalize()).unwrap();
        let own = self.of(which).iter().map(|v| {
            let net = Network::upload(&b, &v.params, &v.stats);
            let logits = self.arch.predict(&b, &net, &x).unwrap();
            b.download(&ops::interpolate(&b, &logits, size).unwrap())
        });
        let own: Vec<Vec<f32>> = own.collect();
        let count = own.len() as f32;
        let logits: Vec<f32> =
            (0..own[0].len()).map(|i| own.iter().map(|z| z[i]).sum::<f32>() / count).collect();
        let softmax = |z: &[f32]| -> Vec<f32> {
            let max = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let e: Vec<f32> = z.iter().map(|v| (v - max).exp()).collect();
            e.iter().map(|v| v / e.iter().sum::<f32>()).collect()
        };
        out.insert("probabilities", logits.chunks_exact(CLASSES).flat_map(softmax).collect());
        out.insert("logits", logits);
        out
    }
}

/// Shifts the classifier so that no class wins everywhere.
fn center(arch: &Architecture, params: &mut [f32], stats: &[f32]) {
    let b = Cpu::<f32>::new();
    let images = images(1, (64, 64));
    let x = crate::onnx_run::activation(images.shape, &fed(&images, Input::Normalized));
    let logits = b.download(&arch.predict(&b, &Network::upload(&b, params, stats), &x).unwrap());
    let bias = arch.table.params.iter().find(|e| e.name.ends_with("classifier.bias")).unwrap();
    for (i, v) in logits.iter().enumerate() {
        params[bias.span.offset + i % CLASSES] -= v / (logits.len() / CLASSES) as f32;
    }
}

fn normalize() -> Normalize {
    Normalize { mean: [0.4, 0.5, 0.3], std: [0.2, 0.3, 0.25] }
}

fn info(network: &str) -> Info {
    let palette = Palette::new(None, CLASSES);
    Info { network: network.into(), palette, normalize: normalize(), long_side: 240, window: 0, multiple: 8 }
}

fn images(n: usize, (h, w): (usize, usize)) -> HostImages {
    let mut noise = noise(n * h + w);
    HostImages::whole(n, (h, w), (0..n * h * w * 3).map(|_| (256.0 * noise()) as u8).collect())
}

/// What the graph's input holds of these images, NHWC.
fn fed(images: &HostImages, input: Input) -> Vec<f32> {
    let n = normalize();
    let value = |(i, &v): (usize, &u8)| match input {
        Input::Bytes => f32::from(v),
        Input::Unit => f32::from(v) / 255.0,
        Input::Normalized => (f32::from(v) / 255.0 - n.mean[i % 3]) / n.std[i % 3],
    };
    images.data.iter().enumerate().map(value).collect()
}

const WHICH: [Which; 4] = [Which::Student, Which::Teacher1, Which::Teacher2, Which::Ensemble];
/// Numbers of images, and their rows and columns.
const SIZES: [(usize, (usize, usize)); 5] =
    [(1, (64, 48)), (3, (33, 47)), (1, (50, 81)), (3, (32, 16)), (1, (5, 2))];

/// Labels: the share that agrees. Others: the largest difference as a share of the largest value.
fn compare(name: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{name}");
    if name == "labels" {
        let equal = got.iter().zip(want).filter(|(g, w)| g == w).count();
        assert!(equal as f64 >= 0.9999 * got.len() as f64, "{equal} of {} labels", got.len());
        let show = want.len() < 100 || want.iter().any(|l| *l != want[0]);
        assert!(show, "labels that are all the same show little");
        return;
    }
    let allowed = 2e-5 * largest(want).max(1.0);
    assert_within(name, got, want, |_| allowed);
}

#[test]
fn onnx_models_compute_what_predict_does() {
    let t = Trained::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    let (inputs, outputs) = (
        [Input::Bytes, Input::Unit, Input::Normalized],
        [Output::Labels, Output::Logits, Output::Probabilities],
    );
    for (i, which) in WHICH.into_iter().enumerate() {
        for (j, output) in outputs.into_iter().enumerate() {
            for fold_batch_norm in [false, true] {
                let input = inputs[(i + j) % 3];
                let written = t.export(&path, which, OnnxOptions { input, output, fold_batch_norm });
                let graph = crate::onnx_run::read(&path).graph.unwrap();
                crate::onnx_run::check(&graph);
                let norms = graph.node.iter().filter(|n| n.op_type == "BatchNormalization").count();
                let count = t.arch.table.stats.len() / 2 * t.of(which).len();
                let expected = if fold_batch_norm { (0, count) } else { (count, 0) };
                assert_eq!((norms, written.folded), expected);
                let (n, size) = SIZES[(i + j) % SIZES.len()];
                let images = images(n, size);
                let want = t.expected(which, &images);
                let x = crate::onnx_run::activation(images.shape, &fed(&images, input));
                let got = crate::onnx_run::run(&graph, &x);
                assert_eq!(got.len(), if output == Output::Labels { 2 } else { 1 });
                for (name, got) in &got {
                    compare(name, &Cpu::<f32>::new().download(got), &want[name.as_str()]);
                }
            }
        }
    }
}

#[test]
fn onnx_models_take_any_size_and_describe_themselves() {
    let t = Trained::new();
    let dir = tempfile::tempdir().unwrap();
    let [path, again] = ["m.onnx", "again.onnx"].map(|name| dir.path().join(name));
    let written = t.export(&path, Which::Ensemble, OnnxOptions::default());
    t.export(&again, Which::Ensemble, OnnxOptions::default());
    assert!(read(&path) == read(&again) && read(&path).len() == written.bytes);
    let model = crate::onnx_run::read(&path);
    assert_eq!((model.ir_version, model.opset_import[0].version), (Some(8), Some(17)));
    let value = |key: &str| &model.metadata_props.iter().find(|p| p.key == key).unwrap().value;
    assert_eq!(value("network"), "ensemble");
    assert_eq!(value("normalize"), r#"{"mean":[0.4, 0.5, 0.3],"std":[0.2, 0.3, 0.25]}"#);
    assert_eq!(
        (value("long_side"), value("input"), value("output")),
        (&"240".into(), &"bytes".into(), &"labels".into())
    );
    for key in ["class_names", "class_colors"] {
        let list: Vec<serde_json::Value> = serde_json::from_str(value(key)).unwrap();
        assert_eq!(list.len(), CLASSES);
    }
    let graph = model.graph.unwrap();
    let axes = |v: &proto::ValueInfoProto| -> Vec<String> {
        let tensor = v.r#type.clone().unwrap().tensor_type.unwrap();
        let name = |d: proto::DimensionProto| d.dim_param.unwrap_or_else(|| d.dim_value.unwrap().to_string());
        tensor.shape.unwrap().dim.into_iter().map(name).collect()
    };
    assert_eq!(axes(&graph.input[0]), ["N", "3", "H", "W"]);
    assert_eq!(
        (axes(&graph.output[0]), axes(&graph.output[1])),
        (axes(&graph.output[1]), vec!["N".into(), "H".into(), "W".into()])
    );
    for (n, size) in SIZES {
        let images = images(n, size);
        let x = crate::onnx_run::activation(images.shape, &fed(&images, Input::Bytes));
        let got = crate::onnx_run::run(&graph, &x);
        for (name, want) in t.expected(Which::Ensemble, &images) {
            if let Some(got) = got.get(name) {
                compare(name, &Cpu::<f32>::new().download(got), &want);
            }
        }
    }
}

/// A Python that can check models. One that was named must be able to.
pub fn python() -> Option<String> {
    let found = python_with("numpy, onnx, onnxruntime, PIL");
    let named = std::env::var_os("PSMT_TEST_PYTHON");
    assert!(found.is_some() || named.is_none(), "{named:?} lacks numpy, onnx, onnxruntime or pillow");
    found
}

/// Runs `onnx_check.py` and asserts that labels and values agree.
pub fn check_with(python: &str, args: &[&Path], mode: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/onnx_check.py");
    let out = Command::new(python).arg(script).arg(mode).args(args).output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    let found: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(found["labels_equal"].as_f64().unwrap() >= 0.9999, "{args:?}: {found}");
    assert!(found["max_difference"].as_f64().unwrap() <= 1e-4, "{args:?}: {found}");
}

/// NHWC to NCHW.
fn planar(shape: Shape, data: &[f32]) -> Vec<f32> {
    let (c, plane) = (shape.c, shape.h * shape.w);
    let at = |i: usize| (i / (c * plane) * plane + i % plane) * c + i / plane % c;
    (0..data.len()).map(|i| data[at(i)]).collect()
}

#[test]
fn onnxruntime_computes_what_predict_does() {
    let Some(python) = python() else { return };
    let t = Trained::new();
    let dir = tempfile::tempdir().unwrap();
    let (model, file) = (dir.path().join("m.onnx"), dir.path().join("r.safetensors"));
    use {Input::*, Output::*};
    let cases = [
        (Which::Student, OnnxOptions { input: Unit, output: Probabilities, fold_batch_norm: true }),
        (Which::Teacher2, OnnxOptions { input: Normalized, output: Probabilities, fold_batch_norm: false }),
        (Which::Ensemble, OnnxOptions { input: Bytes, output: Labels, fold_batch_norm: false }),
        (Which::Ensemble, OnnxOptions { input: Bytes, output: Probabilities, fold_batch_norm: true }),
        (Which::Teacher1, OnnxOptions { input: Bytes, output: Labels, fold_batch_norm: true }),
    ];
    for ((which, options), (n, size)) in cases.into_iter().zip(SIZES) {
        let input = options.input;
        t.export(&model, which, options);
        let images = images(n, size);
        let Shape { n, h, w, .. } = images.shape;
        let mut tensors = vec![NamedTensor {
            name: "images".into(),
            shape: vec![n, 3, h, w],
            data: planar(images.shape, &fed(&images, input)),
        }];
        for (name, data) in t.expected(which, &images) {
            let c = data.len() / (n * h * w);
            let shape = if c == 1 { vec![n, h, w] } else { vec![n, c, h, w] };
            let data = planar(Shape::new(n, h, w, c), &data);
            tensors.push(NamedTensor { name: name.into(), shape, data });
        }
        write_tensors(&file, &tensors, &BTreeMap::new()).unwrap();
        check_with(&python, &[&model, &file], "reference");
    }
}
#[test]
fn sixteen_bits_are_rounded_and_never_overflow() {
    let mut t = Trained::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("h.safetensors");
    t.networks[0].stats[0] = 70000.0;
    let write =
        |float| write_networks(&path, &t.arch, &t.networks[..1], &info("student"), Naming::Layers, float);
    let e = write(Float::F16).unwrap_err();
    assert!(matches!(&e, Error::Usage(m) if m.contains("running_mean") && m.contains("7e4")), "{e}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    write(Float::Bf16).unwrap();
    let bytes = read(&path);
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let entry = &t.arch.table.params[0];
    let tensor = file.tensor(&entry.name).unwrap();
    assert_eq!((tensor.dtype(), tensor.shape()), (safetensors::Dtype::BF16, &entry.shape[..]));
    let want = t.arch.table.export(&t.networks[0].params, &[]);
    for (got, want) in tensor.data().as_chunks::<2>().0.iter().zip(&want[0].data) {
        let got = f32::from_bits(u32::from(u16::from_le_bytes(*got)) << 16);
        assert!((got - want).abs() <= want.abs() / 256.0, "{got} {want}");
    }
}
