//! The networks against PyTorch's values and against finite differences, and their files.

use crate::networks::{self, arch, tiny};
use crate::plain::dot;
use psmt_fast::Error;
use psmt_fast::backend::cpu::{Cpu, Real, Tensor};
use psmt_fast::model::{Architecture, Initialization, ModelConfig, NamedTensor, Network, Norm, io};
use psmt_fast::ops::{self, Device, ElementwiseOps, Shape};
use psmt_fast::rng::{Domain, Key};
use std::collections::BTreeMap;
use std::path::Path;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/network_0.safetensors");

/// Values of an NCHW file tensor as an NHWC activation.
fn activation<T: Real>(file: &io::TensorFile, name: &str) -> Tensor<T> {
    let t = file.require(name).unwrap();
    let &[n, c, h, w] = t.shape.as_slice() else { panic!("{name}: {:?}", t.shape) };
    let shape = Shape::new(n, h, w, c);
    Tensor::from_fn(shape, |i| {
        let (c_idx, position) = (i % c, i / c);
        let (image, pixel) = (position / (h * w), position % (h * w));
        T::from_f32(t.data[(image * c + c_idx) * h * w + pixel])
    })
}

fn relative_error(got: impl Iterator<Item = f64>, want: impl Iterator<Item = f64>) -> f64 {
    let (mut diff, mut norm) = (0.0, 0.0);
    for (g, w) in got.zip(want) {
        diff += (g - w) * (g - w);
        norm += w * w;
    }
    (diff / norm.max(f64::MIN_POSITIVE)).sqrt()
}

fn assert_close(what: &str, error: f64, tolerance: f64) {
    assert!(error < tolerance, "{what}: relative error {error:.3e}, expected below {tolerance:.0e}");
}

fn assert_tensor<T: Real>(what: &str, got: &Tensor<T>, want: &Tensor<T>, tolerance: f64) {
    assert_eq!(got.shape(), want.shape(), "{what}");
    let values = |t: &Tensor<T>| t.data().iter().map(|v| v.to_f64()).collect::<Vec<_>>().into_iter();
    assert_close(what, relative_error(values(got), values(want)), tolerance);
}

/// One training pass of the fixture's network, forward and backward, then one in evaluation mode.
fn check_network<T: Real>(tolerance: f64) {
    let file = io::TensorFile::open(Path::new(FIXTURE)).unwrap();
    let attrs: serde_json::Value = serde_json::from_str(file.metadata("attrs").unwrap()).unwrap();
    let config: ModelConfig = serde_json::from_value(attrs["model"].clone()).unwrap();
    assert_eq!(config, ModelConfig::tiny(5));
    let arch = arch(config);
    let b = Cpu::<T>::new();
    let (params, stats) = file.network(&arch.table, "in.student").unwrap();
    let mut net = Network::upload(&b, &params, &stats);
    let x = activation::<T>(&file, "in.x");
    let size = (x.shape().h, x.shape().w);

    let (features, encoder) = arch.encoder_train(&b, &net.params, &mut net.stats, &x).unwrap();
    assert_eq!(features.shape(), arch.feature_shape(x.shape()));
    let (logits, decoder) = arch.decoder_train(&b, &net.params, &mut net.stats, &features).unwrap();
    assert_eq!(logits.shape(), arch.logits_shape(x.shape()));
    let full = ops::interpolate(&b, &logits, size).unwrap();
    assert_tensor("logits", &full, &activation(&file, "out.logits"), tolerance);

    let dfull = activation::<T>(&file, "in.dlogits");
    let dlogits = ops::interpolate_bwd(&b, &dfull, (logits.shape().h, logits.shape().w)).unwrap();
    let mut grads = b.zeros(arch.table.num_params);
    let dfeatures = decoder.backward(&b, &net.params, &mut grads, &dlogits).unwrap();
    encoder.backward(&b, &net.params, &mut grads, &dfeatures).unwrap();

    let (_, stats) = net.download(&b);
    let grads = arch.table.export(&b.download_vector(&grads), &[]);
    assert_eq!(grads.len(), arch.table.params.len());
    let stats = arch.table.export(&[], &stats);
    assert_eq!(stats.len(), arch.table.stats.len());
    for (prefix, tensors) in [("out.grad", grads), ("out.student", stats)] {
        for got in io::prefixed(prefix, tensors) {
            let want = file.require(&got.name).unwrap();
            assert_eq!(got.shape, want.shape, "{}", got.name);
            let values = |data: Vec<f32>| data.into_iter().map(f64::from);
            assert_close(&got.name, relative_error(values(got.data), values(want.data)), tolerance);
        }
    }

    let logits = arch.predict(&b, &net, &x).unwrap();
    let full = ops::interpolate(&b, &logits, size).unwrap();
    assert_tensor("logits_eval_after", &full, &activation(&file, "out.logits_eval_after"), tolerance);
}

