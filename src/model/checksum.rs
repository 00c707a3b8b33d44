//! The checksum of a tensor file: CRC-32C of the whole file with the checksum's own digits as zeros, kept in
//! the header's metadata.

use std::io::Read;
use std::ops::Range;

/// Key of the metadata.
pub const KEY: &str = "psmt-fast-crc32c";
/// The digits while the checksum is not known.
pub const ZEROS: &str = "00000000";
/// Bytes that are read at a time.
const CHUNK: usize = 1 << 20;

/// Where the checksum's digits stand in a header of compact JSON; `None` where there are none. Inside a text
/// quotes are escaped, so nothing else looks like the key.
pub fn digits(header: &[u8]) -> Option<Range<usize>> {
    let key = format!("\"{KEY}\":\"");
    let begin = header.windows(key.len()).position(|w| w == key.as_bytes())? + key.len();
    let end = begin + ZEROS.len();
    (header.get(end) == Some(&b'"')).then_some(begin..end)
}

/// Puts `checksum` at the header's digits.
pub fn put(header: &mut [u8], digits: Range<usize>, checksum: u32) {
    header[digits].copy_from_slice(format!("{checksum:08x}").as_bytes());
}

/// Whether the digits in `header` are the checksum of a file of `len`, `header` and the bytes of `rest`.
///
/// # Errors
/// Those of reading.
pub fn holds(len: &[u8], header: &[u8], rest: &mut impl Read) -> std::io::Result<bool> {
    let Some(digits) = digits(header) else { return Ok(false) };
    let mut blank = header.to_vec();
    blank[digits.clone()].copy_from_slice(ZEROS.as_bytes());
    let mut checksum = crc32c::crc32c_append(crc32c::crc32c(len), &blank);
    let mut chunk = vec![0; CHUNK];
    loop {
        match rest.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => checksum = crc32c::crc32c_append(checksum, &chunk[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(header[digits] == *format!("{checksum:08x}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_itself_has_digits() {
        let header =
            br#"{"__metadata__":{"a":"\"psmt-fast-crc32c\":\"12345678\"","psmt-fast-crc32c":"0000abcd"}}"#;
        assert_eq!(&header[digits(header).unwrap()], b"0000abcd");
        assert_eq!(digits(br#"{"psmt-fast-crc32c":"123456789"}"#), None);
        assert_eq!(digits(br#"{"psmt-fast-crc32c":{"shape":[]}}"#), None);
    }
}
