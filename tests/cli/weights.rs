//! Runs that start from files with weights, and `inspect`, through the built program.

use crate::cli_common::{Project, expect, read, text};
use crate::weight_files::{arch, network, renamed, write};
use psmt_fast::backend::cpu::{Cpu, Tensor};
use psmt_fast::model::io::{TensorFile, write_tensors};
use psmt_fast::model::{Initialization, NamedTensor, Network, Stem};
use psmt_fast::ops::{Device, Shape};
use psmt_fast::train::Checkpoint;
use psmt_fast::weights::Weights;
use serde_json::Value;

/// Steps that move nothing: parameters stay as the run began.
const STILL: [&str; 2] = ["--lr", "0"];

fn backbone_file(p: &Project, name: &str, stem: Stem) -> Vec<NamedTensor> {
    let arch = arch(stem, 2);
    let rest = |n: &str| n.strip_prefix("encoder.backbone.").map(|n| format!("module.{n}"));
    let tensors = renamed(&arch, &network(&arch, 7), &rest);
    write(&p.path(name), &tensors);
    tensors
}

#[test]
fn all_networks_start_from_a_pretrained_backbone() {
    let p = Project::new();
    for (stem, flags) in [(Stem::Deep, &[][..]), (Stem::Single, &["--stem", "7x7"])] {
        let out = format!("o{}", flags.len());
        let backbone = backbone_file(&p, "b.safetensors", stem);
        let flags = [&["--pretrained", "b.safetensors", "--epochs", "2"][..], &STILL, flags].concat();
        let ran = p.train(&out, &flags);
        expect(
            &ran,
            0,
            &[
                "starting with backbone by torchvision's names with the prefix \"module.\" from ",
                "b.safetensors (safetensors)",
            ],
        );
        let config = String::from_utf8(read(&p.path(&out).join("config.toml"))).unwrap();
        assert!(config.contains("/b.safetensors\"\n"), "{config}");
        let file = TensorFile::open(&p.path(&out).join("checkpoints/last.safetensors")).unwrap();
        let head =
            |net: &str| file.require(&format!("{net}.decoder.upsample.classifier.weight")).unwrap().data;
        for net in ["student", "teacher1", "teacher2"] {
            for t in backbone.iter().filter(|t| !t.name.contains("running_")) {
                let name = t.name.replace("module.", &format!("{net}.encoder.backbone."));
                let got = file.require(&name).unwrap().data;
                // The teachers' averages of equal values may round.
                let near = got.iter().zip(&t.data).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs());
                assert!(near && !got.is_empty(), "{name}: {got:?}, {:?}", t.data);
            }
        }
        assert!(head("student") != head("teacher1") && head("teacher1") != head("teacher2"));
        // A resumed run needs the file no more.
        std::fs::remove_file(p.path("b.safetensors")).unwrap();
        expect(&p.resume(&out, &[]), 0, &["results in"]);
    }
    // With a learning rate the run goes on from there.
    let backbone = backbone_file(&p, "b.safetensors", Stem::Deep);
    expect(&p.train("moved", &["--pretrained", "b.safetensors", "--epochs", "2"]), 0, &[]);
    let file = TensorFile::open(&p.path("moved/checkpoints/last.safetensors")).unwrap();
    let first = &backbone[0];
    let moved = file.require(&first.name.replace("module.", "student.encoder.backbone.")).unwrap();
    assert!(moved.data != first.data);
}

#[test]
fn a_run_starts_from_another_runs_networks() {
    let p = Project::new();
    expect(&p.train("a", &["--epochs", "2"]), 0, &[]);
    let file = p.path("a/checkpoints/last.safetensors");
    let (arch, b) = (arch(Stem::Deep, 2), Cpu::<f32>::new());
    let (checkpoint, weights) = (Checkpoint::open(&file).unwrap(), Weights::networks(&file, &arch).unwrap());
    let x = Tensor::from_fn(Shape::new(2, 24, 24, 3), |i| (i % 97) as f32 / 48.0 - 1.0);
    for (number, name) in ["student", "teacher1", "teacher2"].into_iter().enumerate() {
        let (mut params, mut stats) = arch.init(Initialization::default(), 9, number as u64);
        weights.put(&arch, number as u64, &mut params, &mut stats).unwrap();
        let (trained, trained_stats) = checkpoint.values(&arch, name).unwrap();
        let predict = |params: &[f32], stats: &[f32]| {
            b.download(&arch.predict(&b, &Network::upload(&b, params, stats), &x).unwrap())
        };
        assert!(predict(&params, &stats) == predict(&trained, &trained_stats), "{name}");
        assert!(params == trained && stats == trained_stats, "{name}");
    }
    let init = "a/checkpoints/last.safetensors";
    let ran =
        p.train("b", &[&["--init", init, "--algorithm", "supervised", "--epochs", "1"][..], &STILL].concat());
    expect(&ran, 0, &["starting with student as student.encoder.*"]);
    let of = |run: &str| TensorFile::open(&p.path(run).join("checkpoints/last.safetensors")).unwrap();
    let name = "student.decoder.upsample.classifier.weight";
    assert!(of("a").require(name).unwrap() == of("b").require(name).unwrap());
    let config = p.read_text("b/config.toml");
    assert!(config.contains("/a/checkpoints/last.safetensors\"\n"), "{config}");
}

