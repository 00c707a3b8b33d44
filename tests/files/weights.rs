//! Containers of weights: PyTorch's files read without Python, half precision, and files that are damaged or
//! hostile.

use crate::weight_files::{Pickle, zip_file};
use psmt_fast::model::NamedTensor;
use psmt_fast::model::io::{Float, write_tensors_as};
use psmt_fast::weights::{Format, WeightFile};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use zip::CompressionMethod::{self, Deflated, Stored};

const FIXTURES: [(&str, Format); 3] = [
    ("mixed.pth", Format::TorchZip),
    ("mixed_protocol5.pt", Format::TorchZip),
    ("mixed_legacy.pth", Format::TorchLegacy),
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures_weights").join(name)
}

/// Shapes and values by name.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// All tensors of floats.
fn read_all(file: &WeightFile) -> psmt_fast::Result<Tensors> {
    let floats = file.tensors().iter().enumerate().filter(|(_, t)| t.element.is_float());
    floats.map(|(i, t)| Ok((t.name.clone(), (t.shape.clone(), file.read(i)?)))).collect()
}

#[test]
fn types_views_and_nesting_of_torch_files_are_read() {
    let grid: Vec<f32> = (0..6).map(|v| v as f32).collect();
    let map = |f: fn(f32) -> f32| grid.iter().map(|&v| f(v)).collect::<Vec<f32>>();
    let expected = [
        ("f32", vec![2, 3], map(|v| v + 0.5)),
        ("f16", vec![2, 3], grid.clone()),
        ("bf16", vec![2, 3], map(|v| -v)),
        ("f64", vec![2, 3], map(|v| 2.0 * v)),
        ("transposed", vec![3, 2], vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0]),
        ("sliced", vec![3], vec![2.0, 5.0, 8.0]),
        ("tail", vec![3, 2], vec![6.0, 7.0, 8.0, 9.0, 10.0, 11.0]),
        ("parameter", vec![3], vec![0.0, 1.0, 2.0]),
        ("number", vec![], vec![7.0]),
        ("empty", vec![0, 3], vec![]),
    ];
    for (name, format) in FIXTURES {
        let file = WeightFile::open(&fixture(name)).unwrap();
        assert_eq!(file.format(), format, "{name}");
        assert_eq!(file.skipped(), ["argparse.Namespace"], "{name}");
        let mut got = read_all(&file).unwrap();
        for (tensor, shape, values) in &expected {
            let tensor = format!("state_dict.module.{tensor}");
            assert_eq!(got.remove(&tensor).unwrap(), (shape.clone(), values.clone()), "{name}: {tensor}");
        }
        assert!(got.is_empty(), "{name}: {got:?}");
        let counter = file.tensors().iter().position(|t| t.element.name() == "I64").unwrap();
        assert!(file.read(counter).unwrap_err().to_string().contains("num_batches_tracked"));
    }
}

#[test]
fn truncated_files_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.pth");
    for (name, _) in FIXTURES {
        let whole = std::fs::read(fixture(name)).unwrap();
        for len in 0..whole.len() {
            std::fs::write(&path, &whole[..len]).unwrap();
            let error = WeightFile::open(&path).map(|_| ()).unwrap_err();
            assert_eq!(error.exit_code(), 5, "{name} cut to {len}: {error}");
            assert!(error.to_string().contains("cut.pth"), "{error}");
        }
    }
}

#[test]
fn flipped_bytes_are_errors_or_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flipped.pth");
    for (name, format) in FIXTURES {
        let whole = std::fs::read(fixture(name)).unwrap();
        let right = read_all(&WeightFile::open(&fixture(name)).unwrap()).unwrap();
        for at in 0..whole.len() {
            for flip in [1u8 << (at % 8), 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                std::fs::write(&path, &bytes).unwrap();
                let got = WeightFile::open(&path).and_then(|file| read_all(&file));
                // The older container has no checksums, so only its structure can be checked.
                if let Ok(got) = got
                    && format == Format::TorchZip
                {
                    assert_eq!(got, right, "{name}: byte {at} ^ {flip:#x}");
                }
            }
        }
    }
}

