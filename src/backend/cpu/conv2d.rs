//! Forward convolutions and data gradients as matrix products, in one way for all kernels, strides and
//! dilations. Weight gradients are in `wgrad`.
//!
//! In NHWC the channels that a tap reads are one contiguous row, so a convolution of one tap multiplies the
//! input in place. For several taps a task copies an im2col strip, a few hundred values of each of its
//! positions at a time, and multiplies that; there is no im2col matrix of the whole input. Small images under
//! large kernels, whose classes (see `gather`) are a few positions each, are computed tap by tap instead, so
//! that the weight passes through the cache once. Groups are computed one after another, each on a strided
//! view of its channels.

use super::channels::{Channels, Target};
use super::gather::{Class, Gather, Source};
use super::gemm::{Matrix, product, product_into};
use super::memory::Buffer;
use super::parallel::{Disjoint, tasks};
use super::{Cpu, Real, Tensor, wgrad, winograd};
use crate::ops::{
    BatchNormEval, BatchNormOps, BatchNormTangent, Conv2d, Conv2dOps, Dgrad, DgradOut, ElementwiseOps, Fprop,
    FpropOut, Onto, OutputEnd, Shape,
};
use std::ops::Range;

impl<T: Real> Conv2dOps for Cpu<T> {
    fn conv2d_fprop(&self, op: &Fprop<'_, Self>) -> FpropOut<Self> {
        let &Fprop { params, conv, .. } = op;
        let y = fprop(op.x, params, conv);
        let y = match op.end {
            OutputEnd::Plain | OutputEnd::Moments => y,
            OutputEnd::Norm(norm, residual) => {
                self.batch_norm_eval(&BatchNormEval { x: &y, params, norm, residual })
            }
            OutputEnd::Tangent(norm, clean) => {
                self.batch_norm_tangent(&BatchNormTangent { t: &y, y: clean, params, norm })
            }
        };
        FpropOut { y, moments: None }
    }

    fn conv2d_dgrad(&self, op: &Dgrad<'_, Self>) -> DgradOut<Self> {
        let &Dgrad { params, conv, .. } = op;
        let dx = dgrad(op.dy, params, conv, op.x_shape());
        let dx = match op.onto {
            Onto::Input(_) | Onto::Norm(_, None) => dx,
            Onto::Add(to) | Onto::Norm(_, Some(to)) => self.add(&dx, to, 1.0),
            Onto::Frozen(norm, y) => self.batch_norm_tangent(&BatchNormTangent { t: &dx, y, params, norm }),
        };
        DgradOut { dx, sums: None }
    }

    fn conv2d_wgrad(&self, x: &Tensor<T>, dy: &Tensor<T>, grads: &mut Vec<T>, conv: &Conv2d) {
        if let Some(bias) = conv.bias {
            wgrad::bias(dy, &mut grads[bias.range()]);
        }
        for g in 0..conv.groups {
            let (x, dy) = (Channels::group(x, g, conv.groups), Channels::group(dy, g, conv.groups));
            let conv = conv.group(g);
            let dweight = &mut grads[conv.weight.range()];
            if winograd::suits::<T>(&conv, x.shape) {
                winograd::wgrad(&x, &dy, dweight, &conv);
            } else {
                wgrad::weight(&x, &dy, dweight, &conv);
            }
        }
    }
}

/// Most values of a position that are gathered at once.
const DEPTH: usize = 512;
/// Values of an im2col strip: it stays in the second-level cache.
const STRIP: usize = 1 << 16;
/// Least positions of a strip, where there are as many: packing the weight costs as much as multiplying
/// [`PACK`] of them.
const ROWS: usize = 256;
/// Least multiply-adds of a task, so that handing it to a thread pays.
const TASK: usize = 1 << 19;
/// Multiply-adds that take as long as the start of a product.
const START: usize = 1 << 14;
/// Positions whose multiplication takes as long as packing the weight.
const PACK: usize = 32;
/// Taps of fewer channels than this are multiplied together in a data gradient.
const NARROW: usize = 64;

fn fprop<T: Real>(x: &Tensor<T>, params: &[T], conv: &Conv2d) -> Tensor<T> {
    let shape = conv.out_shape(x.shape());
    Tensor::overwrite(shape, |y| {
        for g in 0..conv.groups {
            let x = Channels::group(x, g, conv.groups);
            fprop_group(&Target::group(y, shape, g, conv.groups), &x, params, &conv.group(g));
        }
    })
}

