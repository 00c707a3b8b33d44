//! 3x3 convolutions of stride 1 through Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray, 2016): 36
//! multiplications where the definition has 144, forward, data gradient and weight gradient.
//!
//! With d a 6x6 input patch, g the kernel, m the 4x4 outputs: m = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A. Points 0, ±3/4,
//! ±3/2, ∞: their coefficients are exact in binary, and in f32 the result differs from the exact one by about
//! 1.3e-6 (relative norm, 256 channels); the customary 0, ±1, ±2, ∞ by 2.7e-6, the direct sum by 3e-7. The
//! f64 device does not use it.

use super::Real;
use super::channels::{Channels, Target};
use super::gemm::{Matrix, product};
use super::memory::Buffer;
use super::parallel::{Disjoint, tasks};
use crate::ops::{Conv2d, Shape};

/// Squares of the finite points.
const A2: f64 = 0.5625;
const B2: f64 = 2.25;
/// The finite points.
const A: f64 = 0.75;
const B: f64 = 1.5;
/// Products of a point's differences to the others: 0, ±A, ±B.
const N0: f64 = A2 * B2;
const NA: f64 = 2.0 * A2 * (A2 - B2);
const NB: f64 = 2.0 * B2 * (B2 - A2);

/// Points of a transformed tile.
const POINTS: usize = 36;
/// Channels that a transform takes together.
const LANES: usize = 8;
/// Most tiles whose transforms are in memory at once.
const SPAN: usize = 256;
/// Most values of the transforms of input and output in memory at once: they stay in the last-level cache.
const VALUES: usize = 1 << 22;
/// Most channels of a product, on the side that is cut into tasks.
const BLOCK: usize = 128;
/// Output channels whose weight one task transforms.
const LINE: usize = 16;
/// Tiles below which transforming the weight costs more than it saves.
const MIN_TILES: usize = 24;

/// Padding elements between one point's values and the next's: strides of a power of two would map all points
/// to the same cache sets.
const GAP: usize = 16;

type Lanes<T> = [T; LANES];

/// Whether a convolution of input shape `x` is computed by Winograd's algorithm.
pub fn suits<T: Real>(conv: &Conv2d, x: Shape) -> bool {
    let tiles = x.n * x.h.div_ceil(4) * x.w.div_ceil(4);
    size_of::<T>() == 4
        && (conv.kernel, conv.stride, conv.padding, conv.dilation) == (3, 1, 1, 1)
        && [conv.in_channels, conv.out_channels].iter().all(|c| c % LANES == 0 && *c >= 32)
        && tiles >= MIN_TILES
        && tiles * 16 <= x.positions() * 3 / 2
}

pub fn fprop<T: Real>(
    y: &Target<'_, T>,
    x: &Channels<'_, T>,
    weight: &[T],
    bias: Option<&[T]>,
    conv: &Conv2d,
) {
    let (cin, cout) = (conv.in_channels, conv.out_channels);
    let packed = transform_weight(cin, cout, |tap, first, j, n, lines| {
        let len = lines.len();
        for i in 0..n {
            let row = &weight[((j + i) * 9 + tap) * cin + first..][..len];
            lines.iter_mut().zip(row).for_each(|(line, &v)| line[i] = v);
        }
    });
    convolve(y, x, &packed, bias);
}

/// Gradient with respect to the input: the same convolution with the kernel rotated by 180° and its channels
/// transposed.
pub fn dgrad<T: Real>(dx: &Target<'_, T>, dy: &Channels<'_, T>, weight: &[T], conv: &Conv2d) {
    let (cin, cout) = (conv.in_channels, conv.out_channels);
    let packed = transform_weight(cout, cin, |tap, first, j, n, lines| {
        for (k, line) in lines.iter_mut().enumerate() {
            line[..n].copy_from_slice(&weight[((first + k) * 9 + 8 - tap) * cin + j..][..n]);
        }
    });
    convolve(dx, dy, &packed, None);
}

