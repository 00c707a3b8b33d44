//! Weight gradients of convolutions: dweight[o, tap, i] += sum over positions of dy[p, o] x[source of p at tap, i].
//! Knows no networks.
//!
//! Two ways to cut. Wide layers: one task owns a tap and a block of output by input channels of dweight, and runs over
//! the positions that the tap reaches. Narrow layers (few channels, many positions): tasks own ranges of positions,
//! copy all taps of a position together and leave partial sums, which are added in their order.

use super::gather::Gather;
use super::gemm::{MR, NR, Tile, accumulate_outer, copy_short, pack_line};
use super::memory::Buffer;
use super::parallel::{Disjoint, tasks};
use super::{Real, Tensor};
use crate::ops::*;

/// Positions between which tiles stay in registers.
const DEPTH: usize = 256;
/// Output channels of a task.
const OUT_BLOCK: usize = 32 * MR;
/// Input channels of a task.
const IN_BLOCK: usize = 16 * NR;
/// Layers with at most so many weights are summed in parts.
const PARTIAL: usize = 1 << 16;
/// Inputs with fewer channels than this have their taps copied together.
const NARROW: usize = 64;

/// Adds the sum of `dy` over positions.
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

/// Adds the gradient of the weight.
pub fn weight<T: Real>(x: &Tensor<T>, dy: &Tensor<T>, dweight: &mut [T], conv: &Conv2d) {
    let gather = Gather::fprop(conv, x.shape());
    if conv.in_channels < NARROW && dweight.len() <= PARTIAL {
        by_position(x, dy, dweight, conv, &gather);
    } else {
        by_block(x, dy, dweight, conv, &gather);
    }
}

/// Packed operands of one run over positions.
pub struct Packed<T: Real> {
    /// `[panel of outputs][position][MR]`.
    left: Buffer<T>,
    /// `[panel of inputs][position][NR]`.
    right: Buffer<T>,
    depth: usize,
}

impl<T: Real> Packed<T> {
    /// Room for `depth` positions of `outputs` by `inputs` channels.
    pub fn new(outputs: usize, inputs: usize, depth: usize) -> Packed<T> {
        // One line more than is used: panels a power of two apart would compete for the same cache sets.
        let depth = depth + 1;
        let left = Buffer::stale(outputs.div_ceil(MR) * depth * MR);
        Packed { left, right: Buffer::stale(inputs.div_ceil(NR) * depth * NR), depth }
    }

    /// Position number `k`: its output gradients and its inputs.
    #[inline]
    pub fn pack(&mut self, k: usize, dy: &[T], x: &[T]) {
        let lines = self.left.as_chunks_mut::<MR>().0;
        for j in 0..dy.len().div_ceil(MR) {
            pack_line(&mut lines[j * self.depth + k], dy, j * MR);
        }
        let lines = self.right.as_chunks_mut::<NR>().0;
        for j in 0..x.len().div_ceil(NR) {
            pack_line(&mut lines[j * self.depth + k], x, j * NR);
        }
    }

    /// Adds the product of the first `len` positions to `outputs` rows of `inputs` values; `row(o)` is where row `o`
    /// lies.
    pub fn add<'a>(&self, len: usize, outputs: usize, inputs: usize, row: impl Fn(usize) -> &'a mut [T]) {
        let (left, right) = (self.left.as_chunks::<MR>().0, self.right.as_chunks::<NR>().0);
        for i in 0..outputs.div_ceil(MR) {
            // Along the inputs, so that the sums are read and written in order.
            for j in 0..inputs.div_ceil(NR) {
                let columns = j * NR..((j + 1) * NR).min(inputs);
                let mut tile: Tile<T> = [[T::ZERO; NR]; MR];
                accumulate_outer(&mut tile, &left[i * self.depth..][..len], &right[j * self.depth..][..len]);
                for (o, line) in (i * MR..outputs.min((i + 1) * MR)).zip(&tile) {
                    let sums = &mut row(o)[columns.clone()];
                    sums.iter_mut().zip(line).for_each(|(s, &v)| *s += v);
                }
            }
        }
    }
}

