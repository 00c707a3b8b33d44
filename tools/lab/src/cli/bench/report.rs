//! What all benchmarks report: JSON with the keys of `bench_torch.py` where they mean the same, and times in
//! tables.

use super::Run;
use crate::bench::Timing;
use psmt_fast::backend::cuda::gpu;
use psmt_fast::cli::device::{Device, Precision};
use psmt_fast::files::write_json;
use psmt_fast::{Error, Result};
use serde_json::{Map, Value, json};

/// Keys of one JSON object.
pub(super) type Record = Map<String, Value>;

/// The object of `value`, which is written as one.
pub(super) fn record(value: Value) -> Record {
    match value {
        Value::Object(map) => map,
        other => Map::from_iter([("value".to_string(), other)]),
    }
}

/// Device, sizes and command of a run.
pub(super) fn header(run: &Run, what: &str) -> Record {
    let platform = match run.device {
        Device::Cuda(index) => gpu::probe().ok().map(|p| (index, p)),
        _ => None,
    };
    let gpu = platform.as_ref().and_then(|(index, p)| p.devices.get(*index)).map(|d| d.name.clone());
    let driver = platform.as_ref().map(|(_, p)| format!("CUDA {}.{}", p.version.0, p.version.1));
    let command: Vec<String> = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    record(json!({
        "what": what,
        "device": run.device.to_string(),
        "precision": precision(run.precision),
        "model": run.model,
        "classes": run.sizes.arch.config.num_classes,
        "batch": run.sizes.batch,
        "crop": run.sizes.crop,
        "steps": run.flags.steps,
        "warmup": run.flags.warmup,
        "threads": rayon::current_num_threads(),
        "gpu": gpu,
        "driver": driver,
        "version": env!("CARGO_PKG_VERSION"),
        // The commit of the source, where the build was given it.
        "commit": option_env!("PSMT_COMMIT"),
        "command": command.join(" "),
    }))
}

pub(super) fn precision(precision: Precision) -> &'static str {
    match precision {
        Precision::F64 => "f64",
        Precision::F32 => "f32",
        Precision::Bf16 => "bf16",
    }
}

/// The times of one call.
pub(super) fn times(timing: &Timing) -> Record {
    let [q1, q3, max] = timing.spread();
    record(json!({
        "median_ms": timing.median(),
        "min_ms": timing.min(),
        "q1_ms": q1,
        "q3_ms": q3,
        "max_ms": max,
        "samples": timing.samples,
        "repetitions": timing.repetitions,
        "enqueue_ms": timing.enqueue_ms,
    }))
}

/// Writes `record` to the file of --json, if there is one.
pub(super) fn write(run: &Run, record: &Record) -> Result<()> {
    run.flags.json.as_ref().map_or(Ok(()), |path| write_json(path, record))
}

/// Sizes in a title.
pub(super) fn sizes(run: &Run) -> String {
    let (crop, batch) = (run.sizes.crop, run.sizes.batch);
    let place = match run.device {
        Device::Cpu => format!("cpu, {} threads", rayon::current_num_threads()),
        device => format!("{device} in {}", precision(run.precision)),
    };
    format!("{} {crop}x{crop} batch {batch} on {place}", run.model)
}

/// Milliseconds with four digits.
pub(super) fn ms(value: f64) -> String {
    let digits =
        if value >= 1e3 { 0 } else { (3 - value.max(1e-4).log10().floor() as i32).clamp(0, 6) as usize };
    format!("{value:.digits$}")
}

/// The error of a filter that leaves nothing.
pub(super) fn nothing(filter: &str) -> Error {
    Error::Usage(format!("--filter {filter}: no op or size contains it"))
}

#[cfg(test)]
mod tests {
    use super::ms;

    #[test]
    fn times_have_four_digits() {
        assert_eq!(ms(12345.6), "12346");
        assert_eq!(ms(123.456), "123.5");
        assert_eq!(ms(1.23456), "1.235");
        assert_eq!(ms(0.0123456), "0.01235");
        assert_eq!(ms(0.0), "0.000000");
    }
}
