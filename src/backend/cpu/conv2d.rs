//! Convolutions forward and their data gradients: one indirect matrix product for all kernels, strides and dilations.
//! Knows no networks. Weight gradients are in `wgrad`.
//!
//! In NHWC the channels that a tap reads are one contiguous row, so the register tiles multiply rows of the input as
//! they lie in memory with panels of the packed weight; no column matrix is built. Where the input has so few channels
//! that rows are shorter than a tile is worth, the taps of a strip of positions are copied together first.

use super::gather::{Class, Gather};
use super::gemm::{KC, MR, NR, Tile, accumulate, copy_short, pack_line, pack_transposed};
use super::memory::Buffer;
use super::parallel::{Disjoint, tasks};
use super::{Real, Tensor, wgrad, winograd};
use crate::ops::*;

/// Output positions of a task at most: its rows of one inner block stay in the second-level cache.
const ROWS: usize = 40 * MR;
/// Multiply-adds that make a task worth its hand-over.
const TASK: usize = 1 << 19;
/// Inputs with fewer channels than this are gathered into strips.
const NARROW: usize = 24;

/// y = x * weight + bias.
pub fn fprop<T: Real>(x: &Tensor<T>, params: &[T], conv: &Conv2d) -> Tensor<T> {
    let weight = &params[conv.weight.range()];
    let bias = conv.bias.map(|b| &params[b.range()]);
    if winograd::suits::<T>(conv, x.shape()) {
        return winograd::fprop(x, weight, bias, conv);
    }
    let inner = conv.kernel * conv.kernel * conv.in_channels;
    let gather = Gather::fprop(conv, x.shape());
    let used = gather.used_taps();
    let packed = Panels::new(conv.out_channels, inner, |j, panel| {
        let n = NR.min(conv.out_channels - j * NR);
        for part in used.chunk_by(|a, b| a + 1 == *b) {
            let lines = part[0] * conv.in_channels..(part[0] + part.len()) * conv.in_channels;
            pack_transposed(&mut panel[lines.clone()], n, |i| &weight[(j * NR + i) * inner..][lines.clone()]);
        }
    });
    let shape = conv.out_shape(x.shape());
    Tensor::overwrite(shape, |y| multiply(y, x.data(), conv.in_channels, &packed, &gather, bias))
}

/// Gradient with respect to the input of shape `x_shape`.
pub fn dgrad<T: Real>(dy: &Tensor<T>, params: &[T], conv: &Conv2d, x_shape: Shape) -> Tensor<T> {
    let weight = &params[conv.weight.range()];
    if winograd::suits::<T>(conv, x_shape) {
        return winograd::dgrad(dy, weight, conv);
    }
    let (taps, cin, cout) = (conv.kernel * conv.kernel, conv.in_channels, conv.out_channels);
    // Inner order (tap from the last, output channel): the weight turned, its first and last axes exchanged.
    let gather = Gather::dgrad(conv, x_shape);
    let used = gather.used_taps();
    let packed = Panels::new(cin, taps * cout, |j, panel| {
        for &t in &used {
            let lines = &mut panel[t * cout..][..cout];
            for (o, line) in lines.iter_mut().enumerate() {
                pack_line(line, &weight[(o * taps + taps - 1 - t) * cin..][..cin], j * NR);
            }
        }
    });
    Tensor::overwrite(x_shape, |dx| multiply(dx, dy.data(), cout, &packed, &gather, None))
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

/// A packed right side: for each [`NR`] outputs, `inner` lines of them.
struct Panels<T: Real> {
    data: Buffer<T>,
    inner: usize,
    outputs: usize,
}

impl<T: Real> Panels<T> {
    /// Packs with `pack(panel number, its lines)`.
    fn new(outputs: usize, inner: usize, pack: impl Fn(usize, &mut [[T; NR]]) + Sync) -> Panels<T> {
        let count = outputs.div_ceil(NR);
        let mut data = Buffer::stale(count * inner * NR);
        let shared = Disjoint::new(&mut data);
        tasks(count, count * inner * NR, |j| {
            // SAFETY: every panel is one task's.
            let panel = unsafe { shared.part(j * inner * NR..(j + 1) * inner * NR) };
            pack(j, panel.as_chunks_mut().0);
        });
        Panels { data, inner, outputs }
    }

    fn count(&self) -> usize {
        self.outputs.div_ceil(NR)
    }

    /// Lines `from..from + len` of panel `j`.
    fn lines(&self, j: usize, from: usize, len: usize) -> &[[T; NR]] {
        self.data[(j * self.inner + from) * NR..][..len * NR].as_chunks().0
    }
}

/// Some positions of a class by some panels.
struct Task<'a> {
    class: &'a Class,
    from: usize,
    len: usize,
    panels: std::ops::Range<usize>,
}

