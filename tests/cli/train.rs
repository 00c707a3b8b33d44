//! Training through the built program: records, pictures, checkpoints, and runs that are interrupted and
//! resumed.

use crate::cli_common::{Project, expect, kill, read, records, text};
use serde_json::Value;
use std::path::Path;

fn assert_same_run(a: &Path, b: &Path) {
    for file in ["checkpoints/last.safetensors", "checkpoints/best.safetensors", "config.toml"] {
        assert!(read(&a.join(file)) == read(&b.join(file)), "{file} differs");
    }
    assert_eq!(records(a), records(b));
}

#[test]
fn a_run_leaves_its_folder_and_can_be_scored_and_used() {
    let p = Project::new();
    let out = p.train("o", &[]);
    expect(&out, 0, &["teacher1", "teacher2", "ensemble", "student", "results in o"]);
    let r = records(&p.path("o"));
    let kind = |k: &str| r.iter().filter(|v| v["kind"] == k).count();
    // A warm-up of one pass, two steps for each network, and three epochs of six steps; validated after each.
    let counts = [kind("warm_up"), kind("epoch"), kind("step"), kind("validation")];
    assert_eq!(counts, [1, 3, 6 + 18, 4]);
    assert!(r.iter().any(|v| v["confidence_histogram"].is_array() && v["pass_rate"].is_number()));
    for file in ["config.toml", "checkpoints/best.safetensors", "pictures/epoch-0003.png"] {
        assert!(p.path("o").join(file).exists(), "{file}");
    }
    // The picture has image, truth, prediction and confidence side by side.
    let picture = image::open(p.path("o/pictures/epoch-0003.png")).unwrap();
    assert_eq!((picture.width(), picture.height()), (4 * 32, 32));

    expect(&p.run(&["eval", "o", "--json", "s.json"]), 0, &["ensemble", "class 1", "mIoU", "pixel accuracy"]);
    let scores: Value = p.read_json("s.json");
    // The best is one of the epochs, not the end of the warm-up.
    let best = r
        .iter()
        .filter(|v| v["kind"] == "validation" && v["epoch"] != 0)
        .map(|v| v["miou"]["ensemble"].as_f64().unwrap());
    assert_eq!(scores["ensemble"]["miou"].as_f64(), best.reduce(f64::max));
    expect(&p.run(&["eval", "o", "--window", "20", "--network", "ensemble"]), 0, &["ensemble"]);
    let last = "o/checkpoints/last.safetensors";
    expect(&p.run(&["eval", last, "--data", "data", "--val", "val.txt"]), 0, &["student"]);
    expect(
        &p.run(&["eval", last, "--data", "data", "--val", "val.txt", "--num-classes", "3"]),
        5,
        &["2 classes"],
    );

    p.write("data/images/notes.txt", "no image");
    let out = p.run(&["predict", "data/images", "--checkpoint", "o", "--out", "masks"]);
    expect(&out, 0, &["12 of 13", "skipped", "notes.txt"]);
    let index = image::open(p.path("masks/3_index.png")).unwrap().into_luma8();
    assert_eq!((index.width(), index.height()), (32, 32));
    assert!(index.as_raw().iter().all(|&c| c < 2));
    let color = image::open(p.path("masks/3_color.png")).unwrap().into_rgb8();
    let same = |a: usize, b: usize| color.as_raw()[3 * a..3 * a + 3] == color.as_raw()[3 * b..3 * b + 3];
    assert!((1..1024).all(|i| same(0, i) == (index.as_raw()[0] == index.as_raw()[i])));
    assert!(p.path("masks/3_confidence.png").exists());
    p.write("junk.jpg", "junk");
    expect(&p.run(&["predict", "junk.jpg", "--checkpoint", "o", "--out", "m2"]), 4, &["junk.jpg"]);
    let args = ["predict", "data/images/9.png", "junk.jpg", "--checkpoint", "o", "--out", "m3"];
    let outputs = ["--outputs", "overlay,index"];
    expect(&p.run(&[&args[..], &outputs].concat()), 0, &["1 of 2 files", "1 skipped"]);
    assert!(!p.path("m3/9_color.png").exists() && !p.path("m3/9_confidence.png").exists());
    // Half the image, half the colour of the class that the index mask has there; shares add up to all.
    let open = |name: &str| image::open(p.path(name)).unwrap();
    let (overlay, index) = (open("m3/9_overlay.png").into_rgb8(), open("m3/9_index.png").into_luma8());
    let (source, color) = (open("data/images/9.png").into_rgb8(), open("masks/9_color.png").into_rgb8());
    for (x, y, pixel) in overlay.enumerate_pixels() {
        for c in 0..3 {
            let mean = (u16::from(source.get_pixel(x, y)[c]) + u16::from(color.get_pixel(x, y)[c])) / 2;
            assert_eq!(u16::from(pixel[c]), mean, "pixel {x}, {y}");
        }
    }
    let report: Value = p.read_json("m3/predictions.json");
    let seen = &report["images"][0];
    assert_eq!((seen["rows"].as_u64(), seen["columns"].as_u64()), (Some(32), Some(32)));
    let shares = seen["class_shares"].as_object().unwrap();
    assert!((shares.values().map(|v| v.as_f64().unwrap()).sum::<f64>() - 1.0).abs() < 1e-12);
    let ones = index.pixels().filter(|p| p[0] == 1).count() as f64 / 1024.0;
    let second = shares.values().nth(1).map_or(0.0, |v| v.as_f64().unwrap());
    let first = shares.values().next().unwrap().as_f64().unwrap();
    assert!((first - ones).abs() < 1e-12 || (second - ones).abs() < 1e-12, "{shares:?}, {ones}");
}

