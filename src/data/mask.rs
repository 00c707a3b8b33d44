//! Decoding of mask files to class indices: PNGs whose stored values are classes, never colours. Must not
//! know lists.

use super::decode::{DECODER_BYTES, check_size, read_all};
use super::layout::MaskIds;
use super::orientation::{ExifMasks, Header, MaskOrientation};
use super::pixels::Mask;
use super::whole;
use crate::ops::{IGNORE, Size};
use crate::{Error, Result};
use image::ImageFormat;
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Seek};
use std::path::Path;

/// A mask as its file stores it.
pub(super) struct StoredMask {
    pub mask: Mask,
    /// Bits per stored value.
    pub bits: u8,
    /// The stored value that viewers show as white, where there is one.
    pub white: Option<u8>,
    pub orientation: MaskOrientation,
}

impl StoredMask {
    /// Whether it has pixels that viewers show as white and that are read as class 1 (of 1 bit) or as ignored
    /// (of 8).
    pub fn has_white(&self) -> bool {
        match (self.bits, self.white) {
            (1, Some(white @ 1)) | (8, Some(white @ IGNORE)) => self.mask.data.contains(&white),
            _ => false,
        }
    }
}

/// Decodes a mask: an 8-bit PNG (or 1, 2, 4 bits), grey or palette. The stored value is the class; the
/// palette's colours have no effect.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read, [`Error::Data`] when it is not such a PNG, truncated or too
/// large.
pub fn decode_mask(path: &Path) -> Result<Mask> {
    decode(path, |_| Ok(MaskOrientation::NotRotated)).map(|stored| stored.mask)
}

/// Decodes the mask of an image, whose header is compared with the mask's before a pixel is decoded.
///
/// # Errors
/// As [`decode_mask`], and [`Error::Data`] where the sizes differ.
pub(super) fn decode_mask_of(
    path: &Path,
    image: &Header,
    image_path: &Path,
    exif: ExifMasks,
) -> Result<StoredMask> {
    decode(path, |size| {
        image.mask_orientation(size, exif).ok_or_else(|| other_size(path, size, image, image_path))
    })
}

/// Compares the header of a mask with that of its image.
///
/// # Errors
/// As [`decode_mask_of`].
pub(super) fn check_mask_header(path: &Path, image: &Header, image_path: &Path) -> Result<()> {
    let file = File::open(path).map_err(Error::io(path))?;
    let size = size_of(&open(path, BufReader::new(file))?);
    match image.mask_orientation(size, ExifMasks::Auto) {
        Some(_) => Ok(()),
        None => Err(other_size(path, size, image, image_path)),
    }
}

fn decode(path: &Path, orientation: impl FnOnce(Size) -> Result<MaskOrientation>) -> Result<StoredMask> {
    let file = BufReader::new(File::open(path).map_err(Error::io(path))?);
    let bytes = read_all(path, file)?;
    let mut reader = open(path, Cursor::new(&bytes[..]))?;
    let size = size_of(&reader);
    let orientation = orientation(size)?;
    check_size(path, size, 2)?;
    whole::check_bytes(path, &bytes, ImageFormat::Png)?;
    let bits = reader.info().bit_depth as u8;
    let white = white(reader.info());
    let fail = |e: String| Error::data(path, format!("cannot decode this mask: {e}"));
    let len =
        reader.output_buffer_size().ok_or_else(|| fail(format!("{} x {} is too large", size.1, size.0)))?;
    let mut packed = vec![0; len];
    reader.next_frame(&mut packed).map_err(|e| fail(e.to_string()))?;
    let data = if bits == 8 { packed } else { unpack(&packed, size, bits.into()) };
    Ok(StoredMask { mask: Mask { size, data }, bits, white, orientation })
}

fn size_of<R: BufRead + Seek>(reader: &png::Reader<R>) -> Size {
    (reader.info().height as usize, reader.info().width as usize)
}

/// The stored value of white: the largest of a grey PNG, or that of the palette entry, where there is one.
fn white(info: &png::Info<'_>) -> Option<u8> {
    match (&info.palette, info.color_type) {
        (Some(palette), png::ColorType::Indexed) => palette
            .as_chunks::<3>()
            .0
            .iter()
            .rposition(|color| *color == [255; 3])
            .and_then(|i| u8::try_from(i).ok()),
        (_, png::ColorType::Grayscale) => Some(u8::MAX >> (8 - info.bit_depth as u8)),
        _ => None,
    }
}

