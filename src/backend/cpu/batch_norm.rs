//! Batch normalisation with residual and activation: training, frozen, their backward passes and the frozen tangent.
//! Knows channels and positions, not images.
//!
//! Moments and gradient sums are taken over fixed chunks of positions, each in the working type while the chunk is in
//! cache, and joined in f64 in chunk order (Chan et al., 1979), so neither the number of values nor a large mean costs
//! accuracy.

use super::parallel::{self, Disjoint, tasks};
use super::{Real, Tensor};
use crate::ops::*;

/// Values of a chunk, about: it is read twice and should stay in the first or second cache level.
const CHUNK: usize = 1 << 13;
/// Positions of a chunk at most: bounds the error of its sums in the working type.
const MAX_ROWS: usize = 128;

/// Batch moments: returns y, and the mean then 1 / sqrt(var + eps) of each channel; moves the running statistics.
pub fn train<T: Real>(
    x: &Tensor<T>,
    params: &[T],
    stats: &mut [T],
    bn: &BatchNorm,
    act: Activation,
    residual: Option<&Tensor<T>>,
) -> (Tensor<T>, Vec<T>) {
    let (c, n) = (bn.channels, x.shape().positions() as f64);
    let (mean, var) = moments(x.data(), c);
    let running = |old: &mut T, new: f64| *old = T::from_f64(old.to_f64() * (1.0 - bn.momentum) + bn.momentum * new);
    for i in 0..c {
        running(&mut stats[bn.running_mean.offset + i], mean[i]);
        running(&mut stats[bn.running_var.offset + i], var[i] * n / (n - 1.0));
    }
    let inv: Vec<f64> = var.iter().map(|v| 1.0 / (v + bn.eps).sqrt()).collect();
    let y = normalise(x, &Affine::new(&mean, &inv, params, bn), act, residual);
    (y, mean.iter().chain(&inv).map(|&v| T::from_f64(v)).collect())
}

/// Running statistics.
pub fn eval<T: Real>(
    x: &Tensor<T>,
    params: &[T],
    stats: &[T],
    bn: &BatchNorm,
    act: Activation,
    residual: Option<&Tensor<T>>,
) -> Tensor<T> {
    let (mean, inv) = frozen(stats, bn);
    normalise(x, &Affine::new(&mean, &inv, params, bn), act, residual)
}

/// Backward of [`train`]: dx and the residual's gradient; adds those of weight and bias to `grads`.
pub fn train_bwd<T: Real>(
    dy: &Tensor<T>,
    x: &Tensor<T>,
    y: &Tensor<T>,
    moments: &[T],
    params: &[T],
    grads: &mut [T],
    bn: &BatchNorm,
    act: Activation,
    residual: bool,
) -> (Tensor<T>, Option<Tensor<T>>) {
    let (c, n) = (bn.channels, x.shape().positions() as f64);
    let (mean, inv) = moments.split_at(c);
    let [sum, dot] = gradient_sums(dy, x, y, mean, inv, act);
    accumulate(grads, bn, &sum, &dot);
    // dx = weight inv (g - sum / n - xhat dot / n) = scale g + a (x - mean) + b
    let weight = &params[bn.weight.range()];
    let scale: Vec<T> = (0..c).map(|i| weight[i] * inv[i]).collect();
    let factor = |i: usize| -weight[i].to_f64() * inv[i].to_f64() / n;
    let a: Vec<T> = (0..c).map(|i| T::from_f64(factor(i) * dot[i] * inv[i].to_f64())).collect();
    let b: Vec<T> = (0..c).map(|i| T::from_f64(factor(i) * sum[i])).collect();
    let slope = slope(act);
    let [scale, a, b, mean] = [&scale[..c], &a[..c], &b[..c], &mean[..c]];
    let mut dres = None;
    let dx = Tensor::overwrite(x.shape(), |dx| {
        let write = |row: usize, dx: &mut [T], mut dr: Option<&mut [T]>| {
            for (k, dx) in dx.chunks_exact_mut(c).enumerate() {
                let at = (row + k) * c;
                let (dy, x, y) = (&dy.data()[at..][..c], &x.data()[at..][..c], &y.data()[at..][..c]);
                match dr.as_deref_mut() {
                    Some(dr) => {
                        let dr = &mut dr[k * c..][..c];
                        for i in 0..c {
                            let g = mask(slope, dy[i], y[i]);
                            dr[i] = g;
                            dx[i] = scale[i].mul_add(g, a[i].mul_add(x[i] - mean[i], b[i]));
                        }
                    }
                    None => {
                        for i in 0..c {
                            let g = mask(slope, dy[i], y[i]);
                            dx[i] = scale[i].mul_add(g, a[i].mul_add(x[i] - mean[i], b[i]));
                        }
                    }
                }
            }
        };
        if residual {
            dres = Some(Tensor::overwrite(x.shape(), |dr| {
                parallel::rows2(dx, dr, c, |row, dx, dr| write(row, dx, Some(dr)));
            }));
        } else {
            parallel::rows(dx, c, |row, dx| write(row, dx, None));
        }
    });
    (dx, dres)
}

