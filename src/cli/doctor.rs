//! `psmt-fast doctor`: what this machine and this build offer, and which device `auto` takes.

use super::device::extra_devices;
use crate::backend::cuda::gpu::{self, Gpu, Platform};
use crate::host::available_memory;
use crate::{Error, Result};
use clap::Args as ClapArgs;
use serde::Serialize;

/// Print what this machine and this build offer: processor, memory, GPUs.
#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print, for each kernel and target in the program, its registers and bytes of static shared memory,
    /// stack, spill stores and spill loads, separated by tabs
    #[arg(long, conflicts_with = "json")]
    kernels: bool,
}

#[derive(Serialize)]
struct Report {
    processor: Processor,
    /// Memory that this process can still get.
    memory_mib: Option<u64>,
    /// Devices that the program adds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    extra: Vec<Extra>,
    kernels: Kernels,
    cuda: Cuda,
    /// What `--device auto` takes.
    auto: String,
    /// Why that is not a GPU.
    auto_reason: Option<String>,
}

#[derive(Serialize)]
struct Processor {
    name: String,
    features: Vec<&'static str>,
    /// Threads that this program computes with.
    threads: usize,
}

#[derive(Serialize)]
struct Extra {
    device: &'static str,
    /// Why it cannot be used.
    missing: Option<String>,
}

/// The kernels for GPUs in this program.
#[derive(Serialize)]
struct Kernels {
    /// Version of the toolkit that compiled them.
    toolkit: Option<String>,
    targets: &'static [&'static str],
    count: usize,
    /// Why there are none.
    missing: Option<String>,
}

#[derive(Serialize)]
struct Cuda {
    /// The newest CUDA version that the driver supports.
    driver: Option<String>,
    /// Why there is no driver or no card.
    missing: Option<String>,
    devices: Vec<Device>,
}

#[derive(Serialize)]
struct Device {
    device: String,
    name: String,
    compute_capability: String,
    multiprocessors: u32,
    memory_mib: u64,
    /// Memory that is free now; known for usable cards.
    free_mib: Option<u64>,
    /// Why this program cannot use the card.
    unusable: Option<String>,
}

/// Runs the subcommand.
///
/// # Errors
/// None of its own: what is missing is part of the report.
pub fn run(args: Args) -> Result<()> {
    if args.kernels {
        print!(
            "file\tkernel\ttarget\tregisters\tshared\tstack\tspill_stores\tspill_loads\n{}",
            gpu::RESOURCES
        );
        return Ok(());
    }
    let report = report();
    if args.json {
        let text = serde_json::to_string_pretty(&report).map_err(|e| Error::Usage(e.to_string()))?;
        println!("{text}");
    } else {
        print(&report);
    }
    Ok(())
}

fn report() -> Report {
    let platform = gpu::probe();
    let auto = gpu::first_usable();
    let version = |(major, minor): (u32, u32)| format!("{major}.{minor}");
    Report {
        processor: Processor {
            name: processor_name().unwrap_or_else(|| std::env::consts::ARCH.into()),
            features: processor_features(),
            threads: rayon::current_num_threads(),
        },
        memory_mib: available_memory().map(|bytes| bytes >> 20),
        extra: extra_devices()
            .iter()
            .map(|extra| Extra { device: extra.name, missing: (extra.open)().err().map(reason) })
            .collect(),
        kernels: Kernels {
            toolkit: gpu::toolkit().map(version),
            targets: gpu::targets(),
            // A kernel has a line for each target.
            count: gpu::RESOURCES
                .lines()
                .filter_map(|line| line.split('\t').nth(1))
                .collect::<std::collections::BTreeSet<_>>()
                .len(),
            missing: gpu::missing(),
        },
        cuda: Cuda {
            driver: platform.as_ref().ok().map(|p| version(p.version)),
            missing: platform.as_ref().err().cloned(),
            devices: platform.as_ref().map(devices).unwrap_or_default(),
        },
        auto: auto.as_ref().map_or_else(|_| "cpu".into(), |index| format!("cuda:{index}")),
        auto_reason: auto.err(),
    }
}

fn devices(platform: &Platform) -> Vec<Device> {
    let mib = |bytes: usize| (bytes >> 20) as u64;
    let describe = |(index, device): (usize, &gpu::Device)| {
        let opened =
            platform.usable(index).and_then(|_| Gpu::open(index).and_then(|g| g.memory()).map_err(reason));
        Device {
            device: format!("cuda:{index}"),
            name: device.name.clone(),
            compute_capability: format!("{}.{}", device.capability.0, device.capability.1),
            multiprocessors: device.multiprocessors,
            memory_mib: mib(device.memory),
            free_mib: opened.as_ref().ok().map(|(free, _)| mib(*free)),
            unusable: opened.err(),
        }
    };
    platform.devices.iter().enumerate().map(describe).collect()
}

/// An error's text without the device, which the report names already.
fn reason(error: Error) -> String {
    match error {
        Error::Device { message, .. } => message,
        other => other.to_string(),
    }
}

fn print(r: &Report) {
    let row = |name: &str, text: String| println!("{name:<10} {text}");
    let p = &r.processor;
    row("processor", format!("{}, {} threads; {}", p.name, p.threads, p.features.join(" ")));
    row("memory", r.memory_mib.map_or("unknown".into(), |mib| format!("{mib} MiB available")));
    for extra in &r.extra {
        row(extra.device, extra.missing.as_ref().map_or("available".into(), |why| format!("none: {why}")));
    }
    row(
        "kernels",
        match (&r.kernels.missing, &r.kernels.toolkit) {
            (None, Some(toolkit)) => {
                format!(
                    "{} by CUDA {toolkit} for {}",
                    r.kernels.count,
                    r.kernels.targets.join(" ").replace("compute_", "PTX ")
                )
            }
            (missing, _) => format!("none: {}", missing.as_deref().unwrap_or("unknown")),
        },
    );
    row(
        "driver",
        match (&r.cuda.driver, &r.cuda.missing) {
            (Some(version), _) => format!("for CUDA {version}"),
            (None, missing) => format!("none: {}", missing.as_deref().unwrap_or("unknown")),
        },
    );
    for d in &r.cuda.devices {
        let free = d.free_mib.map_or(String::new(), |mib| format!(", {mib} free"));
        let usable = d.unusable.as_ref().map_or("usable".into(), |why| format!("not usable: {why}"));
        row(
            &d.device,
            format!(
                "{}, compute capability {}, {} multiprocessors, {} MiB{free}; {usable}",
                d.name, d.compute_capability, d.multiprocessors, d.memory_mib
            ),
        );
    }
    let because = r.auto_reason.as_ref().map_or(String::new(), |why| format!(", as {why}"));
    row("auto", format!("{}{because}", r.auto));
}

/// As the system names it; `None` where it does not.
fn processor_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

/// Vector instructions that matter here.
fn processor_features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let features = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let features = [("", false); 0];
    features.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
}
