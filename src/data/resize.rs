//! Resampling of 8-bit pixels: bicubic (a = -0.5, antialiased) for images exactly as Pillow's, nearest for
//! masks as Pillow's or OpenCV's. Must not know lists, classes or random numbers.
//!
//! Bicubic is two passes with the image rounded to bytes in between. Where the filter overshoots 0 or 255 the
//! result depends on the order of the passes, and an error of 1 after the first grows in the second; so
//! order, bounds and the weights in 22-bit fixed point follow Pillow 13, and the results are equal, not
//! merely close.

use super::pixels::{Mask, RgbImage};
use crate::ops::Size;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

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
    /// All of an image of `size`.
    fn whole(size: Size) -> Window {
        Window { y: 0, x: 0, size }
    }
}

/// Fractional bits of the weights: with 8 bits of a pixel and two for headroom and sign they fill an `i32`.
const PRECISION: u32 = 22;

/// Half of one unit in the last place, so that the final shift rounds.
const ROUND: i32 = 1 << (PRECISION - 1);

/// Buffers that are reused from image to image.
#[derive(Default)]
struct Work {
    /// The image between the passes.
    between: Vec<u8>,
    /// One row of sums.
    sums: Vec<i32>,
    /// One row of source pixels, four lanes each.
    lanes: Vec<[i32; 4]>,
}

thread_local! {
    static WORK: std::cell::RefCell<Work> = std::cell::RefCell::default();
}

/// Source pixels and weights of a range of outputs along one axis.
struct Taps {
    /// First source pixel of each output.
    first: Vec<usize>,
    /// `width` weights for each output, of which the first ones are used.
    weights: Vec<i32>,
    /// Number of weights that each output uses.
    counts: Vec<usize>,
    width: usize,
}

impl Taps {
    /// The taps of outputs `start..start + len` of `source` pixels resized to `full`.
    fn new(source: usize, full: usize, start: usize, len: usize) -> Taps {
        let scale = source as f64 / full as f64;
        let stretch = scale.max(1.0);
        let support = 2.0 * stretch;
        let width = support.ceil() as usize * 2 + 1;
        let mut taps = Taps {
            first: Vec::with_capacity(len),
            weights: vec![0; len * width],
            counts: Vec::with_capacity(len),
            width,
        };
        let mut exact = vec![0.0; width];
        for (i, weights) in (start..start + len).zip(taps.weights.chunks_exact_mut(width)) {
            let center = (i as f64 + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            let count = ((center + support + 0.5) as usize).min(source) - first;
            for (k, w) in exact[..count].iter_mut().enumerate() {
                *w = cubic(((k + first) as f64 - center + 0.5) / stretch);
            }
            let total: f64 = exact[..count].iter().sum();
            for (fixed, w) in weights.iter_mut().zip(&exact[..count]) {
                *fixed = (w / total * f64::from(1 << PRECISION)).round() as i32;
            }
            taps.first.push(first);
            taps.counts.push(count);
        }
        taps
    }

    /// First source pixel and weights of output `i` of the range.
    fn of(&self, i: usize) -> (usize, &[i32]) {
        (self.first[i], &self.weights[i * self.width..i * self.width + self.counts[i]])
    }

    /// Source pixels that the range reads.
    fn span(&self) -> std::ops::Range<usize> {
        let last = self.first.len() - 1;
        self.first[0]..self.first[last] + self.counts[last]
    }
}

/// Keys' cubic with a = -0.5.
fn cubic(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        (1.5 * x - 2.5) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    } else {
        0.0
    }
}

/// A fixed-point sum as a byte.
fn byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// `image` resized to `size` as Pillow's `resize(.., BICUBIC)`.
///
/// # Errors
/// [`Error::Shape`] when `size` has a zero.
pub fn resize_bicubic(image: &RgbImage, size: Size) -> Result<RgbImage> {
    let mut data = Vec::new();
    resize_bicubic_window(image, size, Window::whole(size), &mut data)?;
    Ok(RgbImage { size, data })
}

