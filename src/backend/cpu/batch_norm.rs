//! Batch normalisation with residual and activation: training, frozen, their backward passes and the frozen
//! tangent. Every position of every image counts alike.
//!
//! Moments and gradient sums are taken over fixed chunks of positions, each in the working type while the
//! chunk is in cache, and combined in f64 in chunk order (Chan et al., 1979), so neither the number of values
//! nor a large mean costs accuracy.

use super::parallel::{self, Disjoint, tasks};
use super::{Cpu, Real, Tensor};
use crate::ops::{
    Activation, BatchNorm, BatchNormEval, BatchNormEvalBwd, BatchNormOps, BatchNormSaved, BatchNormTangent,
    BatchNormTrain, BatchNormTrainBwd, FrozenNorm, NormPass,
};

impl<T: Real> BatchNormOps for Cpu<T> {
    fn batch_norm_train(&self, op: BatchNormTrain<'_, Self>) -> (Tensor<T>, BatchNormSaved<Self>) {
        let BatchNormTrain { x, params, stats, bn, act, residual, .. } = op;
        let (c, n) = (bn.channels, x.shape().positions() as f64);
        let (mean, var) = moments(x.data(), c);
        let running = |old: &mut T, new: f64| {
            *old = T::from_f64(old.to_f64() * (1.0 - bn.momentum) + bn.momentum * new)
        };
        for i in 0..c {
            running(&mut stats[bn.running_mean.offset + i], mean[i]);
            running(&mut stats[bn.running_var.offset + i], var[i] * n / (n - 1.0));
        }
        let inv: Vec<f64> = var.iter().map(|v| 1.0 / (v + bn.eps).sqrt()).collect();
        let y = normalise(x, &Affine::new(&mean, &inv, params, bn), act, residual);
        (y, BatchNormSaved { moments: mean.iter().chain(&inv).map(|&v| T::from_f64(v)).collect() })
    }

    fn batch_norm_eval(&self, op: &BatchNormEval<'_, Self>) -> Tensor<T> {
        let FrozenNorm { stats, bn, act } = op.norm;
        let (mean, inv) = frozen(stats, bn);
        normalise(op.x, &Affine::new(&mean, &inv, op.params, bn), act, op.residual)
    }

    fn batch_norm_train_bwd(&self, op: BatchNormTrainBwd<'_, Self>) -> (Tensor<T>, Option<Tensor<T>>) {
        let BatchNormTrainBwd { dy, norm, params, grads, .. } = op;
        let NormPass { x, y, saved: BatchNormSaved { moments }, bn, act, residual } = norm;
        let (c, n) = (bn.channels, x.shape().positions() as f64);
        let (mean, inv) = moments.split_at(c);
        if x.shape().positions() <= FEW {
            return train_bwd_few(dy, &norm, params, grads);
        }
        let [sum, dot] = gradient_sums(dy, x, y, mean, inv, act);
        accumulate(grads, bn, &sum, &dot);
        // dx = weight inv (g - sum / n - x̂ dot / n) = scale g + a (x - mean) + b
        let weight = &params[bn.weight.range()];
        let scale: Vec<T> = (0..c).map(|i| weight[i] * inv[i]).collect();
        let factor = |i: usize| -weight[i].to_f64() * inv[i].to_f64() / n;
        let a: Vec<T> = (0..c).map(|i| T::from_f64(factor(i) * dot[i] * inv[i].to_f64())).collect();
        let b: Vec<T> = (0..c).map(|i| T::from_f64(factor(i) * sum[i])).collect();
        let lines = InputGradient {
            slope: slope(act),
            scale: wide(&scale),
            a: wide(&a),
            b: wide(&b),
            mean: wide(mean),
        };
        let mut dres = None;
        let dx = Tensor::overwrite(x.shape(), |dx| {
            let inputs = |at: usize, len: usize| {
                [&dy.data()[at..][..len], &x.data()[at..][..len], &y.data()[at..][..len]]
            };
            if residual {
                dres = Some(Tensor::overwrite(x.shape(), |dr| {
                    parallel::rows2(dx, dr, c, |row, dx, dr| {
                        lines.write_both(dx, dr, inputs(row * c, dx.len()));
                    });
                }));
            } else {
                parallel::rows(dx, c, |row, dx| lines.write(dx, inputs(row * c, dx.len())));
            }
        });
        (dx, dres)
    }