/// Backward of [`eval`] without residual; adds the gradients of weight and bias to `grads`.
pub fn eval_bwd<T: Real>(
    dy: &Tensor<T>,
    x: &Tensor<T>,
    y: &Tensor<T>,
    params: &[T],
    stats: &[T],
    grads: &mut [T],
    bn: &BatchNorm,
    act: Activation,
) -> Tensor<T> {
    let (mean, inv) = frozen(stats, bn);
    let (mean, inv): (Vec<T>, Vec<T>) = mean.iter().zip(&inv).map(|(&m, &i)| (T::from_f64(m), T::from_f64(i))).unzip();
    let [sum, dot] = gradient_sums(dy, x, y, &mean, &inv, act);
    accumulate(grads, bn, &sum, &dot);
    tangent(dy, y, params, stats, bn, act)
}

/// t * act'(y) * weight / sqrt(running_var + eps).
pub fn tangent<T: Real>(
    t: &Tensor<T>,
    y: &Tensor<T>,
    params: &[T],
    stats: &[T],
    bn: &BatchNorm,
    act: Activation,
) -> Tensor<T> {
    let c = bn.channels;
    let (mean, inv) = frozen(stats, bn);
    let scale = &Affine::new(&mean, &inv, params, bn).scale[..c];
    let slope = slope(act);
    Tensor::overwrite(t.shape(), |out| {
        parallel::rows(out, c, |row, out| {
            for (k, out) in out.chunks_exact_mut(c).enumerate() {
                let at = (row + k) * c;
                let (t, y) = (&t.data()[at..][..c], &y.data()[at..][..c]);
                for i in 0..c {
                    out[i] = scale[i] * mask(slope, t[i], y[i]);
                }
            }
        });
    })
}

/// Slope below zero of an activation; 1 for the identity.
fn slope<T: Real>(act: Activation) -> T {
    match act {
        Activation::Identity => T::ONE,
        Activation::LeakyRelu(slope) => T::from_f64(slope),
    }
}

/// g times the activation's derivative where its output is `y`.
#[inline(always)]
fn mask<T: Real>(slope: T, g: T, y: T) -> T {
    if y > T::ZERO { g } else { g * slope }
}

/// Running mean and 1 / sqrt(running variance + eps).
fn frozen<T: Real>(stats: &[T], bn: &BatchNorm) -> (Vec<f64>, Vec<f64>) {
    let mean = stats[bn.running_mean.range()].iter().map(|v| v.to_f64()).collect();
    let inv = stats[bn.running_var.range()].iter().map(|v| 1.0 / (v.to_f64() + bn.eps).sqrt()).collect();
    (mean, inv)
}

fn accumulate<T: Real>(grads: &mut [T], bn: &BatchNorm, sum: &[f64], dot: &[f64]) {
    grads[bn.weight.range()].iter_mut().zip(dot).for_each(|(g, &v)| *g += T::from_f64(v));
    grads[bn.bias.range()].iter_mut().zip(sum).for_each(|(g, &v)| *g += T::from_f64(v));
}

/// Normalisation of each channel as scale (x - mean) + shift.
struct Affine<T> {
    scale: Vec<T>,
    mean: Vec<T>,
    shift: Vec<T>,
}

impl<T: Real> Affine<T> {
    fn new(mean: &[f64], inv: &[f64], params: &[T], bn: &BatchNorm) -> Affine<T> {
        let weight = &params[bn.weight.range()];
        Affine {
            scale: weight.iter().zip(inv).map(|(w, i)| T::from_f64(w.to_f64() * i)).collect(),
            mean: mean.iter().map(|&m| T::from_f64(m)).collect(),
            shift: params[bn.bias.range()].to_vec(),
        }
    }
}

