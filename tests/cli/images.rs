//! Images and masks as people have them, through the built program: masks that teach nothing, images turned
//! by their EXIF orientation, files that end too early, absurd sizes.

use crate::cli_common::{Project, expect, oversized_png, read, text, turned_jpeg};
use psmt_fast::Error;
use psmt_fast::data::{
    ExifMasks, FolderOptions, FolderSource, List, Masks, Source, decode_image, decode_mask, decode_upright,
};
use std::process::Output;

const LISTS: [&str; 6] = ["--labeled", "labeled.txt", "--unlabeled", "unlabeled.txt", "--val", "val.txt"];

fn check_data(p: &Project, more: &[&str]) -> Output {
    p.run(&[&["check-data", "--data", "data", "--num-classes", "2"], &LISTS[..], more].concat())
}

fn warnings(output: &Output) -> Vec<String> {
    text(output).lines().filter(|line| line.contains("WARN")).map(String::from).collect()
}

/// Replaces masks of the project: those of labelled images are 0 to 3, those of validation images 9 to 11.
fn masks(p: &Project, numbers: std::ops::Range<u32>, change: impl Fn(u8) -> u8) {
    for i in numbers {
        let path = p.path(&format!("data/masks/{i}.png"));
        let mut mask = image::open(&path).unwrap().into_luma8();
        mask.iter_mut().for_each(|value| *value = change(*value));
        mask.save(&path).unwrap();
    }
}

#[test]
fn masks_of_black_and_white_are_warned_of_wherever_they_are_read() {
    let p = Project::new();
    for output in [p.train("o", &["--dry-run"]), check_data(&p, &[])] {
        assert_eq!(warnings(&output), [""; 0]);
    }
    masks(&p, 0..4, |class| 255 * class);
    masks(&p, 9..12, |class| 255 * class);
    let short = ["--epochs", "1", "--steps-per-epoch", "1"];
    for output in
        [p.train("o", &["--dry-run"]), p.train("o", &short), check_data(&p, &["--json", "found.json"])]
    {
        expect(&output, 0, &[]);
        let all = warnings(&output);
        assert_eq!(all.len(), 3, "{all:?}");
        assert!(
            all[0]
                .contains("4 of 4 labelled masks hold only 0 and 255: 255 is read as ignored, not as white")
        );
        assert!(all[1].contains("3 of 3 validation masks hold only 0 and 255"));
        assert!(all[2].contains("no labelled mask has class 1"));
    }
    let found: serde_json::Value = p.read_json("found.json");
    assert_eq!(found["warnings"].as_array().unwrap().len(), 3);
    let eval = p.run(&["eval", "o", "--network", "student"]);
    expect(&eval, 0, &["3 of 3 validation masks"]);
}

#[test]
fn masks_of_ignored_pixels_alone_are_refused() {
    let p = Project::new();
    expect(&p.train("o", &["--epochs", "1", "--steps-per-epoch", "1"]), 0, &[]);
    masks(&p, 9..12, |_| 255);
    let nothing = "all pixels of its 3 masks are 255";
    expect(&p.train("v", &[]), 4, &["val.txt", nothing, "nothing to measure"]);
    expect(&p.run(&["eval", "o"]), 4, &["val.txt", nothing]);
    expect(&check_data(&p, &[]), 1, &["val.txt", nothing]);
    masks(&p, 0..4, |_| 255);
    expect(&p.train("l", &["--dry-run"]), 4, &["labeled.txt", "its 4 masks", "nothing to learn"]);
    expect(&check_data(&p, &[]), 1, &["2 faults"]);
    assert!(!p.path("v").exists() && !p.path("l").exists());
}

#[test]
fn a_class_that_is_validated_but_not_learned_is_warned_of() {
    let p = Project::new();
    masks(&p, 9..12, |class| 2 * class);
    let check = [&["check-data", "--data", "data", "--num-classes", "4"], &LISTS[..]].concat();
    for output in [p.train("o", &["--dry-run", "--num-classes", "4"]), p.run(&check)] {
        let all = warnings(&output);
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(all[0].contains("no labelled mask has class 2, class 3: "));
        assert!(all[0].contains("validation masks have class 2,"));
    }
}

#[test]
fn white_of_one_bit_next_to_white_of_eight_is_warned_of() {
    let p = Project::new();
    let bit = |palette: Option<&[u8]>| {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, 32, 32);
        encoder.set_depth(png::BitDepth::One);
        if let Some(palette) = palette {
            encoder.set_color(png::ColorType::Indexed);
            encoder.set_palette(palette.to_vec());
        }
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&[0x0F; 128]).unwrap();
        writer.finish().unwrap();
        p.write("data/masks/0.png", file);
    };
    masks(&p, 1..2, |class| if class == 0 { 255 } else { class });
    for (palette, count) in
        [(None, 1), (Some(&[0, 0, 0, 255, 255, 255][..]), 1), (Some(&[0, 0, 0, 128, 0, 0][..]), 0)]
    {
        bit(palette);
        for output in [p.train("o", &["--dry-run"]), check_data(&p, &[])] {
            expect(&output, 0, &[]);
            let all = warnings(&output);
            assert_eq!(all.len(), count, "{palette:?} {all:?}");
            assert!(all.iter().all(|w| {
                w.contains("white is class 1 in 1 masks of 1 bit and ignored (255) in 1 masks of 8 bits")
            }));
        }
    }
}

