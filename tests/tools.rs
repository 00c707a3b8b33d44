//! The tools beside the program: what they compare, they compare as it is meant.

use std::path::Path;
use std::process::Command;

/// The records of twelve steps whose last supervised loss is `last`.
fn records(last: &str) -> String {
    let step = |i: usize, loss: &str| {
        format!("{{\"kind\":\"step\",\"loss_sup\":{loss},\"loss_unsup\":0.5,\"lr\":0.1,\"step\":{i}}}\n")
    };
    (1..12).map(|i| step(i, "1.25")).chain([step(12, last)]).collect()
}

/// Whether two runs that differ in one loss are the same to within `tolerance`, and what the tool says; `None` without awk.
fn same(first: &str, second: &str, tolerance: &str) -> Option<(bool, String)> {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["a", "b"].map(|name| dir.path().join(name));
    std::fs::write(&paths[0], records(first)).unwrap();
    std::fs::write(&paths[1], records(second)).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/same_losses.awk");
    let mut awk = Command::new("awk");
    awk.arg("-v").arg(format!("tolerance={tolerance}")).arg("-f").arg(script).args(paths);
    match awk.output() {
        Ok(out) => Some((out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())),
        Err(e) => {
            eprintln!("skipped: awk: {e}");
            None
        }
    }
}

#[test]
fn losses_compare_as_numbers() {
    for (first, second, tolerance, expected) in [
        ("3.1", "12.3", "1e-3", false),
        ("12.3", "3.1", "1e-3", false),
        ("9.5", "10.5", "1e-3", false),
        ("10.0", "10.005", "1e-3", true),
        ("1e1", "10", "0", true),
        ("2e-3", "0.002", "0", true),
        ("9e-5", "1.2e2", "1e-3", false),
        ("-0.5", "0.5", "1e-3", false),
        ("-0.5", "-0.50001", "1e-3", true),
        // Below 0.1 differences count as of 0.1.
        ("0.00001", "0.00003", "1e-3", true),
        ("0.001", "0.002", "1e-3", false),
        ("1.25", "1.25", "0", true),
        ("1.25", "1.2500001", "0", false),
        ("null", "1.25", "1e-3", false),
        ("1.25", "null", "1e-3", false),
    ] {
        let Some((same, said)) = same(first, second, tolerance) else { return };
        assert_eq!(same, expected, "{first} {second} {tolerance}: {said}");
    }
}