    fn batch_norm_eval_bwd(&self, op: BatchNormEvalBwd<'_, Self>) -> Tensor<T> {
        let BatchNormEvalBwd { dy, x, y, params, grads, norm } = op;
        let FrozenNorm { stats, bn, act } = norm;
        let (mean, inv) = frozen(stats, bn);
        let (mean, inv): (Vec<T>, Vec<T>) =
            mean.iter().zip(&inv).map(|(&m, &i)| (T::from_f64(m), T::from_f64(i))).unzip();
        let [sum, dot] = gradient_sums(dy, x, y, &mean, &inv, act);
        accumulate(grads, bn, &sum, &dot);
        self.batch_norm_tangent(&BatchNormTangent { t: dy, y, params, norm })
    }

    fn batch_norm_tangent(&self, op: &BatchNormTangent<'_, Self>) -> Tensor<T> {
        let BatchNormTangent { t, y, params, norm: FrozenNorm { stats, bn, act } } = *op;
        let c = bn.channels;
        let (mean, inv) = frozen(stats, bn);
        let scale = Affine::new(&mean, &inv, params, bn).scale;
        let w = scale.len();
        let slope = slope(act);
        Tensor::overwrite(t.shape(), |out| {
            parallel::rows(out, c, |row, out| {
                let (t, y) = (&t.data()[row * c..][..out.len()], &y.data()[row * c..][..out.len()]);
                for ((out, t), y) in out.chunks_mut(w).zip(t.chunks(w)).zip(y.chunks(w)) {
                    scaled_mask_line(slope, out, t, y, &scale);
                }
            });
        })
    }
}

/// Values of a chunk, approximately: it is read twice and should stay in the first or second cache level.
const CHUNK: usize = 1 << 13;
/// Least values of a row that a loop over channels runs over: narrower layers take several positions as one
/// row.
const WIDTH: usize = 64;
/// Up to this many values per channel, data gradients are computed in f64 from the input: with two values
/// they are the small difference of terms 1e5 times larger.
const FEW: usize = 32;
/// Most positions of a chunk: bounds the error of its sums in the working type.
const MAX_ROWS: usize = 128;

/// Coefficients of dx = scale g + a (x - mean) + b, widened to a row by [`wide`].
struct InputGradient<T> {
    slope: T,
    scale: Vec<T>,
    a: Vec<T>,
    b: Vec<T>,
    mean: Vec<T>,
}

impl<T: Real> InputGradient<T> {
    fn write(&self, dx: &mut [T], [dy, x, y]: [&[T]; 3]) {
        let w = self.scale.len();
        for (((dx, dy), x), y) in dx.chunks_mut(w).zip(dy.chunks(w)).zip(x.chunks(w)).zip(y.chunks(w)) {
            self.line(dx, dy, x, y);
        }
    }

    fn write_both(&self, dx: &mut [T], dr: &mut [T], [dy, x, y]: [&[T]; 3]) {
        let w = self.scale.len();
        let inputs = dy.chunks(w).zip(x.chunks(w)).zip(y.chunks(w));
        for ((dx, dr), ((dy, x), y)) in dx.chunks_mut(w).zip(dr.chunks_mut(w)).zip(inputs) {
            mask_line(self.slope, dr, dy, y);
            self.line(dx, dy, x, y);
        }
    }

    #[inline(always)]
    fn line(&self, dx: &mut [T], dy: &[T], x: &[T], y: &[T]) {
        input_gradient_line(self.slope, dx, [dy, x, y], [&self.scale, &self.a, &self.b, &self.mean]);
    }
}

// The loops over one row are functions of their own: the compiler vectorises them as it may assume that
// slices passed as arguments do not overlap.

#[inline(never)]
fn input_gradient_line<T: Real>(
    slope: T,
    dx: &mut [T],
    [dy, x, y]: [&[T]; 3],
    [scale, a, b, mean]: [&[T]; 4],
) {
    let n = dx.len();
    let (dy, x, y) = (&dy[..n], &x[..n], &y[..n]);
    let (scale, a, b, mean) = (&scale[..n], &a[..n], &b[..n], &mean[..n]);
    for i in 0..n {
        dx[i] = scale[i].mul_add(mask(slope, dy[i], y[i]), a[i].mul_add(x[i] - mean[i], b[i]));
    }
}

