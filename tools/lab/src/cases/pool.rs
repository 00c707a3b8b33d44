//! Max pooling and adaptive average pooling.

use crate::bench::Trace;
use crate::bench::case::{Case, Draw, Facts, Work, dims, dims_to, result, sized};
use crate::check::gradcheck::{Claimant, Exact, Problem, resampling, unary};
use crate::check::run_op::Run;
use psmt_fast::Result;
use psmt_fast::ops::{self, Backend, MaxPool2d, PoolOps, Shape, Size};
use psmt_fast::rng::Stream;
use serde::Deserialize;

impl PoolOps for Trace {
    fn max_pool2d(&self, x: &Shape, pool: &MaxPool2d) -> Shape {
        self.note(MaxPool { x: *x, pool: *pool });
        pool.out_shape(*x)
    }
    fn max_pool2d_bwd(&self, _: &Shape, x: &Shape, pool: &MaxPool2d) -> Shape {
        self.note(MaxPoolBwd { x: *x, pool: *pool });
        *x
    }
    fn adaptive_avg_pool2d(&self, x: &Shape, size: Size) -> Shape {
        self.note(AdaptiveAvgPool { x: *x, size });
        sized(x, size)
    }
    fn adaptive_avg_pool2d_bwd(&self, dy: &Shape, size: Size) -> Shape {
        self.note(AdaptiveAvgPoolBwd { dy: *dy, size });
        sized(dy, size)
    }
}

fn window(x: &Shape, pool: &MaxPool2d) -> String {
    format!("{} window {} stride {}", dims(x), pool.kernel, pool.stride)
}

/// Max pooling.
#[derive(Clone, Debug, PartialEq)]
pub struct MaxPool {
    pub x: Shape,
    pub pool: MaxPool2d,
}

impl Case for MaxPool {
    fn facts(&self) -> Facts {
        Facts::new("max_pool2d", window(&self.x, &self.pool))
            .values(self.x.len() + self.pool.out_shape(self.x).len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let (x, pool) = (draw.tensor(self.x), self.pool);
        result("y", move |b| ops::max_pool2d(b, &x, &pool))
    }
}

/// Backward pass of [`MaxPool`].
#[derive(Clone, Debug, PartialEq)]
pub struct MaxPoolBwd {
    pub x: Shape,
    pub pool: MaxPool2d,
}

impl Case for MaxPoolBwd {
    /// x for the place of the maximum, dy; dx.
    fn facts(&self) -> Facts {
        Facts::new("max_pool2d_bwd", window(&self.x, &self.pool))
            .values(2 * self.x.len() + self.pool.out_shape(self.x).len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let pool = self.pool;
        let (dy, x) = (draw.tensor(pool.out_shape(self.x)), draw.tensor(self.x));
        result("dx", move |b| ops::max_pool2d_bwd(b, &dy, &x, &pool))
    }
}

/// Adaptive average pooling.
#[derive(Clone, Debug, PartialEq)]
pub struct AdaptiveAvgPool {
    pub x: Shape,
    pub size: Size,
}

impl Case for AdaptiveAvgPool {
    fn facts(&self) -> Facts {
        Facts::new("adaptive_avg_pool2d", dims_to(&self.x, self.size))
            .values(self.x.len() + sized(&self.x, self.size).len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let (x, size) = (draw.tensor(self.x), self.size);
        result("y", move |b| ops::adaptive_avg_pool2d(b, &x, size))
    }
}

/// Backward pass of [`AdaptiveAvgPool`], to an input of `size`.
#[derive(Clone, Debug, PartialEq)]
pub struct AdaptiveAvgPoolBwd {
    pub dy: Shape,
    pub size: Size,
}

impl Case for AdaptiveAvgPoolBwd {
    fn facts(&self) -> Facts {
        Facts::new("adaptive_avg_pool2d_bwd", dims_to(&self.dy, self.size))
            .values(self.dy.len() + sized(&self.dy, self.size).len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let (dy, size) = (draw.tensor(self.dy), self.size);
        result("dx", move |b| ops::adaptive_avg_pool2d_bwd(b, &dy, size))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PoolAttrs {
    kernel: u32,
    stride: u32,
    padding: u32,
}

pub(super) fn max_pool2d_fixture<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let PoolAttrs { kernel, stride, padding } = run.attrs()?;
    let pool = MaxPool2d { kernel: kernel as usize, stride: stride as usize, padding: padding as usize };
    let (x, dy) = (run.tensor("x")?, run.tensor("dy")?);
    let y = ops::max_pool2d(run.b, &x, &pool)?;
    let dx = ops::max_pool2d_bwd(run.b, &dy, &x, &pool)?;
    run.put_layer(&y, &dx);
    Ok(())
}

pub(super) fn adaptive_avg_pool2d_fixture<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    run.resample(ops::adaptive_avg_pool2d, ops::adaptive_avg_pool2d_bwd)
}

pub(super) fn max_pool2d_problems<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    [(Shape::new(2, 5, 6, 3), 3, 2, 1), (Shape::new(1, 6, 7, 2), 2, 2, 0), (Shape::new(1, 4, 5, 3), 3, 1, 1)]
        .into_iter()
        .map(|(shape, kernel, stride, padding)| {
            let pool = MaxPool2d { kernel, stride, padding };
            unary(
                b,
                rng,
                format!("kernel {kernel}, stride {stride}, padding {padding}"),
                shape,
                move |x| ops::max_pool2d(&Exact::new(), x, &pool),
                |dy, x| ops::max_pool2d_bwd(b, dy, x, &pool),
            )
        })
        .collect()
}

pub(super) fn adaptive_avg_pool2d_problems<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    resampling(b, rng, ops::adaptive_avg_pool2d, ops::adaptive_avg_pool2d_bwd)
}
