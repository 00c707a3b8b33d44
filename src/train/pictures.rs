//! Pictures of validations and of unlabelled crops: one row per image with image, truth, prediction (pseudo
//! label) and confidence side by side.

use crate::eval::{Palette, Seen, Which};
use crate::files::write_atomically;
use crate::ops::{Backend, IGNORE, Size};
use crate::{Error, Result};
use std::path::Path;

/// One row of a picture, RGB.
pub struct Strip {
    size: Size,
    data: Vec<u8>,
}

/// Image | truth | prediction of `which` | confidence (black 0, white 1).
pub fn strip<B: Backend>(seen: &Seen<'_, B>, which: Which, palette: &Palette) -> Strip {
    let (label, confidence) = seen.prediction(which);
    let truth = seen.sample.mask.as_ref().map(|m| &m.data);
    let image = &seen.sample.image;
    let truth = |i: usize| truth.map_or(UNKNOWN, |t| palette.color(t[i]));
    columns(image.size, &image.data, truth, |i| palette.color(label[i]), &confidence)
}

/// An unlabelled crop with its pseudo labels.
pub struct Crop<'a> {
    /// Rows and columns.
    pub size: Size,
    /// RGB.
    pub image: &'a [u8],
    /// True labels, 255 where they are not known.
    pub truth: Option<&'a [u8]>,
    /// Pseudo labels.
    pub label: &'a [u8],
    /// Their confidences.
    pub confidence: &'a [f32],
}

/// Crop | truth, black where it is not known | pseudo label, black below `threshold` | confidence (black 0,
/// white 1).
pub fn unlabeled_strip(crop: &Crop<'_>, threshold: f32, palette: &Palette) -> Strip {
    let known = |i: usize| crop.truth.map(|t| t[i]).filter(|&c| c != IGNORE);
    let passed = |i: usize| Some(crop.label[i]).filter(|_| crop.confidence[i] >= threshold);
    let color = |class: Option<u8>| class.map_or(UNKNOWN, |c| palette.color(c));
    columns(crop.size, crop.image, |i| color(known(i)), |i| color(passed(i)), crop.confidence)
}

/// Black, for what is not known.
const UNKNOWN: [u8; 3] = [0; 3];

/// An image, two colours and a confidence for each of its pixels, side by side.
fn columns(
    (h, w): Size,
    image: &[u8],
    truth: impl Fn(usize) -> [u8; 3],
    label: impl Fn(usize) -> [u8; 3],
    confidence: &[f32],
) -> Strip {
    let mut data = Vec::with_capacity(h * 4 * w * 3);
    for y in 0..h {
        let row = y * w..(y + 1) * w;
        data.extend_from_slice(&image[3 * row.start..3 * row.end]);
        data.extend(row.clone().flat_map(&truth));
        data.extend(row.clone().flat_map(&label));
        data.extend(confidence[row].iter().flat_map(|&c| [(255.0 * c).round() as u8; 3]));
    }
    Strip { size: (h, 4 * w), data }
}

/// Writes strips one under another as PNG; narrower ones get a black border. Returns the picture's size.
///
/// # Errors
/// [`Error::Io`].
pub fn write(path: &Path, strips: &[Strip]) -> Result<Size> {
    let width = strips.iter().map(|s| s.size.1).max().unwrap_or(1);
    let height: usize = strips.iter().map(|s| s.size.0).sum();
    let sizes: Vec<String> = strips.iter().map(|s| format!("{}x{}", s.size.0, s.size.1 / 4)).collect();
    let mut data = Vec::with_capacity(width * height * 3);
    for s in strips {
        for row in s.data.chunks_exact(3 * s.size.1) {
            data.extend_from_slice(row);
            data.resize(data.len() + 3 * (width - s.size.1), 0);
        }
    }
    write_png_with(path, (height, width), Pixels::Rgb, &data, Some((SIZES, &sizes.join(" "))))?;
    Ok((height, width))
}

/// Keyword of the PNG's text that says how large the images of the strips are, as `ROWSxCOLUMNS` from top to
/// bottom.
const SIZES: &str = "psmt-fast strips";

/// Rows and columns of the images in a picture that [`write()`] wrote, one pair per strip.
///
/// # Errors
/// What is wrong with the file, in words.
pub fn strip_sizes(png: &[u8]) -> std::result::Result<Vec<(u32, u32)>, String> {
    let reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().map_err(|e| e.to_string())?;
    let texts = &reader.info().uncompressed_latin1_text;
    let text =
        texts.iter().find(|t| t.keyword == SIZES).ok_or("expected sizes of its images in it, got none")?;
    let size = |word: &str| {
        let (h, w) = word.split_once('x')?;
        Some((h.parse().ok()?, w.parse().ok()?))
    };
    let sizes: Option<Vec<(u32, u32)>> = text.text.split_whitespace().map(size).collect();
    sizes.ok_or_else(|| format!("expected sizes such as 96x128 in it, got {:?}", text.text))
}

/// What a PNG's bytes are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pixels<'a> {
    /// Three bytes per pixel.
    Rgb,
    /// One byte per pixel, a brightness or a class.
    Gray,
    /// One byte per pixel, a class with a colour.
    Classes(
        /// The colours.
        &'a Palette,
    ),
}

/// Writes a PNG of 8 bits per channel, whole or not at all.
///
/// # Errors
/// [`Error::Io`].
pub fn write_png(path: &Path, size: Size, pixels: Pixels<'_>, data: &[u8]) -> Result<()> {
    write_png_with(path, size, pixels, data, None)
}

/// The same with a text, a keyword and what it says.
fn write_png_with(
    path: &Path,
    (h, w): Size,
    pixels: Pixels<'_>,
    data: &[u8],
    text: Option<(&str, &str)>,
) -> Result<()> {
    let side = |v: usize| {
        u32::try_from(v)
            .map_err(|_| Error::shape("write_png", "sides below 2^32 pixels", format!("{h} x {w}")))
    };
    let (h, w) = (side(h)?, side(w)?);
    write_atomically(path, |file| {
        let mut encoder = png::Encoder::new(file, w, h);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_color(match pixels {
            Pixels::Rgb => png::ColorType::Rgb,
            Pixels::Gray => png::ColorType::Grayscale,
            Pixels::Classes(_) => png::ColorType::Indexed,
        });
        if let Pixels::Classes(palette) = pixels {
            encoder.set_palette(palette.table());
        }
        let io = |e: png::EncodingError| match e {
            png::EncodingError::IoError(e) => e,
            other => std::io::Error::other(other),
        };
        if let Some((keyword, text)) = text {
            encoder.add_text_chunk(keyword.into(), text.into()).map_err(io)?;
        }
        let mut writer = encoder.write_header().map_err(io)?;
        writer.write_image_data(data).map_err(io)?;
        writer.finish().map_err(io)
    })
}
