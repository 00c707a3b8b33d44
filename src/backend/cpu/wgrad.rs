//! Weight gradients of convolutions: dweight[o, tap, i] += sum over positions of dy[p, o] x[source of p at
//! tap, i].
//!
//! The work is cut in two ways. Wide layers: one task owns a tap and a block of output by input channels of
//! dweight, and runs over the positions at which the tap is not in the padding. Narrow layers (few channels,
//! many positions): tasks own ranges of positions, gather all taps of a position together (im2col) and write
//! partial sums, which are added in order.

use super::channels::Channels;
use super::gather::{Gather, Source};
use super::gemm::{Matrix, product, product_into};
use super::memory::Buffer;
use super::parallel::{Disjoint, tasks};
use super::{Real, Tensor};
use crate::ops::Conv2d;

/// Positions that are gathered at once.
const DEPTH: usize = 512;
/// Most and least channels of a task, of inputs and of outputs.
const BLOCK: (usize, usize) = (256, 64);
/// Number of tasks, where the layer is wide enough.
const TASKS: usize = 8;
/// Most weights of a layer whose positions are divided among tasks.
const PARTIAL: usize = 1 << 16;
/// Inputs with fewer channels than this have all taps gathered together.
const NARROW: usize = 64;
/// Least multiply-adds of a task over positions, so that adding its partial sums pays.
const PART: usize = 1 << 20;

/// Adds the sum of `dy` over positions to `dbias`.
pub fn bias<T: Real>(dy: &Tensor<T>, dbias: &mut [T]) {
    let c = dbias.len();
    let mut total = vec![0f64; c];
    for rows in dy.data().chunks(128 * c) {
        let mut sum = vec![T::ZERO; c];
        for row in rows.chunks_exact(c) {
            sum.iter_mut().zip(row).for_each(|(s, &v)| *s += v);
        }
        total.iter_mut().zip(&sum).for_each(|(t, s)| *t += s.to_f64());
    }
    dbias.iter_mut().zip(&total).for_each(|(d, &t)| *d += T::from_f64(t));
}

/// Adds the gradient of one group's weight to `dweight`.
pub fn weight<T: Real>(x: &Channels<'_, T>, dy: &Channels<'_, T>, dweight: &mut [T], conv: &Conv2d) {
    let gather = Gather::fprop(conv, x.shape);
    let reached: usize = gather.classes.iter().map(|c| c.len * c.taps.len()).sum();
    let all = dy.shape.positions() * conv.kernel * conv.kernel;
    if conv.in_channels < NARROW && dweight.len() <= PARTIAL && reached * 2 >= all {
        by_position(x, dy, dweight, conv, &gather);
    } else {
        by_block(x, dy, dweight, conv, &gather);
    }
}