/// Cuts the product into tasks by its size alone.
fn cut<'a>(gather: &'a Gather, panels: usize, width: usize) -> Vec<Task<'a>> {
    let cost = |class: &Class, rows: usize| rows.max(MR) * class.taps.len() * width * NR;
    let total: usize = gather.classes.iter().map(|c| cost(c, c.len) * panels).sum();
    let limit = (total / 16).max(TASK);
    let mut list = Vec::new();
    for class in &gather.classes {
        let blocks = class.len.div_ceil(ROWS).max(1);
        let step = class.len.div_ceil(blocks).next_multiple_of(MR);
        for from in (0..class.len).step_by(step.max(1)) {
            let len = step.min(class.len - from);
            let groups = (cost(class, len) * panels).div_ceil(limit).clamp(1, panels);
            for g in 0..groups {
                list.push(Task { class, from, len, panels: panels * g / groups..panels * (g + 1) / groups });
            }
        }
    }
    list
}

/// `out[position] = sum over taps of source[position's row at tap] * packed[tap] + bias`; rows of `source` are `width`
/// long.
fn multiply<T: Real>(
    out: &mut [T],
    source: &[T],
    width: usize,
    packed: &Panels<T>,
    gather: &Gather,
    bias: Option<&[T]>,
) {
    let list = cut(gather, packed.count(), width);
    let work = list.iter().map(|t| t.len * t.panels.len() * (t.class.taps.len() * width + 8)).sum();
    let out = Disjoint::new(out);
    tasks(list.len(), work, |i| {
        let Task { class, from, len, ref panels } = list[i];
        let places = gather.places(class, from, len);
        let kernel = |tap: usize| (tap / gather.kernel, tap % gather.kernel);
        // Every member reads through every tap of its class.
        let source_of = |place, tap| gather.source(place, tap).unwrap_or(0) * width;
        let sink = Sink {
            out: &out,
            targets: places.iter().map(|p| gather.target(p)).collect(),
            outputs: packed.outputs,
            bias,
        };
        // One tap is read in place, and so is none: a class that no tap reaches still writes its zeros.
        if class.taps.len() <= 1 || width >= NARROW {
            let mut starts = Vec::with_capacity(class.taps.len() * len);
            for &tap in &class.taps {
                let tap = kernel(tap);
                starts.extend(places.iter().map(|place| source_of(place, tap)));
            }
            let blocks = blocks(&class.taps, width);
            let left = Left { source, starts, blocks };
            product(&left, |j, line, n| packed.lines(j, line, n), panels.clone(), &sink);
        } else {
            // One row a position with all the taps that it reads, panels with only those taps.
            let inner = class.taps.len() * width;
            let runs = gather.runs(class, &places[0]);
            let mut strip = Buffer::stale(len * inner);
            for (place, row) in places.iter().zip(strip.chunks_exact_mut(inner)) {
                for run in &runs {
                    let part = &mut row[run.number * width..][..run.taps * width];
                    copy_short(part, &source[source_of(place, run.tap)..]);
                }
            }
            let left = Left {
                source: &strip,
                starts: (0..len).map(|i| i * inner).collect(),
                blocks: blocks(&[0], inner),
            };
            if inner == packed.inner {
                product(&left, |j, line, n| packed.lines(j, line, n), panels.clone(), &sink);
            } else {
                let line = |j, tap| packed.lines(j, tap * width, width).iter().copied();
                let lines: Vec<[T; NR]> = panels
                    .clone()
                    .flat_map(|j| class.taps.iter().flat_map(move |&tap| line(j, tap)))
                    .collect();
                let first = panels.start;
                product(&left, |j, line, n| &lines[(j - first) * inner + line..][..n], panels.clone(), &sink);
            }
        }
    });
}

