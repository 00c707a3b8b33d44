//! Weights and checkpoints that are not sound, through the built program: values that no network can have,
//! flipped bits, and predictions that are no numbers. None passes unnoticed.

use crate::cli_common::{Project, expect, text};
use crate::weight_files::{arch, backbone, network, renamed, tensors_of, write, write_plain};
use psmt_fast::model::io::{TensorFile, write_tensors};
use psmt_fast::model::{NamedTensor, Stem};
use std::path::Path;

const LAST: &str = "o/checkpoints/last.safetensors";

/// A change of a file's tensors.
type Change<'a> = &'a dyn Fn(&mut NamedTensor);

/// Who wrote a file.
#[derive(Clone, Copy, PartialEq)]
enum Writer {
    ThisVersion,
    /// One that says nothing of a checksum.
    OlderVersion,
}

/// Writes the tensors of `from` with a change to `to`.
fn rewrite(from: &Path, to: &Path, by: Writer, change: Change) {
    let file = TensorFile::open(from).unwrap();
    let mut tensors = tensors_of(&file);
    tensors.iter_mut().for_each(change);
    let mut metadata = file.all_metadata();
    if by == Writer::ThisVersion {
        return write_tensors(to, &tensors, &metadata).unwrap();
    }
    let text = metadata.get_mut("psmt-fast").unwrap();
    assert!(text.contains(",\"checksum\":true"), "{text}");
    *text = text.replace(",\"checksum\":true", "");
    write_plain(to, &tensors, &metadata);
}

/// The commands that read a checkpoint of the run `o` at `path`, without the one that resumes it.
fn readers<'a>(path: &'a str, out: &'a str) -> Vec<Vec<&'a str>> {
    vec![
        vec!["eval", path, "--data", "data", "--val", "val.txt"],
        vec!["predict", "data/images/9.png", "--checkpoint", path, "--out", out],
        vec!["export", "--checkpoint", path, "--out", "x.onnx"],
        vec!["export", "--checkpoint", path, "--out", "x.safetensors", "--format", "safetensors"],
    ]
}

#[test]
fn unsound_weights_are_refused_before_a_folder_is_made() {
    let p = Project::new();
    let arch = arch(Stem::Deep, 2);
    let values = network(&arch, 7);
    let whole = renamed(&arch, &values, &|n| Some(n.to_string()));
    let backbone = backbone(&arch, &values, "net.");
    let set = |tensors: &[NamedTensor], name: &str, value: f32| {
        let mut tensors = tensors.to_vec();
        let tensor = tensors.iter_mut().find(|t| t.name == name).unwrap_or_else(|| panic!("no {name}"));
        *tensor.data.last_mut().unwrap() = value;
        tensors
    };
    // The last value of a tensor, and what the message says of it.
    struct Unsound<'a> {
        flag: &'a str,
        file: &'a [NamedTensor],
        tensor: &'a str,
        value: f32,
        said: &'a str,
    }
    let pretrained =
        |tensor, value, said| Unsound { flag: "--pretrained", file: &backbone, tensor, value, said };
    let init = |tensor, value, said| Unsound { flag: "--init", file: &whole, tensor, value, said };
    for Unsound { flag, file, tensor: name, value, said: word } in [
        pretrained("net.layer4.0.bn3.running_var", f32::NAN, "NaN"),
        pretrained("net.layer4.0.conv3.weight", f32::NEG_INFINITY, "-inf"),
        pretrained("net.bn1.running_var", -0.5, "at least 0, got -0.5"),
        init("decoder.upsample.classifier.bias", f32::NAN, "NaN"),
        init("encoder.head.aspp.map_bn.running_var", -1e-6, "at least 0"),
    ] {
        write(&p.path("w.safetensors"), &set(file, name, value));
        for more in [&[][..], &["--dry-run"]] {
            let out = p.train("o", &[&[flag, "w.safetensors"], more].concat());
            expect(&out, 5, &["w.safetensors", name, word]);
            assert!(!p.path("o").exists(), "{name}");
        }
        // `inspect` does not offer it for a flag that refuses it.
        let out = p.run(&["inspect", "w.safetensors"]);
        expect(&out, 0, &["no fit", name, word]);
        let text = text(&out);
        assert!(!text.contains(&format!("{flag} takes it")), "{text}");
    }
    // A mean below 0 is none of these.
    write(&p.path("w.safetensors"), &set(&backbone, "net.bn1.running_mean", -0.5));
    expect(&p.train("o", &["--pretrained", "w.safetensors", "--dry-run"]), 0, &["starts with"]);
}