fn fprop_group<T: Real>(y: &Target<'_, T>, x: &Channels<'_, T>, params: &[T], conv: &Conv2d) {
    let weight = &params[conv.weight.range()];
    let bias = conv.bias.map(|b| &params[b.range()]);
    if winograd::suits::<T>(conv, x.shape) {
        return winograd::fprop(y, x, weight, bias, conv);
    }
    let (cin, taps) = (conv.in_channels, conv.kernel * conv.kernel);
    let weights = TapWeights {
        data: weight,
        taps: (0..taps).map(|t| t * cin).collect(),
        row_step: 1,
        column_step: taps * cin,
        joined: true,
    };
    convolve(y, x, &weights, Gather::fprop(conv, x.shape), bias);
}

fn dgrad<T: Real>(dy: &Tensor<T>, params: &[T], conv: &Conv2d, x_shape: Shape) -> Tensor<T> {
    Tensor::overwrite(x_shape, |dx| {
        for g in 0..conv.groups {
            let dy = Channels::group(dy, g, conv.groups);
            dgrad_group(&Target::group(dx, x_shape, g, conv.groups), &dy, params, &conv.group(g));
        }
    })
}

fn dgrad_group<T: Real>(dx: &Target<'_, T>, dy: &Channels<'_, T>, params: &[T], conv: &Conv2d) {
    let weight = &params[conv.weight.range()];
    if winograd::suits::<T>(conv, dx.shape) {
        return winograd::dgrad(dx, dy, weight, conv);
    }
    let (taps, cin, cout) = (conv.kernel * conv.kernel, conv.in_channels, conv.out_channels);
    let gather = Gather::dgrad(conv, dx.shape);
    if taps > 1 && cout < NARROW {
        // Reordered as a data gradient counts taps, from the last.
        let mut data = Buffer::stale(weight.len());
        for (i, row) in data.chunks_exact_mut(cin).enumerate() {
            row.copy_from_slice(&weight[(i % cout * taps + taps - 1 - i / cout) * cin..][..cin]);
        }
        let taps = (0..taps).map(|t| t * cout * cin).collect();
        let weights = TapWeights { data: &data, taps, row_step: cin, column_step: 1, joined: true };
        convolve(dx, dy, &weights, gather, None);
    } else {
        let taps_at = (0..taps).map(|t| (taps - 1 - t) * cin).collect();
        let weights =
            TapWeights { data: weight, taps: taps_at, row_step: taps * cin, column_step: 1, joined: false };
        convolve(dx, dy, &weights, gather, None);
    }
}

/// The right operands of the products: for each tap a matrix with one row per channel that is read and one
/// column per channel that is written.
struct TapWeights<'a, T> {
    data: &'a [T],
    /// Index of each tap's matrix.
    taps: Vec<usize>,
    /// Elements from row to row.
    row_step: usize,
    /// Elements from column to column.
    column_step: usize,
    /// Whether each tap's last row is followed by the next tap's first, so that one matrix holds several
    /// taps.
    joined: bool,
}

impl<'a, T> TapWeights<'a, T> {
    /// `rows` rows from row `from` of `tap` on, of the given columns.
    fn of(&self, tap: usize, from: usize, rows: usize, columns: &Range<usize>) -> Matrix<'a, T> {
        let at = self.taps[tap] + from * self.row_step + columns.start * self.column_step;
        Matrix::strided(&self.data[at..], (rows, columns.len()), (self.row_step, self.column_step))
    }
}

/// A convolution as its tasks see it.
struct Work<'a, T: Real> {
    target: &'a Target<'a, T>,
    outputs: usize,
    source: &'a [T],
    /// Channels that are read of each position of the source.
    width: usize,
    /// Values from one of its positions to the next.
    step: usize,
    weights: &'a TapWeights<'a, T>,
    gather: Gather,
    bias: Option<&'a [T]>,
}

/// `out[position] = sum over taps of source[what the position reads at tap] * weights[tap] + bias`, by the
/// cheapest of three ways: by class, by one class of all positions, or tap by tap.
fn convolve<T: Real>(
    target: &Target<'_, T>,
    source: &Channels<'_, T>,
    weights: &TapWeights<'_, T>,
    mut gather: Gather,
    bias: Option<&[T]>,
) {
    let shape = target.shape;
    let (width, outputs) = (source.shape.c, shape.c);
    // Costs in multiply-adds per tap and position; every product packs its right operand again.
    let start = PACK + START / (width * outputs).max(1);
    let class = |c: &Class| (c.len + start * c.len.div_ceil(ROWS)) * c.taps.len();
    let exact: usize = gather.classes.iter().map(class).sum();
    let whole = gather.whole();
    let merged = class(&whole);
    let joins: usize = gather.classes.iter().map(|c| c.len * c.taps.len()).sum();
    // The last way also reads and writes the output once per tap.
    let single = joins + joins * 8 / width + start * shape.positions().div_ceil(ROWS) * gather.used_taps();
    let several = gather.classes.len() > 1;
    let tap_by_tap = several && single < merged.min(exact);
    if several && merged <= exact {
        gather.classes = vec![whole];
    }
    let work = Work { target, outputs, source: source.data, width, step: source.step, weights, gather, bias };
    if tap_by_tap { work.by_tap(shape.positions()) } else { work.by_class() }
}