/// Values `from..from + len` of the rows of tap number `tap` (of the class), times lines from `line` on.
struct Segment {
    tap: usize,
    from: usize,
    line: usize,
    len: usize,
}

/// Cuts the inner dimension: each block of segments has about [`KC`] lines.
fn blocks(taps: &[usize], width: usize) -> Vec<Vec<Segment>> {
    let step = width.div_ceil(width.div_ceil(KC).max(1)).max(1);
    let mut blocks: Vec<Vec<Segment>> = Vec::new();
    let mut filled = KC;
    for (number, tap) in taps.iter().enumerate() {
        for from in (0..width).step_by(step) {
            let len = step.min(width - from);
            if filled + len > KC {
                blocks.push(Vec::new());
                filled = 0;
            }
            filled += len;
            if let Some(block) = blocks.last_mut() {
                block.push(Segment { tap: number, from, line: tap * width + from, len });
            }
        }
    }
    blocks
}

/// Left side of one task's product.
struct Left<'a, T> {
    source: &'a [T],
    /// Where each row begins, `[tap number][row]`.
    starts: Vec<usize>,
    blocks: Vec<Vec<Segment>>,
}

/// Where one task's product goes.
struct Sink<'a, T> {
    out: &'a Disjoint<'a, T>,
    /// Output position of each row.
    targets: Vec<usize>,
    outputs: usize,
    bias: Option<&'a [T]>,
}

/// The product of one task; `lines(panel, first, number)` is the right side.
fn product<'b, T: Real>(
    left: &Left<'_, T>,
    lines: impl Fn(usize, usize, usize) -> &'b [[T; NR]],
    panels: std::ops::Range<usize>,
    sink: &Sink<'_, T>,
) {
    let rows = sink.targets.len();
    if left.blocks.is_empty() {
        for j in panels {
            for r in 0..rows {
                // SAFETY: each position and panel belongs to one task, which has no other part out.
                unsafe { sink.values(r, j) }.copy_from_slice(&sink.initial(j)[..sink.columns(j).len()]);
            }
        }
        return;
    }
    for (number, block) in left.blocks.iter().enumerate() {
        for j in panels.clone() {
            let columns = sink.columns(j).len();
            for first in (0..rows).step_by(MR) {
                let m = MR.min(rows - first);
                let mut tile: Tile<T> = [sink.initial(j); MR];
                if number > 0 {
                    for (i, line) in tile[..m].iter_mut().enumerate() {
                        // SAFETY: as above.
                        line[..columns].copy_from_slice(unsafe { sink.values(first + i, j) });
                    }
                }
                for segment in block {
                    let starts = &left.starts[segment.tap * rows + first..][..m];
                    let mut a: [&[T]; MR] = [&[]; MR];
                    for (a, start) in a.iter_mut().zip(starts) {
                        *a = &left.source[start + segment.from..][..segment.len];
                    }
                    accumulate(m, &mut tile, &a, lines(j, segment.line, segment.len));
                }
                for (i, line) in tile[..m].iter().enumerate() {
                    // SAFETY: as above.
                    unsafe { sink.values(first + i, j) }.copy_from_slice(&line[..columns]);
                }
            }
        }
    }
}

impl<T: Real> Sink<'_, T> {
    /// Output channels of panel `j`.
    fn columns(&self, j: usize) -> std::ops::Range<usize> {
        j * NR..((j + 1) * NR).min(self.outputs)
    }

    /// What sums of panel `j` begin with.
    fn initial(&self, j: usize) -> [T; NR] {
        let mut line = [T::ZERO; NR];
        if let Some(bias) = self.bias {
            let part = &bias[self.columns(j)];
            line[..part.len()].copy_from_slice(part);
        }
        line
    }

    /// Outputs of row `r` and panel `j`.
    ///
    /// # Safety
    /// No other reference to them may be alive on any thread.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    unsafe fn values(&self, r: usize, j: usize) -> &mut [T] {
        let (at, columns) = (self.targets[r] * self.outputs, self.columns(j));
        // SAFETY: promised by the caller.
        unsafe { self.out.part(at + columns.start..at + columns.end) }
    }
}
