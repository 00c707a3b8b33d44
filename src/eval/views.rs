//! Several views of an image, resized and mirrored, whose probabilities are averaged. Must not know networks.

use crate::data::RgbImage;
use crate::data::resize::resize_bicubic;
use crate::ops::Size;
use crate::{Error, Result};
use std::borrow::Cow;

/// Largest scale: beyond it memory ends before accuracy rises.
const LARGEST: f64 = 8.0;

/// Which views of an image a prediction averages over.
#[derive(Clone, Debug, PartialEq)]
pub struct Views {
    /// Factors to the size that networks see otherwise.
    pub scales: Vec<f64>,
    /// Also each mirrored left to right.
    pub flip: bool,
}

impl Default for Views {
    fn default() -> Views {
        Views { scales: vec![1.0], flip: false }
    }
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct View {
    /// Rows and columns that the networks see.
    pub size: Size,
    /// Mirrored left to right.
    pub mirrored: bool,
}

impl Views {
    /// Views at these scales.
    ///
    /// # Errors
    /// [`Error::Usage`] for no scale, or one that is not above 0 and at most 8.
    pub fn new(scales: Vec<f64>, flip: bool) -> Result<Views> {
        if scales.is_empty() || scales.iter().any(|&s| !(s > 0.0 && s <= LARGEST)) {
            let got = scales.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
            return Err(Error::Usage(format!(
                "--scales: expected numbers above 0 and at most {LARGEST}, got {got:?}"
            )));
        }
        Ok(Views { scales, flip })
    }

    /// Whether there is only the image as it is.
    pub fn is_single(&self) -> bool {
        !self.flip && self.scales == [1.0]
    }

    /// Every view of an image that networks see at `size` otherwise.
    pub fn of(&self, (h, w): Size) -> Vec<View> {
        let scaled = |v: usize, scale: f64| ((v as f64 * scale).round() as usize).max(1);
        let sizes = self.scales.iter().map(|&s| (scaled(h, s), scaled(w, s)));
        let mirrors = if self.flip { &[false, true][..] } else { &[false] };
        sizes.flat_map(|size| mirrors.iter().map(move |&mirrored| View { size, mirrored })).collect()
    }
}

impl View {
    /// The image as this view shows it.
    ///
    /// # Errors
    /// As [`resize_bicubic`].
    pub fn show(self, image: &RgbImage) -> Result<Cow<'_, [u8]>> {
        let mut data = match self.size == image.size {
            true => Cow::Borrowed(&image.data[..]),
            false => Cow::Owned(resize_bicubic(image, self.size)?.data),
        };
        if self.mirrored {
            mirror(data.to_mut(), self.size.1, 3);
        }
        Ok(data)
    }
}

/// Reverses the columns of rows of `columns` pixels of `channels` values.
pub fn mirror<T>(data: &mut [T], columns: usize, channels: usize) {
    for row in data.chunks_exact_mut(columns * channels) {
        row.reverse();
        row.chunks_exact_mut(channels).for_each(<[T]>::reverse);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_scales_times_mirrors() {
        let views = Views::new(vec![0.5, 1.0], true).unwrap();
        let of = |size, mirrored| View { size, mirrored };
        let expected = [of((3, 1), false), of((3, 1), true), of((5, 2), false), of((5, 2), true)];
        assert_eq!(views.of((5, 2)), expected);
        assert!(Views::default().is_single() && !views.is_single());
        assert!(!Views::new(vec![2.0], false).unwrap().is_single());
        for wrong in [vec![], vec![0.0], vec![1.0, -1.0], vec![9.0], vec![f64::NAN]] {
            let error = Views::new(wrong, false).unwrap_err().to_string();
            assert!(error.contains("--scales"), "{error}");
        }
    }

    #[test]
    fn mirrors_keep_pixels_whole() {
        let mut data: Vec<u8> = (0..12).collect();
        mirror(&mut data, 2, 3);
        assert_eq!(data, [3, 4, 5, 0, 1, 2, 9, 10, 11, 6, 7, 8]);
        let image = RgbImage { size: (2, 2), data: (0..12).collect() };
        assert_eq!(View { size: (2, 2), mirrored: true }.show(&image).unwrap()[..], data);
    }
}
