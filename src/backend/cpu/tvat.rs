//! T-VAT's parts that are not network passes: noise, per-image normalisation, and the low-resolution
//! cotangents of its exact and its finite-difference form.

use super::softmax::{Softmax, softmax_gradient};
use super::upsample::{Grid, Reader};
use super::{Cpu, Real, Tensor};
use crate::ops::{NORM_EPS, Shape, Size, TvatOps};
use crate::rng::{Key, unit};
use rayon::prelude::*;

impl<T: Real> TvatOps for Cpu<T> {
    fn uniform_noise(&self, shape: Shape, key: Key) -> Tensor<T> {
        Tensor::overwrite(shape, |out| {
            out.par_chunks_mut(CHUNK).enumerate().for_each(|(task, values)| {
                for (block, values) in (task * CHUNK / 4..).zip(values.chunks_mut(4)) {
                    for (v, word) in values.iter_mut().zip(key.block(block as u64)) {
                        *v = T::from_f32(unit(word) - 0.5);
                    }
                }
            });
        })
    }
    fn normalize(&self, d: &Tensor<T>, scale: f64) -> Tensor<T> {
        scaled(d, scale, |_, v| v)
    }
    fn add_normalized(&self, x: &Tensor<T>, d: &Tensor<T>, scale: f64) -> Tensor<T> {
        scaled(d, scale, |i, v| x.data()[i] + v)
    }
    fn tvat_cotangent(
        &self,
        logits: &Tensor<T>,
        tangents: &Tensor<T>,
        decoders: usize,
        size: Size,
    ) -> Tensor<T> {
        over_means(logits, tangents, decoders, size, 1.0 / decoders as f64, |softmax, p, t| {
            softmax.probabilities(p);
            softmax_gradient(t, p, &mut softmax.pixel);
        })
    }
    fn kl_gradient(
        &self,
        clean: &Tensor<T>,
        perturbed: &Tensor<T>,
        decoders: usize,
        size: Size,
    ) -> Tensor<T> {
        let scale = 1.0 / (clean.shape().n * decoders) as f64;
        over_means(clean, perturbed, decoders, size, scale, |softmax, p, q| {
            softmax.probabilities(p);
            softmax.probabilities(q);
            for (q, &p) in q.iter_mut().zip(p.iter()) {
                *q -= p;
            }
        })
    }
}

/// Elements of one task; a multiple of the four numbers in a block of the generator.
const CHUNK: usize = 1 << 14;

/// scale d / (‖d‖ + 1e-8), the norm over each image; `put(i, value)` maps element i before it is written.
fn scaled<T: Real>(d: &Tensor<T>, scale: f64, put: impl Fn(usize, T) -> T + Sync) -> Tensor<T> {
    let image_len = (d.shape().len() / d.shape().n.max(1)).max(1);
    let square = |v: &[T]| v.iter().map(|v| v.to_f64() * v.to_f64()).sum::<f64>();
    let factors: Vec<T> = d
        .data()
        .chunks(image_len)
        .map(|image| {
            let parts: Vec<f64> = image.par_chunks(CHUNK).map(square).collect();
            T::from_f64(scale / (parts.iter().sum::<f64>().sqrt() + NORM_EPS))
        })
        .collect();
    Tensor::overwrite(d.shape(), |out| {
        let images = out.chunks_mut(image_len).zip(d.data().chunks(image_len)).zip(&factors);
        for (image, ((out, d), &f)) in images.enumerate() {
            out.par_chunks_mut(CHUNK).zip(d.par_chunks(CHUNK)).enumerate().for_each(|(task, (out, d))| {
                let first = image * image_len + task * CHUNK;
                for (i, (v, &d)) in (first..).zip(out.iter_mut().zip(d)) {
                    *v = put(i, f * d);
                }
            });
        }
    })
}

/// scale upᵀ(row(mean of up(first), mean of up(second))), one copy for each of the decoders, whose means are
/// taken. `row(softmax, a, b)` works on one full-resolution row of both and leaves its result in `b`. The
/// upsampling is linear, so means are taken before it.
fn over_means<T: Real>(
    first: &Tensor<T>,
    second: &Tensor<T>,
    decoders: usize,
    size: Size,
    scale: f64,
    row: impl Fn(&mut Softmax<T>, &mut [T], &mut [T]) + Sync,
) -> Tensor<T> {
    let (first, second) = (mean(first, decoders), mean(second, decoders));
    let grid = Grid::new(first.shape(), size);
    let init = || {
        let readers = (Reader::new(&grid, &first), Reader::new(&grid, &second));
        (readers, Softmax::new(size.1), vec![T::ZERO; grid.row_len()])
    };
    let (out, _) = grid.transpose_planes(1, init, |((first, second), softmax, a), image, y, b| {
        first.row(image, y, a);
        second.row(image, y, b);
        row(softmax, a, b);
    });
    repeated(&out, decoders, scale)
}

/// Mean over `parts` equal parts of the channels.
fn mean<T: Real>(x: &Tensor<T>, parts: usize) -> Tensor<T> {
    let (shape, factor) = (x.shape(), T::from_f64(1.0 / parts as f64));
    let c = shape.c / parts;
    Tensor::overwrite(shape.with_channels(c), |out| {
        for (out, x) in out.chunks_exact_mut(c).zip(x.data().chunks_exact(shape.c)) {
            for (i, v) in out.iter_mut().enumerate() {
                *v = factor * x[i..].iter().step_by(c).copied().sum::<T>();
            }
        }
    })
}

/// factor * x with its channels repeated `parts` times.
fn repeated<T: Real>(x: &Tensor<T>, parts: usize, factor: f64) -> Tensor<T> {
    let (shape, factor) = (x.shape(), T::from_f64(factor));
    Tensor::overwrite(shape.with_channels(parts * shape.c), |out| {
        for (out, x) in out.chunks_exact_mut(parts * shape.c).zip(x.data().chunks_exact(shape.c)) {
            for part in out.chunks_exact_mut(shape.c) {
                part.iter_mut().zip(x).for_each(|(v, &x)| *v = factor * x);
            }
        }
    })
}
