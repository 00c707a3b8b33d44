//! Images and masks as they are decoded, checked and resized, and every error of their files.

use crate::cli_common::turned_jpeg;
use crate::folder::{Folder, assert_has, data_error, load_all};
use image::{ExtendedColorType, ImageEncoder};
use psmt_fast::Error;
use psmt_fast::data::*;
use psmt_fast::rng::{Domain, Key};
use std::fs;
use std::sync::Arc;

#[test]
fn images_of_every_kind_become_rgb() {
    let f = Folder::new();
    let dynamic = |name: &str, image: image::DynamicImage| {
        let path = f.path(name);
        image.save(&path).unwrap();
        decode_image(&path).unwrap()
    };
    let gray = dynamic("g.png", image::GrayImage::from_pixel(2, 1, image::Luma([7])).into());
    assert_eq!((gray.size, gray.data), ((1, 2), vec![7; 6]));
    let deep = image::ImageBuffer::from_pixel(1, 1, image::Rgb([65535u16, 257 * 9, 0]));
    assert_eq!(dynamic("d.png", deep.into()).data, [255, 9, 0]);
    let alpha = dynamic("t.png", image::RgbaImage::from_pixel(1, 1, image::Rgba([9, 8, 7, 0])).into());
    assert_eq!(alpha.data, [9, 8, 7]);
    let webp = dynamic("w.webp", image::RgbImage::from_pixel(3, 2, image::Rgb([1, 2, 3])).into());
    assert_eq!((webp.size, &webp.data[..3]), ((2, 3), &[1, 2, 3][..]));
    // The content decides, not the name.
    fs::copy(f.path("g.png"), f.path("g.jpg")).unwrap();
    assert_eq!(decode_image(&f.path("g.jpg")).unwrap().size, (1, 2));
}

#[test]
fn masks_are_indices_never_colours() {
    let f = Folder::new();
    let path = f.path("p.png");
    for (bits, packed) in [
        (png::BitDepth::Eight, vec![0u8, 1, 2, 3, 2, 1]),
        (png::BitDepth::Four, vec![0x01, 0x20, 0x32, 0x10]),
        (png::BitDepth::Two, vec![0b0001_1000, 0b1110_0100]),
    ] {
        for palette in [false, true] {
            let mut encoder = png::Encoder::new(fs::File::create(&path).unwrap(), 3, 2);
            encoder.set_depth(bits);
            if palette {
                encoder.set_color(png::ColorType::Indexed);
                encoder.set_palette([9, 9, 9, 200, 0, 0, 0, 200, 0, 0, 0, 200].as_slice());
                encoder.set_trns([0u8].as_slice());
            }
            let mut writer = encoder.write_header().unwrap();
            writer.write_image_data(&packed).unwrap();
            drop(writer);
            let mask = decode_mask(&path).unwrap();
            assert_eq!(
                (mask.size, mask.data),
                ((2, 3), vec![0, 1, 2, 3, 2, 1]),
                "{bits:?} palette {palette}"
            );
        }
    }
}

#[test]
fn file_errors_name_the_file_and_what_was_expected() {
    let f = Folder::new();
    let image = f.image("a.png", 6, 4);
    f.mask("m.png", 6, 4, |_, _| 1);
    let list = f.read("a.png m.png", Layout::Folder, Masks::Required).unwrap();
    load_all(&FolderSource::new(list, FolderOptions::new(2))).unwrap();

    f.mask("m.png", 4, 6, |_, _| 1);
    assert_has(&f.load_error(2), &["m.png", "4 x 6", "6 x 4", "a.png"]);
    f.mask("m.png", 6, 4, |x, y| if (x, y) == (5, 2) { 11 } else { 255 });
    assert_has(&f.load_error(11), &["m.png", "class id 11", "row 2, column 5", "0..=10 or 255"]);
    f.image("m.png", 6, 4);
    assert_has(&f.load_error(11), &["m.png", "8-bit PNG, grey or palette", "Rgb"]);
    let deep = image::ImageBuffer::from_pixel(6, 4, image::Luma([3u16]));
    image::DynamicImage::from(deep).save(f.path("m.png")).unwrap();
    assert_has(&f.load_error(11), &["m.png", "16 bits"]);
    f.image("m.jpg", 6, 4);
    fs::copy(f.path("m.jpg"), f.path("m.png")).unwrap();
    assert_has(&f.load_error(11), &["m.png", "8-bit PNG"]);

    f.mask("m.png", 6, 4, |_, _| 1);
    fs::write(&image, "this is no image").unwrap();
    assert_has(&f.load_error(2), &["a.png", "expected a JPEG, PNG or WebP"]);
    fs::write(&image, "").unwrap();
    assert_has(&f.load_error(2), &["a.png", "expected a JPEG, PNG or WebP"]);
    fs::remove_file(&image).unwrap();
    assert!(matches!(decode_image(&image), Err(Error::Io { .. })));
}

