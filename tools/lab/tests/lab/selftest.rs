//! The program's own proof of the instructions that kernels are built on.

use crate::driver_common::{Hooks, hooked};
use std::path::Path;
use std::process::{Command, Output};

fn selftest(args: &[&str]) -> Output {
    Command::new(crate::PROGRAM).arg("selftest").args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_emulator_passes_and_writes_what_it_printed() {
    if let Err(e) = psmt_emulator::open(Default::default()) {
        eprintln!("skipped: {e}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for device in ["emulated", "emulated-check"] {
        let path = dir.path().join("rows.json");
        let output = selftest(&["--device", device, "--json", &path.display().to_string()]);
        let table = text(&output.stdout);
        assert!(output.status.success(), "{table}{}", text(&output.stderr));
        let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!((&report["device"], &report["failed"]), (&device.into(), &0.into()));
        let rows = report["rows"].as_array().unwrap();
        assert!(rows.len() > 10);
        for row in rows {
            let name = row["name"].as_str().unwrap();
            let line = table.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            assert!(row["ok"] == true && line.contains("ok"), "{name}: {line}");
        }
    }
    let nowhere = Path::new("/no/such/folder/rows.json").display().to_string();
    assert_eq!(selftest(&["--device", "emulated", "--json", &nowhere]).status.code(), Some(9));
}

#[test]
fn devices_that_run_no_kernels_are_refused() {
    let cpu = selftest(&["--device", "cpu"]);
    assert_eq!(cpu.status.code(), Some(2));
    assert!(text(&cpu.stderr).contains("emulated"), "{}", text(&cpu.stderr));
    // More cards than any machine has.
    assert_eq!(selftest(&["--device", "cuda:999"]).status.code(), Some(10));
}

/// Changes a bit of every result.
struct WrongBit;

impl Hooks for WrongBit {
    fn downloaded(&self, data: &mut [u8]) {
        let middle = data.len() / 2;
        data[middle] ^= 8;
    }
}

#[test]
fn every_check_sees_one_wrong_bit() {
    let Some(driver) = hooked(WrongBit) else { return };
    let rows = psmt_lab::check::selftest::run(&*driver, |_| {}).unwrap();
    let passed: Vec<_> = rows.iter().filter(|row| row.ok || row.message.is_empty()).collect();
    assert!(passed.is_empty(), "{passed:?}");
}