#[test]
fn a_killed_run_continues_to_the_same_bits() {
    let p = Project::new();
    expect(&p.train("whole", &[]), 0, &[]);
    // Killed again and again, at whatever point it has reached.
    p.train_and_kill("killed", &[]);
    for wait in [40, 60, 80] {
        let child = p.command(&["train", "--resume", "killed"]).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(wait));
        kill(child);
    }
    expect(&p.resume("killed", &[]), 0, &["results in killed"]);
    assert_same_run(&p.path("whole"), &p.path("killed"));
    // With nothing left to do it only reports.
    expect(&p.resume("killed", &[]), 0, &["results in killed"]);
}

#[test]
fn a_run_killed_in_its_warm_up_continues_to_the_same_bits() {
    let p = Project::new();
    // Long enough that the first checkpoint, after step 4, lies deep inside the warm-up of three networks.
    let more = ["--warm-up-passes", "20", "--epochs", "1"];
    expect(&p.train("whole", &more), 0, &["warm-up 20/20"]);
    p.train_and_kill("killed", &more);
    let step = || {
        let text = String::from_utf8_lossy(&p.read("killed/checkpoints/last.safetensors")).into_owned();
        let at = text.find("\\\"step\\\":").unwrap() + 9;
        text[at..].split(|c: char| !c.is_ascii_digit()).next().unwrap().parse::<u64>().unwrap()
    };
    let reached = step();
    assert!((4..120).contains(&reached), "killed at step {reached}, not in the warm-up");
    expect(&p.resume("killed", &[]), 0, &["results in killed"]);
    assert_same_run(&p.path("whole"), &p.path("killed"));
}

#[test]
fn an_epoch_is_saved_before_it_is_validated() {
    let p = Project::new();
    let more = ["--epochs", "1", "--checkpoint-every", "0"];
    expect(&p.train("whole", &more), 0, &[]);
    // Pixels that do not match their checksum: of the right length, so that only decoding finds it.
    let path = p.path("data/images/9.png");
    let good = read(&path);
    let mut bad = good.clone();
    let at = bad.windows(4).position(|w| w == b"IDAT").unwrap() + 4;
    bad[at + 40] ^= 0xFF;
    std::fs::write(&path, &bad).unwrap();
    expect(&p.train("o", &more), 4, &["9.png"]);
    assert!(p.path("o/checkpoints/last.safetensors").exists());
    std::fs::write(&path, &good).unwrap();
    // The damaged image is the one that the run began with.
    let resume = ["train", "--resume", "o", "--accept-changes"];
    expect(&p.run(&resume), 0, &["results in o", "continuing at step"]);
    assert_same_run(&p.path("whole"), &p.path("o"));
}

