//! The program's own comparison of every backward with finite differences.

use std::process::{Command, Output};

fn gradcheck(args: &[&str]) -> Output {
    Command::new(crate::PROGRAM).arg("gradcheck").args(args).output().unwrap()
}

#[test]
fn every_backward_agrees_with_finite_differences() {
    let output = gradcheck(&[]);
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{table}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!table.contains("FAILED"), "{table}");
    for op in psmt_lab::check::gradcheck::names() {
        assert!(table.lines().any(|line| line.starts_with(op)), "no row for {op}:\n{table}");
    }
}

#[test]
fn one_op_with_another_seed() {
    let output = gradcheck(&["--op", "conv2d", "--seed", "7"]);
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && table.contains("conv2d") && !table.contains("encoder"), "{table}");
}

/// Whether this build has an emulator; says so where not.
fn emulator() -> bool {
    let open = psmt_emulator::open(Default::default());
    open.map_err(|e| eprintln!("skipped: {e}")).is_ok()
}

#[test]
fn every_backward_of_the_kernels_agrees_with_finite_differences() {
    if !emulator() {
        return;
    }
    let output = gradcheck(&["--device", "emulated"]);
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{table}{}", String::from_utf8_lossy(&output.stderr));
    assert!(table.contains("checks on emulated, 0 over their bar"), "{table}");
    for op in psmt_lab::check::gradcheck::names() {
        assert!(table.lines().any(|line| line.starts_with(op)), "no row for {op}:\n{table}");
    }
    // The build that follows every access to memory, on one op.
    let output = gradcheck(&["--device", "emulated-check", "--op", "conv2d"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn unknown_ops_devices_and_precisions_are_refused() {
    let unknown = gradcheck(&["--op", "conv3d"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("conv2d"));
    assert_eq!(gradcheck(&["--device", "cuda"]).status.code(), Some(10));
    for (args, word) in [
        (["--device", "emulated", "--precision", "bf16"], "8 bits"),
        (["--device", "emulated", "--precision", "f64"], "f32"),
        (["--device", "cpu", "--precision", "f32"], "f64"),
    ] {
        let refused = gradcheck(&args);
        assert_eq!(refused.status.code(), Some(2), "{args:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains(word), "{args:?}");
    }
}
