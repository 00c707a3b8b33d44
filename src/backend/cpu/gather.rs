//! The geometry of im2col: which input position each output position of a convolution reads at which tap,
//! forward and for the data gradient, and copying what it reads.
//!
//! Output positions are grouped into classes that read at the same taps. So neither padding nor stride costs
//! multiplications by zero: an 8x8 image under a dilation of 12 has one class with one tap. Where few
//! positions touch the padding, one class of all positions with zeros for padding costs less than many small
//! ones.

use super::Real;
use crate::ops::{Conv2d, Shape};

/// What the positions along one axis read.
struct Axis {
    /// What a position reads at a tap, `source[position * kernel + tap]`; `None` for padding.
    source: Vec<Option<u32>>,
    /// Positions that read at the same taps, and those taps.
    groups: Vec<(Vec<u32>, Vec<u32>)>,
    /// Whether each position reads at every tap.
    full: Vec<bool>,
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
        let full = source.chunks_exact(kernel).map(|row| row.iter().all(Option::is_some)).collect();
        Axis { source, groups, full }
    }
}

/// Output positions of all images that read at the same taps, or all output positions.
pub struct Class {
    ys: Vec<u32>,
    xs: Vec<u32>,
    /// Whether every member reads at every one of `taps`, so that there is no padding to fill.
    exact: bool,
    /// Taps, row by row of the kernel.
    pub taps: Vec<usize>,
    /// Number of positions.
    pub len: usize,
}

/// Image, row and column of an output position.
#[derive(Clone, Copy)]
pub struct Place {
    n: usize,
    y: usize,
    x: usize,
}

/// Consecutive taps that read consecutive positions.
struct Run {
    /// The first tap.
    tap: usize,
    /// Its number among the taps asked for.
    number: usize,
    /// Number of taps.
    taps: usize,
}

/// What all output positions of a convolution read.
pub struct Gather {
    y: Axis,
    x: Axis,
    /// Side of the kernel.
    pub kernel: usize,
    out: Shape,
    src: Shape,
    /// Each output position is in one of them.
    pub classes: Vec<Class>,
}

/// A tensor to gather from.
pub struct Source<'a, T> {
    pub values: &'a [T],
    /// Values from position to position.
    pub width: usize,
    /// The values of a position that are read.
    pub columns: std::ops::Range<usize>,
}

impl Gather {
    /// For a forward convolution: outputs read inputs.
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

