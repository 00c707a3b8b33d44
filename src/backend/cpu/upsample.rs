//! Bilinear resampling with align_corners, row by row, and its transpose: with them, losses work on
//! full-resolution rows without ever holding full-resolution logits. Must not know losses.
//!
//! Rows that losses work on are planar, `[c][width]`, so that loops over pixels are vectorised for any number
//! of classes. An output row lies between two input rows; the columns of those two are interpolated once and
//! kept, so an output row costs one vertical blend. The transpose does the reverse: rows between the same two
//! input rows are summed at full width, and the columns of the sum are reduced once.

use super::{Real, Tensor};
use crate::ops::{Shape, Size};
use rayon::prelude::*;

/// Input rows whose gradient one task computes. A constant, so that the order of additions does not depend on
/// the threads.
const BAND: usize = 8;

/// The interpolation along one axis: output i is in[lo[i]] + frac[i] (in[hi[i]] - in[lo[i]]).
pub struct Axis<T> {
    /// Input at or before each output, never decreasing.
    pub lo: Vec<usize>,
    /// The input after `lo`, `lo` itself where the axis has one input.
    pub hi: Vec<usize>,
    /// Weight of `hi`.
    pub frac: Vec<T>,
    /// Outputs `first[j]..first[j + 1]` have `lo` j.
    pub first: Vec<usize>,
}

impl<T: Real> Axis<T> {
    /// Resampling of `from` inputs to `to` outputs, both at least 1. Output i sits at i (from - 1) / (to -
    /// 1), at 0 where `to` is 1; integer and fractional part are computed in integers.
    pub fn new(from: usize, to: usize) -> Axis<T> {
        let (num, den) = (from - 1, (to - 1).max(1));
        let lo: Vec<usize> = (0..to).map(|i| (i * num / den).min(from.saturating_sub(2))).collect();
        let hi = lo.iter().map(|&v| (v + 1).min(from - 1)).collect();
        let frac = (0..to).map(|i| T::from_f64((i * num - lo[i] * den) as f64 / den as f64)).collect();
        let first = (0..=from).map(|j| lo.partition_point(|&v| v < j)).collect();
        Axis { lo, hi, frac, first }
    }
}

/// Resampling of images of shape `low` to `size`.
pub struct Grid<T> {
    /// Shape of the input.
    pub low: Shape,
    /// Rows and columns of the output.
    pub size: Size,
    pub ys: Axis<T>,
    pub xs: Axis<T>,
}

impl<T: Real> Grid<T> {
    pub fn new(low: Shape, size: Size) -> Grid<T> {
        Grid { low, size, ys: Axis::new(low.h, size.0), xs: Axis::new(low.w, size.1) }
    }

    /// Values of one output row.
    pub fn row_len(&self) -> usize {
        self.low.c * self.size.1
    }

    /// Interpolates the columns of one input row (`[w][c]`) to planes (`[c][width]`).
    fn expand(&self, low_row: &[T], planes: &mut [T]) {
        let c = self.low.c;
        for (class, plane) in planes.chunks_exact_mut(self.size.1).enumerate() {
            let taps = self.xs.lo.iter().zip(&self.xs.hi).zip(&self.xs.frac);
            for (v, ((&lo, &hi), &f)) in plane.iter_mut().zip(taps) {
                let a = low_row[lo * c + class];
                *v = f.mul_add(low_row[hi * c + class] - a, a);
            }
        }
    }

    /// Transpose of [`Grid::expand`]: planes (`[p][width]`, p any number) to one input row (`[w][p]`),
    /// overwritten.
    fn fold_planes(&self, planes: &[T], low_row: &mut [T]) {
        let (w, count) = (self.low.w, planes.len() / self.size.1);
        for (p, plane) in planes.chunks_exact(self.size.1).enumerate() {
            let mut carry = T::ZERO;
            for j in 0..w {
                let run = self.xs.first[j]..self.xs.first[j + 1];
                let (mut here, mut next) = (carry, T::ZERO);
                for (&g, &f) in plane[run.clone()].iter().zip(&self.xs.frac[run]) {
                    here = (T::ONE - f).mul_add(g, here);
                    next = f.mul_add(g, next);
                }
                low_row[j * count + p] = here;
                carry = next;
            }
        }
    }