/// The part `window` of `image` resized to `full`, into `out` (replaced): equal to resizing all and cropping,
/// but reads and computes only what the window needs.
///
/// # Errors
/// [`Error::Shape`] when a size is zero or the window is not inside `full`.
pub(super) fn resize_bicubic_window(
    image: &RgbImage,
    full: Size,
    window: Window,
    out: &mut Vec<u8>,
) -> Result<()> {
    check(image.size, full, window)?;
    let ((h, w), (full_h, full_w)) = (image.size, full);
    let (rows, columns) = window.size;
    let vertical = Taps::new(h, full_h, window.y, rows);
    let horizontal = Taps::new(w, full_w, window.x, columns);
    // Pillow goes along columns first where the height shrinks by more than twice what the width does.
    let vertical_first = h > full_h && (h - full_h) as i64 > 2 * (w as i64 - full_w as i64);
    out.resize(rows * columns * 3, 0);
    WORK.with_borrow_mut(|Work { between, sums, lanes }| {
        if vertical_first {
            let span = horizontal.span();
            between.resize(rows * span.len() * 3, 0);
            along_columns(&image.data, w, span.clone(), 0, &vertical, between, sums);
            along_rows(between, span.len(), span.start, &horizontal, out, lanes);
        } else {
            let span = vertical.span();
            between.resize(span.len() * columns * 3, 0);
            let source = &image.data[span.start * w * 3..span.end * w * 3];
            along_rows(source, w, 0, &horizontal, between, lanes);
            along_columns(between, columns, 0..columns, span.start, &vertical, out, sums);
        }
    });
    Ok(())
}

/// Resamples every row of `source`, whose rows have `width` pixels. Its column 0 is column `skipped` of the
/// image that the taps refer to.
fn along_rows(
    source: &[u8],
    width: usize,
    skipped: usize,
    taps: &Taps,
    out: &mut [u8],
    lanes: &mut Vec<[i32; 4]>,
) {
    let columns = taps.first.len();
    lanes.resize(width, [0; 4]);
    for (row, out) in source.chunks_exact(width * 3).zip(out.chunks_exact_mut(columns * 3)) {
        for (lane, rgb) in lanes.iter_mut().zip(row.chunks_exact(3)) {
            *lane = [i32::from(rgb[0]), i32::from(rgb[1]), i32::from(rgb[2]), 0];
        }
        for (i, out) in out.chunks_exact_mut(3).enumerate() {
            let (first, weights) = taps.of(i);
            let mut sum = [ROUND; 4];
            for (pixel, weight) in lanes[first - skipped..].iter().zip(weights) {
                for (s, p) in sum.iter_mut().zip(pixel) {
                    *s += p * weight;
                }
            }
            out.copy_from_slice(&[byte(sum[0]), byte(sum[1]), byte(sum[2])]);
        }
    }
}

/// Resamples the given columns of `source`, whose rows have `width` pixels. Its row 0 is row `skipped` of the
/// image that the taps refer to.
fn along_columns(
    source: &[u8],
    width: usize,
    columns: std::ops::Range<usize>,
    skipped: usize,
    taps: &Taps,
    out: &mut [u8],
    sums: &mut Vec<i32>,
) {
    sums.resize(columns.len() * 3, 0);
    for (i, out) in out.chunks_exact_mut(columns.len() * 3).enumerate() {
        let (first, weights) = taps.of(i);
        sums.fill(ROUND);
        for (k, &weight) in weights.iter().enumerate() {
            let row = (first - skipped + k) * width;
            let row = &source[(row + columns.start) * 3..(row + columns.end) * 3];
            for (s, &v) in sums.iter_mut().zip(row) {
                *s += i32::from(v) * weight;
            }
        }
        for (o, &s) in out.iter_mut().zip(&*sums) {
            *o = byte(s);
        }
    }
}