    /// For a data gradient: input gradients read output gradients. Taps are counted from the last, so that
    /// consecutive ones read consecutive positions here too.
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
                classes.push(Class {
                    ys: ys.clone(),
                    xs: xs.clone(),
                    exact: true,
                    taps: taps.collect(),
                    len,
                });
            }
        }
        Gather { y, x, kernel, out, src, classes }
    }

    /// All positions with all taps.
    pub fn whole(&self) -> Class {
        let (ys, xs) = ((0..self.out.h as u32).collect(), (0..self.out.w as u32).collect());
        let exact = self.y.full.iter().chain(&self.x.full).all(|&full| full);
        let taps = (0..self.kernel * self.kernel).collect();
        Class { ys, xs, exact, taps, len: self.out.positions() }
    }

    /// Number of taps at which any position reads.
    pub fn used_taps(&self) -> usize {
        let used = |tap: &usize| self.classes.iter().any(|c| c.taps.contains(tap));
        (0..self.kernel * self.kernel).filter(used).count()
    }

    /// Member `number` of `class`.
    pub fn place(&self, class: &Class, number: usize) -> Place {
        let (rows, columns) = (class.ys.len(), class.xs.len());
        let (b, row) = (number % columns, number / columns);
        Place { n: row / rows, y: class.ys[row % rows] as usize, x: class.xs[b] as usize }
    }

    /// Members `from..from + len` of `class`.
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

    /// First output position of members `from..from + len` if these are consecutive positions.
    pub fn targets_in_order(&self, class: &Class, from: usize, len: usize) -> Option<usize> {
        let first = self.target(&self.place(class, from));
        // Members are in the order of their positions.
        (self.target(&self.place(class, from + len - 1)) - first == len - 1).then_some(first)
    }

    /// First input position that members `from..from + len` read at `tap` if they read consecutive positions.
    pub fn sources_in_order(&self, class: &Class, from: usize, len: usize, tap: usize) -> Option<usize> {
        let first = self.source(&self.place(class, from), tap)?;
        let last = self.source(&self.place(class, from + len - 1), tap)?;
        (class.exact && last - first == len - 1).then_some(first)
    }

    /// Groups of taps that read consecutive positions, so that one copy serves a group. `place` reads at all
    /// of them.
    fn runs(&self, taps: &[usize], place: &Place) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let mut last = None;
        for (number, &tap) in taps.iter().enumerate() {
            let source = self.source(place, tap);
            match runs.last_mut() {
                // Within a row of the image: across its end, whether positions are consecutive differs by
                // member.
                Some(run) if run.tap / self.kernel == tap / self.kernel && source == last => run.taps += 1,
                _ => runs.push(Run { tap, number, taps: 1 }),
            }
            last = source.map(|v| v + 1);
        }
        runs
    }

    /// Fills an im2col strip: one row per place, what it reads at `taps`, one tap after the other; zeros for
    /// padding.
    pub fn fill<T: Real>(
        &self,
        strip: &mut [T],
        class: &Class,
        places: &[Place],
        taps: &[usize],
        source: Source<'_, T>,
    ) {
        let Source { values: source, width, columns } = source;
        let len = columns.len();
        let full = |p: &Place| class.exact || self.y.full[p.y] && self.x.full[p.x];
        let mut runs: Option<Vec<Run>> = None;
        for (place, row) in places.iter().zip(strip.chunks_exact_mut(taps.len() * len)) {
            if len == width && full(place) {
                for run in runs.get_or_insert_with(|| self.runs(taps, place)) {
                    let q = self.source(place, run.tap).unwrap_or(0);
                    copy_short(&mut row[run.number * width..][..run.taps * width], &source[q * width..]);
                }
                continue;
            }
            for (&tap, part) in taps.iter().zip(row.chunks_exact_mut(len)) {
                match self.source(place, tap) {
                    Some(q) => copy_short(part, &source[q * width + columns.start..]),
                    None => part.fill(T::ZERO),
                }
            }
        }
    }

    /// Index of an output position.
    #[inline]
    pub fn target(&self, place: &Place) -> usize {
        (place.n * self.out.h + place.y) * self.out.w + place.x
    }

    /// Index of the input position that `place` reads at `tap`; `None` for padding.
    #[inline]
    pub fn source(&self, place: &Place, tap: usize) -> Option<usize> {
        let sy = self.y.source[place.y * self.kernel + tap / self.kernel]?;
        let sx = self.x.source[place.x * self.kernel + tap % self.kernel]?;
        Some((place.n * self.src.h + sy as usize) * self.src.w + sx as usize)
    }

    /// All pairs (output position, input position read at `tap`), in the order of output positions.
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

/// Copies as many values as `to` has: often a few channels, for which a call of `memcpy` costs more.
#[inline(always)]
fn copy_short<T: Real>(to: &mut [T], from: &[T]) {
    let from = &from[..to.len()];
    if to.len() > 64 {
        to.copy_from_slice(from);
        return;
    }
    let (to8, to_rest) = to.as_chunks_mut::<8>();
    let (from8, from_rest) = from.as_chunks::<8>();
    to8.iter_mut().zip(from8).for_each(|(t, f)| *t = *f);
    let (to4, to_rest) = to_rest.as_chunks_mut::<4>();
    let (from4, from_rest) = from_rest.as_chunks::<4>();
    to4.iter_mut().zip(from4).for_each(|(t, f)| *t = *f);
    to_rest.iter_mut().zip(from_rest).for_each(|(t, f)| *t = *f);
}
