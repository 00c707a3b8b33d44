//! Bilinear interpolation.

use crate::bench::Trace;
use crate::bench::case::{Case, Draw, Facts, Work, dims_to, result, sized};
use crate::check::gradcheck::{Claimant, Problem, resampling};
use crate::check::run_op::Run;
use psmt_fast::Result;
use psmt_fast::ops::{self, Backend, InterpolateOps, Shape, Size};
use psmt_fast::rng::Stream;

impl InterpolateOps for Trace {
    fn interpolate(&self, x: &Shape, size: Size) -> Shape {
        self.note(Interpolate { x: *x, size });
        sized(x, size)
    }
    fn interpolate_bwd(&self, dy: &Shape, size: Size) -> Shape {
        self.note(InterpolateBwd { dy: *dy, size });
        sized(dy, size)
    }
}

/// The forward pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Interpolate {
    pub x: Shape,
    pub size: Size,
}

impl Case for Interpolate {
    fn facts(&self) -> Facts {
        Facts::new("interpolate", dims_to(&self.x, self.size))
            .values(self.x.len() + sized(&self.x, self.size).len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let (x, size) = (draw.tensor(self.x), self.size);
        result("y", move |b| ops::interpolate(b, &x, size))
    }
}

/// The backward pass, to an input of `size`.
#[derive(Clone, Debug, PartialEq)]
pub struct InterpolateBwd {
    pub dy: Shape,
    pub size: Size,
}

impl Case for InterpolateBwd {
    fn facts(&self) -> Facts {
        Facts::new("interpolate_bwd", dims_to(&self.dy, self.size))
            .values(self.dy.len() + sized(&self.dy, self.size).len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let (dy, size) = (draw.tensor(self.dy), self.size);
        result("dx", move |b| ops::interpolate_bwd(b, &dy, size))
    }
}

pub(super) fn fixture<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    run.resample(ops::interpolate, ops::interpolate_bwd)
}

pub(super) fn problems<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    resampling(b, rng, ops::interpolate, ops::interpolate_bwd)
}
