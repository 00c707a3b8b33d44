//! Colour and blur of float images in [0, 1] with torchvision's definitions. Knows no files and draws no random numbers.
//!
//! The work is done on planes (all red values, all green, all blue), where each loop is over plain slices and becomes
//! vector instructions. The public functions take interleaved images and convert at the edge; the augmentation stays in
//! planes from decoding to normalisation.

use crate::ops::Size;
use crate::{Error, Result};

/// Weights of red, green and blue in torchvision's grey.
const LUMA: [f32; 3] = [0.2989, 0.587, 0.114];

/// Brightness: `factor * image`, clamped to [0, 1]. `image` is interleaved RGB of `size`.
///
/// # Errors
/// [`Error::Shape`] when the length does not fit `size` or the factor is negative.
pub fn adjust_brightness(image: &mut [f32], size: Size, factor: f32) -> Result<()> {
    check("adjust_brightness", image, size)?;
    check_factor("adjust_brightness", factor)?;
    brightness(image, factor);
    Ok(())
}

/// Contrast: blend with the mean grey of the image. Errors as [`adjust_brightness`].
pub fn adjust_contrast(image: &mut [f32], size: Size, factor: f32) -> Result<()> {
    check("adjust_contrast", image, size)?;
    check_factor("adjust_contrast", factor)?;
    in_planes(image, size, |p| contrast(p, factor));
    Ok(())
}

/// Saturation: blend of each pixel with its own grey. Errors as [`adjust_brightness`].
pub fn adjust_saturation(image: &mut [f32], size: Size, factor: f32) -> Result<()> {
    check("adjust_saturation", image, size)?;
    check_factor("adjust_saturation", factor)?;
    in_planes(image, size, |p| saturation(p, factor));
    Ok(())
}

/// Hue: turns it by `factor` of the circle.
///
/// # Errors
/// [`Error::Shape`] when the length does not fit `size` or the factor is outside [-0.5, 0.5].
pub fn adjust_hue(image: &mut [f32], size: Size, factor: f32) -> Result<()> {
    check("adjust_hue", image, size)?;
    if !(-0.5..=0.5).contains(&factor) {
        return Err(Error::shape("adjust_hue", "a factor in [-0.5, 0.5]", factor.to_string()));
    }
    in_planes(image, size, |p| hue(p, factor));
    Ok(())
}

/// Grey in all three channels.
///
/// # Errors
/// [`Error::Shape`] when the length does not fit `size`.
pub fn grayscale(image: &mut [f32], size: Size) -> Result<()> {
    check("grayscale", image, size)?;
    in_planes(image, size, gray);
    Ok(())
}

/// Gaussian blur with a `kernel` x `kernel` window and standard deviation `sigma` (pixels), borders reflected without
/// repeating the edge.
///
/// # Errors
/// [`Error::Shape`] when the length does not fit `size`, the kernel is even or sigma is not positive.
pub fn gaussian_blur(image: &mut [f32], size: Size, kernel: usize, sigma: f32) -> Result<()> {
    check("gaussian_blur", image, size)?;
    if kernel.is_multiple_of(2) || sigma.is_nan() || sigma <= 0.0 {
        let got = format!("kernel {kernel}, sigma {sigma}");
        return Err(Error::shape("gaussian_blur", "an odd kernel and a positive sigma", got));
    }
    let mut scratch = Vec::new();
    in_planes(image, size, |p| blur(p, size, kernel, sigma, &mut scratch));
    Ok(())
}

fn check(op: &'static str, image: &[f32], (h, w): Size) -> Result<()> {
    if image.len() == h * w * 3 && !image.is_empty() {
        return Ok(());
    }
    Err(Error::shape(
        op,
        format!("{h} x {w} x 3 values, at least one pixel"),
        format!("{} values", image.len()),
    ))
}

fn check_factor(op: &'static str, factor: f32) -> Result<()> {
    if factor >= 0.0 { Ok(()) } else { Err(Error::shape(op, "a factor of at least 0", factor.to_string())) }
}

/// Runs `f` on the planes of an interleaved image.
fn in_planes(image: &mut [f32], (h, w): Size, f: impl FnOnce(&mut [f32])) {
    let n = h * w;
    let mut planes = vec![0.0; 3 * n];
    for (i, rgb) in image.chunks_exact(3).enumerate() {
        for c in 0..3 {
            planes[c * n + i] = rgb[c];
        }
    }
    f(&mut planes);
    for (i, rgb) in image.chunks_exact_mut(3).enumerate() {
        for c in 0..3 {
            rgb[c] = planes[c * n + i];
        }
    }
}

