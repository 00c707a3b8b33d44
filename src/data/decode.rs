//! Decoding of image files to RGB pixels, within bounds of memory that are checked from the header before
//! anything is decoded. Must not know lists or classes.

use super::orientation::Header;
use super::pixels::RgbImage;
use super::{jpeg, whole};
use crate::host::available_memory;
use crate::ops::Size;
use crate::{Error, Result};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat};
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read, Seek};
use std::path::Path;

/// Most pixels of an image or mask that are decoded: 16384 by 16384, more than Pillow opens unless told.
const MAX_PIXELS: usize = 1 << 28;
/// Largest file that is read.
const MAX_FILE_BYTES: u64 = 1 << 30;
/// Most bytes that a decoder may allocate besides pixels: for rows, profiles, texts.
pub(super) const DECODER_BYTES: usize = 64 << 20;
/// Decoded files below this are not compared with the memory that is available.
const SMALL_BYTES: u64 = 64 << 20;

/// Decodes a JPEG, PNG or WebP file, recognised by its content. 16 bits are reduced to 8, grey is repeated,
/// alpha is dropped. Rows and columns are those of the file: EXIF orientation is not applied, see
/// [`decode_upright`].
///
/// # Errors
/// [`Error::Io`] when the file cannot be read, [`Error::Data`] when it is not a whole image or too large.
pub fn decode_image(path: &Path) -> Result<RgbImage> {
    decode(path, false)
}

/// As [`decode_image`], then rotated and mirrored by the file's EXIF orientation, as viewers show it.
///
/// # Errors
/// As [`decode_image`].
pub fn decode_upright(path: &Path) -> Result<RgbImage> {
    decode(path, true)
}

fn decode(path: &Path, upright: bool) -> Result<RgbImage> {
    let (bytes, format) = read_image(path)?;
    let (image, orientation) = match format {
        ImageFormat::Jpeg => {
            let size = jpeg::header(&bytes[..]).map_err(broken(path))?.stored;
            // Per pixel: six bytes for coefficients of progressive files and planes, three for the result.
            check_size(path, size, 9)?;
            whole::check_bytes(path, &bytes, format)?;
            jpeg::decode(&bytes).map_err(broken(path))?
        }
        _ => decode_other(path, &bytes, format)?,
    };
    Ok(if upright { image.oriented(orientation) } else { image })
}

/// A PNG or WebP file.
fn decode_other(path: &Path, bytes: &[u8], format: ImageFormat) -> Result<(RgbImage, Orientation)> {
    let mut decoder = open(Cursor::new(bytes), format).map_err(broken(path))?;
    let (w, h) = decoder.dimensions();
    let size = (h as usize, w as usize);
    check_size(path, size, usize::from(decoder.color_type().bytes_per_pixel()) + 3)?;
    whole::check_bytes(path, bytes, format)?;
    let orientation = orientation(&mut decoder);
    let rgb = DynamicImage::from_decoder(decoder).map_err(broken(path))?.into_rgb8();
    Ok((RgbImage { size, data: rgb.into_raw() }, orientation))
}

/// Size and orientation of an image file from its header alone. Errors as [`decode_image`], except those of
/// its pixels.
pub(super) fn image_header(path: &Path) -> Result<Header> {
    let (file, format) = open_image(path)?;
    let header = if format == ImageFormat::Jpeg {
        jpeg::header(file).map_err(broken(path))?
    } else {
        let mut decoder = open(file, format).map_err(broken(path))?;
        let (w, h) = decoder.dimensions();
        Header { stored: (h as usize, w as usize), orientation: orientation(&mut decoder) }
    };
    check_size(path, header.stored, 3)?;
    Ok(header)
}

/// Checks from a few of its bytes that a file is an image and complete.
///
/// # Errors
/// As [`decode_image`], for what header and end show.
pub fn check_image(path: &Path) -> Result<()> {
    checked_header(path).map(|_| ())
}

