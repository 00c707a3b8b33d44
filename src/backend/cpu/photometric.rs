//! Colours of images: bytes to network input, colour adjustments, grey, Gaussian blur.
//!
//! The changes are made on planes (all red values, all green, all blue), so that each loop runs over
//! contiguous slices and is vectorised. An image is one task.

use super::memory::Buffer;
use super::{Cpu, Real, Tensor, parallel};
use crate::ops::{Adjust, Blur, Images, Normalize, PhotometricOps, Pixels, Shape, Size, Strong};

impl<T: Real> PhotometricOps for Cpu<T> {
    fn normalize_bytes(&self, images: &Images<Self>, normalize: &Normalize) -> Tensor<T> {
        let table: [[T; 256]; 3] = std::array::from_fn(|c| {
            let (mean, std) = (T::from_f32(normalize.mean[c]), T::from_f32(normalize.std[c]));
            std::array::from_fn(|v| (T::from_f64(v as f64) / T::from_f64(255.0) - mean) / std)
        });
        let shape = images.bytes.shape;
        let width = shape.w * 3;
        Tensor::overwrite(shape, |out| {
            parallel::rows(out, width, |first, rows| {
                for (row, out) in rows.chunks_exact_mut(width).enumerate() {
                    let row = first + row;
                    let [y0, x0, y1, x1] = images.shown[row / shape.h];
                    out.fill(T::ZERO);
                    if (y0..y1).contains(&(row % shape.h)) {
                        let bytes = &images.bytes.data[row * width..][..width];
                        let shown = x0 * 3..x1 * 3;
                        let pairs = out[shown.clone()].chunks_exact_mut(3).zip(bytes[shown].chunks_exact(3));
                        for (out, rgb) in pairs {
                            for c in 0..3 {
                                out[c] = table[c][usize::from(rgb[c])];
                            }
                        }
                    }
                }
            });
        })
    }
    fn photometric(&self, pixels: Pixels<'_, Self>, strong: &[Strong], normalize: &Normalize) -> Tensor<T> {
        let shape = pixels.shape();
        let positions = shape.h * shape.w;
        Tensor::overwrite(shape, |out| {
            parallel::rows(out, positions * 3, |first, images| {
                let mut planes = Buffer::stale(positions * 3);
                for (i, out) in images.chunks_exact_mut(positions * 3).enumerate() {
                    read(&mut planes, &pixels, first + i, normalize.mean);
                    change(&mut planes, (shape.h, shape.w), &strong[first + i]);
                    write(out, &planes, normalize);
                }
            });
        })
    }
}

/// Writes the colours of image `i` to planes; padding is `fill`.
fn read<T: Real>(planes: &mut [T], pixels: &Pixels<'_, Cpu<T>>, i: usize, fill: [f32; 3]) {
    let Shape { h, w, .. } = pixels.shape();
    let part = i * h * w * 3..(i + 1) * h * w * 3;
    match pixels {
        Pixels::Colors(x) => {
            for (c, plane) in planes.chunks_exact_mut(h * w).enumerate() {
                plane.iter_mut().zip(x.data()[part.clone()].chunks_exact(3)).for_each(|(o, rgb)| *o = rgb[c]);
            }
        }
        Pixels::Bytes(images) => {
            let (bytes, [y0, x0, y1, x1]) = (&images.bytes.data[part], images.shown[i]);
            let scale = T::ONE / T::from_f64(255.0);
            for (c, plane) in planes.chunks_exact_mut(h * w).enumerate() {
                plane.fill(T::from_f32(fill[c]));
                let rows = plane.chunks_exact_mut(w).zip(bytes.chunks_exact(w * 3));
                for (row, bytes) in rows.take(y1).skip(y0) {
                    let bytes = bytes[x0 * 3..x1 * 3].chunks_exact(3);
                    for (o, rgb) in row[x0..x1].iter_mut().zip(bytes) {
                        *o = T::from_f32(f32::from(rgb[c])) * scale;
                    }
                }
            }
        }
    }
}

/// Writes planes to `out`, normalised and interleaved (HWC).
fn write<T: Real>(out: &mut [T], planes: &[T], normalize: &Normalize) {
    let (r, rest) = planes.split_at(planes.len() / 3);
    let (g, b) = rest.split_at(planes.len() / 3);
    let mean = normalize.mean.map(T::from_f32);
    let inverse = normalize.std.map(|s| T::ONE / T::from_f32(s));
    for (((out, &r), &g), &b) in out.chunks_exact_mut(3).zip(r).zip(g).zip(b) {
        for (c, v) in [r, g, b].into_iter().enumerate() {
            out[c] = (v - mean[c]) * inverse[c];
        }
    }
}