/// Red, green and blue of `3 n` values.
fn split(planes: &mut [f32]) -> (&mut [f32], &mut [f32], &mut [f32]) {
    let n = planes.len() / 3;
    let (r, rest) = planes.split_at_mut(n);
    let (g, b) = rest.split_at_mut(n);
    (r, g, &mut b[..n])
}

/// [`adjust_brightness`] in either layout.
pub(super) fn brightness(values: &mut [f32], factor: f32) {
    for v in values {
        *v = (*v * factor).clamp(0.0, 1.0);
    }
}

/// [`adjust_contrast`] on planes.
pub(super) fn contrast(planes: &mut [f32], factor: f32) {
    let n = planes.len() / 3;
    let mean: f64 =
        planes.chunks_exact(n).zip(LUMA).map(|(plane, weight)| sum(plane) * f64::from(weight)).sum::<f64>()
            / n as f64;
    let shift = (1.0 - factor) * mean as f32;
    for v in planes {
        *v = v.mul_add(factor, shift).clamp(0.0, 1.0);
    }
}

/// Sum in a fixed order, blocks of 16 lanes in f32 and blocks added in f64.
fn sum(values: &[f32]) -> f64 {
    let mut total = 0.0;
    for block in values.chunks(1024) {
        let mut lanes = [0.0f32; 16];
        let mut chunks = block.chunks_exact(16);
        for chunk in &mut chunks {
            for (lane, v) in lanes.iter_mut().zip(chunk) {
                *lane += v;
            }
        }
        total += lanes.iter().chain(chunks.remainder()).map(|&v| f64::from(v)).sum::<f64>();
    }
    total
}

/// [`adjust_saturation`] on planes.
pub(super) fn saturation(planes: &mut [f32], factor: f32) {
    let (r, g, b) = split(planes);
    for ((r, g), b) in r.iter_mut().zip(g).zip(b) {
        let shift = (1.0 - factor) * (LUMA[0] * *r + LUMA[1] * *g + LUMA[2] * *b);
        *r = r.mul_add(factor, shift).clamp(0.0, 1.0);
        *g = g.mul_add(factor, shift).clamp(0.0, 1.0);
        *b = b.mul_add(factor, shift).clamp(0.0, 1.0);
    }
}

/// [`grayscale`] on planes.
pub(super) fn gray(planes: &mut [f32]) {
    let (r, g, b) = split(planes);
    for ((r, g), b) in r.iter_mut().zip(g).zip(b) {
        let grey = LUMA[0] * *r + LUMA[1] * *g + LUMA[2] * *b;
        (*r, *g, *b) = (grey, grey, grey);
    }
}

/// [`adjust_hue`] on planes: to hue, saturation, value and back without a branch, so that the loop vectorises. The way
/// back is v - v s max(0, min(k, 4 - k, 1)) with k = (n + 6 h) mod 6 and n = 5, 3, 1 for red, green, blue, which equals
/// the usual table of six cases.
pub(super) fn hue(planes: &mut [f32], factor: f32) {
    let (r, g, b) = split(planes);
    for ((r, g), b) in r.iter_mut().zip(g).zip(b) {
        let (red, green, blue) = (*r, *g, *b);
        let max = red.max(green).max(blue);
        let chroma = max - red.min(green).min(blue);
        let inverse = if chroma == 0.0 { 0.0 } else { 1.0 / chroma };
        // In sixths of the circle, from -1 to 5.
        let from_red = (green - blue) * inverse;
        let from_green = (blue - red).mul_add(inverse, 2.0);
        let from_blue = (red - green).mul_add(inverse, 4.0);
        let other = if max == green { from_green } else { from_blue };
        let sixths = if max == red { from_red } else { other };
        let turned = sixths * (1.0 / 6.0) + 1.0 + factor;
        let h = (turned - turned.floor()) * 6.0;
        let channel = |n: f32| {
            let k = n + h;
            let k = if k >= 6.0 { k - 6.0 } else { k };
            (max - chroma * k.min(4.0 - k).clamp(0.0, 1.0)).clamp(0.0, 1.0)
        };
        *r = channel(5.0);
        *g = channel(3.0);
        *b = channel(1.0);
    }
}

