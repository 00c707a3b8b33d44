//! Decoding of JPEG files to RGB, with every scan order and sampling of the baseline and progressive
//! processes that libjpeg supports. Must not know lists or classes.

use super::orientation::Header;
use super::pixels::RgbImage;
use image::metadata::Orientation;
use jpeg_decoder::{Decoder, PixelFormat};
use std::io::Read;

/// Size and orientation from the header. The error says what is wrong with the file.
pub(super) fn header(source: impl Read) -> Result<Header, String> {
    let mut decoder = Decoder::new(source);
    decoder.read_info().map_err(|e| e.to_string())?;
    header_of(&decoder)
}

fn header_of<R: Read>(decoder: &Decoder<R>) -> Result<Header, String> {
    let info = decoder.info().ok_or("no frame in it")?;
    let orientation = decoder.exif_data().and_then(Orientation::from_exif_chunk);
    Ok(Header {
        stored: (info.height.into(), info.width.into()),
        orientation: orientation.unwrap_or(Orientation::NoTransforms),
    })
}

/// Decodes a file whose size was checked and that was found complete: of incomplete files the decoder fills
/// what is missing with grey instead of failing. Grey is repeated, CMYK becomes RGB. The error says what is
/// wrong with the file. Arithmetic coding, which few programs write, is refused.
pub(super) fn decode(bytes: &[u8]) -> Result<(RgbImage, Orientation), String> {
    let mut decoder = Decoder::new(bytes);
    decoder.read_info().map_err(|e| e.to_string())?;
    let Header { stored: size, orientation } = header_of(&decoder)?;
    let len = 3 * size.0 * size.1;
    let pixels = decoder.decode().map_err(|e| e.to_string())?;
    let format = decoder.info().map(|info| info.pixel_format).ok_or("no frame in it")?;
    let data: Vec<u8> = match format {
        PixelFormat::RGB24 => pixels,
        PixelFormat::L8 => pixels.iter().flat_map(|&v| [v; 3]).collect(),
        // Samples of 16 bits are in native byte order.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cmyk_is_converted_as_by_pillow() {
        assert_eq!(rgb_of([0, 0, 0, 0]), [255; 3]);
        assert_eq!(rgb_of([255, 128, 0, 0]), [0, 127, 255]);
        assert_eq!(rgb_of([0, 100, 255, 155]), [100, 61, 0]);
    }
}
