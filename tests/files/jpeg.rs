//! JPEG decoding against libjpeg-turbo: every sampling, process and order of scans of `jpeg/make.py`, whose
//! PNGs hold the pixels that Pillow decodes. A file is decoded to those pixels or refused, never to others.

use psmt_fast::Error;
use psmt_fast::data::{decode_image, decode_upright};
use std::path::{Path, PathBuf};

/// Inverse DCTs round differently: a sample differs by one, its RGB by a few levels.
const TOLERANCE: u8 = 4;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/jpeg")
}

/// The corpus: (name of the answer, file).
fn corpus() -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(folder()).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<_> = entries
        .filter(|p| p.extension().is_some_and(|e| e == "jpg"))
        .map(|p| (p.file_stem().unwrap().to_str().unwrap().split('_').next().unwrap().to_string(), p))
        .collect();
    files.sort();
    files
}

fn expected(name: &str) -> image::RgbImage {
    image::open(folder().join(format!("{name}.png"))).unwrap().into_rgb8()
}

/// Asserts the pixels of `file`.
fn assert_pixels(file: &Path, expected: &image::RgbImage) {
    let got = decode_image(file).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(got.size, (expected.height() as usize, expected.width() as usize), "{}", file.display());
    let difference = got.data.iter().zip(expected.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(difference <= TOLERANCE, "{}: {difference} levels off", file.display());
}

#[test]
fn every_sampling_and_scan_order_decodes_as_libjpeg_does() {
    let mut compared = 0;
    for (name, file) in corpus() {
        if file.to_str().unwrap().contains("arithmetic") {
            let error = decode_image(&file).unwrap_err();
            assert!(matches!(error, Error::Data { .. }), "{error}");
            continue;
        }
        assert_pixels(&file, &expected(&name));
        compared += 1;
    }
    assert!(compared > 60, "{compared} files");
}

#[test]
fn files_that_end_early_are_refused_at_every_length() {
    let dir = tempfile::tempdir().unwrap();
    for (_, file) in corpus().into_iter().step_by(5) {
        let whole = std::fs::read(&file).unwrap();
        for keep in (0..whole.len() - 1).step_by(37) {
            let path = dir.path().join("cut.jpg");
            std::fs::write(&path, &whole[..keep]).unwrap();
            let error = decode_image(&path).unwrap_err();
            assert!(matches!(error, Error::Data { .. }), "{} cut to {keep}: {error}", file.display());
        }
    }
}

#[test]
fn what_follows_the_first_picture_does_not_matter() {
    // Cameras append a preview as a second JPEG (MPO).
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("two.jpg");
    let read = |name: &str| std::fs::read(folder().join(name)).unwrap();
    std::fs::write(&path, [read("2x2_baseline.jpg"), read("gray_baseline.jpg")].concat()).unwrap();
    assert_pixels(&path, &expected("2x2"));
}

#[test]
fn flipped_bytes_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("damaged.jpg");
    for (_, file) in corpus().into_iter().step_by(3) {
        let whole = std::fs::read(&file).unwrap();
        for at in (2..whole.len()).step_by(11) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            std::fs::write(&path, &bytes).unwrap();
            // Damaged entropy-coded data may decode to other pixels, which nothing in the format reveals.
            match decode_upright(&path) {
                Ok(image) => assert_eq!(image.data.len(), image.size.0 * image.size.1 * 3),
                Err(error) => assert!(matches!(error, Error::Data { .. }), "{error}"),
            }
        }
    }
}
