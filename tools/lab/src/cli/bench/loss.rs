//! `bench loss`: both teachers' and the student's stride-4 logits in; pseudo labels, Conf-CE and its gradient
//! out.

use super::report::Record;
use super::{Flags, Run, stage};
use crate::bench::images;
use psmt_fast::config::MethodConfig;
use psmt_fast::on_device;
use psmt_fast::ops::{self, Backend, Mix};
use psmt_fast::{Error, Result};

pub(super) fn run(flags: &Flags) -> Result<()> {
    let run = flags.resolve()?;
    on_device!(run.open()?, b => loss(b, &run))
}

fn loss<B: Backend>(b: &B, run: &Run) -> Result<()> {
    let (method, mix) = (MethodConfig::default(), Mix::default());
    let (ensemble, conf_ce) = (method.ensemble(), method.conf_ce());
    let size = (run.sizes.crop, run.sizes.crop);
    let make = |b: &B| Ok([7, 8, 9].map(|number| images(b, run.sizes.logits(), number)));
    let work = |b: &B, [core, assist, student]: &mut [B::Tensor; 3]| {
        let pseudo =
            ops::ensemble_pseudo_label(b, &ops::TeacherLogits { core, assist, ensemble: &ensemble }, size)?;
        ops::conf_ce(
            b,
            &ops::ConfCeArgs {
                student,
                pseudo: &pseudo,
                teachers: ops::TeacherLogits { core, assist, ensemble: &ensemble },
                mix: &mix,
                spec: &conf_ce,
                grad_scale: 1.0,
            },
        )
    };
    let mut oracle = run.oracle()?;
    let mut worst = 0f64;
    for op in ["ensemble_pseudo_label", "conf_ce"] {
        worst = worst.max(oracle.check(b, op)?.1);
    }
    let out = work(b, &mut make(b)?)?;
    let finite =
        b.read_scalar(&out.positive).is_finite() && ops::first_non_finite_in(b, &out.dstudent).is_none();
    b.check()?;
    if !finite {
        return Err(Error::CheckFailed("loss: the loss or its gradient is not finite".into()));
    }
    drop(out);
    let timed = stage::time(b, run, make, |b, state| work(b, state).map(drop))?;
    let check = format!(
        "both ops beside the processor in f64 on small inputs, off by at most {worst:.1e}; finite here"
    );
    stage::report(run, "loss", &timed, &check, Record::new())
}