/// Nearest-neighbour resampling of masks: which source pixel an output pixel takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LabelResize {
    /// By pixel centres, floor((i + 0.5) source / size), Pillow's `NEAREST`: labels stay where the resized
    /// image has their pixels.
    #[default]
    Nearest,
    /// By upper left corners, floor(i source / size), OpenCV's `INTER_NEAREST`, as in PS-MT's release:
    /// enlarged labels lie up to half a source pixel to the right of and below the image's.
    NearestFloor,
}

impl LabelResize {
    /// The source pixel of output `i`, along an axis of `source` pixels resized to `full`.
    fn source(self, i: usize, source: usize, full: usize) -> usize {
        let at = match self {
            LabelResize::Nearest => (2 * i + 1) * source / (2 * full),
            // As OpenCV in doubles and by the reciprocal of the scale: rounding matters where i source / full
            // is an integer.
            LabelResize::NearestFloor => (i as f64 * (1.0 / (full as f64 / source as f64))) as usize,
        };
        at.min(source - 1)
    }
}

/// `mask` resized to `size` by pixel centres.
///
/// # Errors
/// [`Error::Shape`] when `size` has a zero.
pub(super) fn resize_nearest(mask: &Mask, size: Size) -> Result<Mask> {
    let mut data = Vec::new();
    resize_labels_window(mask, size, Window::whole(size), LabelResize::Nearest, &mut data)?;
    Ok(Mask { size, data })
}

/// The part `window` of `mask` resized to `full`, into `out` (replaced): equal to resizing all and cropping.
///
/// # Errors
/// As [`resize_bicubic_window`].
pub(super) fn resize_labels_window(
    mask: &Mask,
    full: Size,
    window: Window,
    rule: LabelResize,
    out: &mut Vec<u8>,
) -> Result<()> {
    check(mask.size, full, window)?;
    let (h, w) = window.size;
    let columns: Vec<usize> = (window.x..window.x + w).map(|x| rule.source(x, mask.size.1, full.1)).collect();
    out.clear();
    out.reserve(h * w);
    for y in window.y..window.y + h {
        let start = rule.source(y, mask.size.0, full.0) * mask.size.1;
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
    fn window_equals_resize_then_crop() {
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
                assert_eq!(got, want, "{:?} to {full:?}, {window:?}", image.size);
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
    fn floors_are_those_of_opencv() {
        // cv2.resize(np.arange(source)[None], (full, 1), interpolation=cv2.INTER_NEAREST) of opencv-python
        // 5.0.0; the last rows are sizes where doubles and integers differ.
        const STORED: &[(usize, usize, &[usize])] = &[
            (4, 2, &[0, 2]),
            (4, 3, &[0, 1, 2]),
            (4, 8, &[0, 0, 1, 1, 2, 2, 3, 3]),
            (5, 7, &[0, 0, 1, 2, 2, 3, 4]),
            (13, 9, &[0, 1, 2, 4, 5, 7, 8, 10, 11]),
            (
                6,
                34,
                &[
                    0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 5,
                    5, 5, 5, 5,
                ],
            ),
            (
                12,
                34,
                &[
                    0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 7, 7, 7, 8, 8, 8, 9, 9, 9,
                    10, 10, 10, 11, 11,
                ],
            ),
            (14, 18, &[0, 0, 1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9, 10, 10, 11, 12, 13]),
        ];
        for &(source, full, expected) in STORED {
            let got: Vec<usize> =
                (0..full).map(|i| LabelResize::NearestFloor.source(i, source, full)).collect();
            assert_eq!(got, expected, "{source} to {full}");
        }
        let exact = |(source, full, expected): &(usize, usize, &[usize])| {
            (0..*full).all(|i| i * source / full == expected[i])
        };
        assert!(!STORED.iter().all(exact), "no size where doubles and integers differ");
    }

    #[test]
    fn empty_sizes_are_refused() {
        assert!(resize_bicubic(&noise((4, 4)), (0, 3)).is_err());
        let mut out = Vec::new();
        let outside = Window { y: 2, x: 0, size: (3, 3) };
        assert!(resize_bicubic_window(&noise((4, 4)), (4, 4), outside, &mut out).is_err());
    }
}