fn change<T: Real>(planes: &mut [T], size: Size, strong: &Strong) {
    for adjust in &strong.jitter {
        match *adjust {
            Adjust::Brightness(f) => brightness(planes, T::from_f32(f)),
            Adjust::Contrast(f) => contrast(planes, T::from_f32(f)),
            Adjust::Saturation(f) => saturation(planes, T::from_f32(f)),
            Adjust::Hue(f) => hue(planes, T::from_f32(f)),
        }
    }
    if strong.gray {
        gray(planes);
    }
    if let Some(spec) = strong.blur {
        blur(planes, size, &spec);
    }
}

/// Weights of red, green and blue in torchvision's grey.
fn luma<T: Real>() -> [T; 3] {
    [0.2989, 0.587, 0.114].map(T::from_f64)
}

fn unit<T: Real>(v: T) -> T {
    v.clamp(T::ZERO, T::ONE)
}

/// Red, green and blue of `3 n` values.
fn split<T>(planes: &mut [T]) -> (&mut [T], &mut [T], &mut [T]) {
    let n = planes.len() / 3;
    let (r, rest) = planes.split_at_mut(n);
    let (g, b) = rest.split_at_mut(n);
    (r, g, &mut b[..n])
}

fn brightness<T: Real>(values: &mut [T], factor: T) {
    for v in values {
        *v = unit(*v * factor);
    }
}

fn contrast<T: Real>(planes: &mut [T], factor: T) {
    let n = planes.len() / 3;
    let mean: f64 = planes
        .chunks_exact(n)
        .zip(luma::<T>())
        .map(|(plane, weight)| sum(plane) * weight.to_f64())
        .sum::<f64>()
        / n as f64;
    let shift = (T::ONE - factor) * T::from_f64(mean);
    for v in planes {
        *v = unit(v.mul_add(factor, shift));
    }
}

/// Sum in a fixed order: blocks in 16 lanes of T, their sums in f64.
fn sum<T: Real>(values: &[T]) -> f64 {
    let mut total = 0.0;
    for block in values.chunks(1024) {
        let mut lanes = [T::ZERO; 16];
        let mut chunks = block.chunks_exact(16);
        for chunk in &mut chunks {
            for (lane, &v) in lanes.iter_mut().zip(chunk) {
                *lane += v;
            }
        }
        total += lanes.iter().chain(chunks.remainder()).map(|v| v.to_f64()).sum::<f64>();
    }
    total
}

fn saturation<T: Real>(planes: &mut [T], factor: T) {
    let (luma, rest) = (luma::<T>(), T::ONE - factor);
    let (r, g, b) = split(planes);
    for ((r, g), b) in r.iter_mut().zip(g).zip(b) {
        let shift = rest * (luma[0] * *r + luma[1] * *g + luma[2] * *b);
        *r = unit(r.mul_add(factor, shift));
        *g = unit(g.mul_add(factor, shift));
        *b = unit(b.mul_add(factor, shift));
    }
}

fn gray<T: Real>(planes: &mut [T]) {
    let luma = luma::<T>();
    let (r, g, b) = split(planes);
    for ((r, g), b) in r.iter_mut().zip(g).zip(b) {
        let grey = luma[0] * *r + luma[1] * *g + luma[2] * *b;
        (*r, *g, *b) = (grey, grey, grey);
    }
}

/// Converts to hue, saturation, value and back without a branch, so that the loop is vectorised. The
/// conversion back is v - v s max(0, min(k, 4 - k, 1)) with k = (n + 6 h) mod 6 and n = 5, 3, 1 for red,
/// green, blue, which equals the usual table of six cases.
fn hue<T: Real>(planes: &mut [T], factor: T) {
    let [one, two, four, six] = [1.0, 2.0, 4.0, 6.0].map(T::from_f64);
    let sixth = one / six;
    let (r, g, b) = split(planes);
    for ((r, g), b) in r.iter_mut().zip(g).zip(b) {
        let (red, green, blue) = (*r, *g, *b);
        let max = red.max(green).max(blue);
        let chroma = max - red.min(green).min(blue);
        let inverse = if chroma == T::ZERO { T::ZERO } else { one / chroma };
        // The hue in sixths of the circle, from -1 to 5.
        let from_red = (green - blue) * inverse;
        let from_green = (blue - red).mul_add(inverse, two);
        let from_blue = (red - green).mul_add(inverse, four);
        let other = if max == green { from_green } else { from_blue };
        let sixths = if max == red { from_red } else { other };
        let shifted = sixths * sixth + one + factor;
        let h = (shifted - shifted.floor()) * six;
        let channel = |n: f64| {
            let k = T::from_f64(n) + h;
            let k = if k >= six { k - six } else { k };
            unit(max - chroma * unit(k.min(four - k)))
        };
        *r = channel(5.0);
        *g = channel(3.0);
        *b = channel(1.0);
    }
}

