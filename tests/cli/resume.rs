//! Runs that are resumed with other settings or data than they began with, or without their checkpoint,
//! through the built program.

use crate::cli_common::{Project, expect, text};
use crate::weight_files::{tensors_of, write_plain};
use psmt_fast::model::io::TensorFile;
use std::path::Path;

const LAST: &str = "o/checkpoints/last.safetensors";
const BEST: &str = "o/checkpoints/best.safetensors";

fn line(i: u32) -> String {
    format!("images/{i}.png masks/{i}.png\n")
}

fn edit(p: &Project, name: &str, from: &str, to: &str) {
    let text = p.read_text(name);
    assert!(text.contains(from), "{name} has no {from}: {text}");
    p.write(name, text.replace(from, to));
}

/// Everything of a run that a refusal must leave as it was.
fn files(p: &Project) -> Vec<Vec<u8>> {
    ["o/metrics.jsonl", "o/config.toml", LAST, BEST]
        .map(|f| std::fs::read(p.path(f)).unwrap_or_default())
        .into()
}

fn same_networks(a: &Path, b: &Path) -> bool {
    let (a, b) = (TensorFile::open(a).unwrap(), TensorFile::open(b).unwrap());
    a.names() == b.names() && a.names().iter().all(|n| a.require(n).unwrap() == b.require(n).unwrap())
}

#[test]
fn a_run_with_other_images_or_settings_goes_on_only_when_that_is_meant() {
    let p = Project::new();
    expect(&p.train("o", &["--epochs", "1"]), 0, &[]);
    let before = files(&p);
    let saved: Vec<_> =
        ["labeled.txt", "unlabeled.txt", "val.txt", "o/config.toml", "data/images/5.png", "data/masks/2.png"]
            .iter()
            .map(|f| (*f, p.read(f)))
            .collect();
    let larger = |path: &str, side: u32| {
        image::open(p.path(path))
            .unwrap()
            .resize_exact(side, side, image::imageops::Nearest)
            .save(p.path(path))
    };
    type Case<'a> = (&'a dyn Fn(), &'a [&'a str]);
    let cases: [Case; 9] = [
        (
            &|| p.write("unlabeled.txt", "images/4.png\nimages/5.png\nimages/6.png\nimages/7.png\n"),
            &["5 unlabelled images, now 4"],
        ),
        (&|| p.write("labeled.txt", [0, 1, 2, 3, 8].map(line).concat()), &["4 labelled images, now 5"]),
        (
            &|| p.write("labeled.txt", [0, 2, 1, 3].map(line).concat()),
            &["labelled images in another order", "images/2.png"],
        ),
        (&|| p.write("val.txt", [9, 10, 4].map(line).concat()), &["1 of 3 validation", "images/4.png"]),
        (&|| larger("data/images/5.png", 40).unwrap(), &["1 of 5 unlabelled", "images/5.png"]),
        (
            &|| {
                // One pixel of an image whose size stays.
                let mut image = image::open(p.path("data/images/5.png")).unwrap().into_rgb8();
                image.get_pixel_mut(3, 3)[0] ^= 1;
                image.save(p.path("data/images/5.png")).unwrap();
            },
            &["1 of 5 unlabelled", "images/5.png"],
        ),
        (
            &|| {
                let mut mask = image::open(p.path("data/masks/2.png")).unwrap().into_luma8();
                mask.get_pixel_mut(3, 3)[0] ^= 1;
                mask.save(p.path("data/masks/2.png")).unwrap();
            },
            &["1 of 4 labelled", "images/2.png"],
        ),
        (
            &|| edit(&p, "o/config.toml", "crop = [24, 24]", "crop = [16, 24]"),
            &["augment.crop was [24, 24], is [16, 24]"],
        ),
        (&|| edit(&p, "o/config.toml", "\nlr = 0.02", "\nlr = 0.5"), &["optim.lr was 0.02, is 0.5"]),
    ];
    for (change, parts) in cases {
        change();
        for more in [&[][..], &["--dry-run"]] {
            let out = p.resume("o", more);
            expect(&out, 5, &["last.safetensors", "--accept-changes"]);
            expect(&out, 5, parts);
        }
        let out = p.resume("o", &["--accept-changes", "--dry-run"]);
        expect(&out, 0, &["going on with what is not as it was"]);
        expect(&out, 0, parts);
        saved.iter().for_each(|(f, bytes)| p.write(f, bytes));
        assert!(files(&p) == before, "{parts:?}");
    }
    // Longer training is another run too: its rates fall more slowly.
    edit(&p, "o/config.toml", "train_epochs = 1", "train_epochs = 2");
    expect(&p.resume("o", &[]), 5, &["schedule.train_epochs was 1, is 2"]);
    let out = p.resume("o", &["--accept-changes"]);
    expect(&out, 0, &["schedule.train_epochs was 1, is 2", "epoch 2/2", "results in o"]);
    // From now on that is the run.
    let out = p.resume("o", &[]);
    expect(&out, 0, &["results in o"]);
    assert!(!text(&out).contains("not as it was"), "{}", text(&out));
}

#[test]
fn what_decides_nothing_may_change() {
    let p = Project::new();
    expect(&p.train("o", &["--epochs", "1"]), 0, &[]);
    std::fs::rename(p.path("data"), p.path("moved")).unwrap();
    std::fs::rename(p.path("labeled.txt"), p.path("l.txt")).unwrap();
    p.write("val.txt", [10, 9, 11].map(line).concat());
    edit(&p, "o/config.toml", "/data\"\n", "/moved\"\n");
    edit(&p, "o/config.toml", "/labeled.txt\"", "/l.txt\"");
    edit(&p, "o/config.toml", "log_every = 1", "log_every = 2");
    let out = p.resume("o", &[]);
    expect(&out, 0, &["results in o"]);
    assert!(!text(&out).contains("not as it was"), "{}", text(&out));
}

