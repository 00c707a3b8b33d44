//! `export` through the built program: what it writes is what `predict` computes and what the checkpoint
//! holds, and refusals leave no file.

use crate::cli_common::{Project, expect, read};
use crate::export::{check_with, python};
use crate::folder::camvid;
use psmt_fast::model::io::TensorFile;
use std::path::Path;

#[test]
fn the_program_exports_what_it_predicts() {
    let p = Project::new();
    expect(&p.train("o", &[]), 0, &[]);
    let python = python();
    // An odd size among the project's own.
    let odd = image::open(p.path("data/images/3.png")).unwrap().crop_imm(1, 2, 29, 23);
    odd.save(p.path("data/images/odd.png")).unwrap();
    for network in ["ensemble", "student", "teacher1"] {
        let predict = ["predict", "data/images", "--checkpoint", "o", "--out", "masks", "--eval-size", "0"];
        expect(&p.run(&[&predict[..], &["--network", network, "--overwrite"]].concat()), 0, &[]);
        for fold in [&[][..], &["--fold-batch-norm"]] {
            let export = ["export", "--checkpoint", "o", "--out", "m.onnx", "--force", "--network", network];
            expect(&p.run(&[&export[..], fold].concat()), 0, &["m.onnx", network]);
            crate::onnx_run::check(&crate::onnx_run::read(&p.path("m.onnx")).graph.unwrap());
            if let Some(python) = &python {
                let names = (0..12).map(|i| i.to_string()).chain(["odd".into()]);
                let paths: Vec<_> = names.map(|i| p.path(&format!("data/images/{i}.png"))).collect();
                let (model, masks) = (p.path("m.onnx"), p.path("masks"));
                let args: Vec<&Path> =
                    [&model, &masks].into_iter().chain(&paths).map(|a| a.as_path()).collect();
                check_with(python, &args, "predicted");
            }
        }
    }
}

#[test]
fn onnxruntime_labels_photographs_as_predict_does() {
    let Some(data) = camvid() else { return };
    let Some(python) = python() else { return };
    let p = Project::new();
    let list = |name: &str| data.join(name).display().to_string();
    let (folder, val) = (data.display().to_string(), list("val.txt"));
    let (labeled, unlabeled) =
        (list("splits/46_train_supervised.txt"), list("splits/46_train_unsupervised.txt"));
    let sizes = "--crop 64 --epochs 2 --warm-up-passes 1 --steps-per-epoch 8 --val-every 2";
    let sizes: Vec<&str> = sizes.split(' ').collect();
    let lists = ["--data", &folder, "--labeled", &labeled, "--unlabeled", &unlabeled, "--val", &val];
    let train = ["train", "--preset", "camvid", "--set", "eval.long_side=120", "--out", "o"];
    expect(&p.run(&[&train[..], &lists, &sizes].concat()), 0, &[]);
    // Whole images, which every decoder reads alike.
    let mut paths = Vec::new();
    for line in String::from_utf8(read(&data.join("val.txt"))).unwrap().lines().step_by(25) {
        let image = data.join(line.split_whitespace().next().unwrap());
        let png = p.path(&format!("{}.png", image.file_stem().unwrap().to_str().unwrap()));
        image::open(&image).unwrap().save(&png).unwrap();
        paths.push(png);
    }
    assert!(paths.len() >= 4);
    let names: Vec<&str> = paths.iter().map(|p| p.to_str().unwrap()).collect();
    let predict = ["predict", "--checkpoint", "o", "--out", "masks", "--eval-size", "0"];
    expect(&p.run(&[&predict[..], &names].concat()), 0, &[]);
    expect(
        &p.run(&["export", "--checkpoint", "o", "--out", "m.onnx", "--fold-batch-norm"]),
        0,
        &["ensemble"],
    );
    let (model, masks) = (p.path("m.onnx"), p.path("masks"));
    let args: Vec<&Path> = [&model, &masks].into_iter().chain(&paths).map(|a| a.as_path()).collect();
    check_with(&python, &args, "predicted");
}