    /// Transpose of the column interpolation for a row of pixels (`[width][c]`) to one input row (`[w][c]`),
    /// overwritten.
    pub fn fold_pixels(&self, pixels: &[T], low_row: &mut [T]) {
        let c = self.low.c;
        low_row.fill(T::ZERO);
        for (x, pixel) in pixels.chunks_exact(c).enumerate() {
            let (lo, f) = (self.xs.lo[x] * c, self.xs.frac[x]);
            for (a, &g) in low_row[lo..lo + c].iter_mut().zip(pixel) {
                *a = (T::ONE - f).mul_add(g, *a);
            }
            let hi = self.xs.hi[x] * c;
            for (a, &g) in low_row[hi..hi + c].iter_mut().zip(pixel) {
                *a = f.mul_add(g, *a);
            }
        }
    }

    /// Transposed resampling of rows that `row(state, image, y, values)` writes, `len` values each; `fold`
    /// transposes their columns into one input row. Returns the gradient, of the input's shape but for its
    /// `channels`, and the states, one a band of input rows in order, each made by `init`.
    ///
    /// A band owns the output rows that begin between its input rows. What these contribute to the first row
    /// of the next band is kept separately and added at the end, in order.
    pub fn transpose<S: Send>(
        &self,
        len: usize,
        channels: usize,
        init: impl Fn() -> S + Sync,
        row: impl Fn(&mut S, usize, usize, &mut [T]) + Sync,
        fold: impl Fn(&[T], &mut [T]) + Sync,
    ) -> (Tensor<T>, Vec<S>) {
        let mut states = Vec::new();
        let gradient = Tensor::overwrite(self.low.with_channels(channels), |out| {
            states = self.transpose_into(out, len, self.low.w * channels, init, row, fold);
        });
        (gradient, states)
    }

    /// [`Grid::transpose`] into `out`, `stride` values an input row.
    fn transpose_into<S: Send>(
        &self,
        out: &mut [T],
        len: usize,
        stride: usize,
        init: impl Fn() -> S + Sync,
        row: impl Fn(&mut S, usize, usize, &mut [T]) + Sync,
        fold: impl Fn(&[T], &mut [T]) + Sync,
    ) -> Vec<S> {
        let h = self.low.h;
        let bands: Vec<_> = out
            .chunks_mut(h * stride)
            .enumerate()
            .flat_map(|(image, rows)| {
                rows.chunks_mut(BAND * stride).enumerate().map(move |(band, rows)| (image, band * BAND, rows))
            })
            .collect();
        let (states, spills): (Vec<S>, Vec<Vec<T>>) = bands
            .into_par_iter()
            .map(|(image, top, rows)| {
                let mut state = init();
                let (mut values, mut here, mut next) =
                    (vec![T::ZERO; len], vec![T::ZERO; len], vec![T::ZERO; len]);
                for (j, low_row) in (top..).zip(rows.chunks_mut(stride)) {
                    for y in self.ys.first[j]..self.ys.first[j + 1] {
                        row(&mut state, image, y, &mut values);
                        let f = self.ys.frac[y];
                        let rest = T::ONE - f;
                        for ((&g, a), b) in values.iter().zip(&mut here).zip(&mut next) {
                            *a = rest.mul_add(g, *a);
                            *b = f.mul_add(g, *b);
                        }
                    }
                    fold(&here, low_row);
                    std::mem::swap(&mut here, &mut next);
                    next.fill(T::ZERO);
                }
                let mut spill = vec![T::ZERO; stride];
                fold(&here, &mut spill);
                (state, spill)
            })
            .unzip();
        let bands = h.div_ceil(BAND);
        for (k, spill) in spills.iter().enumerate().filter(|(k, _)| (k + 1) % bands != 0) {
            let next_row = (k / bands * h + (k % bands + 1) * BAND) * stride;
            for (v, &s) in out[next_row..].iter_mut().zip(spill) {
                *v += s;
            }
        }
        states
    }

