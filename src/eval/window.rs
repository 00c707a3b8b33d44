//! Scores of images through a sliding window: where windows lie, and how the scores of overlapping ones
//! combine. Must not know files.

use super::inference::{Logits, Predictor, softmax, upload};
use crate::Result;
use crate::data::HostImages;
use crate::ops::{self, Backend, Box2d, Shape, Size};
use serde::{Deserialize, Serialize};

/// How the scores of windows that overlap combine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Overlap {
    /// Mean of the windows' probabilities. An image smaller than the window is predicted as it is.
    #[default]
    Probabilities,
    /// Sum of the windows' logits, as in the published evaluation of Cityscapes. An image smaller than the
    /// window lies in the middle of it, with zeros (the mean colour) around.
    Logits,
}

/// Where an image and its windows lie on the canvas that the windows cover.
#[derive(Debug, PartialEq)]
struct Canvas {
    size: Size,
    /// Row and column of the image's first pixel.
    offset: (usize, usize),
    image: Size,
    window: Size,
}

impl Canvas {
    fn new(image: Size, side: usize, overlap: Overlap) -> Canvas {
        let (h, w) = image;
        match overlap {
            Overlap::Probabilities => {
                Canvas { size: image, offset: (0, 0), image, window: (side.min(h), side.min(w)) }
            }
            Overlap::Logits => {
                let size = (h.max(side), w.max(side));
                Canvas { size, offset: ((size.0 - h) / 2, (size.1 - w) / 2), image, window: (side, side) }
            }
        }
    }

    /// First row and column of each window, row by row.
    fn windows(&self) -> Vec<(usize, usize)> {
        let columns = starts(self.size.1, self.window.1);
        starts(self.size.0, self.window.0)
            .iter()
            .flat_map(|&y| columns.iter().map(move |&x| (y, x)))
            .collect()
    }

    /// The part of the window at (y0, x0) that shows the image, in pixels of the window, and the image's
    /// pixel at the part's first one.
    fn shown(&self, (y0, x0): (usize, usize)) -> (Box2d, (usize, usize)) {
        let axis = |start: usize, window: usize, offset: usize, image: usize| {
            let (first, end) = (start.max(offset), (start + window).min(offset + image));
            (first - start, end - start, first - offset)
        };
        let (top, bottom, y) = axis(y0, self.window.0, self.offset.0, self.image.0);
        let (left, right, x) = axis(x0, self.window.1, self.offset.1, self.image.1);
        ([top, left, bottom, right], (y, x))
    }
}

/// First rows (or columns) of windows of `window` that cover `len` in steps of two thirds; the last ends
/// where `len` does.
fn starts(len: usize, window: usize) -> Vec<usize> {
    let last = len - window;
    let stride = (2 * window).div_ceil(3).max(1);
    (0..last).step_by(stride).chain([last]).collect()
}

/// Scores at `out` rows and columns for each of `which`, NHWC on the host: mean probabilities of the windows
/// that see a pixel, or the mean of their logits, whose arg max is their sum's.
///
/// # Errors
/// As the networks.
pub(super) fn scores<B: Backend>(
    predictor: &Predictor<'_, B>,
    images: &HostImages,
    out: Size,
) -> Result<Vec<Vec<f32>>> {
    let Predictor { b, arch, which, settings, .. } = *predictor;
    let Shape { n, h, w, .. } = images.shape;
    let classes = arch.config.num_classes;
    let canvas = Canvas::new((h, w), settings.window, settings.overlap);
    let (wh, ww) = canvas.window;
    let mut sums = vec![vec![0f32; n * h * w * classes]; which.len()];
    let mut hits = vec![0f32; h * w];
    for at in canvas.windows() {
        let ([top, left, bottom, right], (y0, x0)) = canvas.shown(at);
        let x = upload(b, &cut(images, &canvas, at), &settings.normalize)?;
        let logits = Logits::new(predictor, &x)?;
        for (sum, &which) in sums.iter_mut().zip(which) {
            let mut values = logits.mean(b, which, &[canvas.window])?;
            if settings.overlap == Overlap::Probabilities {
                softmax(&mut values, classes);
            }
            for i in 0..n {
                for row in top..bottom {
                    let from = ((i * wh + row) * ww + left) * classes;
                    let to = ((i * h + y0 + row - top) * w + x0) * classes;
                    let len = (right - left) * classes;
                    let pairs = sum[to..to + len].iter_mut().zip(&values[from..from + len]);
                    pairs.for_each(|(s, v)| *s += v);
                }
            }
        }
        for y in y0..y0 + bottom - top {
            hits[y * w + x0..y * w + x0 + right - left].iter_mut().for_each(|v| *v += 1.0);
        }
    }
    sums.into_iter()
        .map(|mut sum| {
            for (pixel, p) in sum.chunks_exact_mut(classes).enumerate() {
                let hit = hits[pixel % (h * w)];
                p.iter_mut().for_each(|v| *v /= hit);
            }
            if out == (h, w) {
                return Ok(sum);
            }
            Ok(b.download(&ops::interpolate(b, &b.upload(Shape::new(n, h, w, classes), &sum), out)?))
        })
        .collect()
}