#[test]
fn files_that_do_not_fit_end_the_program_before_it_writes() {
    let p = Project::new();
    backbone_file(&p, "b.safetensors", Stem::Deep);
    p.write("cut.pth", "PK\u{3}\u{4}");
    let cases: [(&[&str], i32, &[&str]); 6] = [
        (&["--pretrained", "none.pth"], 9, &["none.pth"]),
        (&["--pretrained", "cut.pth"], 5, &["cut.pth", "not a zip archive"]),
        (&["--pretrained", "b.safetensors", "--stem", "7x7"], 5, &["conv1.weight [2, 3, 7, 7]", "deep stem"]),
        (&["--init", "b.safetensors"], 5, &["--pretrained takes"]),
        (&["--init", "b.safetensors", "--pretrained", "b.safetensors"], 2, &["--pretrained"]),
        (
            &["--set", "model.init=b.safetensors", "--pretrained", "b.safetensors"],
            3,
            &["model.init", "model.pretrained"],
        ),
    ];
    for (flags, code, parts) in cases {
        expect(&p.train("o", flags), code, parts);
        expect(&p.train("o", &[flags, &["--dry-run"]].concat()), code, parts);
        assert!(!p.path("o").exists(), "{flags:?}");
    }
    let dry = p.train("o", &["--pretrained", "b.safetensors", "--dry-run"]);
    expect(&dry, 0, &["starts with backbone by torchvision's names"]);
}

#[test]
fn inspect_shows_tensors_and_what_takes_them() {
    let p = Project::new();
    backbone_file(&p, "b.safetensors", Stem::Single);
    let out = p.run(&["inspect", "b.safetensors"]);
    expect(&out, 0, &["safetensors, ", "module.layer1 ", "--all lists", "--pretrained takes it", "7x7 stem"]);
    assert!(!text(&out).contains("module.bn1.running_mean"));
    let all = p.run(&["inspect", "--all", "b.safetensors"]);
    expect(&all, 0, &["module.bn1.running_mean", "module.conv1.weight", "[2, 3, 7, 7]", "F32"]);
    let json = p.run(&["inspect", "--json", "b.safetensors"]);
    expect(&json, 0, &[]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["format"], "safetensors");
    let fits: Vec<_> = json["findings"].as_array().unwrap().iter().filter(|f| f["fits"] == true).collect();
    assert_eq!(fits.len(), 1);
    assert_eq!((&fits[0]["flag"], &fits[0]["model"]["stem"]), (&"--pretrained".into(), &"7x7".into()));
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures_weights/mixed.pth");
    expect(
        &p.run(&["inspect", fixture]),
        0,
        &["PyTorch (zip), 11 tensors", "objects of argparse.Namespace", "BF16", "no network"],
    );
    p.write("notes.txt", "hello there, this is no tensor file at all");
    expect(&p.run(&["inspect", "notes.txt"]), 5, &["notes.txt"]);
}

