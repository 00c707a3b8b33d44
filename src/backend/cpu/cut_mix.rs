//! CutMix of images, and the reading of rows (labels, confidences) through it.

use super::{Cpu, Real, Tensor};
use crate::ops::{CutMixOps, Mix, Shape};
use rayon::prelude::*;

impl<T: Real> CutMixOps for Cpu<T> {
    fn cut_mix(&self, x: &Tensor<T>, mix: &Mix) -> Tensor<T> {
        let Shape { h, w, c, .. } = x.shape();
        Tensor::overwrite(x.shape(), |out| {
            out.par_chunks_mut(w * c).enumerate().for_each(|(r, row)| {
                let source = |image: usize| &x.data()[(image * h + r % h) * w * c..][..w * c];
                mixed_row(mix, r / h, r % h, c, source, row);
            });
        })
    }
}

/// Row `y` of the mixed `image`, of `per_pixel` values per pixel; `source(i)` is that row of the unmixed
/// image i.
pub fn mixed_row<'a, V: Copy + 'a>(
    mix: &Mix,
    image: usize,
    y: usize,
    per_pixel: usize,
    source: impl Fn(usize) -> &'a [V],
    out: &mut [V],
) {
    out.copy_from_slice(source(image));
    for (boxes, perm) in mix.boxes.iter().zip(&mix.perm) {
        let [y0, x0, y1, x1] = boxes[image];
        if (y0..y1).contains(&y) {
            let columns = x0 * per_pixel..x1 * per_pixel;
            out[columns.clone()].copy_from_slice(&source(perm[image])[columns]);
        }
    }
}