/// Adds the gradient of the weight: dg = Gᵀ [sum over tiles of (A dy Aᵀ) ⊙ (Bᵀ d B)] G.
pub fn wgrad<T: Real>(x: &Channels<'_, T>, dy: &Channels<'_, T>, dweight: &mut [T], conv: &Conv2d) {
    let (cin, cout) = (conv.in_channels, conv.out_channels);
    let tiles = Tiles::new(x.shape);
    let stride = cout * cin + GAP;
    let mut sums = Buffer::stale(POINTS * stride);
    let span = SPAN.min(tiles.count);
    let (l_stride, r_stride) = (span * cout + GAP, span * cin + GAP);
    let (mut left, mut right) = (Buffer::stale(POINTS * l_stride), Buffer::stale(POINTS * r_stride));
    for first in (0..tiles.count).step_by(span) {
        let len = span.min(tiles.count - first);
        let (l, r) = (Disjoint::new(&mut left), Disjoint::new(&mut right));
        tasks(len, usize::MAX, |t| {
            // SAFETY: each tile's rows belong to one task.
            let write = |out: &Disjoint<'_, T>, at: usize, line: &Lanes<T>| unsafe {
                out.part(at..at + LANES).copy_from_slice(line);
            };
            for c in (0..cout).step_by(LANES) {
                let patch = tiles.patch::<T, 4>(dy, first + t, c, 0);
                let wide = transform(&transform(&patch, spread_1d), spread_1d);
                for_points(&wide, |p, line| write(&l, p * l_stride + t * cout + c, line));
            }
            for c in (0..cin).step_by(LANES) {
                let patch = tiles.patch::<T, 6>(x, first + t, c, 1);
                let wide = transform(&transform(&patch, input_1d), input_1d);
                for_points(&wide, |p, line| write(&r, p * r_stride + t * cin + c, line));
            }
        });
        let shared = Disjoint::new(&mut sums);
        let blocks = cin.div_ceil(BLOCK);
        let block = cin.div_ceil(blocks).next_multiple_of(LANES);
        tasks(POINTS * blocks, usize::MAX, |task| {
            let (p, from) = (task / blocks, task % blocks * block);
            let inputs = block.min(cin - from);
            let left = Matrix::new(&left[p * l_stride..], len, cout, cout).transposed();
            let right = Matrix::new(&right[p * r_stride + from..], len, inputs, cin);
            // SAFETY: this point's block of inputs belongs to this task.
            unsafe { product(&shared, p * stride + from, cin, first > 0, left, right) };
        });
    }
    let shared = Disjoint::new(dweight);
    tasks(cout, usize::MAX, |o| {
        // SAFETY: each output channel's kernel belongs to one task.
        let dweight = unsafe { shared.part(o * 9 * cin..(o + 1) * 9 * cin) };
        for c in (0..cin).step_by(LANES) {
            let wide: [[Lanes<T>; 6]; 6] = std::array::from_fn(|i| {
                std::array::from_fn(|j| lanes(&sums[(i * 6 + j) * stride + o * cin + c..]))
            });
            let kernel: [[Lanes<T>; 3]; 3] = transform(&transform(&wide, gather_1d), gather_1d);
            for (tap, line) in kernel.as_flattened().iter().enumerate() {
                let sums = &mut dweight[tap * cin + c..][..LANES];
                sums.iter_mut().zip(line).for_each(|(s, &v)| *s += v);
            }
        }
    });
}

/// The 4x4 tiles of an image.
struct Tiles {
    shape: Shape,
    rows: usize,
    columns: usize,
    count: usize,
}

impl Tiles {
    fn new(shape: Shape) -> Tiles {
        let (rows, columns) = (shape.h.div_ceil(4), shape.w.div_ceil(4));
        Tiles { shape, rows, columns, count: shape.n * rows * columns }
    }

    /// Image, first row and first column of tile `t`.
    fn place(&self, t: usize) -> (usize, usize, usize) {
        let (row, x) = (t / self.columns, t % self.columns);
        (row / self.rows, row % self.rows * 4, x * 4)
    }

    /// [`LANES`] channels from `c` on of an N by N patch that begins `border` rows and columns before tile
    /// `t`; zeros outside the image.
    #[inline(always)]
    fn patch<T: Real, const N: usize>(
        &self,
        source: &Channels<'_, T>,
        t: usize,
        c: usize,
        border: usize,
    ) -> [[Lanes<T>; N]; N] {
        let (n, y, x) = self.place(t);
        let mut patch = [[[T::ZERO; LANES]; N]; N];
        for (i, line) in patch.iter_mut().enumerate() {
            let y = (y + i).wrapping_sub(border);
            if y >= self.shape.h {
                continue;
            }
            for (j, to) in line.iter_mut().enumerate() {
                let x = (x + j).wrapping_sub(border);
                if x < self.shape.w {
                    *to =
                        lanes(&source.data[((n * self.shape.h + y) * self.shape.w + x) * source.step + c..]);
                }
            }
        }
        patch
    }
}

#[inline(always)]
fn lanes<T: Real>(from: &[T]) -> Lanes<T> {
    let mut line = [T::ZERO; LANES];
    line.copy_from_slice(&from[..LANES]);
    line
}

/// Transforms the columns of a patch and transposes it: applied twice, this transforms along both axes.
#[inline(always)]
fn transform<T: Real, const N: usize, const K: usize, const M: usize>(
    patch: &[[Lanes<T>; K]; N],
    f: impl Fn([T; N]) -> [T; M],
) -> [[Lanes<T>; M]; K] {
    let mut out = [[[T::ZERO; LANES]; M]; K];
    for k in 0..K {
        for l in 0..LANES {
            let v = f(std::array::from_fn(|i| patch[i][k][l]));
            for m in 0..M {
                out[k][m][l] = v[m];
            }
        }
    }
    out
}