#[test]
fn damaged_pickles_under_a_right_checksum_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("damaged.pth");
    for (name, _) in FIXTURES.iter().filter(|(_, format)| *format == Format::TorchZip) {
        let mut zip = zip::ZipArchive::new(std::fs::File::open(fixture(name)).unwrap()).unwrap();
        let mut entries = Vec::new();
        let mut pickle = Vec::new();
        for i in 0..zip.len() {
            let mut entry = zip.by_index(i).unwrap();
            let (_, inner) =
                entry.name().unwrap().split_once('/').map(|(a, b)| (a.to_string(), b.to_string())).unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            match inner.as_str() {
                "data.pkl" => pickle = bytes,
                _ => entries.push((format!("a/{inner}"), bytes)),
            }
        }
        let (mut right, mut wrong) = (0, 0);
        for at in 0..pickle.len() {
            for change in [1u8 << (at % 8), 0x80 >> (at % 7), 0xff] {
                let mut bytes = pickle.clone();
                bytes[at] ^= change;
                zip_file(&path, &bytes, &entries, Stored);
                match WeightFile::open(&path).and_then(|file| read_all(&file)) {
                    Ok(_) => right += 1,
                    Err(error) => {
                        assert_eq!(error.exit_code(), 5, "{error}");
                        wrong += 1;
                    }
                }
            }
        }
        // Names may change unseen; structure may not.
        assert!(right > 0 && wrong > right / 4, "{name}: {right} read, {wrong} refused");
    }
}

#[test]
fn half_precision_safetensors_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("h.safetensors");
    let tensor = NamedTensor { name: "a".into(), shape: vec![2, 2], data: vec![0.5, -2.0, 1.0, 96.0] };
    for (float, name) in [(Float::F16, "F16"), (Float::Bf16, "BF16"), (Float::F32, "F32")] {
        let metadata = BTreeMap::from([("from".to_string(), "a test".to_string())]);
        write_tensors_as(&path, std::slice::from_ref(&tensor), &metadata, float).unwrap();
        let file = WeightFile::open(&path).unwrap();
        assert_eq!((file.tensors()[0].element.name(), file.metadata()), (name, &metadata));
        assert_eq!(file.read(0).unwrap(), tensor.data);
    }
}

/// A dictionary of one tensor of `shape` with `strides` over a storage of `len` floats.
fn one_tensor(len: i32, shape: &[i32], strides: &[i32]) -> Pickle {
    Pickle::new().dict().text("a").tensor("0", len, shape, strides).op(b's')
}

fn open_error(path: &Path) -> String {
    WeightFile::open(path).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn archives_that_inflate_or_lie_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pth");
    let make = |pickle: Pickle, entries: &[(&str, usize)], method: CompressionMethod| {
        let zeros: Vec<(String, Vec<u8>)> =
            entries.iter().map(|(name, len)| (format!("a/data/{name}"), vec![0; *len])).collect();
        zip_file(&path, &pickle.end(), &zeros, method);
    };
    make(one_tensor(6, &[2, 3], &[3, 1]), &[("0", 24)], Deflated);
    assert_eq!(read_all(&WeightFile::open(&path).unwrap()).unwrap()["a"], (vec![2, 3], vec![0.0; 6]));
    // Six numbers do not need 40 MB, whether the pickle admits the size or not.
    make(one_tensor(10_000_000, &[6], &[1]), &[("0", 40_000_000)], Deflated);
    assert!(
        open_error(&path).contains("inflates to 40000000 bytes, its tensors need 24"),
        "{}",
        open_error(&path)
    );
    make(one_tensor(6, &[6], &[1]), &[("0", 40_000_000)], Deflated);
    assert!(open_error(&path).contains("expected 24 bytes, got 40000000"));
    make(one_tensor(6, &[6], &[1]), &[], Stored);
    assert!(open_error(&path).contains("a/data/0 is missing"));
    for (shape, strides, message) in [
        (&[7][..], &[1][..], "outside"),
        (&[2, 3], &[4, 1], "outside"),
        (&[1 << 30], &[0], "more elements"),
        (&[1 << 30, 1 << 30, 1 << 30], &[0, 0, 0], "outside"),
        (&[2], &[i32::MAX], "outside"),
        (&[-1], &[1], "unknown way"),
        (&[2, 3], &[1], "unknown way"),
    ] {
        make(one_tensor(6, shape, strides), &[("0", 24)], Stored);
        let file = WeightFile::open(&path).unwrap();
        assert!(file.tensors().is_empty() && file.unreadable()["a"].contains(message), "{shape:?}");
    }
    // An expanded tensor is read by its strides.
    make(one_tensor(6, &[2, 3, 4], &[0, 2, 0]), &[("0", 24)], Stored);
    assert_eq!(read_all(&WeightFile::open(&path).unwrap()).unwrap()["a"], (vec![2, 3, 4], vec![0.0; 24]));
    let bytes: Vec<u8> = (0..6u8).flat_map(|v| f32::from(v).to_le_bytes()).collect();
    zip_file(&path, &one_tensor(6, &[2, 3], &[0, 2]).end(), &[("a/data/0".into(), bytes)], Stored);
    let expanded = read_all(&WeightFile::open(&path).unwrap()).unwrap();
    assert_eq!(expanded["a"], (vec![2, 3], vec![0.0, 2.0, 4.0, 0.0, 2.0, 4.0]));
    // An empty tensor needs nothing; values that are not finite are found when read.
    let nan = f32::NAN.to_le_bytes().to_vec();
    zip_file(&path, &one_tensor(1, &[1], &[1]).end(), &[("a/data/0".into(), nan)], Stored);
    let error = WeightFile::open(&path).unwrap().read(0).unwrap_err().to_string();
    assert!(error.contains("tensor a") && error.contains("NaN"), "{error}");
}

