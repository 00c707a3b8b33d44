//! Bilinear interpolation of activations, align_corners, and its gradient (the transposed resampling). Loops
//! run over the channels of a position, which are contiguous; losses, with few channels, use the planar rows
//! of `upsample`.

use super::upsample::Grid;
use super::{Cpu, Real, Tensor};
use crate::ops::{InterpolateOps, Shape, Size};
use rayon::prelude::*;

impl<T: Real> InterpolateOps for Cpu<T> {
    fn interpolate(&self, x: &Tensor<T>, size: Size) -> Tensor<T> {
        let low = x.shape();
        let grid = Grid::<T>::new(low, size);
        let (stride, row_len) = (low.w * low.c, grid.row_len());
        Tensor::overwrite(Shape::new(low.n, size.0, size.1, low.c), |out| {
            out.par_chunks_mut(ROWS * row_len).enumerate().for_each(|(task, rows)| {
                let mut blend = vec![T::ZERO; stride];
                for (r, row) in (task * ROWS..).zip(rows.chunks_exact_mut(row_len)) {
                    let (image, y) = (r / size.0, r % size.0);
                    let line = |j: usize| &x.data()[(image * low.h + j) * stride..][..stride];
                    let (a, b, f) = (line(grid.ys.lo[y]), line(grid.ys.hi[y]), grid.ys.frac[y]);
                    for ((v, &a), &b) in blend.iter_mut().zip(a).zip(b) {
                        *v = f.mul_add(b - a, a);
                    }
                    for (i, pixel) in row.chunks_exact_mut(low.c).enumerate() {
                        let (a, b) = (&blend[grid.xs.lo[i] * low.c..], &blend[grid.xs.hi[i] * low.c..]);
                        let f = grid.xs.frac[i];
                        for ((v, &a), &b) in pixel.iter_mut().zip(a).zip(b) {
                            *v = f.mul_add(b - a, a);
                        }
                    }
                }
            });
        })
    }
    fn interpolate_bwd(&self, dy: &Tensor<T>, x_size: Size) -> Tensor<T> {
        let Shape { n, h, w, c } = dy.shape();
        let low = Shape::new(n, x_size.0, x_size.1, c);
        let grid = Grid::<T>::new(low, (h, w));
        let row_len = grid.row_len();
        let row = |(): &mut (), image: usize, y: usize, values: &mut [T]| {
            values.copy_from_slice(&dy.data()[(image * h + y) * row_len..][..row_len]);
        };
        let (dx, _) =
            grid.transpose(row_len, c, || (), row, |pixels, low_row| grid.fold_pixels(pixels, low_row));
        dx
    }
}

/// Output rows of one task.
const ROWS: usize = 4;
