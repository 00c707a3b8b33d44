//! Max pooling and adaptive average pooling, forward and backward.
//!
//! Backward passes gather: each task owns rows of dx and visits the windows that cover them, so that no two
//! tasks write the same element and sums have a fixed order.

use super::parallel::{Disjoint, tasks};
use super::{Cpu, Real, Tensor};
use crate::ops::{MaxPool2d, PoolOps, Shape, Size};
use std::ops::Range;

impl<T: Real> PoolOps for Cpu<T> {
    fn max_pool2d(&self, x: &Tensor<T>, spec: &MaxPool2d) -> Tensor<T> {
        let (s, o) = (x.shape(), spec.out_shape(x.shape()));
        let width = o.w * o.c;
        Tensor::overwrite(o, |y| {
            let y = Disjoint::new(y);
            tasks(o.n * o.h, o.len(), |row| {
                let (n, oy) = (row / o.h, row % o.h);
                // SAFETY: each output row belongs to one task.
                let y = unsafe { y.part(row * width..(row + 1) * width) };
                for (ox, y) in y.chunks_exact_mut(o.c).enumerate() {
                    let mut first = true;
                    for iy in window(oy, s.h, spec) {
                        for ix in window(ox, s.w, spec) {
                            let x = &x.data()[((n * s.h + iy) * s.w + ix) * s.c..][..s.c];
                            if first {
                                y.copy_from_slice(x);
                                first = false;
                            } else {
                                y.iter_mut().zip(x).for_each(|(y, &x)| *y = if x > *y { x } else { *y });
                            }
                        }
                    }
                }
            });
        })
    }
    fn max_pool2d_bwd(&self, dy: &Tensor<T>, x: &Tensor<T>, spec: &MaxPool2d) -> Tensor<T> {
        let (s, o) = (x.shape(), dy.shape());
        let (width, block) = (s.w * s.c, 8.min(s.h.max(1)));
        let blocks = s.h.div_ceil(block);
        Tensor::overwrite(s, |dx| {
            let dx = Disjoint::new(dx);
            tasks(s.n * blocks, s.len(), |task| {
                let (n, first) = (task / blocks, task % blocks * block);
                let rows = first..(first + block).min(s.h);
                // SAFETY: each block of input rows belongs to one task.
                let dx = unsafe { dx.part((n * s.h + rows.start) * width..(n * s.h + rows.end) * width) };
                dx.fill(T::ZERO);
                let (mut best, mut at) = (vec![T::ZERO; s.c], vec![0u32; s.c]);
                for oy in windows(&rows, o.h, spec) {
                    for ox in 0..o.w {
                        arg_max(x, n, window(oy, s.h, spec), window(ox, s.w, spec), &mut best, &mut at);
                        let dy = &dy.data()[((n * o.h + oy) * o.w + ox) * o.c..][..o.c];
                        for iy in window(oy, s.h, spec).filter(|iy| rows.contains(iy)) {
                            for ix in window(ox, s.w, spec) {
                                let here = (iy * s.w + ix) as u32;
                                let dx = &mut dx[((iy - rows.start) * s.w + ix) * s.c..][..s.c];
                                for ((d, &g), &at) in dx.iter_mut().zip(dy).zip(&at) {
                                    *d += if at == here { g } else { T::ZERO };
                                }
                            }
                        }
                    }
                }
            });
        })
    }
    fn adaptive_avg_pool2d(&self, x: &Tensor<T>, size: Size) -> Tensor<T> {
        let s = x.shape();
        let o = Shape::new(s.n, size.0, size.1, s.c);
        Tensor::overwrite(o, |y| {
            let y = Disjoint::new(y);
            tasks(o.positions(), s.len(), |at| {
                let (n, oy, ox) = (at / (o.h * o.w), at / o.w % o.h, at % o.w);
                let (ys, xs) = (bin(oy, o.h, s.h), bin(ox, o.w, s.w));
                let mut total = vec![0f64; s.c];
                let mut sum = vec![T::ZERO; s.c];
                for iy in ys.clone() {
                    sum.fill(T::ZERO);
                    for ix in xs.clone() {
                        let x = &x.data()[((n * s.h + iy) * s.w + ix) * s.c..][..s.c];
                        sum.iter_mut().zip(x).for_each(|(s, &v)| *s += v);
                    }
                    total.iter_mut().zip(&sum).for_each(|(t, s)| *t += s.to_f64());
                }
                let scale = 1.0 / (ys.len() * xs.len()) as f64;
                // SAFETY: each output position belongs to one task.
                let y = unsafe { y.part(at * o.c..(at + 1) * o.c) };
                y.iter_mut().zip(&total).for_each(|(y, t)| *y = T::from_f64(t * scale));
            });
        })
    }
    fn adaptive_avg_pool2d_bwd(&self, dy: &Tensor<T>, x_size: Size) -> Tensor<T> {
        let o = dy.shape();
        let s = Shape::new(o.n, x_size.0, x_size.1, o.c);
        let width = s.w * s.c;
        let covering =
            |i: usize, bins: usize, len: usize| (0..bins).filter(move |&b| bin(b, bins, len).contains(&i));
        let columns: Vec<Vec<usize>> = (0..s.w).map(|ix| covering(ix, o.w, s.w).collect()).collect();
        Tensor::overwrite(s, |dx| {
            let dx = Disjoint::new(dx);
            tasks(s.n * s.h, s.len(), |row| {
                let (n, iy) = (row / s.h, row % s.h);
                // SAFETY: each input row belongs to one task.
                let dx = unsafe { dx.part(row * width..(row + 1) * width) };
                dx.fill(T::ZERO);
                for oy in covering(iy, o.h, s.h) {
                    let rows = bin(oy, o.h, s.h).len();
                    for (dx, bins) in dx.chunks_exact_mut(s.c).zip(&columns) {
                        for &ox in bins {
                            let scale = T::from_f64(1.0 / (rows * bin(ox, o.w, s.w).len()) as f64);
                            let dy = &dy.data()[((n * o.h + oy) * o.w + ox) * o.c..][..o.c];
                            dx.iter_mut().zip(dy).for_each(|(d, &g)| *d = scale.mul_add(g, *d));
                        }
                    }
                }
            });
        })
    }
}