/// Separable: one pass along rows, one along columns.
fn blur<T: Real>(planes: &mut [T], (h, w): Size, spec: &Blur) {
    let taps: Vec<T> = spec.taps().into_iter().map(T::from_f32).collect();
    let radius = spec.kernel / 2;
    let (mut rows, mut padded) = (Buffer::stale(h * w), Buffer::stale(w + 2 * radius));
    for plane in planes.chunks_exact_mut(h * w) {
        for (source, row) in plane.chunks_exact(w).zip(rows.chunks_exact_mut(w)) {
            for (i, v) in padded.iter_mut().enumerate() {
                *v = source[reflect(i as isize - radius as isize, w)];
            }
            row.fill(T::ZERO);
            for (i, &tap) in taps.iter().enumerate() {
                accumulate(row, &padded[i..i + w], tap);
            }
        }
        for (y, row) in plane.chunks_exact_mut(w).enumerate() {
            row.fill(T::ZERO);
            for (i, &tap) in taps.iter().enumerate() {
                let from = reflect(y as isize + i as isize - radius as isize, h) * w;
                accumulate(row, &rows[from..from + w], tap);
            }
        }
    }
}

fn accumulate<T: Real>(row: &mut [T], source: &[T], tap: T) {
    for (v, s) in row.iter_mut().zip(source) {
        *v = s.mul_add(tap, *v);
    }
}

/// Position `i` folded into 0..len by reflection at the edge pixels, as often as needed.
fn reflect(i: isize, len: usize) -> usize {
    let last = len as isize - 1;
    if last == 0 {
        return 0;
    }
    let i = i.rem_euclid(2 * last);
    i.min(2 * last - i) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Device;

    /// One image of colours in [0, 1], `[size, 3]`, after the changes.
    fn changed(image: &[f32], (h, w): Size, strong: Strong) -> Vec<f32> {
        let b = Cpu::<f32>::new();
        let x = b.upload(Shape::new(1, h, w, 3), image);
        let y = crate::ops::photometric(&b, Pixels::Colors(&x), &[strong], &Normalize::IDENTITY).unwrap();
        b.download(&y)
    }

    fn blurred(image: &[f32], size: Size, kernel: usize, sigma: f32) -> Vec<f32> {
        changed(image, size, Strong { blur: Some(Blur { kernel, sigma }), ..Strong::default() })
    }

    fn near(got: &[f32], want: &[f32]) {
        assert_eq!(got.len(), want.len());
        got.iter().zip(want).for_each(|(a, b)| assert!((a - b).abs() < 1e-5, "{a} {b}"));
    }

    #[test]
    fn reflection_does_not_repeat_the_edge() {
        let at: Vec<usize> = (-3..7).map(|i| reflect(i, 4)).collect();
        assert_eq!(at, [3, 2, 1, 0, 1, 2, 3, 2, 1, 0]);
        assert_eq!(reflect(-2, 1), 0);
    }

    #[test]
    fn neutral_factors_change_nothing() {
        let image: Vec<f32> = (0..5 * 7 * 3).map(|i| (i * 37 % 101) as f32 / 100.0).collect();
        let jitter =
            vec![Adjust::Brightness(1.0), Adjust::Contrast(1.0), Adjust::Saturation(1.0), Adjust::Hue(0.0)];
        let blur = Some(Blur { kernel: 7, sigma: 0.1 });
        near(&changed(&image, (5, 7), Strong { jitter, gray: false, blur }), &image);
        let mut got = image.clone();
        for _ in 0..4 {
            let quarter = Strong { jitter: vec![Adjust::Hue(0.25)], ..Strong::default() };
            got = changed(&got, (5, 7), quarter);
        }
        near(&got, &image);
    }

    #[test]
    fn blur_keeps_a_constant_and_tiny_images_work() {
        for size in [(1, 1), (1, 5), (2, 2)] {
            let image = vec![0.25; size.0 * size.1 * 3];
            near(&blurred(&image, size, 7, 1.5), &image);
        }
    }
}
