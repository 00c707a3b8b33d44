//! A convolution of any size next to its definition, at elements from all of the output. Must not
//! know kernels, but for the sizes of their tiles.

use super::case::Draw;
use super::layer::DIRECTIONS;
use crate::cases::conv2d::conv_text;
use psmt_fast::ops::{self, Backend, Conv2d, Dgrad, Fprop, Shape};
use psmt_fast::{Error, Result};
use rayon::prelude::*;

/// Elements that are compared, besides the corners and one in each image: as many as the widest tile has
/// columns, so that every row and column within a tile occurs.
const SPOTS: usize = 256;
/// Steps whose multiples, whole numbers taken off, lie evenly between 0 and 1 and independently of each
/// other: the golden ratio and the square root of two.
const STEPS: [f64; 2] = [0.618_033_988_749_894_9, std::f64::consts::SQRT_2 - 1.0];

/// The flat places to compare in a matrix of `rows` x `columns`, whose rows are `images` images of equal
/// size, in order.
///
/// They are spread evenly over rows and columns. Among them are the four corners, elements of every image,
/// and every remainder by [`SPOTS`] of a row and of a column, or all rows and columns where there are fewer:
/// so the first and the last tile, and every place within a tile, occur. Low bits of the row meet all low
/// bits of the column.
fn spots(rows: usize, columns: usize, images: usize) -> Vec<usize> {
    let share = |k: usize, step: f64, len: usize| ((k as f64 * step).fract() * len as f64) as usize;
    // The place nearest to `at` with remainder `phase`.
    let near = |at: usize, phase: usize, len: usize| {
        let place = at - at % SPOTS + phase;
        let other = if place > at { place.wrapping_sub(SPOTS) } else { place + SPOTS };
        match (place < len, other < len) {
            _ if len <= SPOTS => phase % len,
            (true, false) => place,
            (true, true) if place.abs_diff(at) <= other.abs_diff(at) => place,
            _ => other,
        }
    };
    let column = |k: usize| near(share(k, STEPS[1], columns), usize::from((k as u8).reverse_bits()), columns);
    let even = (0..SPOTS).map(|k| (near(share(k, STEPS[0], rows), k, rows), column(k)));
    let image = rows / images;
    let in_images = (0..images).map(|n| (n * image + share(n + 1, STEPS[0], image), column(n)));
    let corners = [(0, 0), (0, columns - 1), (rows - 1, 0), (rows - 1, columns - 1)];
    let places = even.chain(in_images).chain(corners);
    let mut places: Vec<usize> = places.map(|(row, column)| row * columns + column).collect();
    places.sort_unstable();
    places.dedup();
    places
}

/// Rows, columns and images of the matrix that one of [`DIRECTIONS`] makes: positions and channels, and for
/// the weight output channels and taps by input channels.
fn matrix(direction: usize, conv: &Conv2d, x: Shape) -> (usize, usize, usize) {
    let y = conv.out_shape(x);
    match direction {
        0 => (y.positions(), y.c, y.n),
        1 => (x.positions(), x.c, x.n),
        _ => (conv.out_channels, conv.weight_len() / conv.out_channels, 1),
    }
}

/// The definition of a convolution.
struct Host<'a> {
    conv: &'a Conv2d,
    x_shape: Shape,
    y_shape: Shape,
}