#[inline(never)]
fn mask_line<T: Real>(slope: T, out: &mut [T], dy: &[T], y: &[T]) {
    for ((o, &dy), &y) in out.iter_mut().zip(dy).zip(y) {
        *o = mask(slope, dy, y);
    }
}

#[inline(never)]
fn scaled_mask_line<T: Real>(slope: T, out: &mut [T], t: &[T], y: &[T], scale: &[T]) {
    for (((o, &t), &y), &s) in out.iter_mut().zip(t).zip(y).zip(scale) {
        *o = s * mask(slope, t, y);
    }
}

#[inline(never)]
fn normalise_line<T: Real>(slope: T, y: &mut [T], x: &[T], [scale, mean, shift]: [&[T]; 3]) {
    let n = y.len();
    let (x, scale, mean, shift) = (&x[..n], &scale[..n], &mean[..n], &shift[..n]);
    for i in 0..n {
        let v = scale[i].mul_add(x[i] - mean[i], shift[i]);
        y[i] = mask(slope, v, v);
    }
}

#[inline(never)]
fn normalise_add_line<T: Real>(slope: T, y: &mut [T], x: &[T], r: &[T], [scale, mean, shift]: [&[T]; 3]) {
    let n = y.len();
    let (x, r, scale, mean, shift) = (&x[..n], &r[..n], &scale[..n], &mean[..n], &shift[..n]);
    for i in 0..n {
        let v = scale[i].mul_add(x[i] - mean[i], shift[i]) + r[i];
        y[i] = mask(slope, v, v);
    }
}

#[inline(never)]
fn sum_line<T: Real>(sum: &mut [T], x: &[T]) {
    sum.iter_mut().zip(x).for_each(|(s, &x)| *s += x);
}

#[inline(never)]
fn square_line<T: Real>(square: &mut [T], x: &[T], mean: &[T]) {
    for ((s, &x), &m) in square.iter_mut().zip(x).zip(mean) {
        *s = (x - m).mul_add(x - m, *s);
    }
}

#[inline(never)]
fn gradient_line<T: Real>(slope: T, sum: &mut [T], dot: &mut [T], [dy, x, y]: [&[T]; 3], mean: &[T]) {
    let n = dy.len();
    let (sum, dot, x, y, mean) = (&mut sum[..n], &mut dot[..n], &x[..n], &y[..n], &mean[..n]);
    for i in 0..n {
        let g = mask(slope, dy[i], y[i]);
        sum[i] += g;
        dot[i] = g.mul_add(x[i] - mean[i], dot[i]);
    }
}

/// The training-mode backward pass in f64 throughout, for few positions.
fn train_bwd_few<T: Real>(
    dy: &Tensor<T>,
    norm: &NormPass<'_, Cpu<T>>,
    params: &[T],
    grads: &mut [T],
) -> (Tensor<T>, Option<Tensor<T>>) {
    let &NormPass { x, y, bn, act, residual, .. } = norm;
    let (c, n) = (bn.channels, x.shape().positions());
    let slope: T = slope(act);
    let g = |at: usize| mask(slope, dy.data()[at], y.data()[at]);
    let (mut sums, mut dots) = (vec![0.0; c], vec![0.0; c]);
    let dx = Tensor::overwrite(x.shape(), |dx| {
        for i in 0..c {
            let at = |p: usize| p * c + i;
            let value = |p: usize| x.data()[at(p)].to_f64();
            let mean = (0..n).map(value).sum::<f64>() / n as f64;
            let square = (0..n).map(|p| (value(p) - mean).powi(2)).sum::<f64>();
            let var = square / n as f64 + bn.eps;
            let sum: f64 = (0..n).map(|p| g(at(p)).to_f64()).sum();
            let dot: f64 = (0..n).map(|p| g(at(p)).to_f64() * (value(p) - mean)).sum();
            let scale = params[bn.weight.offset + i].to_f64() / var.sqrt();
            for p in 0..n {
                let rest = g(at(p)).to_f64() - sum / n as f64 - (value(p) - mean) * dot / (var * n as f64);
                dx[at(p)] = T::from_f64(scale * rest);
            }
            (sums[i], dots[i]) = (sum, dot / var.sqrt());
        }
    });
    accumulate(grads, bn, &sums, &dots);
    let dres = residual.then(|| Tensor::overwrite(x.shape(), |dr| mask_line(slope, dr, dy.data(), y.data())));
    (dx, dres)
}