fn open<R: BufRead + Seek>(path: &Path, source: R) -> Result<png::Reader<R>> {
    const EXPECTED: &str = "expected a mask as 8-bit PNG, grey or palette, whose values are classes";
    let mut decoder = png::Decoder::new_with_limits(source, png::Limits { bytes: DECODER_BYTES });
    decoder.set_transformations(png::Transformations::IDENTITY);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let reader = decoder.read_info().map_err(|e| Error::data(path, format!("{EXPECTED}: {e}")))?;
    let (color, depth) = (reader.info().color_type, reader.info().bit_depth);
    let what = match color {
        png::ColorType::Grayscale | png::ColorType::Indexed if depth != png::BitDepth::Sixteen => {
            return Ok(reader);
        }
        png::ColorType::Rgb | png::ColorType::Rgba => {
            "these are colours, not classes: write for each colour the index of its class"
        }
        png::ColorType::GrayscaleAlpha => "save it without its alpha channel",
        _ => "save it with 8 bits",
    };
    Err(Error::data(path, format!("{EXPECTED}; got {color:?} with {} bits per channel; {what}", depth as u8)))
}

/// Values of 1, 2 or 4 bits, first pixel in the high bits, rows padded to whole bytes.
fn unpack(packed: &[u8], (h, w): Size, bits: usize) -> Vec<u8> {
    let per_byte = 8 / bits;
    let low = (1u8 << bits) - 1;
    let stride = w.div_ceil(per_byte);
    let mut out = Vec::with_capacity(h * w);
    for row in packed.chunks_exact(stride).take(h) {
        out.extend((0..w).map(|x| (row[x / per_byte] >> (8 - bits * (x % per_byte + 1))) & low));
    }
    out
}

/// Maps the stored ids of a mask to training classes below `num_classes` or 255, in place.
///
/// # Errors
/// [`Error::Data`] with the value, its row and column, and what is allowed.
pub(super) fn to_classes(mask: &mut Mask, ids: MaskIds, num_classes: usize, path: &Path) -> Result<()> {
    // One table of all byte values, so that the usual case costs one lookup per pixel.
    let table: [Option<u8>; 256] =
        std::array::from_fn(|v| ids.class(v as u8).filter(|&c| c == IGNORE || usize::from(c) < num_classes));
    for (i, value) in mask.data.iter_mut().enumerate() {
        match table[usize::from(*value)] {
            Some(class) => *value = class,
            None => {
                let expected = match ids {
                    MaskIds::Train => format!("0..={} or {IGNORE} (ignored)", num_classes.saturating_sub(1)),
                    MaskIds::CityscapesLabelIds => {
                        format!("a Cityscapes label id 0..=33 of {num_classes} training classes, or {IGNORE}")
                    }
                };
                let (row, column) = (i / mask.size.1, i % mask.size.1);
                return Err(Error::data(
                    path,
                    format!("class id {value} at row {row}, column {column}; expected {expected}"),
                ));
            }
        }
    }
    Ok(())
}

fn other_size(path: &Path, mask: Size, image: &Header, image_path: &Path) -> Error {
    let text = |s: Size| format!("{} x {}", s.1, s.0);
    let turned = match image.upright() {
        upright if upright == image.stored => String::new(),
        upright => format!(" or, upright, {}", text(upright)),
    };
    let message = format!(
        "the mask is {} pixels (width x height), expected {}{turned} as its image {}",
        text(mask),
        text(image.stored),
        image_path.display()
    );
    Error::data(path, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_values_unpack_from_the_high_bits() {
        assert_eq!(unpack(&[0b1010_0000, 0b0100_0000], (2, 3), 1), [1, 0, 1, 0, 1, 0]);
        assert_eq!(unpack(&[0b1110_0100, 0b0100_0000], (1, 5), 2), [3, 2, 1, 0, 1]);
        assert_eq!(unpack(&[0x5A, 0xF0], (1, 3), 4), [5, 10, 15]);
    }

    #[test]
    fn wrong_class_is_named_with_its_place() {
        let mut mask = Mask { size: (2, 3), data: vec![0, 1, 255, 2, 3, 7] };
        let error = to_classes(&mut mask, MaskIds::Train, 4, Path::new("m.png")).unwrap_err().to_string();
        assert_eq!(error, "m.png: class id 7 at row 1, column 2; expected 0..=3 or 255 (ignored)");
    }
}