#[test]
fn a_warm_up_that_became_longer_goes_on_where_it_then_is() {
    let p = Project::new();
    // Two steps for each network, then two of the epoch: the checkpoint is of step 8, without momenta of
    // teachers.
    expect(&p.train("o", &["--epochs", "1", "--steps-per-epoch", "2"]), 0, &[]);
    // With five steps for each network, step 8 is the second teacher's.
    p.write("labeled.txt", (0..9).map(line).chain([line(11)]).collect::<String>());
    p.write("val.txt", [9, 10].map(line).concat());
    expect(&p.resume("o", &[]), 5, &["4 labelled images, now 10", "3 validation images, now 2"]);
    let out = p.resume("o", &["--accept-changes"]);
    expect(&out, 0, &["continuing at step 8", "results in o"]);
    let records = p.read_text("o/metrics.jsonl");
    let nine: Vec<_> = records.lines().filter(|l| l.contains("\"step\":9,")).collect();
    assert!(nine.len() == 1 && nine[0].contains("teacher2"), "{nine:?}");
}

#[test]
fn a_missing_checkpoint_is_reported() {
    let p = Project::new();
    expect(&p.train("whole", &[]), 0, &[]);
    expect(&p.train("o", &[]), 0, &[]);
    let (last, best) = (p.read(LAST), p.read(BEST));
    std::fs::remove_file(p.path(LAST)).unwrap();
    let before = files(&p);
    let refused = |parts: &[&str], code: i32| {
        for more in [&[][..], &["--dry-run"]] {
            let out = p.resume("o", more);
            expect(&out, code, &["last.safetensors", "--resume-from start"]);
            expect(&out, code, parts);
        }
    };
    refused(&["is missing", "--resume-from best goes on at step"], 5);
    assert!(files(&p) == before);
    // From the best checkpoint to the same end.
    expect(&p.resume("o", &["--resume-from", "best"]), 0, &["best.safetensors", "results in o"]);
    assert!(same_networks(&p.path(LAST), &p.path("whole/checkpoints/last.safetensors")));
    // Without either, from the start.
    std::fs::remove_dir_all(p.path("o/checkpoints")).unwrap();
    std::fs::create_dir(p.path("o/checkpoints")).unwrap();
    refused(&["is missing"], 5);
    let out = p.resume("o", &["--resume-from", "best"]);
    expect(&out, 9, &["best.safetensors"]);
    let out = p.resume("o", &["--resume-from", "start"]);
    expect(&out, 0, &["beginning again at step 0", "results in o"]);
    assert!(same_networks(&p.path(LAST), &p.path("whole/checkpoints/last.safetensors")));
    // A damaged one names the way on too.
    p.write(LAST, &last[..last.len() - 1]);
    p.write(BEST, &best);
    refused(&["truncated", "--resume-from best goes on at step"], 5);
    for flag in [&["--accept-changes"][..], &["--resume-from", "best"]] {
        expect(&p.train("n", flag), 2, &["--resume"]);
    }
}

#[cfg(unix)]
#[test]
fn a_checkpoint_that_cannot_be_read_is_not_begun_again() {
    let p = Project::new();
    expect(&p.train("o", &["--epochs", "1"]), 0, &[]);
    std::fs::remove_file(p.path(LAST)).unwrap();
    // A link in a ring: there, and not to be opened.
    std::os::unix::fs::symlink("last.safetensors", p.path(LAST)).unwrap();
    let before = p.read("o/metrics.jsonl");
    expect(&p.resume("o", &[]), 9, &["last.safetensors", "--resume-from best goes on at step 12"]);
    assert!(p.read("o/metrics.jsonl") == before);
}

#[test]
fn a_run_without_a_checkpoint_yet_begins_at_the_start() {
    let p = Project::new();
    expect(&p.train("whole", &["--epochs", "1"]), 0, &[]);
    expect(&p.train("o", &["--epochs", "1"]), 0, &[]);
    // As if it had been killed in its third step.
    std::fs::remove_dir_all(p.path("o/checkpoints")).unwrap();
    std::fs::create_dir(p.path("o/checkpoints")).unwrap();
    std::fs::remove_file(p.path("o/.has-checkpoint")).unwrap();
    let records = p.read_text("o/metrics.jsonl");
    p.write("o/metrics.jsonl", records.split_inclusive('\n').take(4).collect::<String>());
    let out = p.resume("o", &[]);
    expect(&out, 0, &["no checkpoint was written yet", "results in o"]);
    assert!(same_networks(&p.path(LAST), &p.path("whole/checkpoints/last.safetensors")));
}

#[test]
fn checkpoints_of_older_versions_are_not_compared() {
    let p = Project::new();
    expect(&p.train("o", &["--epochs", "1"]), 0, &[]);
    let file = TensorFile::open(&p.path(LAST)).unwrap();
    let tensors = tensors_of(&file);
    let mut metadata = file.all_metadata();
    let mut json: serde_json::Value = serde_json::from_str(&metadata["psmt-fast"]).unwrap();
    for key in ["fingerprint", "checksum"] {
        assert!(json.as_object_mut().unwrap().remove(key).is_some(), "{key}");
    }
    metadata.insert("psmt-fast".into(), json.to_string());
    write_plain(&p.path(LAST), &tensors, &metadata);
    expect(&p.resume("o", &[]), 0, &["older version", "not compared", "results in o"]);
}