#[test]
fn network_matches_pytorch_in_f32() {
    check_network::<f32>(1e-4);
}

#[test]
fn network_matches_pytorch_in_f64() {
    check_network::<f64>(1e-6); // the file holds f32
}

fn normal(shape: Shape, step: u64) -> Tensor<f64> {
    let mut stream = Key::new(5, Domain::Bench, step).stream();
    Tensor::new(shape, (0..shape.len()).map(|_| f64::from(stream.normal())).collect())
}

fn along(x: &Tensor<f64>, t: &Tensor<f64>, step: f64) -> Tensor<f64> {
    Tensor::from_fn(x.shape(), |i| x.data()[i] + step * t.data()[i])
}

#[test]
fn decoder_tangent_and_pullback_are_its_jacobian() {
    let arch = tiny(7);
    let b = Cpu::<f64>::new();
    let (mut params, mut stats) = arch.init(Initialization::default(), 3, 1);
    let mut stream = Key::new(6, Domain::Bench, 0).stream();
    params[arch.table.num_decayed..].iter_mut().for_each(|v| *v += 0.2 * stream.normal());
    stats.iter_mut().for_each(|v| *v += 0.3 * stream.uniform());
    let net = Network::upload(&b, &params, &stats);
    let shape = arch.feature_shape(Shape::new(2, 29, 37, 3));
    let (x, t) = (normal(shape, 1), normal(shape, 2));
    let forward = |x: &Tensor<f64>| arch.decoder(&b, &net.params, Norm::Frozen(&net.stats), x).unwrap();
    let (clean, masks) = arch.decoder_masks(&b, &net, &x).unwrap();
    assert_eq!(clean.data(), forward(&x).data());

    let jt = masks.tangent(&b, &net, &t).unwrap();
    let h = 1e-6;
    let (plus, minus) = (forward(&along(&x, &t, h)), forward(&along(&x, &t, -h)));
    let difference = Tensor::from_fn(plus.shape(), |i| (plus.data()[i] - minus.data()[i]) / (2.0 * h));
    assert_tensor("tangent", &jt, &difference, 1e-7);

    let c = normal(jt.shape(), 3);
    let jc = masks.pullback(&b, &net, &c).unwrap();
    assert_eq!(jc.shape(), shape);
    let (left, right) = (dot(&jt, &c), dot(&t, &jc));
    assert!((left - right).abs() < 1e-11 * left.abs(), "<J t, c> {left}, <t, Jᵀ c> {right}");
}

/// Several decoders side by side give each one's logits and tangent, and the sum of their pullbacks.
#[test]
fn decoders_side_by_side_are_those_of_each_network() {
    let arch = tiny(5);
    let b = Cpu::<f64>::new();
    let mut stream = Key::new(7, Domain::Bench, 0).stream();
    let nets: Vec<Network<Cpu<f64>>> = (0..3)
        .map(|i| {
            let (mut params, mut stats) = arch.init(Initialization::default(), 4, i);
            params[arch.table.num_decayed..].iter_mut().for_each(|v| *v += 0.2 * stream.normal());
            stats.iter_mut().for_each(|v| *v += 0.3 * stream.uniform());
            Network::upload(&b, &params, &stats)
        })
        .collect();
    let shape = arch.feature_shape(Shape::new(2, 29, 37, 3));
    let (x, t) = (normal(shape, 1), normal(shape, 2));
    assert!(matches!(arch.decoders(&b, &[]), Err(Error::Usage(_))));
    for count in 1..=3 {
        let nets: Vec<_> = nets[..count].iter().collect();
        let decoders = arch.decoders(&b, &nets).unwrap();
        assert_eq!(decoders.count(), count);
        let (logits, masks) = decoders.masks(&b, &x).unwrap();
        assert_eq!(logits.data(), decoders.logits(&b, &x).unwrap().data());
        let tangent = decoders.tangent(&b, &masks, &t).unwrap();
        let c = normal(logits.shape(), 3);
        let pullback = decoders.pullback(&b, &masks, &c).unwrap();

        let mut sum = Tensor::from_fn(shape, |_| 0.0);
        for (i, net) in nets.iter().enumerate() {
            let part = |wide: &Tensor<f64>| b.slice_channels(wide, 5 * i, 5);
            let (want, masks) = arch.decoder_masks(&b, net, &x).unwrap();
            assert_tensor("logits", &part(&logits), &want, 1e-12);
            let want = masks.tangent(&b, net, &t).unwrap();
            assert_tensor("tangent", &part(&tangent), &want, 1e-12);
            sum = along(&sum, &masks.pullback(&b, net, &part(&c)).unwrap(), 1.0);
        }
        assert_tensor("pullback", &pullback, &sum, 1e-12);
    }
}

