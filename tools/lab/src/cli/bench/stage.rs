//! Timing a stage of a training step with planned memory, as training runs it.

use super::Run;
use super::report::{self, Record, record};
use crate::bench::{Timing, sample};
use psmt_fast::Result;
use psmt_fast::host::peak_memory;
use psmt_fast::ops::Backend;
use serde_json::json;

/// A stage that was timed.
pub(super) struct Timed {
    pub timing: Timing,
    /// Bytes of the device's memory, where they are planned.
    pub memory: Option<u64>,
}

/// Kind of the stage's memory plan.
const KIND: &str = "timed stage";

/// Times `work` on what `make` makes. Memory is planned where the device plans it.
pub(super) fn time<B: Backend, S>(
    b: &B,
    run: &Run,
    make: impl Fn(&B) -> Result<S>,
    work: impl Fn(&B, &mut S) -> Result<()>,
) -> Result<Timed> {
    let planned = b.planned(|twin| {
        let mut state = make(twin)?;
        (0..2).try_for_each(|_| twin.step(KIND, || work(twin, &mut state)))
    })?;
    let memory = planned.as_ref().map(|(_, plan)| plan.bytes());
    let b = planned.as_ref().map_or(b, |(device, _)| device);
    let mut state = make(b)?;
    let timing = sample(b, run.sampling(), |_| b.step(KIND, || work(b, &mut state)))?;
    Ok(Timed { timing, memory })
}

/// Prints the figures of stage `what`, and writes them with those of `more`.
pub(super) fn report(run: &Run, what: &str, timed: &Timed, check: &str, more: Record) -> Result<()> {
    let Timed { timing, memory } = timed;
    let [q1, q3, max] = timing.spread().map(report::ms);
    let process = peak_memory().map(|bytes| bytes >> 20);
    println!("checked: {check}");
    println!(
        "{what} {}: median {} ms, min {}, quartiles {q1} and {q3}, max {max}; {} samples of {} calls; peak memory of the \
         process {}{}",
        report::sizes(run),
        report::ms(timing.median()),
        report::ms(timing.min()),
        timing.samples.len(),
        timing.repetitions,
        process.map_or("unknown".into(), |mib| format!("{mib} MiB")),
        memory.map_or(String::new(), |bytes| format!(", of the device {} MiB planned", bytes >> 20)),
    );
    let mut out = report::header(run, what);
    out.extend(report::times(timing));
    out.extend(record(json!({
        "peak_mib": memory.map(|bytes| bytes >> 20),
        "process_peak_mib": process,
        "check": check,
    })));
    out.extend(more);
    report::write(run, &out)
}
