//! What every step of a run does, as the built program prints it and as its training loop does it, against
//! stored lines: a program apart from this one wrote them from sizes alone, after the released loop of PS-MT.

use crate::cli_common::{Project, expect};
use serde_json::Value;

/// A stored file: its first line has the sizes, the others are steps.
fn stored(text: &str) -> (Value, Vec<Value>) {
    let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    (lines.next().unwrap(), lines.collect())
}

/// Asserts that numbers lie within 1e-9 of each other and everything else is equal.
fn assert_step(what: &str, got: &Value, expected: &Value) {
    let keys = |v: &Value| v.as_object().unwrap().keys().cloned().collect::<std::collections::BTreeSet<_>>();
    assert_eq!(keys(got), keys(expected), "{what}");
    for (key, value) in expected.as_object().unwrap() {
        let same = match (value.as_f64(), got[key].as_f64()) {
            (Some(a), Some(b)) => (a - b).abs() <= 1e-9,
            _ => value == &got[key],
        };
        assert!(same, "{what}: {key}: expected {value}, got {}", got[key]);
    }
}

/// A project whose lists are as long as `sizes` says, of copies of one image.
fn project(sizes: &Value) -> Project {
    let p = Project::new();
    for (list, masks) in [("labeled", true), ("unlabeled", false)] {
        std::fs::create_dir_all(p.path(&format!("data/{list}"))).unwrap();
        let mut text = String::new();
        for i in 0..sizes[list].as_u64().unwrap() {
            let (image, mask) = (format!("{list}/{i}.png"), format!("{list}/{i}_mask.png"));
            std::fs::copy(p.path("data/images/0.png"), p.path("data").join(&image)).unwrap();
            text += &image;
            if masks {
                std::fs::copy(p.path("data/masks/0.png"), p.path("data").join(&mask)).unwrap();
                text += &format!(" {mask}");
            }
            text += "\n";
        }
        p.write(&format!("{list}.txt"), text);
    }
    p
}

/// Flags for the sizes of a stored file, but for the lists.
fn flags(sizes: &Value) -> Vec<String> {
    let start = if sizes["teacher_start"] == "own" { "warm-up" } else { "student" };
    [
        format!("optim.batch_size={}", sizes["batch"]),
        format!("method.warm_up_passes={}", sizes["warm_up"]),
        format!("schedule.train_epochs={}", sizes["epochs"]),
        "schedule.steps_per_epoch=0".into(),
        format!("optim.lr={}", sizes["lr"]),
        format!("method.unsup_weight={}", sizes["unsup_weight"]),
        format!("method.ramp_up_epochs={}", sizes["ramp_up"]),
        format!("method.teacher_start={start}"),
        "method.labeled_view=strong".into(),
    ]
    .into_iter()
    .flat_map(|pair| ["--set".to_string(), pair])
    .collect()
}

#[test]
fn dry_runs_print_the_released_schedule() {
    for (name, text) in [
        ("own", include_str!("../schedules/own.jsonl")),
        ("student", include_str!("../schedules/student.jsonl")),
        ("no-warm-up", include_str!("../schedules/no-warm-up.jsonl")),
        ("odd-sizes", include_str!("../schedules/odd-sizes.jsonl")),
    ] {
        let (sizes, expected) = stored(text);
        let p = project(&sizes);
        let mut more = vec!["--dry-run".to_string(), "--schedule".into(), "steps.jsonl".into()];
        more.extend(flags(&sizes));
        expect(&p.train("o", &more.iter().map(String::as_str).collect::<Vec<_>>()), 0, &["ps-mt of tiny"]);
        let text = p.read_text("steps.jsonl");
        let got: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(got.len(), expected.len(), "{name}");
        for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
            assert_step(&format!("{name}, step {i}"), got, expected);
        }
    }
}

#[test]
fn runs_do_what_the_schedule_says() {
    let (sizes, expected) = stored(include_str!("../schedules/own.jsonl"));
    let p = project(&sizes);
    let flags = flags(&sizes);
    expect(&p.train("o", &flags.iter().map(String::as_str).collect::<Vec<_>>()), 0, &["ensemble"]);
    let text = p.read_text("o/metrics.jsonl");
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: Vec<&Value> = records.iter().filter(|r| r["kind"] == "step").collect();
    assert_eq!(steps.len(), expected.len());
    for (i, (got, want)) in steps.iter().zip(&expected).enumerate() {
        let warm_up = want["phase"] == "warm-up";
        assert_eq!(got["step"], i + 1);
        assert_eq!(got["warm_up"], warm_up, "step {i}");
        assert_eq!(got["network"], want["network"], "step {i}");
        assert_eq!(got[if warm_up { "pass" } else { "epoch" }], want["pass"], "step {i}");
        for key in ["lr", "unsup_weight"] {
            let difference = got[key].as_f64().unwrap() - want[key].as_f64().unwrap();
            assert!(difference.abs() <= 1e-9, "step {i}, {key}: {got}");
        }
    }
    let count = |kind: &str| records.iter().filter(|r| r["kind"] == kind).count();
    assert_eq!((count("warm_up"), count("epoch"), count("validation")), (2, 3, 4));
}

#[test]
fn a_schedule_needs_a_dry_run() {
    let p = Project::new();
    expect(&p.train("o", &["--schedule", "steps.jsonl"]), 2, &["--dry-run"]);
    expect(&p.train("o", &["--dry-run", "--schedule", "none/steps.jsonl"]), 9, &["none/steps.jsonl"]);
    assert!(!p.path("o").exists() && !p.path("none").exists());
}
