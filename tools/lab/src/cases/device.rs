//! What a device does with its memory: clearing a vector, and looking for values that are not finite.

use crate::bench::case::{Case, Draw, Facts, WIDE, Work, dims, work};
use psmt_fast::Result;
use psmt_fast::ops::{Backend, Shape};

/// A vector set to zero.
#[derive(Clone, Debug, PartialEq)]
pub struct Clear {
    pub len: usize,
}

impl Case for Clear {
    fn facts(&self) -> Facts {
        Facts::new("clear", self.len.to_string()).bytes(WIDE * self.len)
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let mut v = draw.vector(self.len);
        work(move |b: &B, out| {
            b.clear(&mut v);
            out.updated(b, "v", &v);
            Ok(())
        })
    }
}

/// The search for values that are not finite in an activation that has one in its middle.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchTensor {
    pub x: Shape,
}

impl Case for WatchTensor {
    fn facts(&self) -> Facts {
        Facts::new("watch_tensor", dims(&self.x)).values(self.x.len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let mut values = draw.coarse(self.x.len());
        values[self.x.len() / 2] = f32::INFINITY;
        let (x, mut watch) = (draw.b.upload(self.x, &values), draw.b.zero_counts(1));
        work(move |b: &B, out| {
            b.watch_tensor(&mut watch, &x, 0);
            out.counts("found", watch.clone());
            Ok(())
        })
    }
}

/// The search for values that are not finite in a vector that has one in its middle.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchVector {
    pub len: usize,
}

impl Case for WatchVector {
    fn facts(&self) -> Facts {
        Facts::new("watch_vector", self.len.to_string()).bytes(WIDE * self.len)
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let mut values = draw.coarse(self.len);
        values[self.len / 2] = f32::NAN;
        let (v, mut watch) = (draw.b.upload_vector(&values), draw.b.zero_counts(1));
        work(move |b: &B, out| {
            b.watch_vector(&mut watch, &v, 0);
            out.counts("found", watch.clone());
            Ok(())
        })
    }
}
