//! `bench step`: one full training iteration with planned memory, beside `bench_torch.py --what step`.

use super::report::record;
use super::stage::{self, Timed};
use super::{Run, StageFlags, full_name};
use crate::bench::{Timing, networks, random_batch, step_args};
use crate::cli::on_device;
use crate::config::{RunConfig, estimated_memory};
use crate::method::{self, Batch, Networks, StepArgs, StepOut, Tvat};
use crate::model::DeepLab;
use crate::ops::Backend;
use crate::train;
use crate::{Error, Result};
use serde_json::json;
use std::time::Instant;

pub(super) fn run(flags: &StageFlags) -> Result<()> {
    let run = flags.shared.resolve()?;
    on_device!(run.open()?, b => step(b, &run, flags.tvat))
}

fn step<B: Backend>(b: &B, run: &Run, tvat: Tvat) -> Result<()> {
    let (sizes, arch) = (&run.sizes, &run.sizes.arch);
    let mut sized = RunConfig::default();
    sized.model.name = full_name(&run.model).into();
    sized.data.num_classes = arch.config.num_classes;
    sized.optim.batch_size = sizes.batch;
    sized.augment.crop = [sizes.crop; 2];
    let args = step_args(tvat);
    let planned = b.planned(|twin| {
        let (mut nets, batch) = (networks(twin, sizes), random_batch(twin, sizes));
        (0..2).try_for_each(|_| train_step(twin, arch, &mut nets, &batch, &args).map(drop))
    })?;
    let memory = planned.as_ref().map(|(_, plan)| plan.bytes());
    let plan = planned.as_ref().map_or_else(|| estimated_memory(&sized), |(_, plan)| Ok(plan.clone()))?;
    train::check_memory(b, &sized, &plan)?;
    let b = planned.as_ref().map_or(b, |(device, _)| device);
    let mut nets = networks(b, sizes);
    let batch = random_batch(b, sizes);
    let (mut samples, mut enqueue) = (Vec::new(), Vec::new());
    for i in 0..run.flags.warmup + run.flags.steps {
        let start = Instant::now();
        let out = train_step(b, arch, &mut nets, &batch, &args)?;
        let enqueued = start.elapsed();
        b.synchronize();
        if i >= run.flags.warmup {
            samples.push(start.elapsed().as_secs_f64() * 1e3);
            enqueue.push(enqueued.as_secs_f64() * 1e3);
        }
        // A step that computes nonsense is not worth timing.
        let loss = b.read_scalar(&out.loss_sup) + out.loss_unsup(b);
        b.check()?;
        if !loss.is_finite() {
            let checkpoint = "none, this is a benchmark".into();
            return Err(Error::NonFinite { tensor: "loss".into(), step: i.into(), checkpoint });
        }
    }
    let enqueue_ms = enqueue.iter().sum::<f64>() / enqueue.len() as f64;
    let timed = Timed { timing: Timing { samples, repetitions: 1, enqueue_ms }, memory };
    let more = record(json!({ "images": 2 * sizes.batch, "tvat": tvat }));
    stage::report(run, "step", &timed, "finite losses at every step", more)
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
