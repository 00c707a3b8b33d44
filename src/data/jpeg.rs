//! JPEG files to RGB bytes, through a decoder that takes every scan order and sampling of the baseline and progressive
//! processes as libjpeg does. Knows no lists and no classes.

use super::decode::RgbImage;
use crate::ops::Size;
use image::metadata::Orientation;
use jpeg_decoder::{Decoder, PixelFormat};
use std::io::Read;

/// What a header says.
pub(super) struct Header {
    /// Rows and columns as stored.
    pub size: Size,
    /// How the image is to be turned to be seen upright.
    pub orientation: Orientation,
}

/// Reads the header alone. The error says what is wrong with the file.
pub(super) fn header(source: impl Read) -> Result<Header, String> {
    let mut decoder = Decoder::new(source);
    decoder.read_info().map_err(|e| e.to_string())?;
    of(&decoder)
}

fn of<R: Read>(decoder: &Decoder<R>) -> Result<Header, String> {
    let info = decoder.info().ok_or("no frame in it")?;
    let orientation = decoder.exif_data().and_then(Orientation::from_exif_chunk);
    Ok(Header {
        size: (info.height.into(), info.width.into()),
        orientation: orientation.unwrap_or(Orientation::NoTransforms),
    })
}

/// Decodes a whole file of at most `max_bytes` decoded bytes; grey is repeated, CMYK becomes RGB. The error says what is wrong
/// with it. Arithmetic coding, which few programs write, is refused.
pub(super) fn decode(bytes: &[u8], max_bytes: usize) -> Result<(RgbImage, Orientation), String> {
    let mut decoder = Decoder::new(bytes);
    decoder.set_max_decoding_buffer_size(max_bytes);
    decoder.read_info().map_err(|e| e.to_string())?;
    let Header { size, orientation } = of(&decoder)?;
    let too_large = || format!("{} x {} is too large", size.1, size.0);
    let len = size.0.checked_mul(size.1).and_then(|n| n.checked_mul(3)).filter(|&n| n <= max_bytes);
    let len = len.ok_or_else(too_large)?;
    let pixels = decoder.decode().map_err(|e| e.to_string())?;
    // The decoder fills what is missing with grey instead of failing.
    if !is_complete(bytes) {
        return Err(format!("truncated JPEG: no end-of-image marker in {} bytes", bytes.len()));
    }
    let format = decoder.info().map(|info| info.pixel_format).ok_or("no frame in it")?;
    let data: Vec<u8> = match format {
        PixelFormat::RGB24 => pixels,
        PixelFormat::L8 => pixels.iter().flat_map(|&v| [v; 3]).collect(),
        // Samples of 16 bits come in the machine's order of bytes.
        PixelFormat::L16 => {
            pixels.as_chunks::<2>().0.iter().flat_map(|&v| [(u16::from_ne_bytes(v) >> 8) as u8; 3]).collect()
        }
        PixelFormat::CMYK32 => pixels.as_chunks::<4>().0.iter().flat_map(|&cmyk| rgb_of(cmyk)).collect(),
    };
    match data.len() == len {
        true => Ok((RgbImage { size, data }, orientation)),
        false => Err(format!("{} bytes decoded, expected {len}", data.len())),
    }
}

/// (255 - ink)(255 - black) / 255, rounded, as Pillow converts.
fn rgb_of([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let light = u32::from(255 - k);
    [c, m, y].map(|ink| ((u32::from(255 - ink) * light + 127) / 255) as u8)
}

/// Whether a JPEG reaches its end-of-image marker. Walks the segments, so that neither a thumbnail in a header nor table
/// bytes are taken for it.
pub(super) fn is_complete(bytes: &[u8]) -> bool {
    let mut at = 2;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_is_found_behind_segments_only() {
        // Start, a comment segment that holds an end marker, scan header, data with a stuffed byte, end.
        let mut file = vec![0xFF, 0xD8, 0xFF, 0xFE, 0, 4, 0xFF, 0xD9, 0xFF, 0xDA, 0, 2, 1, 2, 0xFF, 0, 3];
        assert!(!is_complete(&file));
        file.extend([0xFF, 0xD9]);
        assert!(is_complete(&file));
        assert!(!is_complete(&[0xFF]));
        assert!(!is_complete(&[0xFF, 0xD8, 0xFF, 0xDA, 9]));
    }

    #[test]
    fn inks_take_light_away() {
        assert_eq!(rgb_of([0, 0, 0, 0]), [255; 3]);
        assert_eq!(rgb_of([255, 128, 0, 0]), [0, 127, 255]);
        assert_eq!(rgb_of([0, 100, 255, 155]), [100, 61, 0]);
    }
}
