//! `bench forward`: a network in evaluation mode, images in, full-size logits out.

use super::report::Record;
use super::{Flags, Run, stage};
use crate::bench::{Sizes, close, images};
use psmt_fast::Error;
use psmt_fast::Result;
use psmt_fast::backend::cpu::Cpu;
use psmt_fast::cli::device::Precision;
use psmt_fast::model::{Initialization, Network};
use psmt_fast::on_device;
use psmt_fast::ops::{self, Backend, Device};

pub(super) fn run(flags: &Flags) -> Result<()> {
    let run = flags.resolve()?;
    on_device!(run.open()?, b => forward(b, &run))
}

/// A network and images.
struct State<B: Backend> {
    net: Network<B>,
    x: B::Tensor,
}

fn make<B: Backend>(b: &B, sizes: &Sizes) -> State<B> {
    let (params, stats) = sizes.arch.init(Initialization::default(), 0, 0);
    State { net: Network::upload(b, &params, &stats), x: images(b, sizes.images(), 0) }
}

fn logits<B: Backend>(b: &B, sizes: &Sizes, state: &State<B>) -> Result<B::Tensor> {
    let low = sizes.arch.predict(b, &state.net, &state.x)?;
    ops::interpolate(b, &low, (sizes.crop, sizes.crop))
}

fn forward<B: Backend>(b: &B, run: &Run) -> Result<()> {
    let small = run.sizes.small()?;
    let cpu = Cpu::<f64>::new();
    let want = cpu.download(&logits(&cpu, &small, &make(&cpu, &small))?);
    let got = b.download(&logits(b, &small, &make(b, &small))?);
    b.check()?;
    // A network rounds at each of its layers, an op once.
    let tolerance = if run.precision == Precision::Bf16 { 5e-2 } else { 1e-3 };
    let error = close("forward: the logits of a tiny network", &got, &want, tolerance)?;
    let out = logits(b, &run.sizes, &make(b, &run.sizes))?;
    let finite = ops::first_non_finite_in(b, &out).is_none();
    b.check()?;
    if !finite {
        return Err(Error::CheckFailed("forward: a logit is not finite".into()));
    }
    drop(out);
    let timed = stage::time(b, run, |b| Ok(make(b, &run.sizes)), |b, s| logits(b, &run.sizes, s).map(drop))?;
    let check = format!("a tiny network beside the processor in f64, off by {error:.1e}; finite here");
    stage::report(run, "forward", &timed, &check, Record::new())
}