#[test]
fn colours_are_no_classes() {
    let p = Project::new();
    let colours = image::RgbImage::from_pixel(32, 32, image::Rgb([128, 0, 0]));
    colours.save(p.path("data/masks/2.png")).unwrap();
    let parts = ["masks/2.png", "these are colours", "write for each colour the index of its class"];
    expect(&p.train("o", &["--dry-run"]), 4, &parts);
    expect(&check_data(&p, &[]), 1, &parts);
}

/// An image of 6 x 4 whose columns and rows differ, as a file that stores it turned by `orientation`, and a
/// mask of it.
fn turned(p: &Project, name: &str, orientation: u8) -> (image::RgbImage, image::GrayImage) {
    use image::imageops::{flip_horizontal, rotate90, rotate180};
    let seen = image::RgbImage::from_fn(6, 4, |x, y| image::Rgb([40 * x as u8, 60 * y as u8, 9]));
    let mask = image::GrayImage::from_fn(6, 4, |x, y| image::Luma([u8::from(x < 2 && y < 3)]));
    let stored = match orientation {
        2 => flip_horizontal(&seen),
        3 => rotate180(&seen),
        8 => rotate90(&seen),
        _ => panic!("{orientation}"),
    };
    p.write(&format!("data/images/{name}.jpg"), turned_jpeg(&stored, orientation));
    (seen, mask)
}