#[test]
fn truncated_files_are_refused() {
    let f = Folder::new();
    let mut rng = Key::new(1, Domain::Bench, 0).stream();
    let noise =
        image::RgbImage::from_fn(64, 48, |_, _| image::Rgb(std::array::from_fn(|_| rng.below(256) as u8)));
    for name in ["x.jpg", "x.png", "x.webp"] {
        let path = f.path(name);
        noise.save(&path).unwrap();
        decode_image(&path).unwrap();
        let bytes = fs::read(&path).unwrap();
        for keep in [bytes.len() / 10, bytes.len() / 2, bytes.len() - 20] {
            fs::write(&path, &bytes[..keep]).unwrap();
            assert_has(&data_error(decode_image(&path)), &[name]);
        }
    }
    let path = f.mask("m.png", 64, 48, |x, y| (x * y % 7) as u8);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert_has(&data_error(decode_mask(&path)), &["m.png"]);
}

#[test]
fn headers_are_checked_without_decoding() {
    let f = Folder::new();
    f.image("a.png", 6, 4);
    f.mask("m.png", 6, 4, |_, _| 9);
    let source = || {
        let list = f.read("a.png m.png", Layout::Folder, Masks::Required).unwrap();
        FolderSource::new(list, FolderOptions::new(5))
    };
    source().check_headers().unwrap();
    assert_has(&data_error(source().check_masks()), &["m.png", "class id 9"]);
    f.mask("m.png", 6, 5, |_, _| 0);
    assert_has(&data_error(source().check_headers()), &["m.png", "6 x 5", "6 x 4"]);
}

#[test]
fn a_long_side_resizes_image_and_mask() {
    let f = Folder::new();
    f.image("a.png", 40, 30);
    f.mask("m.png", 40, 30, |x, _| u8::from(x >= 20));
    let list = f.read("a.png m.png", Layout::Folder, Masks::Required).unwrap();
    let options = FolderOptions { long_side: Some(20), ..FolderOptions::new(2) };
    let sample = FolderSource::new(list, options).load(0).unwrap();
    let mask = sample.mask.as_ref().unwrap();
    assert_eq!((sample.image.size, mask.size), ((15, 20), (15, 20)));
    assert!(mask.data.iter().enumerate().all(|(i, &c)| c == u8::from(i % 20 >= 10)));
}

#[test]
fn samples_are_the_same_within_and_beyond_the_memory_granted() {
    let f = Folder::new();
    f.image("a.png", 8, 8);
    f.image("b.png", 9, 8);
    let list = f.read("a.png\nb.png", Layout::Folder, Masks::Ignored).unwrap();
    let source = FolderSource::new(list, FolderOptions { cache_bytes: 200, ..FolderOptions::new(2) });
    let (a, b) = (source.load(0).unwrap(), source.load(1).unwrap());
    assert!(Arc::ptr_eq(&a, &source.load(0).unwrap()));
    assert!(!Arc::ptr_eq(&b, &source.load(1).unwrap()));
    assert_eq!(b, source.load(1).unwrap());
}

