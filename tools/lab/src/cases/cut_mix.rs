//! CutMix of images.

use crate::bench::Trace;
use crate::bench::case::{Case, Draw, Facts, Work, dims, result};
use crate::check::run_op::{NoAttrs, Run, mix};
use psmt_fast::Result;
use psmt_fast::ops::{self, Backend, CutMixOps, Mix, Shape};

impl CutMixOps for Trace {
    fn cut_mix(&self, x: &Shape, mix: &Mix) -> Shape {
        self.note(CutMix { x: *x, mix: mix.clone() });
        *x
    }
}

/// CutMix of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct CutMix {
    pub x: Shape,
    pub mix: Mix,
}

impl Case for CutMix {
    fn facts(&self) -> Facts {
        Facts::new("cut_mix", format!("{} boxes {}", dims(&self.x), self.mix.boxes.len()))
            .values(2 * self.x.len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let (x, mix) = (draw.tensor(self.x), self.mix.clone());
        result("y", move |b| ops::cut_mix(b, &x, &mix))
    }
}

pub(super) fn fixture<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let NoAttrs {} = run.attrs()?;
    let x = run.tensor("x")?;
    let shape = B::shape(&x);
    let mix = mix(run.fixture, shape.n, (shape.h, shape.w))?;
    let y = ops::cut_mix(run.b, &x, &mix)?;
    run.put_tensor("y", &y);
    Ok(())
}