/// Each task owns a tap and a block of channels.
fn by_block<T: Real>(
    x: &Channels<'_, T>,
    dy: &Channels<'_, T>,
    dweight: &mut [T],
    conv: &Conv2d,
    gather: &Gather,
) {
    let (cin, cout, taps) = (conv.in_channels, conv.out_channels, conv.kernel * conv.kernel);
    let pairs: Vec<_> = (0..taps).map(|tap| gather.pairs(tap)).collect();
    let reached = pairs.iter().filter(|p| !p.is_empty()).count();
    let (mut ob, mut ib) = (BLOCK.0, BLOCK.0);
    while reached * cout.div_ceil(ob) * cin.div_ceil(ib) < TASKS && (ob > BLOCK.1 || ib > BLOCK.1) {
        if ob >= ib { ob /= 2 } else { ib /= 2 }
    }
    let (num_ob, num_ib) = (cout.div_ceil(ob), cin.div_ceil(ib));
    let shared = Disjoint::new(dweight);
    let work = dy.shape.len() * cin * taps / 8;
    tasks(taps * num_ob * num_ib, work, |task| {
        let (tap, block) = (task / (num_ob * num_ib), task % (num_ob * num_ib));
        let (o0, i0) = (block / num_ib * ob, block % num_ib * ib);
        let (outputs, inputs) = (ob.min(cout - o0), ib.min(cin - i0));
        let at = (o0 * taps + tap) * cin + i0;
        let add = |left: Matrix<'_, T>, right: Matrix<'_, T>| {
            // SAFETY: this tap's block of channels belongs to this task.
            unsafe { product(&shared, at, taps * cin, true, left.transposed(), right) };
        };
        let pairs = &pairs[tap];
        let (Some(&(p0, q0)), Some(&(p1, q1))) = (pairs.first(), pairs.last()) else { return };
        let (p0, q0) = (p0 as usize, q0 as usize);
        // Both positions increase from pair to pair, so this tells whether both are contiguous.
        if (p1 as usize - p0, q1 as usize - q0) == (pairs.len() - 1, pairs.len() - 1) {
            let left = Matrix::new(&dy.data[p0 * dy.step + o0..], pairs.len(), outputs, dy.step);
            add(left, Matrix::new(&x.data[q0 * x.step + i0..], pairs.len(), inputs, x.step));
            return;
        }
        let depth = DEPTH.min(pairs.len());
        let (mut left, mut right) = (Buffer::stale(depth * outputs), Buffer::stale(depth * inputs));
        for part in pairs.chunks(depth) {
            let rows = left.chunks_exact_mut(outputs).zip(right.chunks_exact_mut(inputs));
            for (&(p, q), (left, right)) in part.iter().zip(rows) {
                left.copy_from_slice(&dy.data[p as usize * dy.step + o0..][..outputs]);
                right.copy_from_slice(&x.data[q as usize * x.step + i0..][..inputs]);
            }
            let left = Matrix::new(&left, part.len(), outputs, outputs);
            add(left, Matrix::new(&right, part.len(), inputs, inputs));
        }
    });
}

/// Each task owns a range of positions and computes partial sums.
fn by_position<T: Real>(
    x: &Channels<'_, T>,
    dy: &Channels<'_, T>,
    dweight: &mut [T],
    conv: &Conv2d,
    gather: &Gather,
) {
    let (cin, cout, len) = (conv.in_channels, conv.out_channels, dy.shape.positions());
    let whole = gather.whole();
    let inner = cin * whole.taps.len();
    let count = (len * inner * cout / PART).clamp(1, TASKS);
    let mut parts = Buffer::stale(count * dweight.len());
    let shared = Disjoint::new(&mut parts);
    tasks(count, dy.shape.len() * inner / 8, |task| {
        let (first, end) = (len * task / count, len * (task + 1) / count);
        // SAFETY: each part belongs to one task.
        let sums = unsafe { shared.part(task * dweight.len()..(task + 1) * dweight.len()) };
        let left = |from: usize, rows: usize| {
            Matrix::new(&dy.data[from * dy.step..], rows, cout, dy.step).transposed()
        };
        if let [tap] = whole.taps[..]
            && let Some(q) = gather.sources_in_order(&whole, first, end - first, tap)
        {
            let right = Matrix::new(&x.data[q * x.step..], end - first, cin, x.step);
            product_into(sums, inner, false, left(first, end - first), right);
            return;
        }
        let depth = DEPTH.min(end - first);
        let mut strip = Buffer::stale(depth * inner);
        for from in (first..end).step_by(depth) {
            let rows = depth.min(end - from);
            let places = gather.places(&whole, from, rows);
            let read = Source { values: x.data, width: x.step, columns: 0..cin };
            gather.fill(&mut strip, &whole, &places, &whole.taps, read);
            product_into(
                sums,
                inner,
                from > first,
                left(from, rows),
                Matrix::new(&strip, rows, inner, inner),
            );
        }
    });
    for part in parts.chunks_exact(dweight.len()) {
        dweight.iter_mut().zip(part).for_each(|(d, &v)| *d += v);
    }
}
