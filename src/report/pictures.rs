//! The pictures of validations and of unlabelled crops, cut into image, truth, prediction and confidence,
//! with the prediction laid over the image. Knows how `train::pictures` arranges them, not what is in them.

use super::html::data_uri;
use crate::train::pictures;
use crate::{Error, Result};
use image::codecs::jpeg::JpegEncoder;
use image::imageops::{FilterType, resize};
use image::{ImageFormat, RgbImage};
use std::io::Cursor;
use std::path::Path;

/// Longest side of a picture on the page; larger ones are made smaller.
const LONGEST: u32 = 360;
/// Images of a run on the page at most.
const IMAGES: usize = 4;
/// Of photographs, in percent.
const QUALITY: u8 = 85;
/// Share of the prediction's colour in an overlay, of 256.
const OVERLAY: u16 = 128;

/// One image of a validation as data URIs.
pub(super) struct Cells {
    pub image: String,
    /// Its mask in colours.
    pub truth: String,
    pub prediction: String,
    pub overlay: String,
    /// Confidence, black 0 and white 1.
    pub confidence: String,
    /// Epoch of the validation, as the file's name has it.
    pub epoch: String,
}

/// The first images of the picture at `path`.
///
/// # Errors
/// [`Error::Io`], and [`Error::Data`] for a file that is no picture of a validation.
pub(super) fn read(path: &Path) -> Result<Vec<Cells>> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let picture = image::load_from_memory_with_format(&bytes, ImageFormat::Png)
        .map_err(|e| Error::data(path, format!("expected a picture of a validation, got {e}")))?
        .into_rgb8();
    let sizes = pictures::strip_sizes(&bytes).map_err(|message| Error::data(path, message))?;
    let height: u32 = sizes.iter().map(|&(h, _)| h).sum();
    let width = sizes.iter().map(|&(_, w)| w).max().unwrap_or(0);
    if (height, width.saturating_mul(4)) != (picture.height(), picture.width()) || width == 0 {
        let expected = format!("rows of {sizes:?} in it, got {} x {}", picture.height(), picture.width());
        return Err(Error::data(path, format!("expected {expected}")));
    }
    let name = path.file_stem().and_then(|s| s.to_str()).unwrap_or("");
    let epoch = name.rsplit_once('-').map_or("", |(_, epoch)| epoch);
    let epoch = epoch.trim_start_matches('0').to_string();
    let mut top = 0;
    let mut cells = Vec::new();
    for &(h, w) in sizes.iter().take(IMAGES) {
        let cell =
            |number: u32| shrink(image::imageops::crop_imm(&picture, number * w, top, w, h).to_image());
        let [image, truth, prediction, confidence] = [0, 1, 2, 3].map(cell);
        let overlay = overlay(&image, &prediction);
        cells.push(Cells {
            image: jpeg(path, &image)?,
            truth: png(path, &truth)?,
            prediction: png(path, &prediction)?,
            overlay: jpeg(path, &overlay)?,
            confidence: png(path, &confidence)?,
            epoch: epoch.clone(),
        });
        top += h;
    }
    Ok(cells)
}

fn shrink(cell: RgbImage) -> RgbImage {
    let (w, h) = cell.dimensions();
    let longest = w.max(h);
    if longest <= LONGEST {
        return cell;
    }
    let side = |v: u32| (u64::from(v) * u64::from(LONGEST) / u64::from(longest)).max(1) as u32;
    resize(&cell, side(w), side(h), FilterType::Triangle)
}

/// The mean of image and prediction.
fn overlay(image: &RgbImage, prediction: &RgbImage) -> RgbImage {
    let mut out = image.clone();
    for (to, from) in out.iter_mut().zip(prediction.iter()) {
        *to = ((u16::from(*to) * (256 - OVERLAY) + u16::from(*from) * OVERLAY) / 256) as u8;
    }
    out
}

fn png(path: &Path, cell: &RgbImage) -> Result<String> {
    let mut bytes = Cursor::new(Vec::new());
    cell.write_to(&mut bytes, ImageFormat::Png).map_err(|e| Error::data(path, e.to_string()))?;
    Ok(data_uri("image/png", bytes.get_ref()))
}

fn jpeg(path: &Path, cell: &RgbImage) -> Result<String> {
    let mut bytes = Vec::new();
    let encoded = JpegEncoder::new_with_quality(&mut bytes, QUALITY).encode_image(cell);
    encoded.map_err(|e| Error::data(path, e.to_string()))?;
    Ok(data_uri("image/jpeg", &bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    #[test]
    fn large_cells_shrink_and_keep_their_shape() {
        let cell = RgbImage::from_pixel(2048, 1024, Rgb([10, 20, 30]));
        let small = shrink(cell);
        assert_eq!(small.dimensions(), (360, 180));
        assert!(small.pixels().all(|p| *p == Rgb([10, 20, 30])));
        assert_eq!(shrink(RgbImage::new(20, 360)).dimensions(), (20, 360));
    }

    #[test]
    fn overlays_are_halfway() {
        let (image, prediction) =
            (RgbImage::from_pixel(2, 1, Rgb([100, 0, 255])), RgbImage::from_pixel(2, 1, Rgb([0, 200, 255])));
        assert_eq!(*overlay(&image, &prediction).get_pixel(1, 0), Rgb([50, 100, 255]));
    }

    #[test]
    fn what_is_no_validation_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("epoch-0001.png");
        std::fs::write(&path, b"no picture").unwrap();
        let error = read(&path).err().unwrap();
        assert!(error.exit_code() == 4 && error.to_string().contains("epoch-0001.png"), "{error}");
        RgbImage::new(8, 8).save(&path).unwrap();
        let error = read(&path).err().unwrap();
        assert!(error.to_string().contains("sizes"), "{error}");
    }
}
