//! Convolutions forward and their data gradients: one cut into matrix products for all kernels, strides and dilations.
//! Knows no networks. Weight gradients are in `wgrad`.
//!
//! In NHWC the channels that a tap reads are one contiguous row, so a convolution of one tap multiplies the input as it
//! lies in memory. For several taps a task copies what a strip of positions reads, a few hundred values of each at a
//! time, and multiplies that; there is no column matrix of the whole input.

use super::gather::{Class, Gather};
use super::gemm::{Matrix, product, transpose};
use super::memory::Buffer;
use super::parallel::{Disjoint, tasks};
use super::{Real, Tensor, wgrad, winograd};
use crate::ops::*;
use std::ops::Range;

/// Values of a position that are gathered at once, at most.
const DEPTH: usize = 512;
/// Values of a gathered strip: it stays in the second-level cache.
const STRIP: usize = 1 << 16;
/// Positions of a strip at least, as long as there are so many: packing a weight costs as much as some of them.
const ROWS: usize = 256;
/// Multiply-adds that make a task worth its hand-over.
const TASK: usize = 1 << 19;
/// Multiply-adds that take as long as the start of a product.
const START: usize = 1 << 14;

/// y = x * weight + bias.
pub fn fprop<T: Real>(x: &Tensor<T>, params: &[T], conv: &Conv2d) -> Tensor<T> {
    let weight = &params[conv.weight.range()];
    let bias = conv.bias.map(|b| &params[b.range()]);
    if winograd::suits::<T>(conv, x.shape()) {
        return winograd::fprop(x, weight, bias, conv);
    }
    let (cin, cout) = (conv.in_channels, conv.out_channels);
    let gather = Gather::fprop(conv, x.shape()).merge(cin * cout, START);
    let used = gather.used_taps();
    let used: Vec<_> =
        used.chunk_by(|a, b| a + 1 == *b).map(|part| part[0] * cin..(part[0] + part.len()) * cin).collect();
    let lines = transpose(weight, cout, conv.kernel * conv.kernel * cin, &used);
    let shape = conv.out_shape(x.shape());
    Tensor::overwrite(shape, |y| {
        multiply(&Disjoint::new(y), cout, x.data(), cin, &lines, &gather, bias);
    })
}

/// Gradient with respect to the input of shape `x_shape`.
pub fn dgrad<T: Real>(dy: &Tensor<T>, params: &[T], conv: &Conv2d, x_shape: Shape) -> Tensor<T> {
    let weight = &params[conv.weight.range()];
    if winograd::suits::<T>(conv, x_shape) {
        return winograd::dgrad(dy, weight, conv);
    }
    let (taps, cin, cout) = (conv.kernel * conv.kernel, conv.in_channels, conv.out_channels);
    let gather = Gather::dgrad(conv, x_shape).merge(cin * cout, START);
    let turned;
    // Lines (tap from the last, output channel): the weight turned, its first and last axes exchanged.
    let lines = if taps == 1 {
        weight
    } else {
        let mut buffer = Buffer::stale(weight.len());
        let used = gather.used_taps();
        let shared = Disjoint::new(&mut buffer);
        tasks(used.len(), weight.len(), |i| {
            let at = used[i] * cout * cin;
            // SAFETY: each tap's lines are one task's.
            let lines = unsafe { shared.part(at..at + cout * cin) };
            for (o, line) in lines.chunks_exact_mut(cin).enumerate() {
                line.copy_from_slice(&weight[(o * taps + taps - 1 - used[i]) * cin..][..cin]);
            }
        });
        turned = buffer;
        &turned
    };
    Tensor::overwrite(x_shape, |dx| {
        multiply(&Disjoint::new(dx), cin, dy.data(), cout, lines, &gather, None);
    })
}

/// Adds the gradients of weight and bias to `grads`.
pub fn wgrad<T: Real>(x: &Tensor<T>, dy: &Tensor<T>, grads: &mut [T], conv: &Conv2d) {
    if let Some(bias) = conv.bias {
        wgrad::bias(dy, &mut grads[bias.range()]);
    }
    let dweight = &mut grads[conv.weight.range()];
    if winograd::suits::<T>(conv, x.shape()) {
        winograd::wgrad(x, dy, dweight, conv);
    } else {
        wgrad::weight(x, dy, dweight, conv);
    }
}

/// Some positions of a class by some output channels.
struct Task<'a> {
    class: &'a Class,
    from: usize,
    len: usize,
    columns: Range<usize>,
}

