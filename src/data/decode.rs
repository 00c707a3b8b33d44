//! Files to pixels: RGB images of any usual kind, masks whose bytes are class indices. Knows no list and no class names.

use super::jpeg;
use super::layout::MaskIds;
use crate::ops::{IGNORE, Size};
use crate::{Error, Result};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder};
use std::io::{BufRead, Cursor, Seek};
use std::path::Path;

/// An 8-bit RGB image, rows from the top, channels interleaved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    /// Rows and columns.
    pub size: Size,
    /// `rows * columns * 3` bytes.
    pub data: Vec<u8>,
}

/// A class index a pixel, 255 is ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    /// Rows and columns.
    pub size: Size,
    /// `rows * columns` bytes.
    pub data: Vec<u8>,
}

/// Largest decoded file, a guard against headers that promise absurd sizes.
const MAX_DECODED_BYTES: u64 = 2 << 30;

/// Decodes a JPEG, PNG or WebP file, told by its content. 16 bits are reduced to 8, grey is repeated, alpha is dropped.
/// Rows and columns are those of the file, as those of its mask usually are; [`decode_upright`] turns them.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read, [`Error::Data`] when it is not a whole image.
pub fn decode_image(path: &Path) -> Result<RgbImage> {
    decode(path, false)
}

/// The same as people see it: turned and mirrored as the file's EXIF orientation says.
///
/// # Errors
/// As [`decode_image`].
pub fn decode_upright(path: &Path) -> Result<RgbImage> {
    decode(path, true)
}

fn decode(path: &Path, upright: bool) -> Result<RgbImage> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let broken = |e: String| Error::data(path, format!("cannot decode this image: {e}"));
    let reader = open(path, Cursor::new(&bytes[..]))?;
    let (image, orientation) = if reader.format() == Some(image::ImageFormat::Jpeg) {
        jpeg::decode(&bytes, MAX_DECODED_BYTES as usize).map_err(broken)?
    } else {
        decode_other(reader).map_err(|e| broken(e.to_string()))?
    };
    Ok(if upright { turned(image, orientation) } else { image })
}

/// A PNG or WebP file.
fn decode_other<R: BufRead + Seek>(
    mut reader: image::ImageReader<R>,
) -> image::ImageResult<(RgbImage, Orientation)> {
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder()?;
    let orientation = orientation(&mut decoder);
    let rgb = DynamicImage::from_decoder(decoder)?.into_rgb8();
    let size = (rgb.height() as usize, rgb.width() as usize);
    Ok((RgbImage { size, data: rgb.into_raw() }, orientation))
}

/// The image with its rows and columns turned and mirrored.
fn turned(image: RgbImage, orientation: Orientation) -> RgbImage {
    let (h, w) = image.size;
    match image::RgbImage::from_raw(w as u32, h as u32, image.data) {
        Some(pixels) => {
            let mut pixels = DynamicImage::ImageRgb8(pixels);
            pixels.apply_orientation(orientation);
            let rgb = pixels.into_rgb8();
            RgbImage { size: (rgb.height() as usize, rgb.width() as usize), data: rgb.into_raw() }
        }
        None => unreachable!("an image has three bytes per pixel"),
    }
}

/// Rows and columns of an image file, and of the same image upright, from its header alone. Errors as [`decode_image`].
pub fn image_sizes(path: &Path) -> Result<(Size, Size)> {
    let (stored, orientation) = image_header(path)?;
    Ok((stored, if swaps(orientation) { (stored.1, stored.0) } else { stored }))
}

/// Turns a mask with its image, where it lies as the image file does: it has that file's rows and columns. Any other stays as it
/// is. Errors as [`decode_image`], of the image.
pub fn turn_mask(mask: Mask, image: &Path) -> Result<Mask> {
    let (stored, orientation) = image_header(image)?;
    let (Ok(h), Ok(w)) = (u32::try_from(mask.size.0), u32::try_from(mask.size.1)) else { return Ok(mask) };
    if orientation == Orientation::NoTransforms || mask.size != stored {
        return Ok(mask);
    }
    let Some(gray) = image::GrayImage::from_raw(w, h, mask.data) else {
        return Err(Error::shape("turn_mask", format!("{h} x {w} labels"), "fewer"));
    };
    let mut turned = DynamicImage::ImageLuma8(gray);
    turned.apply_orientation(orientation);
    let turned = turned.into_luma8();
    Ok(Mask { size: (turned.height() as usize, turned.width() as usize), data: turned.into_raw() })
}

