//! Which input position each output position of a convolution reads through which tap, for the forward direction and
//! for the data gradient. Knows geometry only, no values.
//!
//! Positions are grouped into classes that read through the same set of taps. So neither padding nor stride costs
//! multiplications with zeros: a map of 8x8 under a dilation of 12 has one class with one tap.

use crate::ops::{Conv2d, Shape};

/// One axis: what positions read through what taps.
struct Axis {
    /// `source[position * kernel + tap]`.
    source: Vec<Option<u32>>,
    /// Positions with the same taps, and those taps.
    groups: Vec<(Vec<u32>, Vec<u32>)>,
}

impl Axis {
    fn new(len: usize, kernel: usize, source: impl Fn(usize, usize) -> Option<u32>) -> Axis {
        let source: Vec<_> = (0..len * kernel).map(|i| source(i / kernel, i % kernel)).collect();
        let mut groups: Vec<(Vec<u32>, Vec<u32>)> = Vec::new();
        for (at, row) in source.chunks_exact(kernel).enumerate() {
            let taps: Vec<u32> = (0..kernel as u32).filter(|&t| row[t as usize].is_some()).collect();
            match groups.iter_mut().find(|g| g.1 == taps) {
                Some(group) => group.0.push(at as u32),
                None => groups.push((vec![at as u32], taps)),
            }
        }
        Axis { source, groups }
    }
}

/// Positions of all images that read through the same taps.
pub struct Class {
    ys: Vec<u32>,
    xs: Vec<u32>,
    /// Taps, row by row of the kernel.
    pub taps: Vec<usize>,
    /// Number of positions.
    pub len: usize,
}

/// An output position.
pub struct Place {
    n: usize,
    y: usize,
    x: usize,
}

/// Taps of a class that read neighbouring positions.
pub struct Run {
    /// Row and column in the kernel of the first tap.
    pub tap: (usize, usize),
    /// Its number among the class's taps.
    pub number: usize,
    /// How many.
    pub taps: usize,
}

/// The whole relation.
pub struct Gather {
    y: Axis,
    x: Axis,
    /// Side of the kernel.
    pub kernel: usize,
    out: Shape,
    src: Shape,
    /// Its classes; every output position is in one.
    pub classes: Vec<Class>,
}

impl Gather {
    /// Outputs read inputs.
    pub fn fprop(conv: &Conv2d, x: Shape) -> Gather {
        let source = |len: usize| {
            move |at: usize, tap: usize| {
                (at * conv.stride + tap * conv.dilation)
                    .checked_sub(conv.padding)
                    .filter(|&v| v < len)
                    .map(|v| v as u32)
            }
        };
        Gather::new(conv.out_shape(x), x, conv.kernel, source(x.h), source(x.w))
    }

    /// Input gradients read output gradients. Taps are counted from the last, so that consecutive ones read
    /// consecutive positions here too.
    pub fn dgrad(conv: &Conv2d, x: Shape) -> Gather {
        let y = conv.out_shape(x);
        let source = |len: usize| {
            move |at: usize, tap: usize| {
                let v = (at + conv.padding).checked_sub((conv.kernel - 1 - tap) * conv.dilation)?;
                (v % conv.stride == 0 && v / conv.stride < len).then_some((v / conv.stride) as u32)
            }
        };
        Gather::new(x, y, conv.kernel, source(y.h), source(y.w))
    }

    fn new(
        out: Shape,
        src: Shape,
        kernel: usize,
        y: impl Fn(usize, usize) -> Option<u32>,
        x: impl Fn(usize, usize) -> Option<u32>,
    ) -> Gather {
        let (y, x) = (Axis::new(out.h, kernel, y), Axis::new(out.w, kernel, x));
        let mut classes = Vec::new();
        for (ys, kys) in &y.groups {
            for (xs, kxs) in &x.groups {
                let taps =
                    kys.iter().flat_map(|ky| kxs.iter().map(move |kx| *ky as usize * kernel + *kx as usize));
                let len = out.n * ys.len() * xs.len();
                classes.push(Class { ys: ys.clone(), xs: xs.clone(), taps: taps.collect(), len });
            }
        }
        Gather { y, x, kernel, out, src, classes }
    }

    /// Taps that any position reads through, in order.
    pub fn used_taps(&self) -> Vec<usize> {
        let used = |tap: &usize| self.classes.iter().any(|c| c.taps.contains(tap));
        (0..self.kernel * self.kernel).filter(used).collect()
    }

    /// Output positions of members `from..from + len` of `class`.
    pub fn places(&self, class: &Class, from: usize, len: usize) -> Vec<Place> {
        let (rows, columns) = (class.ys.len(), class.xs.len());
        let (mut b, row) = (from % columns, from / columns);
        let (mut a, mut n) = (row % rows, row / rows);
        let mut places = Vec::with_capacity(len);
        for _ in 0..len {
            places.push(Place { n, y: class.ys[a] as usize, x: class.xs[b] as usize });
            b += 1;
            if b == columns {
                (a, b) = (a + 1, 0);
            }
            if a == rows {
                (n, a) = (n + 1, 0);
            }
        }
        places
    }

    /// Groups of the class's taps that read neighbouring positions: one copy serves them. `place` is any member.
    pub fn runs(&self, class: &Class, place: &Place) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let mut last = None;
        for (number, &tap) in class.taps.iter().enumerate() {
            let tap = (tap / self.kernel, tap % self.kernel);
            let source = self.source(place, tap);
            match runs.last_mut() {
                // In one row of the image; across its end neighbours differ from member to member.
                Some(run) if run.tap.0 == tap.0 && source == last => run.taps += 1,
                _ => runs.push(Run { tap, number, taps: 1 }),
            }
            last = source.map(|v| v + 1);
        }
        runs
    }

    /// Number of an output position.
    #[inline]
    pub fn target(&self, place: &Place) -> usize {
        (place.n * self.out.h + place.y) * self.out.w + place.x
    }

    /// Input position that `place` reads through `tap`, if it is not padding.
    #[inline]
    pub fn source(&self, place: &Place, tap: (usize, usize)) -> Option<usize> {
        let sy = self.y.source[place.y * self.kernel + tap.0]?;
        let sx = self.x.source[place.x * self.kernel + tap.1]?;
        Some((place.n * self.src.h + sy as usize) * self.src.w + sx as usize)
    }

    /// All pairs (output position, input position) that `tap` joins, in the order of outputs.
    pub fn pairs(&self, tap: usize) -> Vec<(u32, u32)> {
        let (ky, kx) = (tap / self.kernel, tap % self.kernel);
        let mut pairs = Vec::new();
        for n in 0..self.out.n {
            for y in 0..self.out.h {
                let Some(sy) = self.y.source[y * self.kernel + ky] else { continue };
                let (row, src) =
                    ((n * self.out.h + y) * self.out.w, (n * self.src.h + sy as usize) * self.src.w);
                for x in 0..self.out.w {
                    if let Some(sx) = self.x.source[x * self.kernel + kx] {
                        pairs.push(((row + x) as u32, (src + sx as usize) as u32));
                    }
                }
            }
        }
        pairs
    }
}