/// A pass without a backward pass computes the same, in training mode and with running statistics.
#[test]
fn what_is_kept_changes_no_values() {
    let arch = tiny(3);
    let b = Cpu::<f32>::new();
    let (params, stats) = arch.init(Initialization::default(), 0, 0);
    let net = Network::upload(&b, &params, &stats);
    let (mut kept, mut free) = (net.stats.clone(), net.stats.clone());
    let shape = Shape::new(2, 17, 23, 3);
    let x = b.upload(shape, &(0..shape.len()).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<_>>());
    let (features, _) = arch.encoder_train(&b, &net.params, &mut kept, &x).unwrap();
    let same = arch.encoder(&b, &net.params, Norm::Train(&mut free), &x).unwrap();
    assert_eq!(features.data(), same.data());
    let (logits, _) = arch.decoder_train(&b, &net.params, &mut kept, &features).unwrap();
    let same = arch.decoder(&b, &net.params, Norm::Train(&mut free), &features).unwrap();
    assert_eq!(logits.data(), same.data());
    assert_eq!(kept, free);
    assert_ne!(kept, net.stats);
}

#[test]
fn one_image_cannot_be_trained_on_but_evaluated() {
    let arch = tiny(3);
    let b = Cpu::<f32>::new();
    let (params, stats) = arch.init(Initialization::default(), 0, 0);
    let mut net = Network::upload(&b, &params, &stats);
    let shape = Shape::new(1, 17, 23, 3);
    let x = b.upload(shape, &vec![0.5; shape.len()]);
    let Err(error) = arch.encoder_train(&b, &net.params, &mut net.stats, &x) else {
        panic!("one image was trained on");
    };
    assert!(error.to_string().contains("at least 2 images"), "{error}");
    let logits = arch.predict(&b, &net, &x).unwrap();
    assert_eq!(logits.shape(), arch.logits_shape(shape));
    assert_eq!(logits.shape(), Shape::new(1, 5, 6, 3));
}

#[test]
fn initial_values_depend_on_seed_and_network_only() {
    let arch = tiny(3);
    let (params, stats) = arch.init(Initialization::default(), 1, 2);
    assert_eq!(arch.init(Initialization::default(), 1, 2), (params.clone(), stats));
    assert_ne!(arch.init(Initialization::default(), 1, 1).0, params);
    assert_ne!(arch.init(Initialization::default(), 2, 2).0, params);
    let entry = arch.table.params.iter().find(|e| e.name == "decoder.upsample.last_conv.0.weight").unwrap();
    let values = &params[entry.span.range()];
    let variance = values.iter().map(|v| f64::from(v * v)).sum::<f64>() / values.len() as f64;
    let fan_in = (24 * 9) as f64;
    assert!((variance * fan_in / 2.0 - 1.0).abs() < 0.1, "variance {variance}");
}

#[test]
fn sizes_are_those_of_the_published_networks() {
    // Parameter counts of the reference's Network(Config(...)) in PyTorch.
    for (config, num_params) in [
        (ModelConfig::resnet50(21), 40_475_957),
        (ModelConfig::resnet101(19), 59_467_571),
        (ModelConfig::tiny(5), 101_277),
    ] {
        let arch = arch(config);
        assert_eq!(arch.table.num_params, num_params);
        let covered: usize = arch.table.params.iter().map(|e| e.span.len).sum();
        assert_eq!(covered, num_params);
        let mut end = 0;
        for (i, e) in arch.table.params.iter().enumerate() {
            assert_eq!(e.span.offset, end, "{}", e.name);
            end += e.span.len;
            assert_eq!(e.shape.len() == 4, end <= arch.table.num_decayed, "{i} {}", e.name);
        }
    }
    let arch = arch(ModelConfig::resnet50(21));
    let x = Shape::new(2, 128, 128, 3);
    assert!(arch.activation_bytes(x) > 50 << 20 && arch.activation_bytes(x) < 500 << 20);
    assert!(arch.flops(Shape { n: 4, ..x }) == 2 * arch.flops(x));
}