/// [`gaussian_blur`] on planes, as a pass along rows and a pass along columns; `scratch` keeps its memory between calls.
pub(super) fn blur(planes: &mut [f32], (h, w): Size, kernel: usize, sigma: f32, scratch: &mut Vec<f32>) {
    let taps = gaussian(kernel, sigma);
    let radius = kernel / 2;
    scratch.clear();
    scratch.resize(h * w + w + 2 * radius, 0.0);
    let (rows, padded) = scratch.split_at_mut(h * w);
    for plane in planes.chunks_exact_mut(h * w) {
        for (source, row) in plane.chunks_exact(w).zip(rows.chunks_exact_mut(w)) {
            for (i, v) in padded.iter_mut().enumerate() {
                *v = source[reflect(i as isize - radius as isize, w)];
            }
            row.fill(0.0);
            for (i, &tap) in taps.iter().enumerate() {
                accumulate(row, &padded[i..i + w], tap);
            }
        }
        for (y, row) in plane.chunks_exact_mut(w).enumerate() {
            row.fill(0.0);
            for (i, &tap) in taps.iter().enumerate() {
                let from = reflect(y as isize + i as isize - radius as isize, h) * w;
                accumulate(row, &rows[from..from + w], tap);
            }
        }
    }
}

fn accumulate(row: &mut [f32], source: &[f32], tap: f32) {
    for (v, s) in row.iter_mut().zip(source) {
        *v = s.mul_add(tap, *v);
    }
}

/// Normalised samples of a Gaussian at the pixel centres.
fn gaussian(kernel: usize, sigma: f32) -> Vec<f32> {
    let half = (kernel / 2) as f32;
    let pdf: Vec<f32> = (0..kernel).map(|i| (-0.5 * ((i as f32 - half) / sigma).powi(2)).exp()).collect();
    let total: f32 = pdf.iter().sum();
    pdf.into_iter().map(|v| v / total).collect()
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

    #[test]
    fn reflection_does_not_repeat_the_edge() {
        let at: Vec<usize> = (-3..7).map(|i| reflect(i, 4)).collect();
        assert_eq!(at, [3, 2, 1, 0, 1, 2, 3, 2, 1, 0]);
        assert_eq!(reflect(-2, 1), 0);
    }

    #[test]
    fn neutral_factors_change_nothing() {
        let image: Vec<f32> = (0..5 * 7 * 3).map(|i| (i * 37 % 101) as f32 / 100.0).collect();
        let near =
            |got: &[f32]| got.iter().zip(&image).for_each(|(a, b)| assert!((a - b).abs() < 1e-5, "{a} {b}"));
        let mut got = image.clone();
        adjust_brightness(&mut got, (5, 7), 1.0).unwrap();
        adjust_contrast(&mut got, (5, 7), 1.0).unwrap();
        adjust_saturation(&mut got, (5, 7), 1.0).unwrap();
        adjust_hue(&mut got, (5, 7), 0.0).unwrap();
        gaussian_blur(&mut got, (5, 7), 7, 0.1).unwrap();
        near(&got);
        for _ in 0..4 {
            adjust_hue(&mut got, (5, 7), 0.25).unwrap();
        }
        near(&got);
    }

    #[test]
    fn blur_keeps_a_constant_and_tiny_images_work() {
        for size in [(1, 1), (1, 5), (2, 2)] {
            let mut image = vec![0.25; size.0 * size.1 * 3];
            gaussian_blur(&mut image, size, 7, 1.5).unwrap();
            assert!(image.iter().all(|v| (v - 0.25).abs() < 1e-6));
        }
    }

    #[test]
    fn bad_arguments_are_refused() {
        let mut image = [0.5; 12];
        assert!(adjust_brightness(&mut image, (2, 3), 1.0).is_err());
        assert!(adjust_contrast(&mut image, (2, 2), -1.0).is_err());
        assert!(adjust_hue(&mut image, (2, 2), 0.6).is_err());
        assert!(gaussian_blur(&mut image, (2, 2), 4, 1.0).is_err());
        assert!(gaussian_blur(&mut image, (2, 2), 3, 0.0).is_err());
    }
}
