//! `bench`: times a training step on random data, beside `bench_torch.py` with the same sizes.

use super::{DeviceArgs, on_device};
use crate::config::{OptimConfig, RunConfig, estimated_memory};
use crate::method::{self, Algorithm, Batch, Networks, StepArgs, StepOut, Tvat, TvatArgs};
use crate::model::io::write_atomically;
use crate::model::{DeepLab, ModelConfig, Network};
use crate::ops::{Backend, Mix, Shape};
use crate::rng::{Domain, Key};
use crate::train;
use crate::{Error, Result};
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

/// Flags of `bench`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// One full iteration: teachers, T-VAT, both student passes, update.
    Step(StepFlags),
}

#[derive(clap::Args)]
struct StepFlags {
    #[command(flatten)]
    device: DeviceArgs,
    /// Network.
    #[arg(long, default_value = "tiny", value_parser = ["tiny", "r50", "r101", "resnet50", "resnet101"])]
    model: String,
    /// Side of the images.
    #[arg(long, default_value_t = 96)]
    crop: usize,
    /// Labelled images, and as many unlabelled ones.
    #[arg(long, default_value_t = 2)]
    batch: usize,
    /// Timed steps.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Steps before those.
    #[arg(long, default_value_t = 2)]
    warmup: u32,
    /// Classes.
    #[arg(long, default_value_t = 21)]
    classes: usize,
    /// Feature noise.
    #[arg(long, value_enum, default_value = "exact")]
    tvat: Tvat,
    /// Write the figures to this file too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs `bench`.
pub fn run(args: Args) -> Result<()> {
    let What::Step(flags) = args.what;
    on_device!(flags.device.open()?, b => step(b, &flags))
}

fn step<B: Backend>(b: &B, f: &StepFlags) -> Result<()> {
    crate::config::check_batch(f.batch)?;
    if f.crop == 0 {
        return Err(Error::Usage("--crop: expected at least 1 pixel, got 0".into()));
    }
    let name = match f.model.as_str() {
        "r50" => "resnet50",
        "r101" => "resnet101",
        other => other,
    };
    let mut sized = RunConfig::default();
    sized.model.name = name.into();
    sized.data.num_classes = f.classes;
    sized.optim.batch_size = f.batch;
    sized.augment.crop = [f.crop; 2];
    let arch = DeepLab::new(ModelConfig::by_name(name, f.classes)?)?;
    let args = step_args(f.tvat);
    let planned = b.planned(|twin| {
        let (mut nets, batch) = (networks(twin, &arch), random_batch(twin, &arch, f));
        (0..2).try_for_each(|_| train_step(twin, &arch, &mut nets, &batch, &args).map(drop))
    })?;
    let memory = planned.as_ref().map(|(_, plan)| plan.bytes());
    let plan = planned.as_ref().map_or_else(|| estimated_memory(&sized), |(_, plan)| Ok(plan.clone()))?;
    train::check_memory(b, &sized, &plan)?;
    let b = planned.as_ref().map_or(b, |(device, _)| device);
    let mut nets = networks(b, &arch);
    let batch = random_batch(b, &arch, f);
    let mut ms = Vec::new();
    for i in 0..f.warmup + f.steps {
        let start = Instant::now();
        let out = train_step(b, &arch, &mut nets, &batch, &args)?;
        b.synchronize();
        if i >= f.warmup {
            ms.push(start.elapsed().as_secs_f64() * 1e3);
        }
        // A step that computes nonsense is not worth timing.
        let loss = b.read_scalar(&out.loss_sup) + out.loss_unsup(b);
        b.check()?;
        if !loss.is_finite() {
            let checkpoint = "none, this is a benchmark".into();
            return Err(Error::NonFinite { tensor: "loss".into(), step: i.into(), checkpoint });
        }
    }
    ms.sort_by(f64::total_cmp);
    let half = ms.len() / 2;
    let median = if ms.len() % 2 == 1 { ms[half] } else { 0.5 * (ms[half - 1] + ms[half]) };
    let (min, max, peak) = (ms[0], ms[ms.len() - 1], peak_mib());
    let threads = rayon::current_num_threads();
    println!(
        "step {} {}x{} batch {}+{}: median {median:.1} ms, min {min:.1}, max {max:.1} over {} steps, {threads} threads, \
         peak memory {}",
        f.model,
        f.crop,
        f.crop,
        f.batch,
        f.batch,
        f.steps,
        peak.map_or("unknown".into(), |p| format!("{p} MiB")),
    );
    if let Some(bytes) = memory {
        println!("memory of the device: {} MiB planned", bytes >> 20);
    }
    if let Some(path) = &f.json {
        let record = json!({
            "what": "step", "device": b.name(), "model": f.model, "classes": f.classes, "crop": f.crop,
            "batch": f.batch, "images": 2 * f.batch, "tvat": f.tvat, "steps": f.steps, "threads": threads,
            "median_ms": median, "min_ms": min, "max_ms": max, "peak_mib": peak,
            "device_mib": memory.map(|bytes| bytes >> 20),
        });
        write_atomically(path, |out| {
            serde_json::to_writer_pretty(&mut *out, &record)?;
            std::io::Write::write_all(out, b"\n")
        })?;
    }
    Ok(())
}

/// One iteration; of its results the losses stay.
fn train_step<B: Backend>(
    b: &B,
    arch: &DeepLab,
    nets: &mut Networks<B>,
    batch: &Batch<B>,
    args: &StepArgs,
) -> Result<StepOut<B>> {
    b.step(train::METHOD, || {
        method::train_step(b, arch, nets, batch, args).map(|out| StepOut { logits: Vec::new(), ..out })
    })
}

fn networks<B: Backend>(b: &B, arch: &DeepLab) -> Networks<B> {
    let net = |number| {
        let (params, stats) = arch.init(0, number);
        Network::upload(b, &params, &stats)
    };
    let zeros = || b.zeros(arch.table.num_params);
    Networks { student: net(0), teacher1: net(1), teacher2: net(2), momentum: zeros(), grads: zeros() }
}

/// Normal images, uniform labels and noise, one CutMix box a quarter of the side from the border.
fn random_batch<B: Backend>(b: &B, arch: &DeepLab, f: &StepFlags) -> Batch<B> {
    let shape = Shape::new(f.batch, f.crop, f.crop, 3);
    let key = |number| Key::new(0, Domain::Bench, number);
    let image = |number| {
        let mut rng = key(number).stream();
        let values: Vec<f32> = (0..shape.len()).map(|_| rng.normal()).collect();
        b.upload(shape, &values)
    };
    let mut rng = key(3).stream();
    let labels: Vec<u8> = (0..shape.positions()).map(|_| rng.below(f.classes) as u8).collect();
    let features = arch.feature_shape(shape);
    let (lo, hi) = (f.crop / 8, f.crop / 2);
    Batch {
        x_l: image(0),
        y_l: b.upload_labels(shape.with_channels(1), &labels),
        x_u_weak: image(1),
        x_u_strong: image(2),
        mix: Mix { boxes: vec![vec![[lo, lo, hi, hi]; f.batch]], perm: vec![(0..f.batch).rev().collect()] },
        d_l: b.uniform_noise(features, key(4)),
        d_u: b.uniform_noise(features, key(5)),
    }
}

fn step_args(tvat: Tvat) -> StepArgs {
    let method = crate::config::MethodConfig { threshold: 0.05, ..Default::default() };
    let optim = OptimConfig::default();
    StepArgs {
        lr: optim.lr,
        momentum: optim.momentum,
        weight_decay: optim.weight_decay,
        ema_decay: method.ema_decay,
        unsup_weight: method.unsup_weight,
        // Random networks are unsure: a low threshold lets pixels pass, as in the PyTorch benchmark.
        conf_ce: method.conf_ce(),
        ensemble: method.ensemble(),
        tvat: TvatArgs { kind: tvat, ..method.tvat_args() },
        active_teacher: 1,
        supervised_loss: optim.loss(),
        algorithm: Algorithm::PsMt,
        keep_noise: false,
    }
}

/// Largest resident memory of this process so far.
fn peak_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib / 1024)
}
