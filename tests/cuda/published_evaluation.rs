//! Evaluation as PS-MT was published: logits added up over windows, and images at the next multiples of 8,
//! against what PyTorch computes in float64 (tests/published_evaluation.py wrote the values).

use crate::compare::{assert_within, largest};
use crate::cuda_common::{PLAIN, device};
use crate::networks;
use psmt_fast::backend::cpu::Cpu;
use psmt_fast::backend::cuda::Dtype;
use psmt_fast::data::{HostImages, RgbImage, Sample};
use psmt_fast::eval::{Nets, Overlap, Predictor, Settings, Views, Which};
use psmt_fast::model::io::TensorFile;
use psmt_fast::model::{Architecture, ModelConfig, Network};
use psmt_fast::ops::{Backend, Normalize, Size};
use serde::Deserialize;
use std::path::Path;
use std::sync::Arc;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures_evaluation/published.safetensors");

#[derive(Deserialize)]
struct Attrs {
    model: ModelConfig,
    mean: [f32; 3],
    std: [f32; 3],
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    network: Which,
    window: usize,
    multiple: usize,
}

impl Case {
    fn settings(&self, attrs: &Attrs) -> Settings {
        Settings {
            normalize: Normalize { mean: attrs.mean, std: attrs.std },
            window: self.window,
            overlap: Overlap::Logits,
            multiple: self.multiple,
            batch_size: 2,
            views: Views::default(),
            long_side: 0,
        }
    }
}

struct Published {
    file: TensorFile,
    attrs: Attrs,
    arch: Architecture,
}

/// Values of a case.
struct Values {
    size: Size,
    image: Vec<u8>,
    /// Mean logits, NHWC.
    scores: Vec<f32>,
    label: Vec<u8>,
}

impl Published {
    fn read() -> Published {
        let file = TensorFile::open(Path::new(FILE)).unwrap();
        let attrs: Attrs = serde_json::from_str(file.metadata("attrs").unwrap()).unwrap();
        let arch = networks::arch(attrs.model.clone());
        Published { file, attrs, arch }
    }

    fn networks<B: Backend>(&self, b: &B) -> [Network<B>; 2] {
        ["teacher1", "teacher2"].map(|name| {
            let (params, stats) = self.file.network(&self.arch.table, name).unwrap();
            Network::upload(b, &params, &stats)
        })
    }

    fn values(&self, case: &Case) -> Values {
        let bytes = |what: &str| self.file.bytes(&format!("{}.{what}", case.name)).unwrap();
        let sums = self.file.require(&format!("{}.scores", case.name)).unwrap();
        let [classes, h, w] = sums.shape[..] else { panic!("{:?}", sums.shape) };
        let hits = bytes("count").unwrap_or(vec![1; h * w]);
        let at = |pixel: usize, class: usize| sums.data[class * h * w + pixel] / f32::from(hits[pixel]);
        let scores = (0..h * w).flat_map(|pixel| (0..classes).map(move |class| at(pixel, class))).collect();
        Values { size: (h, w), image: bytes("image").unwrap(), scores, label: bytes("label").unwrap() }
    }
}

/// The largest difference, as a share of the largest value.
fn error(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let difference: Vec<f32> = got.iter().zip(want).map(|(g, w)| g - w).collect();
    largest(&difference) / largest(want)
}

/// Images of one size with the case's in second place, so that a batch is not one image.
fn batch(values: &Values) -> [Arc<Sample>; 2] {
    let inverse: Vec<u8> = values.image.iter().map(|v| 255 - v).collect();
    [inverse, values.image.clone()].map(|data| {
        let image = RgbImage { size: values.size, data };
        Arc::new(Sample { image, mask: None, name: "drawn".into() })
    })
}

