//! T-VAT's parts that are not network passes: noise, per-image normalisation, and the low-resolution cotangents of its
//! exact and its finite-difference form.

use super::Cpu;
use super::softmax::{Softmax, softmax_gradient};
use super::upsample::{Grid, Reader};
use super::{Real, Tensor};
use crate::ops::*;
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
        cotangent(logits, tangents, decoders, size)
    }
    fn kl_gradient(
        &self,
        clean: &Tensor<T>,
        perturbed: &Tensor<T>,
        decoders: usize,
        size: Size,
    ) -> Tensor<T> {
        let (mean_clean, mean_perturbed) = (mean(clean, decoders), mean(perturbed, decoders));
        let grid = Grid::new(mean_clean.shape(), size);
        let init = || {
            let readers = (Reader::new(&grid, &mean_clean), Reader::new(&grid, &mean_perturbed));
            (readers, Softmax::new(size.1), vec![T::ZERO; grid.row_len()])
        };
        let (out, _) = grid.transpose_planes(1, init, |((clean, perturbed), softmax, p), image, y, row| {
            clean.row(image, y, p);
            softmax.probabilities(p);
            perturbed.row(image, y, row);
            softmax.probabilities(row);
            for (q, &p) in row.iter_mut().zip(p.iter()) {
                *q -= p;
            }
        });
        repeated(&out, decoders, 1.0 / (grid.low.n * decoders) as f64)
    }
}

/// Elements of one task; a multiple of the four numbers a block of the generator gives.
const CHUNK: usize = 1 << 14;

/// `put(i, value)` of each element of the normalised d.
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

/// upᵀ(p t - p (p·t)) / k with p = softmax(mean of up(logits)), t = mean of up(tangents) over k decoders side by side.
/// Means are taken before the upsampling, which is linear.
pub fn cotangent<T: Real>(
    logits: &Tensor<T>,
    tangents: &Tensor<T>,
    decoders: usize,
    size: Size,
) -> Tensor<T> {
    let (mean_logits, mean_tangent) = (mean(logits, decoders), mean(tangents, decoders));
    let grid = Grid::new(mean_logits.shape(), size);
    let init = || {
        let readers = (Reader::new(&grid, &mean_logits), Reader::new(&grid, &mean_tangent));
        (readers, Softmax::new(size.1), vec![T::ZERO; grid.row_len()])
    };
    let (out, _) = grid.transpose_planes(1, init, |((logits, tangent), softmax, p), image, y, row| {
        logits.row(image, y, p);
        softmax.probabilities(p);
        tangent.row(image, y, row);
        softmax_gradient(row, p, &mut softmax.pixel);
    });
    repeated(&out, decoders, 1.0 / decoders as f64)
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

/// factor * x, its channels `parts` times one after another.
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