/// act(affine(x) + residual) in one pass.
fn normalise<T: Real>(
    x: &Tensor<T>,
    affine: &Affine<T>,
    act: Activation,
    residual: Option<&Tensor<T>>,
) -> Tensor<T> {
    let c = x.shape().c;
    let (scale, mean, shift) = (&affine.scale[..c], &affine.mean[..c], &affine.shift[..c]);
    let slope: T = slope(act);
    let bend = |v: T| if v > T::ZERO { v } else { v * slope };
    Tensor::overwrite(x.shape(), |y| {
        parallel::rows(y, c, |row, y| {
            for (k, y) in y.chunks_exact_mut(c).enumerate() {
                let at = (row + k) * c;
                let x = &x.data()[at..][..c];
                match residual {
                    Some(r) => {
                        let r = &r.data()[at..][..c];
                        for i in 0..c {
                            y[i] = bend(scale[i].mul_add(x[i] - mean[i], shift[i]) + r[i]);
                        }
                    }
                    None => {
                        for i in 0..c {
                            y[i] = bend(scale[i].mul_add(x[i] - mean[i], shift[i]));
                        }
                    }
                }
            }
        });
    })
}

/// Positions of a chunk for `c` channels.
fn chunk_rows(c: usize) -> usize {
    (CHUNK / c.max(1)).clamp(8, MAX_ROWS)
}

/// Runs `f(first value, number of values, two rows of sums)` for each chunk of positions of `len` values, and returns
/// the rows of all chunks.
fn chunked<T: Real>(len: usize, c: usize, f: impl Fn(usize, usize, &mut [T], &mut [T]) + Sync) -> Vec<T> {
    let size = chunk_rows(c) * c;
    let count = len.div_ceil(size);
    let mut sums = vec![T::ZERO; count * 2 * c];
    let shared = Disjoint::new(&mut sums);
    tasks(count, len, |k| {
        // SAFETY: each chunk's rows are one task's.
        let (a, b) = unsafe { shared.part(k * 2 * c..(k + 1) * 2 * c) }.split_at_mut(c);
        f(k * size, size.min(len - k * size), a, b);
    });
    sums
}

/// Mean and biased variance of each channel.
fn moments<T: Real>(x: &[T], c: usize) -> (Vec<f64>, Vec<f64>) {
    let sums = chunked(x.len(), c, |from, len, mean, square| {
        let rows = || x[from..][..len].chunks_exact(c);
        for row in rows() {
            for i in 0..c {
                mean[i] += row[i];
            }
        }
        let scale = T::from_f64(c as f64 / len as f64);
        mean.iter_mut().for_each(|m| *m *= scale);
        for row in rows() {
            for i in 0..c {
                let d = row[i] - mean[i];
                square[i] = d.mul_add(d, square[i]);
            }
        }
    });
    let (mut mean, mut square, mut n) = (vec![0f64; c], vec![0f64; c], 0f64);
    for (k, part) in sums.chunks_exact(2 * c).enumerate() {
        let m = (chunk_rows(c).min(x.len() / c - k * chunk_rows(c))) as f64;
        let share = m / (n + m);
        for i in 0..c {
            let d = part[i].to_f64() - mean[i];
            mean[i] += d * share;
            square[i] += part[c + i].to_f64() + d * d * n * share;
        }
        n += m;
    }
    square.iter_mut().for_each(|s| *s /= n);
    (mean, square)
}

/// Sums over positions of g = dy act'(y), and of g (x - mean) inv.
fn gradient_sums<T: Real>(
    dy: &Tensor<T>,
    x: &Tensor<T>,
    y: &Tensor<T>,
    mean: &[T],
    inv: &[T],
    act: Activation,
) -> [Vec<f64>; 2] {
    let c = mean.len();
    let slope = slope(act);
    let sums = chunked(x.data().len(), c, |from, len, sum, dot| {
        for at in (from..from + len).step_by(c) {
            let (dy, x, y) = (&dy.data()[at..][..c], &x.data()[at..][..c], &y.data()[at..][..c]);
            for i in 0..c {
                let g = mask(slope, dy[i], y[i]);
                sum[i] += g;
                dot[i] = g.mul_add(x[i] - mean[i], dot[i]);
            }
        }
    });
    let (mut sum, mut dot) = (vec![0f64; c], vec![0f64; c]);
    for part in sums.chunks_exact(2 * c) {
        for i in 0..c {
            sum[i] += part[i].to_f64();
            dot[i] += part[c + i].to_f64();
        }
    }
    dot.iter_mut().zip(inv).for_each(|(d, i)| *d *= i.to_f64());
    [sum, dot]
}