/// Output channels of part `g` of `groups`, cut at multiples of the `gemm` crate's tiles.
fn group(outputs: usize, g: usize, groups: usize) -> Range<usize> {
    let unit = if outputs < 192 { 8 } else { 24 };
    let edge = |g: usize| if g == groups { outputs } else { outputs * g / groups / unit * unit };
    edge(g)..edge(g + 1)
}

/// A block of the output: positions of a class by output channels.
struct Task<'a> {
    class: &'a Class,
    from: usize,
    len: usize,
    columns: Range<usize>,
}

impl<T: Real> Work<'_, T> {
    /// Initialises rows of a task's output with the bias or zero.
    ///
    /// # Safety
    /// No other reference to these elements may be alive on any thread.
    unsafe fn begin(
        &self,
        to: &Disjoint<'_, T>,
        at: usize,
        step: usize,
        rows: usize,
        columns: &Range<usize>,
    ) {
        for r in 0..rows {
            // SAFETY: promised by the caller.
            let row = unsafe { to.part(at + r * step..at + r * step + columns.len()) };
            match self.bias {
                Some(bias) => row.copy_from_slice(&bias[columns.clone()]),
                None => row.fill(T::ZERO),
            }
        }
    }

    /// Computes the convolution tap by tap; each task owns positions and output channels.
    fn by_tap(&self, positions: usize) {
        let &Work { target, outputs, source, width, step, weights, .. } = self;
        let pairs: Vec<_> = (0..weights.taps.len()).map(|tap| self.gather.pairs(tap)).collect();
        let work = pairs.iter().map(Vec::len).sum::<usize>() * width * outputs;
        let blocks = positions.div_ceil(ROWS);
        let groups = (work / TASK).min(16).div_ceil(blocks).clamp(1, (outputs / 48).max(1));
        tasks(blocks * groups, work, |task| {
            let (block, g) = (task / groups, task % groups);
            let (first, end) = (positions * block / blocks, positions * (block + 1) / blocks);
            let columns = group(outputs, g, groups);
            // SAFETY: these positions and channels belong to this task, and no other reference to them is
            // alive.
            unsafe {
                self.begin(&target.out, target.at(first, columns.start), target.step, end - first, &columns);
            }
            let mut strip = Buffer::stale((end - first) * DEPTH.min(width));
            let mut sums = Buffer::stale((end - first) * columns.len());
            for (tap, pairs) in pairs.iter().enumerate() {
                let number = |edge: usize| pairs.partition_point(|p| (p.0 as usize) < edge);
                let part = &pairs[number(first)..number(end)];
                let (Some(&(_, q0)), Some(&(_, q1))) = (part.first(), part.last()) else { continue };
                let mut multiply = |left: Matrix<'_, T>, from: usize| {
                    let right = weights.of(tap, from, left.columns(), &columns);
                    product_into(&mut sums, columns.len(), from > 0, left, right);
                };
                if (q1 - q0) as usize == part.len() - 1 {
                    multiply(Matrix::new(&source[q0 as usize * step..], part.len(), width, step), 0);
                } else {
                    let depth = width.div_ceil(width.div_ceil(DEPTH));
                    for from in (0..width).step_by(depth) {
                        let len = depth.min(width - from);
                        for (&(_, q), row) in part.iter().zip(strip.chunks_exact_mut(len)) {
                            row.copy_from_slice(&source[q as usize * step + from..][..len]);
                        }
                        multiply(Matrix::new(&strip, part.len(), len, len), from);
                    }
                }
                for (&(p, _), sums) in part.iter().zip(sums.chunks_exact(columns.len())) {
                    let at = target.at(p as usize, columns.start);
                    // SAFETY: as above.
                    let row = unsafe { target.out.part(at..at + columns.len()) };
                    row.iter_mut().zip(sums).for_each(|(r, &s)| *r += s);
                }
            }
        });
    }

    /// Cuts the convolution into tasks, as its size alone decides.
    fn cut(&self) -> Vec<Task<'_>> {
        let &Work { outputs, width, ref gather, .. } = self;
        let cost = |class: &Class, rows: usize| rows * class.taps.len() * width * outputs;
        let total: usize = gather.classes.iter().map(|c| cost(c, c.len)).sum();
        let limit = (total / 16).max(TASK);
        let mut list = Vec::new();
        for class in &gather.classes {
            let rows = (STRIP / (class.taps.len() * width).clamp(1, DEPTH)).max(ROWS);
            let blocks = class.len.div_ceil(rows).max((cost(class, class.len) / limit).min(class.len / 128));
            let step = class.len.div_ceil(blocks.max(1)).max(1);
            for from in (0..class.len).step_by(step) {
                let len = step.min(class.len - from);
                let groups = cost(class, len).div_ceil(limit).clamp(1, (outputs / 32).max(1));
                list.extend((0..groups).map(|g| Task {
                    class,
                    from,
                    len,
                    columns: group(outputs, g, groups),
                }));
            }
        }
        list
    }

    /// Computes the convolution class by class.
    fn by_class(&self) {
        let &Work { target, source, width, step: source_step, weights, ref gather, bias, .. } = self;
        let list = self.cut();
        let work = list.iter().map(|t| t.len * t.columns.len() * (t.class.taps.len() * width + 8)).sum();
        tasks(list.len(), work, |i| {
            let Task { class, from, len, ref columns } = list[i];
            let in_order = gather.targets_in_order(class, from, len);
            let mut places = Vec::new();
            // Positions that are not contiguous are computed in a buffer and scattered afterwards.
            let mut sums = Buffer::stale(if in_order.is_some() { 0 } else { len * columns.len() });
            let apart = Disjoint::new(&mut sums);
            let (to, at, step) = match in_order {
                Some(first) => (&target.out, target.at(first, columns.start), target.step),
                None => (&apart, 0, columns.len()),
            };
            let mut add = bias.is_some();
            if class.taps.is_empty() || add {
                // SAFETY: these positions and channels belong to this task, and no other reference to them is
                // alive.
                unsafe { self.begin(to, at, step, len, columns) };
            }
            let mut multiply = |left: Matrix<'_, T>, tap: usize, from: usize| {
                let right = weights.of(tap, from, left.columns(), columns);
                // SAFETY: as above.
                unsafe { product(to, at, step, add, left, right) };
                add = true;
            };
            let read_in_place = match class.taps[..] {
                [tap] => gather.sources_in_order(class, from, len, tap).map(|first| (tap, first)),
                _ => None,
            };
            if let Some((tap, first)) = read_in_place {
                let left = Matrix::new(&source[first * source_step..], len, width, source_step);
                multiply(left, tap, 0);
            } else if !class.taps.is_empty() {
                places = gather.places(class, from, len);
                let mut strip = Buffer::stale(len * DEPTH.min(class.taps.len() * width));
                for (taps, part) in chunks(&class.taps, width) {
                    let inner = taps.len() * part.len();
                    let strip = &mut strip[..len * inner];
                    let read = Source { values: source, width: source_step, columns: part.clone() };
                    gather.fill(strip, class, &places, taps, read);
                    let mut before = 0;
                    for run in taps.chunk_by(|a, b| weights.joined && a + 1 == *b) {
                        let depth = run.len() * part.len();
                        multiply(Matrix::new(&strip[before..], len, depth, inner), run[0], part.start);
                        before += depth;
                    }
                }
            }
            if in_order.is_none() {
                if places.is_empty() {
                    places = gather.places(class, from, len);
                }
                for (place, row) in places.iter().zip(sums.chunks_exact(columns.len())) {
                    let at = target.at(gather.target(place), columns.start);
                    // SAFETY: as above.
                    unsafe { target.out.part(at..at + columns.len()) }.copy_from_slice(row);
                }
            }
        });
    }
}

/// Cuts the inner dimension into the taps, and the range of values of each, that are gathered at once:
/// several whole taps or a part of one.
fn chunks(taps: &[usize], width: usize) -> impl Iterator<Item = (&[usize], Range<usize>)> {
    let together = (DEPTH / width).max(1);
    let step = width.div_ceil(width.div_ceil(DEPTH));
    taps.chunks(together)
        .flat_map(move |taps| (0..width).step_by(step).map(move |from| (taps, from..width.min(from + step))))
}
