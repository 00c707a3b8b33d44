//! The command line on machines with other drivers and cards: which device is taken, and what is refused.

use super::{expect, is_inside, message, run_inside, run_with_fake, with_fake};
use psmt_fast::backend::cuda::gpu::{self, Gpu};
use std::process::Command;

#[test]
fn unusable_cards_are_refused() {
    /// One setting of the stand-in, and what the card of an index is then refused with.
    struct Card {
        setting: (&'static str, &'static str),
        index: usize,
        refused: &'static [&'static str],
    }
    let cases = [
        Card {
            setting: ("FAKE_CUDA_VERSION", "11040"),
            index: 0,
            refused: &["driver supports CUDA 11.4", "update the driver", "docs/gpu.md"],
        },
        Card {
            setting: ("FAKE_CUDA_CAPABILITY", "75"),
            index: 0,
            refused: &["compute capability 7.5", "8.0"],
        },
        Card {
            setting: ("FAKE_CUDA_DEVICES", "0"),
            index: 0,
            refused: &["finds no GPU", "CUDA_VISIBLE_DEVICES"],
        },
        Card { setting: ("FAKE_CUDA_DEVICES", "1"), index: 1, refused: &["cuda:1", "there is one"] },
        Card { setting: ("FAKE_CUDA_DEVICES", "3"), index: 7, refused: &["cuda:7", "there are 3"] },
    ];
    let doctor = |setting| {
        let mut command = Command::new(crate::PROGRAM);
        command.args(["doctor", "--json"]);
        let output = with_fake(command, &[setting])?.output().unwrap();
        Some(serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap())
    };
    if !is_inside() {
        for (i, &Card { setting, index, refused }) in cases.iter().enumerate() {
            run_inside(unusable_cards_are_refused, &[setting, ("PSMT_TEST_CASE", &i.to_string())]);
            let Some(report) = doctor(setting) else { return };
            assert_eq!(report["auto"], if index > 0 { "cuda:0" } else { "cpu" }, "{report}");
            if index == 0 {
                expect(&report.to_string(), refused);
            }
        }
        return;
    }
    let case: usize = std::env::var("PSMT_TEST_CASE").unwrap().parse().unwrap();
    expect(&message(Gpu::open(cases[case].index)), cases[case].refused);
}

#[test]
fn drivers_of_the_toolkits_major_version_run_its_machine_code() {
    let Some((major, minor)) = gpu::toolkit() else {
        eprintln!("skipped: {}", gpu::missing().unwrap());
        return;
    };
    let [first, same] = [0, minor].map(|minor| (1000 * major + 10 * minor).to_string());
    if !is_inside() {
        // The first driver of the major version, and cards of compute capability 9.0 or later than any
        // machine code.
        for (version, capability) in [(&first, "90"), (&first, "990"), (&same, "990")] {
            run_inside(
                drivers_of_the_toolkits_major_version_run_its_machine_code,
                &[("FAKE_CUDA_VERSION", version), ("FAKE_CUDA_CAPABILITY", capability)],
            );
        }
        return;
    }
    let setting = |name: &str| std::env::var(name).unwrap();
    let ptx = setting("FAKE_CUDA_CAPABILITY") == "990";
    if ptx && minor > 0 && setting("FAKE_CUDA_VERSION") == first {
        let text = message(Gpu::open(0));
        expect(&text, &["compute capability 99.0", &format!("PTX of CUDA {major}.{minor}"), "docs/gpu.md"]);
    } else {
        Gpu::open(0).unwrap();
    }
}

#[test]
fn the_command_line_takes_devices_by_name() {
    let run = |device: &str, settings: &[(&str, &str)]| {
        let mut command = Command::new(crate::PROGRAM);
        command.args(["train", "--dry-run", "--device", device]);
        let (status, text) = run_with_fake(command, settings)?;
        Some((status.code(), text))
    };
    // A driver without cards: `auto` falls back, and names say why they cannot be had.
    let none = [("FAKE_CUDA_DEVICES", "0")];
    let Some((code, text)) = run("auto", &none) else { return };
    assert_eq!(code, Some(0), "{text}");
    expect(&text, &["device cpu", "finds no GPU"]);
    let refused = |device: &str, settings: &[(&str, &str)], code: i32, parts: &[&str]| {
        let (got, text) = run(device, settings).unwrap();
        assert_eq!(got, Some(code), "{text}");
        expect(&text, parts);
    };
    refused("cuda", &none, 10, &["device cuda:0", "finds no GPU"]);
    refused("cuda:2", &[], 10, &["device cuda:2", "there is one"]);
    let (major, minor) = gpu::toolkit().unwrap();
    let compiled = format!("CUDA {major}.{minor} compiled the kernels");
    refused("cuda", &[("FAKE_CUDA_VERSION", "11080")], 10, &["driver supports CUDA 11.8", &compiled]);
    refused("cuda:first", &[], 2, &["cuda:first", "expected cpu, cuda, cuda:INDEX"]);
    // The stand-in has not this kernel, so only the choice counts.
    expect(&run("auto", &[("FAKE_CUDA_DEVICES", "2")]).unwrap().1, &["device cuda:0"]);
}

#[test]
fn doctor_reports_without_a_driver() {
    let empty = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(crate::PROGRAM);
        let output = command.args(args).env("LD_LIBRARY_PATH", empty.path()).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let text = run(&["doctor"]);
    expect(&text, &["processor", "memory", "kernels", "driver", "auto"]);
    let report: serde_json::Value = serde_json::from_str(&run(&["doctor", "--json"])).unwrap();
    if report["cuda"]["driver"].is_null() {
        expect(&text, &["no CUDA driver was found", "install NVIDIA's driver"]);
        assert_eq!(report["auto"], "cpu");
    }
    let kernels = run(&["doctor", "--kernels"]);
    assert!(kernels.lines().all(|line| line.split('\t').count() == 8), "{kernels}");
    assert_eq!(kernels.lines().count() > 1, gpu::missing().is_none());
}

#[test]
fn training_that_does_not_fit_a_card_is_refused_with_its_plan() {
    let run = |memory: &str, batch: &str| {
        let mut command = Command::new(crate::PROGRAM);
        command.args(["train", "--dry-run", "--device", "cuda", "--batch-size", batch]);
        let (status, text) = run_with_fake(command, &[("FAKE_CUDA_MEMORY", memory)])?;
        Some((status.code(), text))
    };
    // 48 MiB and the reserve of 256: the demo's own batch fits, one of 64 does not, and the first says where
    // the limit lies.
    const MEMORY: &str = "318767104";
    let Some((code, text)) = run(MEMORY, "4") else { return };
    assert_eq!(code, Some(0), "{text}");
    expect(
        &text,
        &["tiny on cuda:0", "16-bit copies", "T-VAT", "validation", "reserve", "256.0", "available", "304.0"],
    );
    let line = text.lines().find(|l| l.contains("largest batch")).unwrap();
    let largest: usize = line.split_whitespace().last().unwrap().parse().unwrap();
    assert!((4..64).contains(&largest), "{text}");
    assert_eq!(run(MEMORY, &largest.to_string()).unwrap().0, Some(0));
    // Smaller validations would make room for one image more, not for as many as this.
    for (batch, decides) in [(largest + 1, "eval.batch_size=1"), (64, "optim.batch_size")] {
        let (code, text) = run(MEMORY, &batch.to_string()).unwrap();
        assert_eq!(code, Some(7), "{text}");
        expect(&text, &["not enough memory", decides, "cuda:0", "304 MiB are available"]);
    }
}
