//! What the system does to a run: other processes in its folder, files that killed processes leave, signals,
//! closed streams, and outputs that are no files.
#![cfg(unix)]

use crate::cli_common::{Project, expect, kill};
use std::path::Path;
use std::process::Stdio;

/// A run that does not end by itself in a test's time.
const LONG: [&str; 4] = ["--steps-per-epoch", "100000", "--checkpoint-every", "2"];

fn signal(name: &str, id: u32) {
    assert!(std::process::Command::new("kill").args([name, &id.to_string()]).status().unwrap().success());
}

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

#[test]
fn a_second_process_in_a_run_is_refused() {
    let p = Project::new();
    let child = p.start_and_wait_for_checkpoint("o", &LONG);
    expect(&p.resume("o", &[]), 2, &["another process trains in o"]);
    expect(&p.train("o", &[]), 2, &["o already exists"]);
    // Reading is no training.
    expect(&p.run(&["eval", "o"]), 0, &["student"]);
    kill(child);
    // A lock ends with its process, however that ended.
    expect(&p.resume("o", &["--dry-run"]), 0, &["ps-mt of tiny"]);
    let before = lines(&p.path("o/metrics.jsonl"));
    let mut child = p.command(&["train", "--resume", "o"]).spawn().unwrap();
    while lines(&p.path("o/metrics.jsonl")) <= before {
        assert!(child.try_wait().unwrap().is_none(), "ended");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    kill(child);
}

#[test]
fn what_killed_processes_left_is_removed_on_resume() {
    let p = Project::new();
    expect(&p.train("o", &["--epochs", "1"]), 0, &[]);
    let left =
        ["o/checkpoints/.last.safetensors.123.tmp", "o/checkpoints/.psmt-abc.tmp", "o/pictures/.psmt-x.tmp"];
    left.iter().for_each(|path| p.write(path, "half"));
    p.write("o/checkpoints/mine.tmp", "kept");
    expect(&p.resume("o", &[]), 0, &["results in o"]);
    assert!(left.iter().all(|path| !p.path(path).exists()));
    assert!(p.path("o/checkpoints/mine.tmp").exists());
}

#[test]
fn lost_records_do_not_cost_the_checkpoint() {
    let p = Project::new();
    expect(&p.train("o", &["--epochs", "1"]), 0, &[]);
    std::fs::remove_file(p.path("o/metrics.jsonl")).unwrap();
    expect(&p.resume("o", &[]), 0, &["0 records, the checkpoint counts", "results in o"]);
    // A planted link would have its target cut.
    p.write("victim", "text");
    std::fs::remove_file(p.path("o/metrics.jsonl")).unwrap();
    std::os::unix::fs::symlink(p.path("victim"), p.path("o/metrics.jsonl")).unwrap();
    expect(&p.resume("o", &[]), 4, &["metrics.jsonl", "link"]);
    assert_eq!(p.read("victim"), b"text");
}

#[test]
fn ignored_hangups_stay_ignored() {
    let p = Project::new();
    let program = crate::PROGRAM;
    let args = p.train_args("o", &LONG).join(" ");
    let mut child = std::process::Command::new("sh")
        .args(["-c", &format!("trap '' HUP; exec {program} --threads 1 {args}")])
        .current_dir(p.path("."))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let wait = |done: &dyn Fn() -> bool, child: &mut std::process::Child| {
        while !done() {
            assert!(child.try_wait().unwrap().is_none(), "ended");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    };
    wait(&|| p.path("o/checkpoints/last.safetensors").exists(), &mut child);
    let before = lines(&p.path("o/metrics.jsonl"));
    signal("-HUP", child.id());
    wait(&|| lines(&p.path("o/metrics.jsonl")) > before + 20, &mut child);
    signal("-TERM", child.id());
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_repeated_signal_does_not_cost_the_checkpoint() {
    let p = Project::new();
    let child = p.start_and_wait_for_checkpoint("o", &LONG);
    // As timeout does: the process, then its group.
    signal("-TERM", child.id());
    signal("-TERM", child.id());
    let out = child.wait_with_output().unwrap();
    expect(&out, 130, &["psmt-fast train --resume o"]);
}

#[test]
fn training_needs_no_reader() {
    let p = Project::new();
    let program = crate::PROGRAM;
    for (name, streams) in [("closed", ">&- 2>&-"), ("full", ">/dev/full 2>/dev/full")] {
        let args = p.train_args(name, &["--epochs", "1"]).join(" ");
        let status = std::process::Command::new("sh")
            .args(["-c", &format!("exec {program} --threads 1 {args} {streams}")])
            .current_dir(p.path("."))
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(0), "{name}");
        assert!(p.path(name).join("checkpoints/best.safetensors").exists());
    }
    // A pipe whose reader has gone.
    let args = p.train_args("piped", &["--epochs", "1"]).join(" ");
    let status = std::process::Command::new("bash")
        .args(["-c", &format!("{program} --threads 1 {args} 2>&1 | true; exit ${{PIPESTATUS[0]}}")])
        .current_dir(p.path("."))
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn devices_and_pipes_are_written_to_and_not_replaced() {
    use std::os::unix::fs::FileTypeExt;
    let p = Project::new();
    let lists = ["--data", "data", "--labeled", "labeled.txt", "--num-classes", "2"];
    let check = |json: &str| p.run(&[&["check-data", "--json", json], &lists[..]].concat());
    expect(&check("/dev/null"), 0, &[]);
    assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    let out = check("/dev/stdout");
    expect(&out, 0, &["\"images\""]);
    assert!(std::process::Command::new("mkfifo").arg(p.path("pipe")).status().unwrap().success());
    let path = p.path("pipe");
    let reader = std::thread::spawn(move || std::fs::read_to_string(path).unwrap());
    expect(&check("pipe"), 0, &[]);
    assert!(reader.join().unwrap().contains("\"images\""));
    assert!(std::fs::metadata(p.path("pipe")).unwrap().file_type().is_fifo());
    // A name as long as the system allows.
    let long = format!("{}.json", "n".repeat(250));
    expect(&check(&long), 0, &[]);
    assert!(p.path(&long).exists());
}

#[test]
fn a_run_is_resumed_from_any_folder() {
    let p = Project::new();
    // On a busy machine a short run may be over before the signal arrives.
    let (mut child, epochs) = ["2", "20", "200"]
        .into_iter()
        .find_map(|epochs| {
            let mut child = p.start_and_wait_for_checkpoint("my run", &["--epochs", epochs]);
            // Not Ctrl-C's, which is ignored by what a shell starts in the background.
            signal("-TERM", child.id());
            if child.wait().unwrap().code() == Some(130) {
                return Some((child, epochs));
            }
            std::fs::remove_dir_all(p.path("my run")).unwrap();
            None
        })
        .expect("an interrupted run exits with 130");
    expect(&p.train("whole run", &["--epochs", epochs]), 0, &[]);
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
    // As a shell reads it.
    assert!(said.contains("psmt-fast train --resume 'my run'"), "{said}");
    let run = p.path("my run");
    let mut elsewhere = p.command(&["train", "--resume", run.to_str().unwrap()]);
    expect(&elsewhere.current_dir("/").output().unwrap(), 0, &["results in"]);
    let last = |run: &str| p.read(&format!("{run}/checkpoints/last.safetensors"));
    assert!(last("my run") == last("whole run"));
}

#[test]
fn validation_that_does_not_fit_is_refused_before_the_first_step() {
    let p = Project::new();
    let (w, h) = (3000, 2000);
    image::RgbImage::new(w, h).save(p.path("data/images/9.png")).unwrap();
    image::GrayImage::new(w, h).save(p.path("data/masks/9.png")).unwrap();
    let mut args = vec!["-c", "ulimit -v 700000 && exec \"$0\" \"$@\"", crate::PROGRAM, "--threads", "1"];
    args.extend(p.train_args("o", &["--set", "eval.batch_size=3"]));
    let train = || std::process::Command::new("sh").current_dir(p.path(".")).args(&args).output().unwrap();
    expect(&train(), 7, &["validation on cpu of images of up to 2000 x 3000", "--eval-size 48 fits"]);
    assert!(!p.path("o").exists());
    // The table is shown all the same.
    args.push("--dry-run");
    let train = || std::process::Command::new("sh").current_dir(p.path(".")).args(&args).output().unwrap();
    expect(&train(), 7, &["3 images of 2000 x 3000 (rows x columns)", "in all", "not enough memory"]);
}
