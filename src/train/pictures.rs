//! Pictures of a validation: a row an image with image, truth, prediction and confidence side by side.

use crate::eval::{Palette, Seen, Which};
use crate::model::io::write_atomically;
use crate::ops::{Backend, Size};
use crate::{Error, Result};
use std::path::Path;

/// One row of a picture, RGB.
pub struct Strip {
    size: Size,
    data: Vec<u8>,
}

/// Image | truth | prediction of `which` | confidence (black 0, white 1).
pub fn strip<B: Backend>(seen: &Seen<'_, B>, which: Which, palette: &Palette) -> Strip {
    let (h, w) = seen.sample.image.size;
    let (label, confidence) = seen.prediction(which);
    let truth = seen.sample.mask.as_ref().map(|m| &m.data);
    let mut data = Vec::with_capacity(h * 4 * w * 3);
    for y in 0..h {
        let row = y * w..(y + 1) * w;
        data.extend_from_slice(&seen.sample.image.data[3 * row.start..3 * row.end]);
        match truth {
            Some(t) => data.extend(t[row.clone()].iter().flat_map(|&c| palette.color(c))),
            None => data.extend(std::iter::repeat_n(0, 3 * w)),
        }
        data.extend(label[row.clone()].iter().flat_map(|&c| palette.color(c)));
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

/// Keyword of the PNG's text that says how large the images of the strips are, as `ROWSxCOLUMNS` from top to bottom.
const SIZES: &str = "psmt-fast strips";

/// Rows and columns of the images in a picture that [`write()`] wrote, a strip each.
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
    /// Three bytes a pixel.
    Rgb,
    /// One byte a pixel, a brightness or a class.
    Gray,
    /// One byte a pixel, a class with a colour.
    Classes(
        /// The colours.
        &'a Palette,
    ),
}

/// Writes a PNG of 8 bits a channel, whole or not at all.
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