#[test]
fn a_backbone_for_the_student_alone_leaves_the_teachers_as_the_seed_made_them() {
    let p = Project::new();
    let backbone = backbone_file(&p, "b.safetensors", Stem::Deep);
    let only = ["--pretrained", "b.safetensors", "--set", "model.pretrained_networks=student"];
    let ran = p.train("o", &[&only[..], &["--epochs", "2"], &STILL].concat());
    expect(&ran, 0, &["b.safetensors (safetensors), for the student alone"]);
    let config = p.read_text("o/config.toml");
    assert!(config.contains("pretrained_networks = \"student\""), "{config}");
    expect(&p.train("a", &["--pretrained", "b.safetensors", "--dry-run"]), 0, &["for every network"]);
    // Steps that move nothing: the student is the file; the teachers went a few steps of their average
    // towards it.
    let file = TensorFile::open(&p.path("o/checkpoints/last.safetensors")).unwrap();
    for (net, equal) in [("student", true), ("teacher1", false), ("teacher2", false)] {
        let same = |t: &&NamedTensor| {
            let name = t.name.replace("module.", &format!("{net}.encoder.backbone."));
            let got = file.require(&name).unwrap().data;
            got.iter().zip(&t.data).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs())
        };
        let weights = backbone.iter().filter(|t| t.name.contains("conv"));
        assert!(weights.clone().count() > 10);
        assert_eq!(weights.filter(same).count() > 0, equal, "{net}");
    }
    let bad = p.train("x", &["--set", "model.pretrained_networks=teachers"]);
    expect(&bad, 3, &["pretrained_networks", "teachers", "`all`", "`student`"]);
}

/// Warnings that networks start from random weights.
fn from_scratch_warnings(out: &std::process::Output) -> usize {
    text(out).matches("costs tens of points").count()
}

#[test]
fn voc_and_cityscapes_from_random_weights_warn_once() {
    let p = Project::new();
    backbone_file(&p, "b.safetensors", Stem::Deep);
    let voc = ["--preset", "voc"];
    let ran = p.train("o", &[&voc[..], &["--epochs", "2"]].concat());
    expect(&ran, 0, &["--pretrained", "--init", "Pascal VOC", "docs/weights.md", "results in o"]);
    assert_eq!(from_scratch_warnings(&ran), 1, "{}", text(&ran));
    let resumed = p.resume("o", &[]);
    expect(&resumed, 0, &["results in o"]);
    assert_eq!(from_scratch_warnings(&resumed), 0, "{}", text(&resumed));
    let dry = |flags: &[&str]| {
        let out = p.train("d", &[flags, &["--dry-run"]].concat());
        expect(&out, 0, &["of tiny on cpu"]);
        from_scratch_warnings(&out)
    };
    assert_eq!(dry(&voc), 1);
    let window = ["--preset", "cityscapes", "--set", "eval.window=0"];
    assert_eq!(dry(&window), 1);
    assert_eq!(dry(&[]), 0);
    assert_eq!(dry(&["--preset", "camvid", "--num-classes", "2"]), 0);
    assert_eq!(dry(&[&voc[..], &["--pretrained", "b.safetensors"]].concat()), 0);
    assert_eq!(dry(&[&voc[..], &["--init", "o/checkpoints/last.safetensors"]].concat()), 0);
}

#[test]
fn recipes_run_the_published_form_unless_told_otherwise() {
    let p = Project::new();
    backbone_file(&p, "b.safetensors", Stem::Deep);
    let small = [
        "train --recipe voc-hq-92 --data data --labeled labeled.txt --unlabeled unlabeled.txt --val val.txt",
        "--out o --num-classes 2 --model tiny --crop 24 --batch-size 2 --dry-run",
        "--set model.blocks=[1,1,1,1] --set model.stem_width=2 --set model.planes=1 --set model.aspp=4",
        "--set model.low_level=2",
    ]
    .join(" ");
    let run = |more: &str| {
        let args = format!("{small} {more}");
        p.run(&args.split_whitespace().collect::<Vec<_>>())
    };
    let scratch = run("");
    expect(&scratch, 0, &["ps-mt of tiny"]);
    assert_eq!(from_scratch_warnings(&scratch), 1, "{}", text(&scratch));
    let published = run("--pretrained b.safetensors");
    expect(&published, 0, &["for the student alone"]);
    assert_eq!(from_scratch_warnings(&published), 0, "{}", text(&published));
    let all = run("--pretrained b.safetensors --set model.pretrained_networks=all");
    expect(&all, 0, &["for every network"]);
}

#[test]
fn control_characters_of_names_in_files_are_escaped() {
    let p = Project::new();
    let tensor = NamedTensor { name: "a\u{1b}[2Jb\nc".into(), shape: vec![1], data: vec![1.0] };
    let metadata = [("k\u{7}".into(), "\u{1b}]0;x".into())].into();
    write_tensors(&p.path("odd.safetensors"), &[tensor], &metadata).unwrap();
    let out = p.run(&["inspect", "odd.safetensors"]);
    expect(&out, 0, &["a\\u{1b}[2Jb\\nc", "metadata k\\u{7}: \\u{1b}]0;x"]);
    assert!(!out.stdout.iter().any(|&c| c < 0x20 && c != b'\n'), "{}", text(&out));
}
