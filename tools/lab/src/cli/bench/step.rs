//! `bench step`: one full training iteration with planned memory, as `bench_torch.py --what step`.

use super::report::record;
use super::stage::{self, Timed};
use super::{Run, StageFlags, full_name};
use crate::bench::{networks, random_batch, sample, step_args};
use psmt_fast::config::{ImageSizes, RunConfig, estimated_memory};
use psmt_fast::method::{self, Batch, Networks, StepArgs, StepOut, Tvat};
use psmt_fast::model::Architecture;
use psmt_fast::on_device;
use psmt_fast::ops::Backend;
use psmt_fast::train;
use psmt_fast::{Error, Result};
use serde_json::json;

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
    let plan = planned
        .as_ref()
        .map_or_else(|| estimated_memory(&sized, &ImageSizes::default()), |(_, plan)| Ok(plan.clone()))?;
    train::check_memory(b, &sized, false, &ImageSizes::default(), &plan)?;
    let b = planned.as_ref().map_or(b, |(device, _)| device);
    let mut nets = networks(b, sizes);
    let batch = random_batch(b, sizes);
    let mut losses = Vec::new();
    let timing = sample(b, run.step_sampling(), |_| {
        let out = train_step(b, arch, &mut nets, &batch, &args)?;
        losses.push((out.loss_sup, out.unsup));
        Ok(())
    })?;
    // A step that computes nonsense is not worth timing.
    for (step, (sup, unsup)) in losses.iter().enumerate() {
        let loss = b.read_scalar(sup) + unsup.as_ref().map_or(0.0, |unsup| unsup.loss(b));
        b.check()?;
        if !loss.is_finite() {
            let checkpoint = "none, this is a benchmark".into();
            return Err(Error::NonFinite { tensor: "loss".into(), step: step as u64, checkpoint });
        }
    }
    let timed = Timed { timing, memory };
    let more = record(json!({ "images": 2 * sizes.batch, "tvat": tvat }));
    stage::report(run, "step", &timed, "finite losses at every step", more)
}

/// One iteration; of its results the losses stay.
fn train_step<B: Backend>(
    b: &B,
    arch: &Architecture,
    nets: &mut Networks<B>,
    batch: &Batch<B>,
    args: &StepArgs,
) -> Result<StepOut<B>> {
    b.step(train::METHOD, || {
        method::train_step(b, arch, nets, batch, args).map(|out| StepOut { logits: Vec::new(), ..out })
    })
}