impl Host<'_> {
    /// Input row or column that tap `tap` of output row or column `out` reads.
    fn read(&self, out: usize, tap: usize, len: usize) -> Option<usize> {
        let c = self.conv;
        (out * c.stride + tap * c.dilation).checked_sub(c.padding).filter(|&v| v < len)
    }

    /// Output row or column whose tap `tap` reads input row or column `input`.
    fn reader(&self, input: usize, tap: usize, len: usize) -> Option<usize> {
        let c = self.conv;
        let at =
            (input + c.padding).checked_sub(tap * c.dilation).filter(|at| at.is_multiple_of(c.stride))?;
        Some(at / c.stride).filter(|&v| v < len)
    }

    /// Position of x that tap `tap` of position `p` of y reads.
    fn join(&self, p: usize, tap: usize) -> Option<usize> {
        let (x, y, k) = (self.x_shape, self.y_shape, self.conv.kernel);
        let (n, row, column) = (p / (y.h * y.w), p / y.w % y.h, p % y.w);
        let (row, column) = (self.read(row, tap / k, x.h)?, self.read(column, tap % k, x.w)?);
        Some((n * x.h + row) * x.w + column)
    }

    /// Channels of x that output channel `out` reads.
    fn inputs(&self, out: usize) -> std::ops::Range<usize> {
        let c = self.conv;
        let (part, group) = (c.in_channels / c.groups, out / (c.out_channels / c.groups));
        group * part..(group + 1) * part
    }

    /// Place of the weight of tap `t` from input channel `c` to `out`.
    fn weight(&self, out: usize, t: usize, c: usize) -> usize {
        let (k, inputs) = (self.conv.kernel, self.inputs(out));
        self.conv.weight.offset + (out * k * k + t) * inputs.len() + c - inputs.start
    }

    fn taps(&self) -> usize {
        self.conv.kernel * self.conv.kernel
    }

    fn forward(&self, i: usize, x: &[f32], params: &[f32]) -> (f64, f64) {
        let (p, out) = (i / self.y_shape.c, i % self.y_shape.c);
        let bias = self.conv.bias.map_or(0.0, |bias| f64::from(params[bias.offset + out]));
        let mut sum = Sum(bias, bias.abs());
        for t in 0..self.taps() {
            let Some(q) = self.join(p, t) else { continue };
            for c in self.inputs(out) {
                sum.add(x[q * self.x_shape.c + c], params[self.weight(out, t, c)]);
            }
        }
        (sum.0, sum.1)
    }

    fn data_gradient(&self, i: usize, dy: &[f32], params: &[f32]) -> (f64, f64) {
        let (x, y, k) = (self.x_shape, self.y_shape, self.conv.kernel);
        let (q, c) = (i / x.c, i % x.c);
        let (n, row, column) = (q / (x.h * x.w), q / x.w % x.h, q % x.w);
        let mut sum = Sum(0.0, 0.0);
        for t in 0..self.taps() {
            let (row, column) = (self.reader(row, t / k, y.h), self.reader(column, t % k, y.w));
            let (Some(row), Some(column)) = (row, column) else { continue };
            let p = (n * y.h + row) * y.w + column;
            for out in (0..y.c).filter(|&out| self.inputs(out).contains(&c)) {
                sum.add(dy[p * y.c + out], params[self.weight(out, t, c)]);
            }
        }
        (sum.0, sum.1)
    }

    fn weight_gradient(&self, i: usize, x: &[f32], dy: &[f32]) -> (f64, f64) {
        let inputs = self.conv.in_channels / self.conv.groups;
        let (out, t) = (i / (self.taps() * inputs), i / inputs % self.taps());
        let c = self.inputs(out).start + i % inputs;
        let (from, y, k) = (self.x_shape, self.y_shape, self.conv.kernel);
        let mut sum = Sum(0.0, 0.0);
        // Many positions: no division for each.
        for (n, row) in (0..y.n).flat_map(|n| (0..y.h).map(move |row| (n, row))) {
            let Some(from_row) = self.read(row, t / k, from.h) else { continue };
            for column in 0..y.w {
                let Some(from_column) = self.read(column, t % k, from.w) else { continue };
                let p = (n * y.h + row) * y.w + column;
                let q = (n * from.h + from_row) * from.w + from_column;
                sum.add(dy[p * y.c + out], x[q * from.c + c]);
            }
        }
        (sum.0, sum.1)
    }
}

/// A sum of products and that of their sizes.
struct Sum(f64, f64);

