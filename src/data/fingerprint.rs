//! Checksums that distinguish files without reading all of them. Must not know what the files hold.

use crate::{Error, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Bytes of a file's start, and of its end, that count; of files up to twice as long all bytes count. The end
/// of a PNG has the checksum of its pixels.
const PART: u64 = 16 << 10;

/// A checksum (CRC-32C) of a file's length, start and end, which continues the checksum `before`.
///
/// # Errors
/// [`Error::Io`] where it cannot be read.
pub fn of_file(path: &Path, before: u32) -> Result<u32> {
    let read = || -> std::io::Result<u32> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        let mut sum = crc32c::crc32c_append(before, &len.to_le_bytes());
        let mut bytes = Vec::new();
        if len <= 2 * PART {
            file.read_to_end(&mut bytes)?;
        } else {
            (&mut file).take(PART).read_to_end(&mut bytes)?;
            file.seek(SeekFrom::Start(len - PART))?;
            file.take(PART).read_to_end(&mut bytes)?;
        }
        sum = crc32c::crc32c_append(sum, &bytes);
        Ok(sum)
    };
    read().map_err(Error::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_start_and_end_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let of = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            of_file(&path, 7).unwrap()
        };
        let small = vec![3u8; 1000];
        let first = of(&small);
        assert_eq!(of(&small), first);
        assert_ne!(of_file(&path, 8).unwrap(), first);
        for at in [0, 500, 999] {
            let mut other = small.clone();
            other[at] ^= 1;
            assert_ne!(of(&other), first, "byte {at}");
        }
        assert_ne!(of(&small[..999]), first);
        let large = vec![3u8; 100_000];
        let first = of(&large);
        for at in [0, 16_383, 100_000 - 16_384, 99_999] {
            let mut other = large.clone();
            other[at] ^= 1;
            assert_ne!(of(&other), first, "byte {at}");
        }
        assert_eq!(of_file(&dir.path().join("none"), 0).unwrap_err().exit_code(), 9);
    }
}