    /// [`Grid::transpose`] for planar rows, `groups` times the input's channels.
    pub fn transpose_planes<S: Send>(
        &self,
        groups: usize,
        init: impl Fn() -> S + Sync,
        row: impl Fn(&mut S, usize, usize, &mut [T]) + Sync,
    ) -> (Tensor<T>, Vec<S>) {
        let (len, channels) = (groups * self.row_len(), groups * self.low.c);
        self.transpose(len, channels, init, row, |planes, low_row| self.fold_planes(planes, low_row))
    }
}

/// Interpolates a tensor's rows to a grid's output size. It keeps two input rows at full width, so that
/// reading rows of one image in order interpolates each input row's columns once.
pub struct Reader<'a, T> {
    grid: &'a Grid<T>,
    low: &'a [T],
    rows: [Vec<T>; 2],
    held: Option<(usize, usize)>,
}

impl<'a, T: Real> Reader<'a, T> {
    /// A reader of `low`, of the shape of the grid's input.
    pub fn new(grid: &'a Grid<T>, low: &'a Tensor<T>) -> Reader<'a, T> {
        Reader { grid, low: low.data(), rows: [Vec::new(), Vec::new()], held: None }
    }

    /// Row `y` of `image` as planes `[c][width]`.
    pub fn row(&mut self, image: usize, y: usize, planes: &mut [T]) {
        let (lo, hi, f) = (self.grid.ys.lo[y], self.grid.ys.hi[y], self.grid.ys.frac[y]);
        if self.held != Some((image, lo)) {
            if lo > 0 && self.held == Some((image, lo - 1)) {
                self.rows.swap(0, 1);
            } else {
                self.load(0, image, lo);
            }
            self.load(1, image, hi);
            self.held = Some((image, lo));
        }
        for ((v, &a), &b) in planes.iter_mut().zip(&self.rows[0]).zip(&self.rows[1]) {
            *v = f.mul_add(b - a, a);
        }
    }

    fn load(&mut self, slot: usize, image: usize, y: usize) {
        let stride = self.grid.low.w * self.grid.low.c;
        let start = (image * self.grid.low.h + y) * stride;
        self.rows[slot].resize(self.grid.row_len(), T::ZERO);
        self.grid.expand(&self.low[start..start + stride], &mut self.rows[slot]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_meet_and_runs_cover_all_outputs() {
        for (from, to) in [(1, 1), (1, 5), (4, 1), (2, 2), (5, 17), (7, 7), (20, 7), (3, 2)] {
            let axis = Axis::<f64>::new(from, to);
            assert_eq!(axis.first.len(), from + 1);
            assert_eq!((axis.first[0], axis.first[from]), (0, to), "{from} to {to}");
            for i in 0..to {
                let at = axis.lo[i] as f64 + axis.frac[i];
                let want = if to > 1 { i as f64 * (from - 1) as f64 / (to - 1) as f64 } else { 0.0 };
                assert!((at - want).abs() < 1e-12 && (0.0..=1.0).contains(&axis.frac[i]));
                assert!(
                    axis.hi[i] < from && (axis.first[axis.lo[i]]..axis.first[axis.lo[i] + 1]).contains(&i)
                );
            }
        }
    }

    #[test]
    fn a_reader_gives_the_same_rows_in_any_order() {
        let shape = Shape::new(2, 5, 3, 4);
        let x = Tensor::from_fn(shape, |i| ((i * 37) % 101) as f64);
        let grid = Grid::new(shape, (13, 7));
        let mut ordered = Reader::new(&grid, &x);
        for image in 0..2 {
            for y in 0..13 {
                let (mut a, mut b) = (vec![0.0; grid.row_len()], vec![0.0; grid.row_len()]);
                ordered.row(image, y, &mut a);
                let mut jumping = Reader::new(&grid, &x);
                jumping.row(1 - image, 12 - y, &mut b);
                jumping.row(image, y, &mut b);
                assert_eq!(a, b);
            }
        }
    }
}
