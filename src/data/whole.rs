//! Whether an image file is complete, from as few bytes as possible: a JPEG's end-of-image marker, a PNG's
//! chunks up to IEND, the length in a WebP's header. Decodes nothing; must not know lists.

use crate::{Error, Result};
use image::ImageFormat;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::Path;

/// Checks a file by its header and its last bytes; only a JPEG with trailing bytes is read completely.
///
/// # Errors
/// [`Error::Data`] for a truncated file, with what to do about it; [`Error::Io`] where it cannot be read.
pub(super) fn check_file(path: &Path, format: ImageFormat) -> Result<()> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let len = file.metadata().map_err(Error::io(path))?.len();
    match missing(&mut file, len, format).map_err(Error::io(path))? {
        None => Ok(()),
        Some(what) => Err(Error::data(
            path,
            format!("{what}; copy the file again, or take it off its list (check-data names all such files)"),
        )),
    }
}

/// As [`check_file`], of a file in memory.
///
/// # Errors
/// [`Error::Data`] for a truncated file.
pub(super) fn check_bytes(path: &Path, bytes: &[u8], format: ImageFormat) -> Result<()> {
    let missing = missing(&mut Cursor::new(bytes), bytes.len() as u64, format).map_err(Error::io(path))?;
    missing.map_or(Ok(()), |what| Err(Error::data(path, what)))
}

/// What a file of `len` bytes lacks, in words; `None` if it is complete.
fn missing(source: &mut (impl Read + Seek), len: u64, format: ImageFormat) -> io::Result<Option<String>> {
    let ends = |kind: &str, what: &str| format!("truncated {kind}: {what} in {len} bytes");
    Ok(match format {
        ImageFormat::Jpeg if !jpeg_ends(source, len)? => Some(ends("JPEG", "no end-of-image marker")),
        ImageFormat::Png if !png_ends(source, len)? => Some(ends("PNG", "no end chunk (IEND)")),
        ImageFormat::WebP => {
            let [_, length] = read_at::<8>(source, 0)?.map_or([[0; 4]; 2], split);
            let expected = u64::from(u32::from_le_bytes(length)) + 8;
            (expected > len).then(|| format!("truncated WebP: {len} bytes, expected {expected}"))
        }
        _ => None,
    })
}

/// Skips the segments up to the first scan, so that the end of a thumbnail in a header is not mistaken for
/// that of the image.
fn jpeg_ends(source: &mut (impl Read + Seek), len: u64) -> io::Result<bool> {
    let mut at = 2;
    while let Some([a, b, high, low]) = read_at(source, at)? {
        at += match (a, b) {
            (0xFF, 0xD9) => return Ok(true),
            (0xFF, 0xFF) => 1,               // fill byte
            (0xFF, 0x01 | 0xD0..=0xD8) => 2, // markers without a segment
            (0xFF, 0xDA) => break,
            (0xFF, _) => 2 + u64::from(u16::from_be_bytes([high, low])),
            _ => break, // bytes that belong to no segment
        };
    }
    let tail = len.checked_sub(2).filter(|&tail| tail >= at + 4);
    if let Some(tail) = tail
        && read_at(source, tail)? == Some([0xFF, 0xD9])
    {
        return Ok(true);
    }
    // There are trailing bytes after the image, or its end is missing.
    let mut rest = Vec::new();
    source.seek(SeekFrom::Start(at.min(len)))?;
    source.read_to_end(&mut rest)?;
    Ok(has_end_marker(&rest))
}

/// Whether JPEG data have an end-of-image marker outside their segments.
fn has_end_marker(bytes: &[u8]) -> bool {
    let mut at = 0;
    while at + 1 < bytes.len() {
        if bytes[at] != 0xFF {
            at += 1; // entropy-coded data
            continue;
        }
        match bytes[at + 1] {
            0xD9 => return true,
            0xFF => at += 1,                      // fill byte
            0x00 | 0x01 | 0xD0..=0xD8 => at += 2, // stuffed byte, markers without a segment
            _ => match bytes.get(at + 2..at + 4) {
                Some(len) => at += 2 + usize::from(len[0]) * 256 + usize::from(len[1]),
                None => return false,
            },
        }
    }
    false
}

fn png_ends(source: &mut (impl Read + Seek), len: u64) -> io::Result<bool> {
    let mut at = 8; // after the signature
    while let Some(head) = read_at::<8>(source, at)? {
        let [length, kind] = split(head);
        if !kind.iter().all(u8::is_ascii_alphabetic) {
            return Ok(false); // no chunk, as the zeros of a file that was never filled
        }
        // Length, kind and checksum take four bytes each.
        at += 12 + u64::from(u32::from_be_bytes(length));
        if &kind == b"IEND" {
            return Ok(at <= len);
        }
    }
    Ok(false)
}

/// `N` bytes from `at` on; `None` where there are fewer.
fn read_at<const N: usize>(source: &mut (impl Read + Seek), at: u64) -> io::Result<Option<[u8; N]>> {
    let mut bytes = [0; N];
    source.seek(SeekFrom::Start(at))?;
    match source.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(e),
    }
}

fn split([a, b, c, d, e, f, g, h]: [u8; 8]) -> [[u8; 4]; 2] {
    [[a, b, c, d], [e, f, g, h]]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_whole(bytes: &[u8], format: ImageFormat) -> bool {
        check_bytes(Path::new("x"), bytes, format).is_ok()
    }

    #[test]
    fn the_end_of_a_jpeg_lies_outside_its_segments() {
        // Start, a comment segment that holds an end marker, scan header, data with a stuffed byte, end.
        let file = [0xFF, 0xD8, 0xFF, 0xFE, 0, 4, 0xFF, 0xD9, 0xFF, 0xDA, 0, 2, 1, 2, 0xFF, 0, 3, 0xFF, 0xD9];
        let jpeg = |bytes: &[u8]| is_whole(bytes, ImageFormat::Jpeg);
        assert!(jpeg(&file));
        // Also with trailing zeros or a second image.
        assert!(jpeg(&[&file[..], &[0; 9]].concat()) && jpeg(&[&file[..], &file[..7]].concat()));
        for keep in 0..file.len() {
            assert!(!jpeg(&file[..keep]), "{keep} bytes");
            assert!(!jpeg(&[&file[..keep], &[0; 9]].concat()), "{keep} bytes and zeros");
        }
    }

    #[test]
    fn the_end_of_a_png_is_its_end_chunk() {
        let mut file = Vec::new();
        let mut writer = png::Encoder::new(&mut file, 2, 2).write_header().unwrap();
        writer.write_image_data(&[1, 2, 3, 4]).unwrap();
        writer.finish().unwrap();
        let png = |bytes: &[u8]| is_whole(bytes, ImageFormat::Png);
        assert!(png(&file) && png(&[&file[..], b"more"].concat()));
        for keep in 0..file.len() {
            assert!(!png(&file[..keep]), "{keep} bytes");
        }
        // The last bytes alone do not make a file complete.
        let end = file.len() - 12;
        assert!(!png(&[&file[..40], &file[end..]].concat()));
        assert!(!png(&[&file[..end], &[0; 12], &file[end..]].concat()));
    }

    #[test]
    fn the_end_of_a_webp_is_in_its_header() {
        let mut file = Vec::new();
        image::codecs::webp::WebPEncoder::new_lossless(&mut file)
            .encode(&[9; 12], 2, 2, image::ExtendedColorType::Rgb8)
            .unwrap();
        assert!(is_whole(&file, ImageFormat::WebP));
        assert!((8..file.len()).all(|keep| !is_whole(&file[..keep], ImageFormat::WebP)));
    }
}