/// The header of an image file that is complete. Errors as [`check_image`].
pub(super) fn checked_header(path: &Path) -> Result<Header> {
    whole::check_file(path, open_image(path)?.1)?;
    image_header(path)
}

/// Refuses more than [`MAX_PIXELS`], and sizes that do not fit into memory at `bytes_per_pixel`.
///
/// # Errors
/// [`Error::Data`] with the size.
pub(super) fn check_size(path: &Path, (h, w): Size, bytes_per_pixel: usize) -> Result<()> {
    let Some(pixels) = h.checked_mul(w).filter(|&pixels| pixels <= MAX_PIXELS) else {
        let message = format!(
            "{w} x {h} pixels (width x height), expected at most {MAX_PIXELS} in all; cut it into smaller \
             images"
        );
        return Err(Error::data(path, message));
    };
    let bytes = pixels as u64 * bytes_per_pixel as u64;
    if bytes >= SMALL_BYTES
        && let Some(available) = available_memory().filter(|&available| bytes > available)
    {
        let message = format!(
            "{w} x {h} pixels (width x height) take {} MiB to decode, {} MiB are available",
            bytes >> 20,
            available >> 20
        );
        return Err(Error::data(path, message));
    }
    Ok(())
}

/// The file's EXIF orientation; none where it cannot be read.
fn orientation(decoder: &mut impl ImageDecoder) -> Orientation {
    decoder.orientation().unwrap_or(Orientation::NoTransforms)
}

fn broken<E: ToString>(path: &Path) -> impl Fn(E) -> Error {
    move |e| Error::data(path, format!("cannot decode this image: {}", e.to_string()))
}

/// A decoder of a PNG or WebP file.
fn open<'a, R: BufRead + Seek + 'a>(
    source: R,
    format: ImageFormat,
) -> image::ImageResult<impl ImageDecoder + 'a> {
    let mut reader = image::ImageReader::with_format(source, format);
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(DECODER_BYTES as u64);
    reader.limits(limits);
    reader.into_decoder()
}

/// Opens an image file and recognises its format by its first bytes.
fn open_image(path: &Path) -> Result<(BufReader<File>, ImageFormat)> {
    let mut file = BufReader::new(File::open(path).map_err(Error::io(path))?);
    let start = file.fill_buf().map_err(Error::io(path))?;
    let format = known_format(path, start)?;
    Ok((file, format))
}

/// An image file's format and bytes; of other files only the first bytes are read.
fn read_image(path: &Path) -> Result<(Vec<u8>, ImageFormat)> {
    let (file, format) = open_image(path)?;
    Ok((read_all(path, file)?, format))
}

/// The rest of a file.
///
/// # Errors
/// [`Error::Data`] for more than [`MAX_FILE_BYTES`], [`Error::Io`] where it cannot be read.
pub(super) fn read_all(path: &Path, file: BufReader<File>) -> Result<Vec<u8>> {
    let len = file.get_ref().metadata().map_or(0, |meta| meta.len());
    let mut bytes = Vec::new();
    if len <= MAX_FILE_BYTES {
        bytes.reserve_exact(len as usize + 1);
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
    }
    if len.max(bytes.len() as u64) > MAX_FILE_BYTES {
        return Err(Error::data(path, format!("expected a file of at most {} MiB", MAX_FILE_BYTES >> 20)));
    }
    Ok(bytes)
}

fn known_format(path: &Path, start: &[u8]) -> Result<ImageFormat> {
    use image::ImageFormat::{Jpeg, Png, WebP};
    match image::guess_format(start).ok() {
        Some(known @ (Jpeg | Png | WebP)) => Ok(known),
        other => {
            let got = other.map_or("neither by its first bytes".to_owned(), |f| format!("{f:?}"));
            Err(Error::data(path, format!("expected a JPEG, PNG or WebP image, got {got}")))
        }
    }
}