impl Sum {
    fn add(&mut self, a: f32, b: f32) {
        let term = f64::from(a) * f64::from(b);
        self.0 += term;
        self.1 += term.abs();
    }
}

/// Runs one of [`DIRECTIONS`] of a convolution on drawn inputs and compares elements from all of its output
/// with the definition: off by at most `sums` of the sum of the terms' sizes and `rounding` of the value.
/// Returns how many were compared.
///
/// # Errors
/// [`Error::CheckFailed`] with the element and both values, and faults of the device.
pub(super) fn spot<B: Backend>(
    b: &B,
    conv: &Conv2d,
    x_shape: Shape,
    direction: usize,
    (sums, rounding): (f64, f64),
) -> Result<usize> {
    let host = Host { conv, x_shape, y_shape: conv.out_shape(x_shape) };
    let mut draw = Draw::new(b, 0);
    let (x, dy) = (draw.tensor(x_shape), draw.tensor(host.y_shape));
    let weights = draw.coarse(conv.bias.unwrap_or(conv.weight).range().end);
    let params = b.upload_vector(&weights);
    let got = match direction {
        0 => b.download(&ops::conv2d_fprop(b, &Fprop::new(&x, &params, conv))?.y),
        1 => b.download(&ops::conv2d_dgrad(b, &Dgrad::new(&dy, &params, conv, x_shape))?.dx),
        _ => {
            let mut grads = b.zeros(weights.len());
            ops::conv2d_wgrad(b, &x, &dy, &mut grads, conv)?;
            b.download_vector(&grads)[conv.weight.range()].to_vec()
        }
    };
    let (x, dy) = (b.download(&x), b.download(&dy));
    b.check()?;
    let (rows, columns, images) = matrix(direction, conv, x_shape);
    let spots = spots(rows, columns, images);
    let fault = |&i: &usize| {
        let (want, size) = match direction {
            0 => host.forward(i, &x, &weights),
            1 => host.data_gradient(i, &dy, &weights),
            _ => host.weight_gradient(i, &x, &dy),
        };
        let off = (f64::from(got[i]) - want).abs();
        let allowed = sums * size + rounding * want.abs() + 1e-30;
        (off > allowed || off.is_nan()).then(|| {
            let what = format!("{} {}", DIRECTIONS[direction], conv_text(conv, x_shape));
            Error::CheckFailed(format!("{what}: element {i} is {}, not {want}", got[i]))
        })
    };
    spots.par_iter().find_map_first(fault).map_or(Ok(spots.len()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use psmt_fast::backend::cpu::Cpu;
    use psmt_fast::ops::Span;

    fn conv(groups: usize, stride: usize, dilation: usize) -> Conv2d {
        let weight = Span { offset: 3, len: 8 * 9 * (4 / groups) };
        let bias = Some(Span { offset: weight.range().end, len: 8 });
        Conv2d {
            weight,
            bias,
            in_channels: 4,
            out_channels: 8,
            groups,
            kernel: 3,
            stride,
            padding: dilation,
            dilation,
        }
    }

    #[test]
    fn the_processor_agrees_with_the_definition() {
        let x = Shape::new(2, 7, 6, 4);
        let b = Cpu::<f32>::new();
        for conv in [conv(1, 1, 1), conv(2, 2, 1), conv(1, 1, 2)] {
            for (direction, name) in DIRECTIONS.into_iter().enumerate() {
                assert!(spot(&b, &conv, x, direction, (1e-5, 0.0)).unwrap() > 100, "{name}");
                // In single precision some element is not exact.
                let text = spot(&b, &conv, x, direction, (0.0, 0.0)).unwrap_err().to_string();
                assert!(text.contains(name), "{text}");
            }
        }
    }

    /// Places of the widest tile and of the narrowest, and what a class of the data gradient with stride 2
    /// begins at.
    const TILES: [(usize, usize); 5] = [(64, 64), (128, 64), (128, 128), (128, 256), (2, 2)];

    #[test]
    fn all_of_a_large_output_is_compared() {
        let large = |channels: [usize; 2], kernel: usize, stride: usize| {
            let weight = Span { offset: 0, len: channels[0] * channels[1] * kernel * kernel };
            let [in_channels, out_channels] = channels;
            let padding = kernel / 2;
            let bias = None;
            Conv2d {
                weight,
                bias,
                in_channels,
                out_channels,
                groups: 1,
                kernel,
                stride,
                padding,
                dilation: 1,
            }
        };
        for (conv, x) in [
            (large([256, 512], 3, 1), Shape::new(8, 128, 128, 256)),
            (large([304, 256], 3, 1), Shape::new(16, 129, 129, 304)),
            (large([2048, 256], 1, 1), Shape::new(8, 33, 33, 2048)),
            (large([64, 128], 3, 2), Shape::new(8, 256, 256, 64)),
            (large([512, 64], 1, 1), Shape::new(20, 9, 9, 512)),
            (large([48, 24], 3, 1), Shape::new(2, 9, 7, 48)),
        ] {
            for (direction, name) in DIRECTIONS.into_iter().enumerate() {
                let (rows, columns, images) = matrix(direction, &conv, x);
                let what = format!("{name} {}: {rows} x {columns}", conv_text(&conv, x));
                let places = spots(rows, columns, images);
                assert_eq!(places, spots(rows, columns, images));
                assert!(places.len() <= SPOTS + images + 4, "{what}: {} places", places.len());
                assert_eq!((places[0], *places.last().unwrap()), (0, rows * columns - 1), "{what}");
                let places: Vec<_> = places.iter().map(|&i| (i / columns, i % columns)).collect();
                let any = |fits: &dyn Fn(usize, usize) -> bool| places.iter().any(|&(r, c)| fits(r, c));

                let image = rows / images;
                (0..images).for_each(|n| assert!(any(&|r, _| r / image == n), "{what}: image {n}"));
                for (m, n) in TILES {
                    let last = ((rows - 1) / m, (columns - 1) / n);
                    assert!(any(&|r, c| (r / m, c / n) == (0, 0)), "{what}: first tile of {m} x {n}");
                    assert!(any(&|r, c| (r / m, c / n) == last), "{what}: last tile of {m} x {n}");
                    for phase in 0..m.min(rows) {
                        assert!(any(&|r, _| r % m == phase), "{what}: row {phase} of {m} x {n}");
                    }
                    for phase in 0..n.min(columns) {
                        assert!(any(&|_, c| c % n == phase), "{what}: column {phase} of {m} x {n}");
                    }
                }
                // Chunks of eight values are exchanged by the row's number.
                for (row, column) in
                    (0..64).map(|i| (i / 8, i % 8)).filter(|_| rows >= SPOTS && columns >= 64)
                {
                    assert!(any(&|r, c| (r % 8, c % 8) == (row, column)), "{what}: {row} {column} of 8 x 8");
                }
                // An eighth of the rows and of the columns has no less than half its share.
                let share =
                    |fits: &dyn Fn(usize, usize) -> bool| places.iter().filter(|&&(r, c)| fits(r, c)).count();
                for part in (0..8).filter(|_| rows * columns > 1 << 20) {
                    assert!(share(&|r, _| r * 8 / rows == part) >= SPOTS / 16, "{what}: rows of part {part}");
                    assert!(
                        share(&|_, c| c * 8 / columns == part) >= SPOTS / 16,
                        "{what}: columns of part {part}"
                    );
                }
                if (direction, conv.stride) == (1, 2) {
                    for class in 0..4 {
                        let of = |r: usize| r / x.w % 2 * 2 + r % x.w % 2;
                        assert!(share(&|r, _| of(r) == class) >= SPOTS / 16, "{what}: class {class}");
                    }
                }
            }
        }
    }
}