#[test]
fn images_are_upright_and_masks_are_turned_with_them_where_they_lie_as_stored() {
    let p = Project::new();
    let (seen, mask) = turned(&p, "half", 3);
    turned(&p, "mirrored", 2);
    turned(&p, "quarter", 8);
    let save =
        |mask: &image::GrayImage, name: &str| mask.save(p.path(&format!("data/masks/{name}.png"))).unwrap();
    save(&mask, "upright");
    save(&image::imageops::rotate180(&mask), "half");
    save(&image::imageops::flip_horizontal(&mask), "mirrored");
    save(&image::imageops::rotate90(&mask), "quarter");
    let load = |line: &str, exif_masks| {
        p.write("one.txt", line);
        let list =
            List::read(&p.path("one.txt"), &p.path("data"), Default::default(), Masks::Required).unwrap();
        let source = FolderSource::new(list, FolderOptions { exif_masks, ..FolderOptions::new(2) });
        source.check_headers().unwrap();
        let census = source.check_masks().unwrap();
        let sample = source.load(0).unwrap();
        assert_eq!(sample.image.size, (4, 6), "{line}");
        // JPEG changes colours a little.
        let off = sample.image.data.iter().zip(seen.as_raw()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(off < Some(16), "{line} {off:?}");
        assert_eq!(sample.mask.as_ref().unwrap().data, *mask.as_raw(), "{line} {exif_masks:?}");
        (census.oriented_by_size, census.oriented_by_setting)
    };
    for name in ["half", "mirrored"] {
        let upright = format!("images/{name}.jpg masks/upright.png");
        assert_eq!(load(&upright, ExifMasks::Auto), ([0, 0], 1));
        assert_eq!(load(&upright, ExifMasks::Upright), ([0, 0], 1));
        assert_eq!(load(&format!("images/{name}.jpg masks/{name}.png"), ExifMasks::Stored), ([0, 0], 1));
    }
    // Without masks too.
    p.write("free.txt", "images/half.jpg\nimages/quarter.jpg\n");
    let list = List::read(&p.path("free.txt"), &p.path("data"), Default::default(), Masks::Ignored).unwrap();
    let source = FolderSource::new(list, FolderOptions::new(2));
    for (i, name) in ["half", "quarter"].into_iter().enumerate() {
        let seen = decode_upright(&p.path(&format!("data/images/{name}.jpg"))).unwrap();
        assert_eq!((seen.size, &source.load(i).unwrap().image), ((4, 6), &seen));
    }
    for exif in [ExifMasks::Auto, ExifMasks::Upright, ExifMasks::Stored] {
        assert_eq!(load("images/quarter.jpg masks/upright.png", exif), ([1, 0], 0));
        assert_eq!(load("images/quarter.jpg masks/quarter.png", exif), ([0, 1], 0));
    }
}

#[test]
fn images_whose_masks_may_lie_either_way_are_counted_in_a_warning() {
    let p = Project::new();
    // 32 x 32: a quarter turn does not show either.
    for (i, orientation) in [(0, 6), (1, 3), (9, 2)] {
        let image = image::open(p.path(&format!("data/images/{i}.png"))).unwrap().into_rgb8();
        p.write(&format!("data/images/{i}.png"), turned_jpeg(&image, orientation));
    }
    let counted = "2 labelled and 1 validation images are rotated or mirrored";
    for output in [p.train("o", &["--dry-run"]), check_data(&p, &["--json", "found.json"])] {
        expect(
            &output,
            0,
            &["EXIF", counted, "read upright, as viewers show the image", "data.exif_masks", "--exif-masks"],
        );
        assert_eq!(warnings(&output).len(), 1);
    }
    let found: serde_json::Value = p.read_json("found.json");
    assert!(found["warnings"][0].as_str().unwrap().contains(counted));
    // Where it was chosen it is reported, without a warning.
    for (chosen, taken) in [
        ("stored", "read as the file stores the image"),
        ("upright", "read upright, as viewers show the image"),
    ] {
        for output in
            [p.train("o", &["--dry-run", "--exif-masks", chosen]), check_data(&p, &["--exif-masks", chosen])]
        {
            expect(&output, 0, &[counted, taken]);
            assert_eq!(warnings(&output), [""; 0]);
        }
    }
    expect(
        &p.train("o", &["--dry-run", "--set", "data.exif_masks=stored"]),
        0,
        &["as the file stores the image"],
    );
    expect(&p.train("o", &["--dry-run", "--set", "data.exif_masks=no"]), 3, &["exif_masks", "upright"]);
}

#[test]
fn files_that_end_too_early_are_found_before_the_first_step_in_every_list() {
    let p = Project::new();
    for i in [1, 4, 10] {
        let path = p.path(&format!("data/images/{i}.png"));
        let image = image::open(&path).unwrap().into_rgb8();
        let png = read(&path);
        let encoded = |format| {
            let mut file = std::io::Cursor::new(Vec::new());
            image.write_to(&mut file, format).unwrap();
            file.into_inner()
        };
        for (file, kind) in [
            (png.clone(), "PNG"),
            (encoded(image::ImageFormat::Jpeg), "JPEG"),
            (encoded(image::ImageFormat::WebP), "WebP"),
        ] {
            std::fs::write(&path, &file).unwrap();
            expect(&p.train("o", &["--dry-run"]), 0, &[]);
            for keep in [file.len() - 2, file.len() * 2 / 3] {
                std::fs::write(&path, &file[..keep]).unwrap();
                let parts = [&format!("images/{i}.png"), kind, "truncated", "take it off its list"];
                expect(&p.train("o", &["--dry-run"]), 4, &parts);
            }
        }
        expect(&p.train("o", &[]), 4, &["truncated"]);
        std::fs::write(&path, &png).unwrap();
    }
    assert!(!p.path("o").exists());
}

/// Damage that shows neither in the header nor at the end stops a run when the file is decoded.
#[test]
fn a_file_that_stops_a_run_is_named_with_the_way_on() {
    let p = Project::new();
    let path = p.path("data/images/5.png");
    let whole = read(&path);
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xFF;
    std::fs::write(&path, &damaged).unwrap();
    expect(&p.train("o", &["--dry-run"]), 0, &[]);
    expect(
        &p.train("o", &[]),
        4,
        &["images/5.png", "continue with: psmt-fast train --resume o --accept-changes"],
    );
    std::fs::write(&path, &whole).unwrap();
    expect(&p.resume("o", &["--accept-changes"]), 0, &["results in o"]);
}

#[test]
fn absurd_sizes_are_refused_before_anything_is_decoded() {
    let p = Project::new();
    let (image, mask) = (p.path("data/images/0.png"), p.path("data/masks/0.png"));
    let refused = |result: Result<(), Error>| match result {
        Err(e @ Error::Data { .. }) => assert!(e.to_string().contains("60000 x 60000"), "{e}"),
        other => panic!("{other:?}"),
    };
    oversized_png(&mask, png::ColorType::Grayscale, png::BitDepth::One);
    refused(decode_mask(&mask).map(|_| ()));
    // Compared with its image before that.
    expect(&p.train("o", &["--dry-run"]), 4, &["masks/0.png", "60000 x 60000", "expected 32 x 32"]);
    oversized_png(&image, png::ColorType::Rgb, png::BitDepth::Eight);
    refused(decode_image(&image).map(|_| ()));
    refused(decode_upright(&image).map(|_| ()));
    expect(&p.train("o", &["--dry-run"]), 4, &["images/0.png", "60000 x 60000", "at most"]);
    expect(&check_data(&p, &[]), 1, &["images/0.png", "60000 x 60000", "1 faults"]);
    // A JPEG's size follows marker, length and precision of its frame.
    let mut jpeg = turned_jpeg(&image::RgbImage::new(16, 16), 1);
    let frame = jpeg.windows(4).position(|w| w == [0xFF, 0xC0, 0, 17]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xEA, 0x60, 0xEA, 0x60]);
    std::fs::write(&image, jpeg).unwrap();
    refused(decode_image(&image).map(|_| ()));
}