#[test]
fn tensor_files_hold_the_checkpoint_by_other_names() {
    let p = Project::new();
    expect(&p.train("o", &[]), 0, &[]);
    let checkpoint = TensorFile::open(&p.path("o/checkpoints/best.safetensors")).unwrap();
    let export = |out: &str, more: &[&str]| {
        expect(&p.run(&[&["export", "--checkpoint", "o", "--out", out][..], more].concat()), 0, &[out]);
        TensorFile::open(&p.path(out)).unwrap()
    };
    let same = |file: &TensorFile, name: &str, held: &str| {
        let (got, want) = (file.require(name).unwrap(), checkpoint.require(held).unwrap());
        assert!(got.shape == want.shape && got.data == want.data, "{name}");
    };
    let student = export("s.safetensors", &["--format", "safetensors", "--network", "student"]);
    assert!(student.names().iter().all(|n| n.starts_with("encoder.") || n.starts_with("decoder.")));
    student.names().iter().for_each(|n| same(&student, n, &format!("student.{n}")));
    let all = export("all.safetensors", &["--format", "safetensors"]);
    assert_eq!(all.names().len(), 3 * student.names().len());
    all.names().iter().for_each(|n| same(&all, n, n));
    assert_eq!(all.metadata("class_names"), Some(r#"["class 0","class 1"]"#));
    let authors = export("pth.safetensors", &["--format", "pth-names"]);
    assert_eq!(authors.names().len(), all.names().len());
    for (name, held) in [
        ("encoder_s.backbone.conv1.0.weight", "student.encoder.backbone.conv1.0.weight"),
        ("decoder1.upsample.classifier.bias", "teacher1.decoder.upsample.classifier.bias"),
        ("encoder2.head.aspp.map_bn.running_var", "teacher2.encoder.head.aspp.map_bn.running_var"),
    ] {
        same(&authors, name, held);
    }
    let len = |name: &str| std::fs::metadata(p.path(name)).unwrap().len();
    export("h.safetensors", &["--format", "safetensors", "--dtype", "bf16"]);
    assert!(len("h.safetensors") < len("all.safetensors"));
}

#[test]
fn refusals_leave_no_file() {
    let p = Project::new();
    expect(&p.train("o", &["--algorithm", "supervised", "--epochs", "1"]), 0, &[]);
    let before = std::fs::read_dir(p.path("")).unwrap().count();
    let export = |more: &[&str]| p.run(&[&["export", "--checkpoint", "o"][..], more].concat());
    let tensors = ["--out", "x", "--format", "safetensors"];
    for (more, code, parts) in [
        (&["--out", "x", "--network", "ensemble"][..], 2, &["no ensemble", "student"][..]),
        (&["--out", "x", "--network", "teacher1"], 2, &["no teacher1"]),
        (&["--out", "x", "--network", "nobody"], 2, &["nobody", "teacher2"]),
        (&["--out", "x", "--format", "pickle"], 2, &["pickle", "pth-names"]),
        (&["--out", "x", "--network", "all"], 2, &["not of all"]),
        (&["--out", "x", "--dtype", "f16"], 2, &["--dtype"]),
        (&[&tensors[..], &["--network", "ensemble"]].concat(), 2, &["two networks"]),
        (&[&tensors[..], &["--fold-batch-norm"]].concat(), 2, &["--fold-batch-norm", "onnx"]),
        (&["--out", "run.toml"], 2, &["run.toml exists", "--force"]),
        (&["--out", "missing/x.onnx"], 9, &["missing"]),
        (&["--out", "data", "--force"], 9, &["data"]),
        (&[&tensors[..], &["--out", "data", "--force"]].concat()[2..], 9, &["data"]),
    ] {
        expect(&export(more), code, parts);
    }
    expect(&p.run(&["export", "--checkpoint", "nothing", "--out", "x"]), 9, &["nothing"]);
    expect(&p.run(&["export", "--checkpoint", "data/images/1.png", "--out", "x"]), 5, &["1.png"]);
    assert_eq!(std::fs::read_dir(p.path("")).unwrap().count(), before, "something was left");
    expect(&export(&["--out", "run.toml", "--force"]), 0, &["student"]);
    crate::onnx_run::check(&crate::onnx_run::read(&p.path("run.toml")).graph.unwrap());
}
