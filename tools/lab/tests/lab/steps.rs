//! Training on the CUDA device, run by the emulator: ten steps follow the CPU's, repeat bit by bit, and
//! resume; a kernel that faults in between does no harm.

use crate::cli_common::{Project, expect};
use crate::driver_common::{Hooks, hooked};
use psmt_fast::backend::cuda::driver::{Kernel, Launch};
use psmt_fast::backend::cuda::{Cuda, Dtype};
use psmt_fast::train::{self, Checkpoint, RunDir};
use psmt_fast::{Error, Result, config};
use serde_json::Value;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One pass of warm-up, one epoch of PS-MT at its full weight, five steps each, T-VAT exact; a record a step.
/// The rate is low: rounding grows a hundredfold a step where training is as fast as it can be.
const SHORT: &[&str] = [
    ["--epochs", "1"],
    ["--warm-up-passes", "1"],
    ["--steps-per-epoch", "5"],
    ["--ramp-up", "constant"],
    ["--threshold", "0.3"],
    ["--lr", "0.0002"],
    ["--crop", "41"],
    ["--val-every", "2"],
    ["--set", "run.pictures=0"],
    ["--set", "run.log_every=1"],
    ["--set", "data.demo_labeled=20"],
    ["--set", "data.demo_unlabeled=8"],
    ["--set", "data.demo_val=4"],
]
.as_flattened();

/// Trains and gives (supervised, unsupervised) losses a step; `None`, with a word, where this build has no
/// emulator.
fn losses(p: &Project, out: &str, device: &[&str]) -> Option<Vec<[f64; 2]>> {
    let run = p.run(&[&["train", "--out", out], SHORT, device].concat());
    if run.status.code() == Some(10) {
        eprintln!("skipped: {}", String::from_utf8_lossy(&run.stderr));
        return None;
    }
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let text = std::fs::read_to_string(p.path(&format!("{out}/metrics.jsonl"))).unwrap();
    let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let number = |r: &Value, key: &str| r[key].as_f64().unwrap();
    let steps = records.filter(|r| r["kind"] == "step");
    Some(steps.map(|r| [number(&r, "loss_sup"), number(&r, "loss_unsup")]).collect())
}

/// Each of the first `columns` losses within `tolerance` of the CPU's.
fn follow(got: &[[f64; 2]], want: &[[f64; 2]], columns: usize, tolerance: f64) {
    assert_eq!((got.len(), want.len()), (10, 10));
    for (step, (got, want)) in got.iter().zip(want).enumerate() {
        for (g, w) in got.iter().zip(want).take(columns) {
            assert!(
                (g - w).abs() <= tolerance * w.abs().max(0.1),
                "step {step}: {got:?}, on the CPU {want:?}"
            );
        }
    }
    assert!(got[5..].iter().all(|[_, unsup]| *unsup > 0.0), "no pixel passed: {got:?}");
}

#[test]
fn ten_steps_follow_the_cpu() {
    let p = Project::new();
    let Some(emulated) = losses(&p, "emulated", &["--device", "emulated"]) else { return };
    let cpu = losses(&p, "cpu", &[]).unwrap();
    follow(&emulated, &cpu, 2, 1e-3);
    // In bf16 other pixels reach the threshold, so only the supervised loss is comparable.
    let bf16 = losses(&p, "bf16", &["--device", "emulated", "--precision", "bf16"]).unwrap();
    follow(&bf16, &cpu, 1, 5e-2);
}

#[test]
fn steps_repeat_and_resume_to_the_same_bits() {
    let p = Project::new();
    let flags = &["--epochs", "2", "--device", "emulated", "--precision", "bf16"];
    let once = p.train("once", flags);
    if once.status.code() == Some(10) {
        eprintln!("skipped: {}", String::from_utf8_lossy(&once.stderr));
        return;
    }
    expect(&once, 0, &["results in once"]);
    expect(&p.train("twice", flags), 0, &["results in twice"]);
    let bits = |out: &str| crate::cli_common::read(&p.path(&format!("{out}/checkpoints/last.safetensors")));
    assert!(bits("once") == bits("twice"), "two runs differ");

    let mut child = p.start_and_wait_for_checkpoint("killed", flags);
    child.kill().unwrap();
    child.wait().unwrap();
    let resumed = p.run(&[&["train", "--resume", "killed"][..], &flags[2..]].concat());
    expect(&resumed, 0, &["results in killed"]);
    assert!(bits("once") == bits("killed"), "the resumed run differs");
}

/// The launch of one kernel fails at the given number.
struct Faulty {
    kernel: &'static str,
    left: AtomicUsize,
}

impl Hooks for Faulty {
    fn launch(&self, kernel: &Kernel, launch: Launch) -> Result<()> {
        if kernel.name == self.kernel && self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            let message = format!("{kernel} was made to fault, {launch:?}");
            return Err(Error::Device { name: "emulated".into(), message });
        }
        Ok(())
    }
}

#[test]
fn a_fault_in_mid_training_keeps_the_last_checkpoint() {
    let p = Project::new();
    let text = std::fs::read_to_string(p.path("run.toml")).unwrap();
    let at = |name: &str| p.path(name).display().to_string();
    let lists = format!(
        "dir = {:?}\nlabeled = {:?}\nunlabeled = {:?}\nval = {:?}\n",
        at("data"),
        at("labeled.txt"),
        at("unlabeled.txt"),
        at("val.txt")
    );
    let config = config::parse("test", &text.replacen("[data]\n", &format!("[data]\n{lists}"), 1)).unwrap();
    // Checkpoints at steps 4, 6 (the warm-up's end) and 8; sgd runs once in each step.
    for (kernel, left, reached) in [("sgd", 7, 6), ("non_finite_f32", 1, 0), ("sgd", 11, 8)] {
        let Some(driver) = hooked(Faulty { kernel, left: AtomicUsize::new(left) }) else { return };
        let b = Cuda::new(driver, Dtype::F32);
        let dir = RunDir::create(&p.path(&format!("{kernel}-{left}"))).unwrap();
        let ready = train::check(&b, &config).unwrap();
        let error = train::start(&b, &config, &ready, &dir).unwrap_err();
        assert_eq!(error.exit_code(), 10, "{error}");
        assert!(error.to_string().contains(kernel) && error.to_string().contains("grid"), "{error}");
        if reached == 0 {
            assert!(!dir.last().exists());
            continue;
        }
        assert_eq!(Checkpoint::open(&dir.last()).unwrap().meta.progress.step, reached);
    }
}