#[test]
fn a_flipped_bit_of_a_checkpoint_is_refused_by_everything_that_reads_it() {
    let p = Project::new();
    expect(&p.train("o", &["--epochs", "1"]), 0, &[]);
    let whole = p.read(LAST);
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let progress = whole.windows(8).position(|w| w == b"\\\"step\\\"").unwrap();
    let key = whole.windows(16).position(|w| w == b"psmt-fast-crc32c").unwrap();
    let places = [
        (8 + header + 3, 0),  // the first tensor's first value
        (whole.len() - 2, 6), // the last one's last
        (progress + 10, 0),   // a counter
        (key + 20, 1),        // the checksum itself
        (key, 1),             // its name
    ];
    for (byte, bit) in places {
        let mut flipped = whole.clone();
        flipped[byte] ^= 1 << bit;
        p.write(LAST, &flipped);
        for args in readers(LAST, "m") {
            expect(&p.run(&args), 5, &["last.safetensors"]);
        }
        expect(&p.resume("o", &[]), 5, &["last.safetensors"]);
        assert!(p.read(LAST) == flipped, "what was damaged was replaced");
    }
    assert!(["m", "x.onnx", "x.safetensors"].iter().all(|out| !p.path(out).exists()));
    let mut flipped = whole.clone();
    flipped[8 + header + 3] ^= 1;
    p.write(LAST, &flipped);
    for flag in ["--init", "--pretrained"] {
        expect(&p.train("n", &[flag, LAST]), 5, &["last.safetensors", "checksum"]);
    }
    assert!(!p.path("n").exists());
    p.write(LAST, &whole);
    for args in readers(LAST, "m") {
        expect(&p.run(&args), 0, &[]);
    }
}

#[test]
fn checkpoints_of_older_versions_are_read_unless_a_value_is_unsound() {
    use Writer::{OlderVersion, ThisVersion};
    let p = Project::new();
    expect(&p.train("o", &["--epochs", "1"]), 0, &[]);
    let (last, old) = (p.path(LAST), p.path("old.safetensors"));
    rewrite(&last, &old, OlderVersion, &|_| ());
    for args in readers("old.safetensors", "m") {
        expect(&p.run(&args), 0, &[]);
    }
    for out in ["x.onnx", "x.safetensors"] {
        std::fs::remove_file(p.path(out)).unwrap();
    }
    let cases = [
        ("teacher1.encoder.backbone.bn1.running_var", -1.0, "at least 0, got -1"),
        ("teacher2.decoder.upsample.classifier.bias", f32::NAN, "NaN"),
    ];
    for (name, value, word) in cases {
        for writer in [OlderVersion, ThisVersion] {
            rewrite(&last, &old, writer, &|t| {
                if t.name == name {
                    t.data[0] = value;
                }
            });
            for args in readers("old.safetensors", "bad") {
                expect(&p.run(&args), 5, &["old.safetensors", name, word]);
            }
        }
    }
    assert!(["bad", "x.onnx", "x.safetensors"].iter().all(|out| !p.path(out).exists()));
    for name in [cases[0].0, "momentum.student.decoder.upsample.classifier.bias"] {
        rewrite(&last, &old, OlderVersion, &|t| {
            if t.name == name {
                t.data[0] = if name.contains("var") { -1.0 } else { f32::INFINITY };
            }
        });
        std::fs::copy(&old, &last).unwrap();
        expect(&p.resume("o", &[]), 5, &["last.safetensors", name]);
        rewrite(&p.path("o/checkpoints/best.safetensors"), &last, ThisVersion, &|_| ());
    }
}

#[test]
fn logits_that_are_not_finite_are_no_class_0() {
    let p = Project::new();
    expect(&p.train("o", &["--epochs", "1"]), 0, &[]);
    // Finite numbers whose products are not.
    rewrite(&p.path(LAST), &p.path("large.safetensors"), Writer::ThisVersion, &|t| {
        if t.name.starts_with("teacher2.decoder.upsample") && !t.name.contains("running_") {
            t.data.iter_mut().for_each(|v| *v = 1e30);
        }
    });
    let eval = ["eval", "large.safetensors", "--data", "data", "--val", "val.txt", "--network"];
    let predict =
        ["predict", "data/images/9.png", "--checkpoint", "large.safetensors", "--out", "m", "--network"];
    for more in [&[][..], &["--window", "20"], &["--flip"]] {
        expect(
            &p.run(&[&eval[..], &["ensemble"], more].concat()),
            8,
            &["images/9.png", "teacher2", "not finite"],
        );
        let out = p.run(&[&predict[..], &["ensemble"], more].concat());
        expect(&out, 8, &["data/images/9.png", "teacher2", "not finite"]);
        assert!(!p.path("m/9_index.png").exists());
    }
    // The other networks are right.
    expect(&p.run(&[&eval[..], &["teacher1"]].concat()), 0, &["teacher1"]);
    expect(&p.run(&[&predict[..], &["student"]].concat()), 0, &["predicted by student"]);
}