#[test]
fn bad_configurations_name_the_key() {
    let bad = ModelConfig { planes: 0, ..ModelConfig::tiny(3) };
    assert!(Architecture::new(bad).unwrap_err().to_string().contains("planes"));
    assert!(Architecture::new(ModelConfig::tiny(256)).unwrap_err().to_string().contains("num_classes"));
    assert!(ModelConfig::by_name("vgg", 3).unwrap_err().to_string().contains("resnet50"));
    let unknown: Result<ModelConfig, _> = serde_json::from_str(r#"{"depth": 3}"#);
    assert!(unknown.unwrap_err().to_string().contains("depth"));
}

#[test]
fn files_hold_several_networks_and_bad_ones_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("networks.safetensors");
    let arch = tiny(3);
    let networks = [
        ("student", arch.init(Initialization::default(), 1, 0)),
        ("teacher1", arch.init(Initialization::default(), 1, 1)),
    ];
    let tensors: Vec<_> =
        networks.iter().flat_map(|(k, (p, s))| io::prefixed(k, arch.table.export(p, s))).collect();
    let metadata = BTreeMap::from([("b".to_string(), "2".to_string()), ("a".into(), "1".into())]);
    io::write_tensors(&path, &tensors, &metadata).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    io::write_tensors(&path, &tensors, &metadata).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file was left");

    let file = io::TensorFile::open(&path).unwrap();
    assert_eq!((file.metadata("a"), file.metadata("c")), (Some("1"), None));
    for (prefix, values) in &networks {
        assert_eq!(&file.network(&arch.table, prefix).unwrap(), values);
    }
    let message = |r: Result<_, Error>| match r {
        Err(e @ Error::Checkpoint { .. }) => e.to_string(),
        Err(e) => panic!("another error: {e}"),
        Ok(_) => panic!("no error"),
    };
    let missing = message(file.network(&arch.table, "teacher2").map(|_| ()));
    assert!(missing.contains("teacher2") && missing.contains("missing"), "{missing}");
    let wider = networks::arch(ModelConfig { aspp: 20, ..ModelConfig::tiny(3) });
    assert!(message(file.network(&wider.table, "student").map(|_| ())).contains("expected shape"));
    let deeper = networks::arch(ModelConfig { blocks: [2, 1, 1, 1], ..ModelConfig::tiny(3) });
    assert!(message(file.network(&deeper.table, "student").map(|_| ())).contains("layer1.1"));
    let extra =
        [tensors, io::prefixed("student", deeper.table.export(&vec![0.0; deeper.table.num_params], &[]))];
    let mut seen = std::collections::HashSet::new();
    let extra: Vec<_> = extra.concat().into_iter().filter(|t| seen.insert(t.name.clone())).collect();
    io::write_tensors(&path, &extra, &metadata).unwrap();
    let extra = io::TensorFile::open(&path).unwrap();
    assert!(message(extra.network(&arch.table, "student").map(|_| ())).contains("another one"));

    for (content, word) in [
        (&bytes[..bytes.len() - 5], "truncated"),
        (&bytes[..100], "truncated"),
        (&bytes[..3], "3 bytes"),
        (b"\x89PNG\r\n\x1a\n and so on".as_slice(), "not one"),
        (b"\x04\0\0\0\0\0\0\0nope".as_slice(), "not a safetensors header"),
    ] {
        std::fs::write(&path, content).unwrap();
        let text = message(io::TensorFile::open(&path).map(|_| ()));
        assert!(text.contains(word) && text.contains("networks.safetensors"), "{text}");
    }
    let absent = io::write_tensors(&folder.path().join("no/such/folder/x"), &[], &BTreeMap::new());
    assert!(matches!(absent, Err(Error::Io { .. })));
}

#[test]
fn any_flipped_bit_of_a_tensor_file_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.safetensors");
    let tensor = |name: &str, data: &[f32]| NamedTensor {
        name: name.into(),
        shape: vec![data.len()],
        data: data.to_vec(),
    };
    let tensors = [tensor("a", &[1.0, -2.5, 3e-20]), tensor("b", &[0.0])];
    let metadata = BTreeMap::from([("about".to_string(), "\"psmt-fast-crc32c\":\"00000000\"".to_string())]);
    io::write_tensors(&path, &tensors, &metadata).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let file = io::TensorFile::open(&path).unwrap();
    assert!(file.has_checksum());
    assert_eq!((file.all_metadata(), file.require("a").unwrap()), (metadata, tensors[0].clone()));
    // Without the name of its checksum a file reads as one that never had any; its values are the same.
    let key = bytes.windows(18).position(|w| w == b"\"psmt-fast-crc32c\"").unwrap() + 1;
    let name = key..key + 16;
    for bit in 0..8 * bytes.len() {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &flipped).unwrap();
        match io::TensorFile::open(&path) {
            Err(error) => assert_eq!(error.exit_code(), 5, "bit {bit}: {error}"),
            Ok(file) => {
                assert!(name.contains(&(bit / 8)) && !file.has_checksum(), "bit {bit}");
                assert_eq!(file.require("a").unwrap(), tensors[0]);
            }
        }
    }
}
