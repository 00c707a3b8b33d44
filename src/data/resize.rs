//! Resampling of 8-bit pixels with Pillow's conventions: bicubic (a = -0.5, antialiased) for images, nearest for masks.
//! Knows nothing of lists, classes or random numbers.

use super::decode::{Mask, RgbImage};
use crate::ops::Size;
use crate::{Error, Result};
use fast_image_resize as fir;

/// A rectangle of pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First row.
    pub y: usize,
    /// First column.
    pub x: usize,
    /// Rows and columns.
    pub size: Size,
}

impl Window {
    /// All of an image.
    pub fn whole(size: Size) -> Window {
        Window { y: 0, x: 0, size }
    }
}

/// The resizer and the image between its two passes keep their memory from image to image.
#[derive(Default)]
struct Work {
    resizer: fir::Resizer,
    between: Vec<u8>,
}

thread_local! {
    static WORK: std::cell::RefCell<Work> = std::cell::RefCell::default();
}

/// `image` resized to `size` as Pillow's `resize(.., BICUBIC)`, within 1.
///
/// # Errors
/// [`Error::Shape`] when `size` has a zero.
pub fn resize_bicubic(image: &RgbImage, size: Size) -> Result<RgbImage> {
    let mut data = Vec::new();
    resize_bicubic_window(image, size, Window::whole(size), &mut data)?;
    Ok(RgbImage { size, data })
}

/// The part `window` of `image` resized to `full`, into `out` (replaced). Reads only the source pixels that it needs; the
/// result is within 1 of resizing everything and cutting the window out.
///
/// # Errors
/// [`Error::Shape`] when a size is zero or the window leaves `full`.
pub fn resize_bicubic_window(image: &RgbImage, full: Size, window: Window, out: &mut Vec<u8>) -> Result<()> {
    check(image.size, full, window)?;
    let (h, w) = window.size;
    let (top, height) = source_span(image.size.0, full.0, window.y, h);
    let (left, width) = source_span(image.size.1, full.1, window.x, w);
    out.clear();
    out.resize(h * w * 3, 0);
    WORK.with_borrow_mut(|Work { resizer, between }| {
        // One axis after the other, rounded in between, in Pillow's order: where the filter overshoots 0 or 255 the
        // other order gives other values, and so does the resizer left to itself.
        between.clear();
        if columns_first(image.size, full) {
            let (first, columns) = reached(image.size.1, full.1, left, width);
            between.resize(h * columns * 3, 0);
            let all = [top, first as f64, height, columns as f64];
            pass(resizer, &image.data, image.size, between, (h, columns), all)?;
            pass(resizer, between, (h, columns), out, (h, w), [0.0, left - first as f64, h as f64, width])
        } else {
            let (first, rows) = reached(image.size.0, full.0, top, height);
            between.resize(rows * w * 3, 0);
            let all = [first as f64, left, rows as f64, width];
            pass(resizer, &image.data, image.size, between, (rows, w), all)?;
            pass(resizer, between, (rows, w), out, (h, w), [top - first as f64, 0.0, height, w as f64])
        }
    })
}

/// Whether Pillow resizes along columns before rows: where the image gets lower, and by more than twice what it gets
/// narrower. Observed of version 13 over sizes from 5 to 600.
fn columns_first((h, w): Size, (full_h, full_w): Size) -> bool {
    full_h < h && h - full_h > 2 * w.saturating_sub(full_w)
}

/// First position and number of those that the second pass reads for `len` from `start`: its filter reaches two pixels of
/// the coarser grid past them.
fn reached(source: usize, full: usize, start: f64, len: f64) -> (usize, usize) {
    let reach = 2.0 * (source as f64 / full as f64).max(1.0) + 1.0;
    let first = (start - reach).floor().max(0.0) as usize;
    (first, ((start + len + reach).ceil() as usize).min(source) - first)
}

/// Resizes the box [top, left, height, width] of `source` to `target`.
fn pass(
    resizer: &mut fir::Resizer,
    source: &[u8],
    source_size: Size,
    target: &mut [u8],
    target_size: Size,
    [top, left, height, width]: [f64; 4],
) -> Result<()> {
    let fail = |e: &dyn std::fmt::Display| {
        let got = format!("{source_size:?} to {target_size:?}: {e}");
        Error::shape("resize_bicubic", "sizes that an image can have", got)
    };
    let dim = |v: usize| u32::try_from(v).map_err(|e| fail(&e));
    // Typed images: the untyped entry would compile the resizer for every pixel format.
    type Rgb = fir::pixels::U8x3;
    let source =
        fir::images::TypedImageRef::<Rgb>::from_buffer(dim(source_size.1)?, dim(source_size.0)?, source)
            .map_err(|e| fail(&e))?;
    let (height_out, width_out) = (dim(target_size.0)?, dim(target_size.1)?);
    let mut target =
        fir::images::TypedImage::<Rgb>::from_buffer(width_out, height_out, target).map_err(|e| fail(&e))?;
    let (height, width) = (inside(top, height, source_size.0), inside(left, width, source_size.1));
    let options = fir::ResizeOptions::new()
        .resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::CatmullRom))
        .crop(left, top, width, height);
    resizer.resize_typed::<Rgb>(&source, &mut target, &options).map_err(|e| fail(&e))
}