/// Positions along an axis of length `len` that window `i` covers.
fn window(i: usize, len: usize, spec: &MaxPool2d) -> Range<usize> {
    let from = (i * spec.stride).saturating_sub(spec.padding);
    from..(i * spec.stride + spec.kernel).saturating_sub(spec.padding).min(len)
}

/// The windows, of `count`, that may cover a position of `rows`.
fn windows(rows: &Range<usize>, count: usize, spec: &MaxPool2d) -> Range<usize> {
    let from = (rows.start + spec.padding + 1).saturating_sub(spec.kernel).div_ceil(spec.stride);
    from..((rows.end + spec.padding).saturating_sub(1) / spec.stride + 1).min(count)
}

/// Position (row * width + column) of the first maximum of each channel in a window of image `n`.
fn arg_max<T: Real>(
    x: &Tensor<T>,
    n: usize,
    ys: Range<usize>,
    xs: Range<usize>,
    best: &mut [T],
    at: &mut [u32],
) {
    let s = x.shape();
    let mut first = true;
    for iy in ys {
        for ix in xs.clone() {
            let x = &x.data()[((n * s.h + iy) * s.w + ix) * s.c..][..s.c];
            let here = (iy * s.w + ix) as u32;
            if first {
                best.copy_from_slice(x);
                at.fill(here);
                first = false;
            } else {
                for ((b, a), &x) in best.iter_mut().zip(at.iter_mut()).zip(x) {
                    let more = x > *b;
                    *b = if more { x } else { *b };
                    *a = if more { here } else { *a };
                }
            }
        }
    }
}

/// Positions along an axis of length `len` that bin `i` of `bins` covers.
fn bin(i: usize, bins: usize, len: usize) -> Range<usize> {
    i * len / bins..((i + 1) * len).div_ceil(bins)
}