fn image_header(path: &Path) -> Result<(Size, Orientation)> {
    let file = std::fs::File::open(path).map_err(Error::io(path))?;
    let broken = |e: String| Error::data(path, format!("cannot decode this image: {e}"));
    let reader = open(path, std::io::BufReader::new(file))?;
    if reader.format() == Some(image::ImageFormat::Jpeg) {
        let header = jpeg::header(reader.into_inner()).map_err(broken)?;
        return Ok((header.size, header.orientation));
    }
    let mut decoder = reader.into_decoder().map_err(|e| broken(e.to_string()))?;
    let (w, h) = decoder.dimensions();
    Ok(((h as usize, w as usize), orientation(&mut decoder)))
}

/// How the image is to be turned; not at all where that cannot be read.
fn orientation(decoder: &mut impl ImageDecoder) -> Orientation {
    decoder.orientation().unwrap_or(Orientation::NoTransforms)
}

/// Whether rows become columns.
fn swaps(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

/// A reader at the start of its source that knows the format.
fn open<R: BufRead + Seek>(path: &Path, source: R) -> Result<image::ImageReader<R>> {
    let reader = image::ImageReader::new(source).with_guessed_format().map_err(Error::io(path))?;
    reject_unknown(path, reader.format())?;
    Ok(reader)
}

fn reject_unknown(path: &Path, format: Option<image::ImageFormat>) -> Result<()> {
    use image::ImageFormat::{Jpeg, Png, WebP};
    match format {
        Some(Jpeg | Png | WebP) => Ok(()),
        other => {
            let got = other.map_or("neither by its first bytes".to_owned(), |f| format!("{f:?}"));
            Err(Error::data(path, format!("expected a JPEG, PNG or WebP image, got {got}")))
        }
    }
}

/// Decodes a mask: an 8-bit PNG (or 1, 2, 4 bits), grey or palette. The stored index is the class; the palette's colours
/// are never looked at.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read, [`Error::Data`] when it is no such PNG or truncated.
pub fn decode_mask(path: &Path) -> Result<Mask> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let mut reader = open_mask(path, Cursor::new(&bytes[..]))?;
    let info = reader.info();
    let (size, bits) = ((info.height as usize, info.width as usize), info.bit_depth as usize);
    let fail = |e: String| Error::data(path, format!("cannot decode this mask: {e}"));
    let len = reader.output_buffer_size().filter(|&n| n as u64 <= MAX_DECODED_BYTES);
    let mut packed = vec![0; len.ok_or_else(|| fail(format!("{} x {} is too large", size.1, size.0)))?];
    reader.next_frame(&mut packed).map_err(|e| fail(e.to_string()))?;
    let data = if bits == 8 { packed } else { unpack(&packed, size, bits) };
    Ok(Mask { size, data })
}

/// Rows and columns of a mask file from its header alone. Errors as [`decode_mask`].
pub fn mask_size(path: &Path) -> Result<Size> {
    let file = std::fs::File::open(path).map_err(Error::io(path))?;
    let reader = open_mask(path, std::io::BufReader::new(file))?;
    Ok((reader.info().height as usize, reader.info().width as usize))
}

fn open_mask<R: std::io::BufRead + std::io::Seek>(path: &Path, source: R) -> Result<png::Reader<R>> {
    let mut decoder =
        png::Decoder::new_with_limits(source, png::Limits { bytes: MAX_DECODED_BYTES as usize });
    decoder.set_transformations(png::Transformations::IDENTITY);
    let reader = decoder.read_info().map_err(|e| {
        Error::data(
            path,
            format!("expected a mask as 8-bit PNG, grey or palette, whose values are classes: {e}"),
        )
    })?;
    let (color, depth) = (reader.info().color_type, reader.info().bit_depth);
    let indexed = matches!(color, png::ColorType::Grayscale | png::ColorType::Indexed);
    if !indexed || depth == png::BitDepth::Sixteen {
        return Err(Error::data(
            path,
            format!(
                "expected a mask as 8-bit PNG, grey or palette, whose values are classes; got {color:?} with {} bits a channel",
                depth as u8
            ),
        ));
    }
    Ok(reader)
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

/// Turns the stored ids of a mask into training classes below `num_classes` or 255, in place.
///
/// # Errors
/// [`Error::Data`] with the value, its row and column, and what is allowed.
pub fn to_classes(mask: &mut Mask, ids: MaskIds, num_classes: usize, path: &Path) -> Result<()> {
    // One pass over a table of all bytes, so that the usual case costs a lookup a pixel.
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

/// # Errors
/// [`Error::Data`] when the sizes differ.
pub fn check_same_size(mask: Size, mask_path: &Path, image: Size, image_path: &Path) -> Result<()> {
    if mask == image {
        return Ok(());
    }
    let text = |s: Size| format!("{} x {}", s.1, s.0);
    Err(Error::data(
        mask_path,
        format!(
            "the mask is {} pixels (width x height), expected {} as its image {}",
            text(mask),
            text(image),
            image_path.display()
        ),
    ))
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