/// Masks that only measure: the pixels are those of a list without masks, whatever the masks are.
#[test]
fn masks_that_measure_decide_nothing_about_images() {
    let f = Folder::new();
    // The image's columns differ, so that a turn shows; 6 (rotated by 90 degrees) and 3 (by 180).
    let image = image::RgbImage::from_fn(8, 4, |x, y| image::Rgb([(30 * x) as u8, (60 * y) as u8, 0]));
    fs::write(f.path("six.jpg"), turned_jpeg(&image, 6)).unwrap();
    fs::write(f.path("three.jpg"), turned_jpeg(&image, 3)).unwrap();
    f.image("plain.png", 8, 4);
    f.image("other.png", 8, 4);
    f.image("more.png", 8, 4);
    // Class 1 in the stored image's left half.
    let left = |x: u32, _: u32| u8::from(x < 4);
    f.mask("stored.png", 8, 4, left);
    // The same for the upright image of "six", whose top the left half becomes; of "three" it is taken as
    // upright.
    f.mask("upright.png", 4, 8, |_, y| u8::from(y < 4));
    f.mask("large.png", 9, 4, left);
    f.mask("classes.png", 8, 4, |x, _| x as u8);
    let source = |list: &str, masks: Masks| {
        let list = f.read(list, Layout::Folder, masks).unwrap();
        FolderSource::new(list, FolderOptions { masks_measure: true, ..FolderOptions::new(2) })
    };
    let list = "six.jpg stored.png\nthree.jpg stored.png\nplain.png large.png\nother.png classes.png\n\
                more.png stored.png\n";
    let mut with = source(list, Masks::Optional);
    let without = source(list, Masks::Ignored);
    assert_eq!((with.num_masks(), without.num_masks()), (5, 0));
    with.check_headers().unwrap();
    let (census, left_out) = with.leave_out_unusable_masks();
    let (count, first) = left_out.unwrap();
    assert_eq!((count, census.masks), (2, 3));
    // The size shows how the mask of "six" lies, not that of "three".
    assert_eq!((census.oriented_by_size, census.oriented_by_setting), ([0, 1], 1));
    assert_has(&first.to_string(), &["large.png", "9 x 4", "8 x 4"]);
    assert!(with.leave_out_unusable_masks().1.is_none());
    assert_eq!((with.num_masks(), with.has_masks()), (3, false));
    let mut also = source("six.jpg upright.png\n", Masks::Optional);
    assert!(also.leave_out_unusable_masks().1.is_none());
    for i in 0..5 {
        assert_eq!(with.load(i).unwrap().image, without.load(i).unwrap().image, "image {i}");
    }
    let mask = |source: &FolderSource, i: usize| source.load(i).unwrap().mask.clone();
    let top: Vec<u8> = (0..32).map(|k| u8::from(k / 4 < 4)).collect();
    assert_eq!(mask(&with, 0), Some(Mask { size: (8, 4), data: top }));
    assert_eq!(mask(&with, 0), mask(&also, 0));
    let left: Vec<u8> = (0..32).map(|k| u8::from(k % 8 < 4)).collect();
    assert_eq!(mask(&with, 1), Some(Mask { size: (4, 8), data: left }));
    assert_eq!((mask(&with, 2), mask(&with, 3)), (None, None));
    assert!(mask(&with, 4).is_some());
    // A mask that is damaged later is no error either.
    let late = source("more.png stored.png\n", Masks::Optional);
    fs::write(f.path("stored.png"), b"no mask").unwrap();
    assert_eq!(mask(&late, 0), None);
}

#[test]
fn png_writer_is_usable_for_masks() {
    // What the crate writes as a mask it also reads back.
    let f = Folder::new();
    let path = f.path("x.png");
    let file = fs::File::create(&path).unwrap();
    image::codecs::png::PngEncoder::new(file)
        .write_image(&[0, 1, 255, 3], 2, 2, ExtendedColorType::L8)
        .unwrap();
    assert_eq!(decode_mask(&path).unwrap().data, [0, 1, 255, 3]);
}