#[test]
fn threads_do_not_change_the_bits() {
    let p = Project::new();
    expect(&p.train("one", &[]), 0, &[]);
    let mut args = p.train_args("three", &[]);
    args.extend(["--epochs", "3"]);
    let out = std::process::Command::new(crate::PROGRAM)
        .current_dir(p.path("."))
        .args(["--threads", "3"])
        .args(args)
        .output()
        .unwrap();
    expect(&out, 0, &[]);
    assert_same_run(&p.path("one"), &p.path("three"));
}

#[cfg(unix)]
#[test]
fn ctrl_c_writes_a_checkpoint_and_says_how_to_resume() {
    let p = Project::new();
    let more = ["--steps-per-epoch", "100000", "--checkpoint-every", "2"];
    let child = p.start_and_wait_for_checkpoint("o", &more);
    let kill = std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let out = child.wait_with_output().unwrap();
    expect(&out, 130, &["psmt-fast train --resume o"]);
    expect(&p.run(&["eval", "o"]), 0, &["student"]);
}

#[test]
fn damaged_and_foreign_checkpoints_are_refused() {
    let p = Project::new();
    expect(&p.train("o", &[]), 0, &[]);
    let path = p.path("o/checkpoints/last.safetensors");
    let whole = read(&path);
    let eval = ["eval", "o/checkpoints/last.safetensors", "--data", "data", "--val", "val.txt"];
    for keep in [0, 5, 1000, whole.len() - 1] {
        std::fs::write(&path, &whole[..keep]).unwrap();
        expect(&p.resume("o", &[]), 5, &["last.safetensors"]);
        expect(&p.run(&eval), 5, &["last.safetensors"]);
    }
    expect(&p.train("wide", &["--set", "model.aspp=8", "--epochs", "2"]), 0, &[]);
    std::fs::copy(p.path("wide/checkpoints/last.safetensors"), &path).unwrap();
    expect(&p.resume("o", &[]), 5, &["another run", "aspp: 8"]);
}

#[test]
fn the_network_that_decides_is_what_other_commands_take() {
    let p = Project::new();
    let settings = [
        "eval.network=teacher1",
        "eval.multiple=8",
        "run.val_every=10",
        "run.val_all_from=0.5",
        "schedule.train_epochs=5",
    ];
    let flags: Vec<&str> = settings.iter().flat_map(|s| ["--set", s]).collect();
    let out = p.train("o", &flags);
    expect(&out, 0, &["mIoU teacher1 "]);
    let first = |out: &str, after: &str| {
        let row = out.lines().skip_while(|l| !l.starts_with(after)).nth(1).unwrap_or_default().to_string();
        row.split_whitespace().next().unwrap_or_default().to_string()
    };
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!(first(&said, "network"), "teacher1", "{said}");

    // The end of the warm-up, and floor(0.5 * 6) = 3: epochs 4 and 5, of which the one with teacher 1's best
    // mIoU is kept.
    let r = records(&p.path("o"));
    let validations: Vec<_> = r.iter().filter(|v| v["kind"] == "validation").collect();
    let epochs: Vec<_> = validations.iter().map(|v| v["epoch"].as_u64().unwrap()).collect();
    assert_eq!(epochs, [0, 4, 5]);
    let teacher1 = validations[1..].iter().map(|v| v["miou"]["teacher1"].as_f64().unwrap());
    let best = teacher1.reduce(f64::max).unwrap();
    let out = p.run(&["eval", "o", "--json", "s.json"]);
    expect(&out, 0, &["was the run's best, by the mIoU of teacher1 (eval.network)"]);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let header = said.lines().find(|l| l.starts_with("IoU %")).unwrap();
    assert_eq!(
        header.split_whitespace().collect::<Vec<_>>()[2..],
        ["teacher1", "teacher2", "ensemble", "student"]
    );
    let scores: Value = p.read_json("s.json");
    assert_eq!(scores["teacher1"]["miou"].as_f64(), Some(best));

    let predict = |out: &str, more: &[&str]| {
        let args = ["predict", "data/images/9.png", "--checkpoint", "o", "--out", out];
        p.run(&[&args[..], more].concat())
    };
    expect(&predict("m", &[]), 0, &["1 of 1 files predicted by teacher1 into m"]);
    expect(&predict("n", &["--network", "ensemble"]), 0, &["predicted by ensemble"]);
    let network = |folder: &str| -> Value { p.read_json(&format!("{folder}/predictions.json")) };
    assert_eq!(
        (&network("m")["network"], &network("n")["network"]),
        (&"teacher1".into(), &"ensemble".into())
    );
    let out = p.run(&["export", "--checkpoint", "o", "--out", "o.onnx"]);
    expect(&out, 0, &["teacher1 as an ONNX model"]);

    // Windows replace the run's whole images, and the other way round; both at once make no sense.
    expect(&predict("w", &["--window", "20", "--overlap", "logits"]), 0, &["teacher1"]);
    expect(&predict("v", &["--window", "40", "--overlap", "logits", "--flip"]), 0, &["teacher1"]);
    expect(&predict("x", &["--window", "20", "--multiple", "8"]), 2, &["--multiple", "--window"]);
    expect(&predict("x", &["--multiple", "257"]), 2, &["--multiple", "257"]);
    expect(&predict("x", &["--window", "1000000", "--overlap", "logits"]), 7, &["eval.window", "1000000"]);
}