#[inline(always)]
fn for_points<T: Real>(wide: &[[Lanes<T>; 6]; 6], mut f: impl FnMut(usize, &Lanes<T>)) {
    wide.as_flattened().iter().enumerate().for_each(|(p, line)| f(p, line));
}

/// Bᵀ d.
#[inline(always)]
fn input_1d<T: Real>(d: [T; 6]) -> [T; 6] {
    let c = T::from_f64;
    let (even_a, odd_a) = (c(-B2).mul_add(d[2], d[4]), c(A) * c(-B2).mul_add(d[1], d[3]));
    let (even_b, odd_b) = (c(-A2).mul_add(d[2], d[4]), c(B) * c(-A2).mul_add(d[1], d[3]));
    let ends = |v: T, w: T, x: T| c(A2 * B2).mul_add(v, c(-A2 - B2).mul_add(w, x));
    [
        ends(d[0], d[2], d[4]),
        even_a + odd_a,
        even_a - odd_a,
        even_b + odd_b,
        even_b - odd_b,
        ends(d[1], d[3], d[5]),
    ]
}

/// Aᵀ m.
#[inline(always)]
fn output_1d<T: Real>(m: [T; 6]) -> [T; 4] {
    let c = T::from_f64;
    let (sa, da, sb, db) = (m[1] + m[2], m[1] - m[2], m[3] + m[4], m[3] - m[4]);
    [
        m[0] + sa + sb,
        c(A).mul_add(da, c(B) * db),
        c(A2).mul_add(sa, c(B2) * sb),
        c(A * A2).mul_add(da, c(B * B2).mul_add(db, m[5])),
    ]
}

/// A dy, the transpose of [`output_1d`].
#[inline(always)]
fn spread_1d<T: Real>(y: [T; 4]) -> [T; 6] {
    let c = T::from_f64;
    let (even_a, odd_a) = (c(A2).mul_add(y[2], y[0]), c(A) * c(A2).mul_add(y[3], y[1]));
    let (even_b, odd_b) = (c(B2).mul_add(y[2], y[0]), c(B) * c(B2).mul_add(y[3], y[1]));
    [y[0], even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, y[3]]
}

/// G g.
#[inline(always)]
fn weight_1d<T: Real>(g: [T; 3]) -> [T; 6] {
    let c = T::from_f64;
    let (even_a, odd_a) = (c(1.0 / NA) * c(A2).mul_add(g[2], g[0]), c(A / NA) * g[1]);
    let (even_b, odd_b) = (c(1.0 / NB) * c(B2).mul_add(g[2], g[0]), c(B / NB) * g[1]);
    [c(1.0 / N0) * g[0], even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, g[2]]
}

/// Gᵀ u, the transpose of [`weight_1d`].
#[inline(always)]
fn gather_1d<T: Real>(u: [T; 6]) -> [T; 3] {
    let c = T::from_f64;
    let (sa, da, sb, db) = (u[1] + u[2], u[1] - u[2], u[3] + u[4], u[3] - u[4]);
    [
        c(1.0 / N0).mul_add(u[0], c(1.0 / NA).mul_add(sa, c(1.0 / NB) * sb)),
        c(A / NA).mul_add(da, c(B / NB) * db),
        c(A2 / NA).mul_add(sa, c(B2 / NB).mul_add(sb, u[5])),
    ]
}

/// A transformed weight.
struct Weight<T: Real> {
    /// `[point][input][output]`; points are [`Weight::stride`] elements apart, rows of outputs
    /// [`Weight::line`].
    data: Buffer<T>,
    inputs: usize,
    outputs: usize,
}

impl<T: Real> Weight<T> {
    fn line(&self) -> usize {
        self.outputs + GAP
    }

    fn stride(&self) -> usize {
        self.inputs * self.line()
    }
}