/// First position and length in the source of `len` outputs from `start`, of `source` pixels resized to `full`.
fn source_span(source: usize, full: usize, start: usize, len: usize) -> (f64, f64) {
    let scale = source as f64 / full as f64;
    (start as f64 * scale, len as f64 * scale)
}

/// `span` from `first` shortened to end inside `len`: rounding may leave it by a last bit, which the resizer refuses.
fn inside(first: f64, mut span: f64, len: usize) -> f64 {
    while first + span > len as f64 {
        span = span.next_down();
    }
    span
}

/// `mask` resized to `size`: output i takes source pixel floor((i + 0.5) source / size), Pillow's `NEAREST`.
///
/// # Errors
/// [`Error::Shape`] when `size` has a zero.
pub fn resize_nearest(mask: &Mask, size: Size) -> Result<Mask> {
    let mut data = Vec::new();
    resize_nearest_window(mask, size, Window::whole(size), &mut data)?;
    Ok(Mask { size, data })
}

/// The part `window` of `mask` resized to `full`, into `out` (replaced); exactly resizing and cutting out.
///
/// # Errors
/// As [`resize_bicubic_window`].
pub fn resize_nearest_window(mask: &Mask, full: Size, window: Window, out: &mut Vec<u8>) -> Result<()> {
    check(mask.size, full, window)?;
    let nearest = |i: usize, source: usize, full: usize| ((2 * i + 1) * source / (2 * full)).min(source - 1);
    let (h, w) = window.size;
    let columns: Vec<usize> = (window.x..window.x + w).map(|x| nearest(x, mask.size.1, full.1)).collect();
    out.clear();
    out.reserve(h * w);
    for y in window.y..window.y + h {
        let start = nearest(y, mask.size.0, full.0) * mask.size.1;
        let row = &mask.data[start..start + mask.size.1];
        out.extend(columns.iter().map(|&x| row[x]));
    }
    Ok(())
}

fn check(source: Size, full: Size, window: Window) -> Result<()> {
    let (h, w) = window.size;
    let inside = window.y + h <= full.0 && window.x + w <= full.1;
    if source.0 == 0 || source.1 == 0 || h == 0 || w == 0 || !inside {
        return Err(Error::shape(
            "resize",
            "a source and a window of at least one pixel, the window inside the resized image",
            format!("source {source:?}, resized {full:?}, window {window:?}"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Domain, Key};

    fn noise(size: Size) -> RgbImage {
        let mut rng = Key::new(3, Domain::Bench, size.0 as u64).stream();
        RgbImage { size, data: (0..size.0 * size.1 * 3).map(|_| rng.below(256) as u8).collect() }
    }

    #[test]
    fn window_equals_resize_then_cut() {
        let mut rng = Key::new(4, Domain::Bench, 0).stream();
        for _ in 0..200 {
            let image = noise((1 + rng.below(60), 1 + rng.below(60)));
            let full = (1 + rng.below(90), 1 + rng.below(90));
            let size = (1 + rng.below(full.0), 1 + rng.below(full.1));
            let window =
                Window { y: rng.below(full.0 - size.0 + 1), x: rng.below(full.1 - size.1 + 1), size };
            let whole = resize_bicubic(&image, full).unwrap();
            let mut part = Vec::new();
            resize_bicubic_window(&image, full, window, &mut part).unwrap();
            for (i, &got) in part.iter().enumerate() {
                let (y, x, c) = (i / 3 / size.1, i / 3 % size.1, i % 3);
                let want = whole.data[((window.y + y) * full.1 + window.x + x) * 3 + c];
                assert!(got.abs_diff(want) <= 1, "{:?} to {full:?}, {window:?}: {got} {want}", image.size);
            }
        }
    }

    #[test]
    fn nearest_takes_pixel_centres() {
        let mask = Mask { size: (1, 4), data: vec![10, 20, 30, 40] };
        assert_eq!(resize_nearest(&mask, (1, 2)).unwrap().data, [20, 40]);
        assert_eq!(resize_nearest(&mask, (1, 3)).unwrap().data, [10, 30, 40]);
        assert_eq!(resize_nearest(&mask, (1, 8)).unwrap().data, [10, 10, 20, 20, 30, 30, 40, 40]);
        assert_eq!(resize_nearest(&mask, (2, 4)).unwrap().data, [10, 20, 30, 40, 10, 20, 30, 40]);
    }

    #[test]
    fn empty_sizes_are_refused() {
        assert!(resize_bicubic(&noise((4, 4)), (0, 3)).is_err());
        let mut out = Vec::new();
        let outside = Window { y: 2, x: 0, size: (3, 3) };
        assert!(resize_bicubic_window(&noise((4, 4)), (4, 4), outside, &mut out).is_err());
    }
}