/// What a window shows of images without padding.
fn cut(images: &HostImages, canvas: &Canvas, at: (usize, usize)) -> HostImages {
    let Shape { n, h, w, .. } = images.shape;
    let (wh, ww) = canvas.window;
    let (shown, (y0, x0)) = canvas.shown(at);
    let [top, left, bottom, right] = shown;
    let mut data = vec![0; n * wh * ww * 3];
    for i in 0..n {
        for row in top..bottom {
            let from = ((i * h + y0 + row - top) * w + x0) * 3;
            let to = ((i * wh + row) * ww + left) * 3;
            let len = (right - left) * 3;
            data[to..to + len].copy_from_slice(&images.data[from..from + len]);
        }
    }
    HostImages { shape: Shape::new(n, wh, ww, 3), data, shown: vec![shown; n] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_every_pixel() {
        for (len, window) in [(10, 10), (11, 10), (33, 10), (100, 7), (5, 1)] {
            let s = starts(len, window);
            assert!((0..len).all(|p| s.iter().any(|&a| p >= a && p < a + window)), "{len} {window} {s:?}");
            assert!(s.windows(2).all(|p| p[0] < p[1]) && s[s.len() - 1] + window == len, "{s:?}");
        }
    }

    /// Cityscapes' images and the published window: a stride of 534, the last window moved inward.
    #[test]
    fn published_windows_of_cityscapes() {
        let canvas = Canvas::new((1024, 2048), 800, Overlap::Logits);
        assert_eq!(canvas, Canvas::new((1024, 2048), 800, Overlap::Probabilities));
        let rows = [0, 224];
        let columns = [0, 534, 1068, 1248];
        let all: Vec<_> = rows.iter().flat_map(|&y| columns.map(|x| (y, x))).collect();
        assert_eq!(canvas.windows(), all);
        assert_eq!(canvas.shown((224, 1248)), ([0, 0, 800, 800], (224, 1248)));
    }

    #[test]
    fn smaller_images_lie_in_the_middle_of_a_window_or_shrink_it() {
        let canvas = Canvas::new((5, 12), 8, Overlap::Logits);
        assert_eq!((canvas.size, canvas.offset, canvas.window), ((8, 12), (1, 0), (8, 8)));
        assert_eq!(canvas.windows(), [(0, 0), (0, 4)]);
        assert_eq!(canvas.shown((0, 4)), ([1, 0, 6, 8], (0, 4)));
        let data: Vec<u8> = (0..5 * 12 * 3).map(|v| v as u8).collect();
        let images = HostImages::whole(1, (5, 12), data);
        let seen = cut(&images, &canvas, (0, 4));
        assert_eq!(seen.shown, [[1, 0, 6, 8]]);
        // Row 1 of the window is row 0 of the image, from column 4 on; the last two rows are padding.
        assert_eq!(seen.data[8 * 3..8 * 3 + 4], [12, 13, 14, 15]);
        assert!(seen.data[..24].iter().chain(&seen.data[6 * 24..]).all(|&v| v == 0));
        let canvas = Canvas::new((5, 12), 8, Overlap::Probabilities);
        assert_eq!((canvas.size, canvas.offset, canvas.window), ((5, 12), (0, 0), (5, 8)));
    }
}