/// Tasks own taps and channel blocks.
fn by_block<T: Real>(x: &Tensor<T>, dy: &Tensor<T>, dweight: &mut [T], conv: &Conv2d, gather: &Gather) {
    let (cin, cout, taps) = (conv.in_channels, conv.out_channels, conv.kernel * conv.kernel);
    let pairs: Vec<_> = (0..taps).map(|tap| gather.pairs(tap)).collect();
    let even = |len: usize, most: usize, unit: usize| len.div_ceil(len.div_ceil(most)).next_multiple_of(unit);
    let (ob, ib) = (even(cout, OUT_BLOCK, MR), even(cin, IN_BLOCK, NR));
    let (num_ob, num_ib) = (cout.div_ceil(ob), cin.div_ceil(ib));
    let shared = Disjoint::new(dweight);
    let work = dy.data().len() * cin * taps / 8;
    tasks(taps * num_ob * num_ib, work, |task| {
        let (tap, block) = (task / (num_ob * num_ib), task % (num_ob * num_ib));
        let (o0, i0) = (block / num_ib * ob, block % num_ib * ib);
        let (outputs, inputs) = (ob.min(cout - o0), ib.min(cin - i0));
        let depth = DEPTH.min(pairs[tap].len());
        let mut packed = Packed::new(outputs, inputs, depth);
        for part in pairs[tap].chunks(DEPTH) {
            for (k, &(p, q)) in part.iter().enumerate() {
                let dy = &dy.data()[p as usize * cout + o0..][..outputs];
                packed.pack(k, dy, &x.data()[q as usize * cin + i0..][..inputs]);
            }
            packed.add(part.len(), outputs, inputs, |o| {
                let at = ((o0 + o) * taps + tap) * cin + i0;
                // SAFETY: this tap's block of channels is this task's, and one row of it is out at a time.
                unsafe { shared.part(at..at + inputs) }
            });
        }
    });
}

/// Tasks own positions and leave partial sums.
fn by_position<T: Real>(x: &Tensor<T>, dy: &Tensor<T>, dweight: &mut [T], conv: &Conv2d, gather: &Gather) {
    let (cin, cout, taps) = (conv.in_channels, conv.out_channels, conv.kernel * conv.kernel);
    let inner = cin * taps;
    let pieces: Vec<_> = gather
        .classes
        .iter()
        .flat_map(|class| {
            (0..class.len).step_by(DEPTH).map(move |from| (class, from, DEPTH.min(class.len - from)))
        })
        .collect();
    let share = pieces.len().div_ceil(8).max(1);
    let count = pieces.len().div_ceil(share);
    let mut parts = Buffer::stale(count * dweight.len());
    let shared = Disjoint::new(&mut parts);
    tasks(count, dy.data().len() * inner / 8, |task| {
        let range = task * dweight.len()..(task + 1) * dweight.len();
        // SAFETY: each part is one task's.
        unsafe { shared.part(range.clone()) }.fill(T::ZERO);
        let mut packed = Packed::new(cout, inner, DEPTH);
        let mut row = vec![T::ZERO; inner];
        for &(class, from, len) in pieces.iter().skip(task * share).take(share) {
            let places = gather.places(class, from, len);
            let runs = gather.runs(class, &places[0]);
            row.fill(T::ZERO);
            for (k, place) in places.iter().enumerate() {
                for run in &runs {
                    if let Some(q) = gather.source(place, run.tap) {
                        let at = (run.tap.0 * conv.kernel + run.tap.1) * cin;
                        copy_short(&mut row[at..at + run.taps * cin], &x.data()[q * cin..]);
                    }
                }
                packed.pack(k, &dy.data()[gather.target(place) * cout..][..cout], &row);
            }
            packed.add(len, cout, inner, |o| {
                let at = range.start + o * inner;
                // SAFETY: inside this task's part, one row at a time.
                unsafe { shared.part(at..at + inner) }
            });
        }
    });
    for part in parts.chunks_exact(dweight.len()) {
        dweight.iter_mut().zip(part).for_each(|(d, &v)| *d += v);
    }
}