#[test]
fn impossible_settings_of_validation_are_refused_before_anything_is_written() {
    let p = Project::new();
    let network = ["--algorithm", "supervised", "--set", "eval.network=ensemble"];
    expect(&p.train("o", &network), 3, &["eval.network", "student", "got ensemble"]);
    let both = ["--set", "eval.window=20", "--set", "eval.multiple=8"];
    expect(&p.train("o", &both), 3, &["eval.multiple", "eval.window = 20"]);
    expect(&p.train("o", &["--set", "eval.overlap=mean"]), 3, &["overlap", "probabilities"]);
    assert!(!p.path("o").exists());
}

#[test]
fn baselines_and_variants_train() {
    let p = Project::new();
    for (name, networks) in [("supervised", 1), ("mean-teacher", 2), ("one-teacher", 2)] {
        let out = p.train(name, &["--algorithm", name, "--epochs", "2"]);
        expect(&out, 0, &["student"]);
        let rows =
            text(&out).lines().filter(|l| l.starts_with("teacher") || l.starts_with("student")).count();
        assert_eq!(rows, networks, "{name}: {}", text(&out));
    }
    for tvat in ["finite-difference", "uniform", "student-vat", "none"] {
        let flags =
            ["--tvat", tvat, "--epochs", "2", "--negative-threshold", "0.1", "--cut-mix", "cityscapes"];
        expect(&p.train(tvat, &flags), 0, &["ensemble"]);
    }
    expect(&p.train("ohem", &["--supervised-loss", "ohem", "--epochs", "2"]), 0, &["ensemble"]);
}

#[test]
fn a_dry_run_says_what_would_be_and_writes_nothing() {
    let p = Project::new();
    let before = std::fs::read_dir(p.path("")).unwrap().count();
    let out = p.train("o", &["--dry-run", "--device", "cpu"]);
    let parts =
        ["ps-mt of tiny", "cpu", "4 labelled, 5 unlabelled, 3 validation", "networks", "largest batch"];
    expect(&out, 0, &parts);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let number = |line: &str| line.split_whitespace().last().unwrap().parse::<f64>().unwrap();
    let find = |what: &str| number(text.lines().find(|l| l.trim().starts_with(what)).unwrap());
    assert!(find("in all") > find("networks") && find("in all") < find("available"), "{text}");
    assert_eq!(std::fs::read_dir(p.path("")).unwrap().count(), before, "a dry run leaves nothing");
    let out = p.train("o", &["--dry-run", "--set", "augment.crop=[200000,200000]"]);
    expect(&out, 7, &["not enough memory", "augment.crop", "optim.batch_size"]);
}