/// Cuts the product into tasks by its size alone.
fn cut<'a>(gather: &'a Gather, outputs: usize, width: usize) -> Vec<Task<'a>> {
    let cost = |class: &Class, rows: usize| rows * class.taps.len() * width * outputs;
    let total: usize = gather.classes.iter().map(|c| cost(c, c.len)).sum();
    let limit = (total / 16).max(TASK);
    // Channels are cut where the crate's tiles end.
    let unit = if outputs < 192 { 8 } else { 24 };
    let mut list = Vec::new();
    for class in &gather.classes {
        let rows = (STRIP / (class.taps.len() * width).clamp(1, DEPTH)).max(ROWS);
        let blocks = class.len.div_ceil(rows).max((cost(class, class.len) / limit).min(class.len / 128));
        let step = class.len.div_ceil(blocks.max(1)).max(1);
        for from in (0..class.len).step_by(step) {
            let len = step.min(class.len - from);
            let groups = cost(class, len).div_ceil(limit).clamp(1, (outputs / 32).max(1));
            let edge = |g: usize| if g == groups { outputs } else { outputs * g / groups / unit * unit };
            for g in 0..groups {
                list.push(Task { class, from, len, columns: edge(g)..edge(g + 1) });
            }
        }
    }
    list
}

/// `out[position] = sum over taps of source[position's row at tap] * lines[tap] + bias`; rows of `out` are `outputs`
/// long, rows of `source` and the lines of a tap are `width`.
fn multiply<T: Real>(
    out: &Disjoint<'_, T>,
    outputs: usize,
    source: &[T],
    width: usize,
    lines: &[T],
    gather: &Gather,
    bias: Option<&[T]>,
) {
    let list = cut(gather, outputs, width);
    let work = list.iter().map(|t| t.len * t.columns.len() * (t.class.taps.len() * width + 8)).sum();
    tasks(list.len(), work, |i| {
        let Task { class, from, len, ref columns } = list[i];
        let in_order = gather.targets_in_order(class, from, len);
        let mut places = Vec::new();
        // Sums of positions that lie apart come together first.
        let mut sums = Buffer::stale(if in_order.is_some() { 0 } else { len * columns.len() });
        let apart = Disjoint::new(&mut sums);
        let (to, at, step) = match in_order {
            Some(first) => (out, first * outputs + columns.start, outputs),
            None => (&apart, 0, columns.len()),
        };
        if class.taps.is_empty() || bias.is_some() {
            for r in 0..len {
                // SAFETY: these positions and channels are this task's, no other part of them is out.
                let row = unsafe { to.part(at + r * step..at + r * step + columns.len()) };
                match bias {
                    Some(bias) => row.copy_from_slice(&bias[columns.clone()]),
                    None => row.fill(T::ZERO),
                }
            }
        }
        let mut add = bias.is_some();
        let mut multiply = |left: Matrix<'_, T>, first: usize| {
            let right = Matrix::new(
                &lines[first * outputs + columns.start..],
                left.columns(),
                columns.len(),
                outputs,
            );
            // SAFETY: as above.
            unsafe { product(to, at, step, add, left, right) };
            add = true;
        };
        let read_in_place = match class.taps[..] {
            [tap] => gather.sources_in_order(class, from, len, tap).map(|first| (tap, first)),
            _ => None,
        };
        if let Some((tap, first)) = read_in_place {
            multiply(Matrix::new(&source[first * width..], len, width, width), tap * width);
        } else if !class.taps.is_empty() {
            places = gather.places(class, from, len);
            let mut strip = Buffer::stale(len * DEPTH.min(class.taps.len() * width));
            for (taps, part) in chunks(&class.taps, width) {
                let inner = taps.len() * part.len();
                gather.fill(&mut strip[..len * inner], class, &places, taps, source, width, part.clone());
                let mut before = 0;
                for run in taps.chunk_by(|a, b| a + 1 == *b) {
                    let left = Matrix::new(&strip[before..len * inner], len, run.len() * part.len(), inner);
                    multiply(left, run[0] * width + part.start);
                    before += run.len() * part.len();
                }
            }
        }
        if in_order.is_none() {
            if places.is_empty() {
                places = gather.places(class, from, len);
            }
            for (place, row) in places.iter().zip(sums.chunks_exact(columns.len())) {
                let at = gather.target(place) * outputs;
                // SAFETY: as above.
                unsafe { out.part(at + columns.start..at + columns.end) }.copy_from_slice(row);
            }
        }
    });
}

/// Cuts the inner dimension into taps and values of each that are gathered at once: several whole taps or a part of one.
fn chunks(taps: &[usize], width: usize) -> impl Iterator<Item = (&[usize], Range<usize>)> {
    let together = (DEPTH / width).max(1);
    let step = width.div_ceil(width.div_ceil(DEPTH));
    taps.chunks(together)
        .flat_map(move |taps| (0..width).step_by(step).map(move |from| (taps, from..width.min(from + step))))
}
