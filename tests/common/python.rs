//! Python programs that check what this crate writes.

use std::process::Command;

/// A Python that can import `modules`: the one that PSMT_TEST_PYTHON names, or else python3. None, which
/// standard error says, where it cannot.
pub fn python_with(modules: &str) -> Option<String> {
    let program = std::env::var("PSMT_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let imports = Command::new(&program).args(["-c", &format!("import {modules}")]).output();
    let usable = imports.is_ok_and(|o| o.status.success());
    if !usable {
        eprintln!("skipped: {program} cannot import {modules} (PSMT_TEST_PYTHON names another Python)");
    }
    usable.then_some(program)
}