fn check<B: Backend>(b: &B, tolerance: f64, cases: &[&str]) {
    let published = Published::read();
    let [teacher1, teacher2] = published.networks(b);
    let nets = Nets { student: &teacher2, teachers: vec![&teacher1, &teacher2] };
    let mut seen = 0;
    for case in published.attrs.cases.iter().filter(|c| cases.contains(&&c.name[..])) {
        let (values, settings) = (published.values(case), case.settings(&published.attrs));
        let which = [Which::Student, case.network];
        let samples = batch(&values);
        let data = samples.iter().flat_map(|s| s.image.data.clone()).collect();
        let images = HostImages::whole(2, values.size, data);
        let arch = &published.arch;
        let predictor = Predictor { b, arch, nets: &nets, which: &which, settings: &settings };
        let all = predictor.scores(&images, values.size).unwrap();
        let second = &all[1][all[1].len() / 2..];
        let allowed = tolerance * largest(&values.scores);
        assert_within(&format!("{} on {}", case.name, b.name()), second, &values.scores, |_| allowed);

        // What validation, `eval` and `predict` make of them; labels may differ where two classes are equal
        // but for rounding.
        let predicted = predictor.predict_group(&samples).unwrap();
        let labels = b.download_labels(&predicted[1].label);
        let confidences = b.download(&predicted[1].confidence);
        let (pixels, classes) = (values.label.len(), arch.config.num_classes);
        let rounding = 4.0 * tolerance * largest(&values.scores);
        let mut certain = 0;
        for (pixel, scores) in values.scores.chunks_exact(classes).enumerate() {
            let best = scores[usize::from(values.label[pixel])];
            let others = (0..classes).filter(|&c| c != usize::from(values.label[pixel]));
            let second = others.map(|c| scores[c]).fold(f32::NEG_INFINITY, f32::max);
            if f64::from(best - second) > rounding {
                assert_eq!(labels[pixels + pixel], values.label[pixel], "{} pixel {pixel}", case.name);
                certain += 1;
            }
            let p = 1.0 / scores.iter().map(|v| (v - best).exp()).sum::<f32>();
            assert!((confidences[pixels + pixel] - p).abs() < 1e-3, "{} pixel {pixel}", case.name);
        }
        assert!(100 * certain > 95 * pixels, "{}: {certain} of {pixels} pixels are certain", case.name);
        seen += 1;
    }
    assert_eq!(seen, cases.len());
}

const ALL: [&str; 5] = ["windows", "one_side", "both_sides", "multiples", "one_multiple"];

#[test]
fn published_forms_hold_in_double_precision() {
    // The file, and scores on the host, are in single precision.
    check(&Cpu::<f64>::new(), 1e-6, &ALL);
}

#[test]
fn published_forms_hold_in_single_precision() {
    check(&Cpu::<f32>::new(), 1e-4, &ALL);
}

#[test]
fn published_forms_hold_on_the_emulator() {
    let Some(b) = device(Dtype::F32, PLAIN) else { return };
    check(&b, 1e-4, &["both_sides", "multiples"]);
}

/// The settings matter: the other forms give other scores.
#[test]
fn other_forms_give_other_scores() {
    let b = Cpu::<f32>::new();
    let published = Published::read();
    let [teacher1, teacher2] = published.networks(&b);
    let nets = Nets { student: &teacher2, teachers: vec![&teacher1, &teacher2] };
    let off = |name: &str, change: fn(&mut Settings)| {
        let case = published.attrs.cases.iter().find(|c| c.name == name).unwrap();
        let values = published.values(case);
        let mut settings = case.settings(&published.attrs);
        change(&mut settings);
        let images = HostImages::whole(1, values.size, values.image.clone());
        let (arch, which) = (&published.arch, &[case.network]);
        let predictor = Predictor { b: &b, arch, nets: &nets, which, settings: &settings };
        let all = predictor.probabilities(&images, values.size);
        let softmax = |scores: &[f32]| {
            let sum: f32 = scores.iter().map(|v| v.exp()).sum();
            scores.iter().map(|v| v.exp() / sum).collect::<Vec<_>>()
        };
        let want: Vec<f32> =
            values.scores.chunks_exact(published.attrs.model.num_classes).flat_map(softmax).collect();
        error(&all.unwrap()[0], &want)
    };
    for name in ["windows", "one_side", "both_sides"] {
        assert!(off(name, |_| {}) < 1e-4, "{name}");
        assert!(off(name, |s| s.overlap = Overlap::Probabilities) > 1e-3, "{name}");
    }
    assert!(off("multiples", |_| {}) < 1e-4);
    assert!(off("multiples", |s| s.multiple = 0) > 1e-3);
    assert!(off("multiples", |s| s.multiple = 16) > 1e-3);
}