/// One value per channel, repeated until the row has about [`WIDTH`] values.
fn wide<T: Real>(line: &[T]) -> Vec<T> {
    line.repeat((WIDTH / line.len().max(1)).max(1))
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

/// Normalisation of each channel as scale (x - mean) + shift, widened to a row by [`wide`].
struct Affine<T> {
    scale: Vec<T>,
    mean: Vec<T>,
    shift: Vec<T>,
}

impl<T: Real> Affine<T> {
    fn new(mean: &[f64], inv: &[f64], params: &[T], bn: &BatchNorm) -> Affine<T> {
        let weight = &params[bn.weight.range()];
        let scale: Vec<T> = weight.iter().zip(inv).map(|(w, i)| T::from_f64(w.to_f64() * i)).collect();
        let mean: Vec<T> = mean.iter().map(|&m| T::from_f64(m)).collect();
        Affine { scale: wide(&scale), mean: wide(&mean), shift: wide(&params[bn.bias.range()]) }
    }
}

/// act(affine(x) + residual), fused into one pass.
fn normalise<T: Real>(
    x: &Tensor<T>,
    affine: &Affine<T>,
    act: Activation,
    residual: Option<&Tensor<T>>,
) -> Tensor<T> {
    let c = x.shape().c;
    let lines: [&[T]; 3] = [&affine.scale, &affine.mean, &affine.shift];
    let w = affine.scale.len();
    let slope: T = slope(act);
    Tensor::overwrite(x.shape(), |y| {
        parallel::rows(y, c, |row, y| {
            let x = &x.data()[row * c..][..y.len()];
            match residual {
                Some(r) => {
                    let r = &r.data()[row * c..][..y.len()];
                    for ((y, x), r) in y.chunks_mut(w).zip(x.chunks(w)).zip(r.chunks(w)) {
                        normalise_add_line(slope, y, x, r, lines);
                    }
                }
                None => {
                    for (y, x) in y.chunks_mut(w).zip(x.chunks(w)) {
                        normalise_line(slope, y, x, lines);
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

/// Runs `f(first value, number of values, two rows of sums)` for each chunk of positions of `len` values.
/// Returns the rows of all chunks in their order.
fn chunked<T: Real>(len: usize, c: usize, f: impl Fn(usize, usize, &mut [T], &mut [T]) + Sync) -> Vec<T> {
    let size = chunk_rows(c) * c;
    let count = len.div_ceil(size);
    let mut sums = vec![T::ZERO; count * 2 * c];
    let shared = Disjoint::new(&mut sums);
    tasks(count, len, |k| {
        // SAFETY: each chunk's rows belong to one task.
        let (a, b) = unsafe { shared.part(k * 2 * c..(k + 1) * 2 * c) }.split_at_mut(c);
        f(k * size, size.min(len - k * size), a, b);
    });
    sums
}

/// Adds the repetitions in a widened row of sums to one value per channel.
fn fold<T: Real>(wide: &[T], line: &mut [T]) {
    wide.chunks_exact(line.len()).for_each(|part| sum_line(line, part));
}

/// Mean and biased variance of each channel.
fn moments<T: Real>(x: &[T], c: usize) -> (Vec<f64>, Vec<f64>) {
    let sums = chunked(x.len(), c, |from, len, mean, square| {
        let x = &x[from..][..len];
        let w = wide(mean).len();
        let mut sum = vec![T::ZERO; w];
        x.chunks(w).for_each(|x| sum_line(&mut sum, x));
        fold(&sum, mean);
        let scale = T::from_f64(c as f64 / len as f64);
        mean.iter_mut().for_each(|m| *m *= scale);
        sum.fill(T::ZERO);
        let mean = wide(mean);
        x.chunks(w).for_each(|x| square_line(&mut sum, x, &mean));
        fold(&sum, square);
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
    let mean = wide(mean);
    let w = mean.len();
    let sums = chunked(x.data().len(), c, |from, len, sum, dot| {
        let (mut wide_sum, mut wide_dot) = (vec![T::ZERO; w], vec![T::ZERO; w]);
        let [dy, x, y] = [dy, x, y].map(|t| t.data()[from..][..len].chunks(w));
        for ((dy, x), y) in dy.zip(x).zip(y) {
            gradient_line(slope, &mut wide_sum, &mut wide_dot, [dy, x, y], &mean);
        }
        fold(&wide_sum, sum);
        fold(&wide_dot, dot);
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
