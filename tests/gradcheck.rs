//! The program's own comparison of every backward with finite differences.

use std::process::{Command, Output};

fn gradcheck(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_psmt-fast")).arg("gradcheck").args(args).output().unwrap()
}

#[test]
fn every_backward_agrees_with_finite_differences() {
    let output = gradcheck(&[]);
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{table}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!table.contains("FAILED"), "{table}");
    for op in psmt_fast::check::gradcheck::names() {
        assert!(table.lines().any(|line| line.starts_with(op)), "no row for {op}:\n{table}");
    }
}

#[test]
fn one_op_with_another_seed() {
    let output = gradcheck(&["--op", "conv2d", "--seed", "7"]);
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && table.contains("conv2d") && !table.contains("encoder"), "{table}");
}

#[test]
fn unknown_ops_and_devices_are_refused() {
    let unknown = gradcheck(&["--op", "conv3d"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("conv2d"));
    assert_eq!(gradcheck(&["--device", "cuda"]).status.code(), Some(10));
}
