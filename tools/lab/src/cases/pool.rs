//! Max pooling and adaptive average pooling.

use crate::bench::Trace;
use crate::bench::case::{Case, Draw, Facts, Work, dims, dims_to, result, sized};
use psmt_fast::Result;
use psmt_fast::ops::{self, Backend, MaxPool2d, PoolOps, Shape, Size};

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

/// Its backward pass.
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

/// Its backward pass, to an input of `size`.
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
