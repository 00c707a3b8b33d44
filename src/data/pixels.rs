//! Decoded images and masks as plain data, and their EXIF orientation applied.

use crate::ops::Size;
use image::metadata::Orientation;
use image::{DynamicImage, GrayImage};

/// An 8-bit RGB image, rows from the top, channels interleaved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    /// Rows and columns.
    pub size: Size,
    /// `rows * columns * 3` bytes.
    pub data: Vec<u8>,
}

/// One class index per pixel, 255 is ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    /// Rows and columns.
    pub size: Size,
    /// `rows * columns` bytes.
    pub data: Vec<u8>,
}

impl RgbImage {
    /// The image rotated and mirrored.
    pub(super) fn oriented(self, orientation: Orientation) -> RgbImage {
        let (h, w) = self.size;
        match image::RgbImage::from_raw(w as u32, h as u32, self.data) {
            Some(pixels) => {
                let mut pixels = DynamicImage::ImageRgb8(pixels);
                pixels.apply_orientation(orientation);
                let rgb = pixels.into_rgb8();
                RgbImage { size: (rgb.height() as usize, rgb.width() as usize), data: rgb.into_raw() }
            }
            None => unreachable!("an image has three bytes per pixel"),
        }
    }
}

impl Mask {
    /// The mask rotated and mirrored.
    pub(super) fn oriented(self, orientation: Orientation) -> Mask {
        let (h, w) = self.size;
        match GrayImage::from_raw(w as u32, h as u32, self.data) {
            Some(pixels) => {
                let mut pixels = DynamicImage::ImageLuma8(pixels);
                pixels.apply_orientation(orientation);
                let gray = pixels.into_luma8();
                Mask { size: (gray.height() as usize, gray.width() as usize), data: gray.into_raw() }
            }
            None => unreachable!("a mask has one byte per pixel"),
        }
    }
}