#[test]
fn pickles_run_nothing_and_cannot_grow_without_bound() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pth");
    let open = |pickle: Pickle| {
        zip_file(&path, &pickle.end(), &[], Stored);
        WeightFile::open(&path)
    };
    // A call that would leave a trace.
    let trace = dir.path().join("trace");
    let call =
        Pickle::new().global("os", "system").text(&format!("touch {}", trace.display())).op(0x85).op(b'R');
    let file = open(call).unwrap();
    assert_eq!(file.skipped(), ["os.system"]);
    assert!(file.tensors().is_empty() && !trace.exists());
    // A list in itself, and the same dictionary many times in itself.
    let ring = Pickle::new().op(b']').raw(b"q\x00").raw(b"h\x00").op(b'a');
    assert!(open(ring).unwrap().tensors().is_empty());
    let mut deep = Pickle::new().op(b'}');
    for _ in 0..100 {
        deep = deep.raw(b"q\x00").op(b'}').raw(b"(").text("l").raw(b"h\x00").text("r").raw(b"h\x00").op(b'u');
    }
    assert!(open(deep).unwrap().tensors().is_empty());
    // Deeper than any recursion may go.
    let nested = Pickle::new().raw(&vec![b']'; 200_000]).raw(&vec![b'a'; 199_999]);
    assert!(open(nested).unwrap().tensors().is_empty());
    for (pickle, message) in [
        (Pickle::new().raw(&vec![b']'; 8 << 20]), "too many values"),
        (Pickle::new().raw(&vec![b'N'; 5 << 20]), "nested too deeply"),
        (Pickle::new().raw(&vec![b'('; 5 << 20]), "nested too deeply"),
        (Pickle::new().raw(b"X\xff\xff\xff\xffabc"), "truncated"),
        (Pickle::new().raw(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc"), "truncated"),
        (Pickle::new().raw(b"B\xff\xff\xff\x7fabc"), "truncated"),
        (Pickle::new().raw(b"h\x07"), "recalls"),
        (Pickle::new().op(b't'), "mark"),
        (Pickle::new().op(b'('), "not there"),
        (Pickle::new().op(b'R'), "not there"),
        (Pickle::new().op(b'i'), "opcode 0x69"),
        (Pickle::new().op(b'N').op(b'Q'), "refers to something outside"),
    ] {
        let error = open(pickle).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(message), "{message}: {error}");
    }
}

#[test]
fn other_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pth");
    for (bytes, message) in [
        (&b""[..], "expected a safetensors file"),
        (b"PK\x03\x04 but nothing else", "not a zip archive"),
        (b"\x80\x02}q\x00.", "expected a safetensors file"),
        (b"\x80\x02}q\x00(X\x01\x00\x00\x00aK\x01u.", "expected a file of safetensors or of torch.save"),
    ] {
        std::fs::File::create(&path).unwrap().write_all(bytes).unwrap();
        assert!(open_error(&path).contains(message), "{}", open_error(&path));
    }
    assert_eq!(WeightFile::open(&dir.path().join("none.pth")).map(|_| ()).unwrap_err().exit_code(), 9);
}
