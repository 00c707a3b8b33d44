//! Files and settings that are made to fail, through the built program: each ends with an exit code and a
//! message, none with a panic, an abort or a machine without memory.

use crate::cli_common::{Project, expect, read};
use crate::weight_files::{Pickle, tensors_of, write_plain, zip_file};
use psmt_fast::model::io::TensorFile;
use serde_json::{Value, json};

const LAST: &str = "o/checkpoints/last.safetensors";

#[test]
fn impossible_metadata_is_refused() {
    let p = Project::new();
    expect(&p.train("o", &["--epochs", "1"]), 0, &[]);
    let file = TensorFile::open(&p.path(LAST)).unwrap();
    let tensors = tensors_of(&file);
    let metadata = file.all_metadata();
    let whole: Value = serde_json::from_str(&metadata["psmt-fast"]).unwrap();
    let large = u64::MAX;
    let cases = [
        // More memory than any machine has, in the right form.
        (
            vec![("/model/blocks", json!([200, 200, 200, 8])), ("/model/planes", json!(4096))],
            "expected shape [4096",
        ),
        (vec![("/model/num_classes", json!(1_000_000_000_000u64))], "num_classes"),
        (vec![("/model/aspp", json!(large))], "aspp"),
        (vec![("/progress/sums/labeled", json!({ "num_classes": 100, "counts": [1] }))], "100 classes"),
        (vec![("/progress/sums/pseudo", json!({ "num_classes": 1, "counts": [large] }))], "confusion matrix"),
        (vec![("/progress/sums/passed", json!(large))], "counters"),
        (vec![("/progress/step", json!(large))], "counters"),
        (vec![("/normalize/std", json!([0.0, 1.0, 1.0]))], "std"),
        (vec![("/eval/long_side", json!(large))], "eval.long_side"),
        (vec![("/eval/window", json!(large))], "eval.window"),
        (vec![("/eval/multiple", json!(large))], "eval.multiple"),
        (vec![("/eval/batch_size", json!(large))], "eval.batch_size"),
        (vec![("/eval/batch_size", json!(0))], "eval.batch_size"),
    ];
    for (changes, word) in cases {
        let mut json = whole.clone();
        json["checksum"] = json!(false);
        for (pointer, value) in changes {
            *json.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = value;
        }
        let mut metadata = metadata.clone();
        metadata.insert("psmt-fast".into(), json.to_string());
        write_plain(&p.path(LAST), &tensors, &metadata);
        for args in [
            &["eval", LAST, "--data", "data", "--val", "val.txt", "--num-classes", "2"][..],
            &["predict", "data/images/9.png", "--checkpoint", LAST, "--out", "m"],
            &["export", "--checkpoint", LAST, "--out", "x.onnx"],
        ] {
            expect(&p.run(args), 5, &["last.safetensors", word]);
        }
        expect(&p.resume("o", &[]), 5, &["last.safetensors"]);
    }
    // A run that was made shorter than it had come is over.
    let mut json = whole;
    json["checksum"] = json!(false);
    json["progress"]["step"] = json!(1_000_000);
    let metadata = [("psmt-fast".to_string(), json.to_string())].into();
    write_plain(&p.path(LAST), &tensors, &metadata);
    expect(&p.resume("o", &[]), 0, &["step 1000000 is after the run's last one, 12"]);
}

#[test]
fn pickles_that_clone_are_refused_before_they_fill_memory() {
    let p = Project::new();
    // A list of two million, given to a dictionary two thousand times.
    let list =
        Pickle::new().global("collections", "OrderedDict").raw(b"q\x01]q\x00(").raw(&vec![b'N'; 2 << 20]);
    let calls = b"h\x01h\x00\x85R0".repeat(2000);
    let pickle = list.raw(b"e0").raw(&calls).end();
    zip_file(&p.path("clone.pth"), &pickle, &[], zip::CompressionMethod::Deflated);
    assert!(p.read("clone.pth").len() < 100_000);
    for args in [&["inspect", "clone.pth"][..], &p.train_args("o", &["--pretrained", "clone.pth"])] {
        expect(&p.run(args), 5, &["clone.pth", "too many values"]);
    }
}

#[test]
fn absurd_settings_are_refused() {
    let p = Project::new();
    let large = (1u64 << 61).to_string();
    let cases = [
        ("data.num_classes", "1000000000000"),
        ("optim.accumulate", &large),
        ("optim.batch_size", &large),
        ("augment.crop", "[24, 2305843009213693952]"),
        ("augment.base_size", &large),
        ("augment.scale", "[0.5, 1e30]"),
        ("method.tvat_iterations", &large),
        ("method.warm_up_passes", &large),
        ("schedule.train_epochs", &large),
        ("schedule.steps_per_epoch", &large),
        ("run.pictures", &large),
        ("eval.long_side", &large),
        ("eval.window", &large),
        ("eval.batch_size", &large),
        ("model.planes", &large),
        ("model.blocks", "[1, 1, 1, 2305843009213693952]"),
        ("model.dilations", "[1, 1, 2305843009213693952]"),
    ];
    for (key, value) in cases {
        let set = format!("{key}={value}");
        let name = key.split_once('.').unwrap().1;
        expect(&p.train("o", &["--set", &set]), 3, &[name]);
    }
    for (key, value) in [("data.demo_labeled", &large), ("data.demo_val", &large), ("data.demo_size", &large)]
    {
        let out = p.run(&["train", "--preset", "demo", "--out", "o", "--set", &format!("{key}={value}")]);
        expect(&out, 3, &[key]);
    }
    // What is a number, and more than there is.
    let sizes = [
        (&["--crop", "8192", "--accumulate", "1024"][..], "optim.accumulate"),
        (&["--crop", "500000"], "augment.crop"),
        (&["--set", "model.blocks=[200,200,200,8]", "--set", "model.planes=4096"], "not enough memory"),
    ];
    for (flags, word) in sizes {
        for more in [&[][..], &["--dry-run"]] {
            expect(&p.train("o", &[flags, more].concat()), 7, &[word]);
        }
    }
    assert!(!p.path("o").exists());
    expect(&p.train("o", &["--epochs", "1"]), 0, &[]);
    let eval = ["eval", "o"];
    let predict = ["predict", "data/images/9.png", "--checkpoint", "o", "--out", "m"];
    for args in [&eval[..], &predict] {
        for (flags, code, word) in [
            (&["--eval-size", "100000"][..], 7, "--eval-size"),
            (&["--eval-size", "100000", "--window", "32"], 7, "--eval-size) 100000"),
            (&["--eval-size", "100000", "--flip"], 7, "--eval-size) 100000"),
            (&["--eval-size", "4611686018427387904"], 2, "--eval-size"),
            (&["--window", "4611686018427387904"], 2, "--window"),
            (&["--multiple", "4611686018427387904"], 2, "--multiple"),
        ] {
            expect(&p.run(&[args, flags].concat()), code, &[word]);
        }
    }
    let path = p.path("o/config.toml");
    let config = String::from_utf8(read(&path)).unwrap();
    p.write("o/config.toml", config.replace("demo_val = 60", &format!("demo_val = {large}")));
    expect(&p.run(&eval), 3, &["data.demo_val"]);
}