/// Transforms a weight. `fetch(tap, first input, first output, number of outputs, lines)` reads it, one line
/// per input.
fn transform_weight<T: Real>(
    inputs: usize,
    outputs: usize,
    fetch: impl Fn(usize, usize, usize, usize, &mut [[T; LINE]]) + Sync,
) -> Weight<T> {
    const STEP: usize = 16;
    let mut weight = Weight { data: Buffer::stale(0), inputs, outputs };
    let (stride, line_step) = (weight.stride(), weight.line());
    weight.data = Buffer::stale(POINTS * stride);
    let shared = Disjoint::new(&mut weight.data);
    let steps = inputs.div_ceil(STEP);
    tasks(outputs.div_ceil(LINE) * steps, usize::MAX, |task| {
        let (j, first) = (task / steps * LINE, task % steps * STEP);
        let (n, len) = (LINE.min(outputs - j), STEP.min(inputs - first));
        let mut kernels = [[[T::ZERO; LINE]; STEP]; 9];
        for (tap, lines) in kernels.iter_mut().enumerate() {
            fetch(tap, first, j, n, &mut lines[..len]);
        }
        for (k, lines) in (0..len).map(|k| (k, kernels.each_ref().map(|lines| &lines[k]))) {
            let mut wide = [[T::ZERO; LINE]; POINTS];
            for half in [0, LANES] {
                let kernel: [[Lanes<T>; 3]; 3] =
                    std::array::from_fn(|a| std::array::from_fn(|b| lanes(&lines[a * 3 + b][half..])));
                let part = transform(&transform(&kernel, weight_1d), weight_1d);
                for_points(&part, |p, line| wide[p][half..half + LANES].copy_from_slice(line));
            }
            for (p, line) in wide.iter().enumerate() {
                let at = p * stride + (first + k) * line_step + j;
                // SAFETY: the lines of each block of inputs and outputs belong to one task.
                unsafe { shared.part(at..at + n) }.copy_from_slice(&line[..n]);
            }
        }
    });
    weight
}

/// The convolution with a transformed weight.
fn convolve<T: Real>(y: &Target<'_, T>, x: &Channels<'_, T>, weight: &Weight<T>, bias: Option<&[T]>) {
    let (inputs, outputs) = (weight.inputs, weight.outputs);
    let tiles = Tiles::new(x.shape);
    let most = (VALUES / (POINTS * (inputs + outputs))).clamp(MIN_TILES, SPAN);
    let span = tiles.count.div_ceil(tiles.count.div_ceil(most));
    let (v_stride, m_stride) = (span * inputs + GAP, span * outputs + GAP);
    let (mut v, mut m) = (Buffer::stale(POINTS * v_stride), Buffer::stale(POINTS * m_stride));
    let blocks = outputs.div_ceil(BLOCK);
    let block = outputs.div_ceil(blocks).next_multiple_of(LANES);
    for first in (0..tiles.count).step_by(span) {
        let len = span.min(tiles.count - first);
        let shared = Disjoint::new(&mut v);
        tasks(len, usize::MAX, |t| {
            for c in (0..inputs).step_by(LANES) {
                let patch = tiles.patch::<T, 6>(x, first + t, c, 1);
                let wide = transform(&transform(&patch, input_1d), input_1d);
                for_points(&wide, |p, line| {
                    let at = p * v_stride + t * inputs + c;
                    // SAFETY: each tile's rows belong to one task.
                    unsafe { shared.part(at..at + LANES) }.copy_from_slice(line);
                });
            }
        });
        let shared = Disjoint::new(&mut m);
        tasks(POINTS * blocks, usize::MAX, |task| {
            let (p, from) = (task / blocks, task % blocks * block);
            let right = &weight.data[p * weight.stride() + from..];
            let right = Matrix::new(right, inputs, block.min(outputs - from), weight.line());
            let left = Matrix::new(&v[p * v_stride..], len, inputs, inputs);
            // SAFETY: this point's block of outputs belongs to this task.
            unsafe { product(&shared, p * m_stride + from, outputs, false, left, right) };
        });
        tasks(len, usize::MAX, |t| {
            for c in (0..outputs).step_by(LANES) {
                let wide: [[Lanes<T>; 6]; 6] = std::array::from_fn(|i| {
                    std::array::from_fn(|j| lanes(&m[(i * 6 + j) * m_stride + t * outputs + c..]))
                });
                let bias = bias.map_or([T::ZERO; LANES], |b| lanes(&b[c..]));
                write(y, tiles.place(first + t), c, &wide, &bias);
            }
        });
    }
}

/// Transforms [`LANES`] channels of one tile back, adds `bias` and writes them where they are within the
/// image.
#[inline(always)]
fn write<T: Real>(
    y: &Target<'_, T>,
    (n, y0, x0): (usize, usize, usize),
    c: usize,
    wide: &[[Lanes<T>; 6]; 6],
    bias: &Lanes<T>,
) {
    let out = transform(&transform(wide, output_1d), output_1d);
    let shape = y.shape;
    for (i, line) in out.iter().enumerate().take(shape.h - y0) {
        for (j, line) in line.iter().enumerate().take(shape.w - x0) {
            let at = y.at((n * shape.h + y0 + i) * shape.w + x0 + j, c);
            // SAFETY: each tile's outputs belong to one task.
            let y = unsafe { y.out.part(at..at + LANES) };
            for l in 0..LANES {
                y[l] = line[l] + bias[l];
            }
        }
    }
}
