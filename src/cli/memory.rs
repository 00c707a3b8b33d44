//! The table of a memory plan.

use crate::ops::{MemoryPlan, MemoryUse};

fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

/// Prints what memory goes where, and what there is.
pub(super) fn print(plan: &MemoryPlan, available: Option<u64>) {
    let row = |indent: &str, what: &str, bytes: u64| {
        println!("{:<44} {:>10}", format!("{indent}{what}"), mib(bytes))
    };
    let rows = |uses: &[MemoryUse]| uses.iter().for_each(|u| row("  ", &u.what, u.bytes));
    println!("{:<44} {:>10}", "memory", "MiB");
    row("", "held throughout", plan.held_bytes());
    rows(&plan.held);
    for step in &plan.steps {
        let buffers = if step.buffers > 0 { format!(", {} buffers", step.buffers) } else { String::new() };
        row("", &format!("{}{buffers}", step.kind), step.bytes);
        rows(&step.at_peak);
    }
    row("", if plan.steps.len() > 1 { "in all (steps share their memory)" } else { "in all" }, plan.bytes());
    if let Some(available) = available {
        row("", "available", available);
    }
}
