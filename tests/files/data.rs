//! The data layer from outside: every error of lists and files, the layouts, the loader's determinism, and real data
//! where it is there.

#[allow(dead_code)] // a turned picture is all that is needed of it
use image::{ExtendedColorType, ImageEncoder};
use psmt_fast::Error;
use psmt_fast::backend::cpu::Cpu;
use psmt_fast::data::list::Entry;
use psmt_fast::data::*;
use psmt_fast::ops::{self, Device, Images, Normalize, Pixels, View};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// A data directory with helpers to fill it.
struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn text(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// An RGB image; its kind follows the extension.
    fn image(&self, name: &str, w: u32, h: u32) -> PathBuf {
        let path = self.path(name);
        image::RgbImage::from_fn(w, h, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8]))
            .save(&path)
            .unwrap();
        path
    }

    fn mask(&self, name: &str, w: u32, h: u32, f: impl Fn(u32, u32) -> u8) -> PathBuf {
        let path = self.path(name);
        image::GrayImage::from_fn(w, h, |x, y| image::Luma([f(x, y)])).save(&path).unwrap();
        path
    }

    fn read(&self, list: &str, layout: Layout, masks: Masks) -> psmt_fast::Result<List> {
        let path = self.text("list.txt", list);
        List::read(&path, self.0.path(), layout, masks)
    }

    /// The message for a labelled list, which must be a data error.
    fn list_error(&self, list: &str) -> String {
        data_error(self.read(list, Layout::Folder, Masks::Required))
    }

    /// The message of the first sample of a list of one pair.
    fn load_error(&self, num_classes: usize) -> String {
        let list = self.read("a.png m.png", Layout::Folder, Masks::Required).unwrap();
        let source = FolderSource::new(list, FolderOptions::new(num_classes));
        let message = data_error(source.load(0));
        assert_eq!(message, data_error(load_all(&source)));
        message
    }
}

/// The first error of loading every sample.
fn load_all(source: &FolderSource) -> psmt_fast::Result<()> {
    (0..source.len()).try_for_each(|i| source.load(i).map(|_| ()))
}

fn data_error<T>(result: psmt_fast::Result<T>) -> String {
    match result {
        Err(e @ Error::Data { .. }) => e.to_string(),
        Err(e) => panic!("another kind of error: {e:?}"),
        Ok(_) => panic!("no error"),
    }
}

#[track_caller]
fn assert_has(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

#[test]
fn lines_may_take_every_form() {
    let f = Folder::new();
    for name in ["a.png", "b.jpg", "c d.webp", "m1.png", "m 2.png"] {
        f.image(name, 3, 2);
    }
    let list = "\u{feff}# comment\r\n\r\n/a.png /m1.png\r\n  b.jpg   m1.png  \r\nc d.webp\tm 2.png\r\n";
    let read = f.read(list, Layout::Folder, Masks::Required).unwrap();
    let short: Vec<(&str, usize)> = read.entries.iter().map(|e| (e.name.as_str(), e.line)).collect();
    assert_eq!(short, [("a.png", 3), ("b.jpg", 4), ("c d.webp", 5)]);
    assert_eq!(read.entries[2].mask, Some(f.path("m 2.png")));

    // Unlabelled: masks are neither needed nor looked for; a lone name may hold a blank.
    let read = f.read("a.png\nb.jpg nowhere.png\nc d.webp", Layout::Folder, Masks::Ignored).unwrap();
    assert_eq!(read.entries.len(), 3);
    assert!(read.entries.iter().all(|e| e.mask.is_none()));

    // A line that begins like a remark is an image where there is one of that name.
    f.image("#1.png", 3, 2);
    let read = f
        .read("#1.png m1.png\n#2.png m1.png\n#a.png\na.png m1.png", Layout::Folder, Masks::Required)
        .unwrap();
    let names: Vec<&str> = read.entries.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names, ["#1.png", "a.png"]);
}

#[test]
fn optional_masks_are_those_that_a_line_names_and_that_exist() {
    let f = Folder::new();
    for name in ["JPEGImages/a.jpg", "JPEGImages/b.jpg", "JPEGImages/c.jpg", "d e.png"] {
        f.image(name, 3, 2);
    }
    f.mask("SegmentationClass/a.png", 3, 2, |_, _| 0);
    f.mask("SegmentationClass/b.png", 3, 2, |_, _| 0);
    let masks = |list: &str, layout| -> Vec<Option<PathBuf>> {
        f.read(list, layout, Masks::Optional).unwrap().entries.into_iter().map(|e| e.mask).collect()
    };
    let list = "/JPEGImages/a.jpg /SegmentationClass/a.png\nJPEGImages/b.jpg\n\
                JPEGImages/c.jpg SegmentationClass/c.png\nd e.png\n";
    // The second line names none, though there is one; the third names one that is not there.
    let want = [Some(f.path("SegmentationClass/a.png")), None, None, None];
    assert_eq!(masks(list, Layout::Folder), want);
    assert_eq!(masks(list, Layout::Voc), want);
    // An id names none.
    assert_eq!(masks("a\nb\n", Layout::Voc), [None, None]);
    // An image must be there all the same.
    let missing = f.read("x.png SegmentationClass/a.png", Layout::Folder, Masks::Optional);
    assert_has(&data_error(missing), &["list.txt:1", "x.png", "no image file"]);

    // The other kind of Cityscapes mask says the same.
    f.image("leftImg8bit/train/bonn/bonn_0_leftImg8bit.png", 3, 2);
    let mask = f.mask("gtFine/train/bonn/bonn_0_gtFine_labelIds.png", 3, 2, |_, _| 7);
    let line =
        "leftImg8bit/train/bonn/bonn_0_leftImg8bit.png gtFine/train/bonn/bonn_0_gtFine_labelTrainIds.png";
    assert_eq!(masks(line, Layout::Cityscapes), [Some(mask)]);
}

/// Masks that only measure: the pixels are those of a list without masks, whatever the masks are.
#[test]
fn masks_that_measure_decide_nothing_about_images() {
    let f = Folder::new();
    // The image's columns differ, so that a turn shows; 6 (rotated by 90 degrees) and 3 (by 180).
    let image = image::RgbImage::from_fn(8, 4, |x, y| image::Rgb([(30 * x) as u8, (60 * y) as u8, 0]));
    fs::write(f.path("six.jpg"), crate::cli_common::turned_jpeg(&image, 6)).unwrap();
    fs::write(f.path("three.jpg"), crate::cli_common::turned_jpeg(&image, 3)).unwrap();
    f.image("plain.png", 8, 4);
    f.image("other.png", 8, 4);
    f.image("more.png", 8, 4);
    // Class 1 in the stored image's left half.
    let left = |x: u32, _: u32| u8::from(x < 4);
    f.mask("stored.png", 8, 4, left);
    // The same for the upright image of "six", whose top the left half becomes; of "three" it is taken as upright.
    f.mask("upright.png", 4, 8, |_, y| u8::from(y < 4));
    f.mask("large.png", 9, 4, left);
    f.mask("classes.png", 8, 4, |x, _| x as u8);
    let source = |list: &str, masks: Masks| {
        let list = f.read(list, Layout::Folder, masks).unwrap();
        FolderSource::new(list, FolderOptions { masks_measure: true, ..FolderOptions::new(2) })
    };
    let list = "six.jpg stored.png\nthree.jpg stored.png\nplain.png large.png\nother.png classes.png\nmore.png stored.png\n";
    let mut with = source(list, Masks::Optional);
    let without = source(list, Masks::Ignored);
    assert_eq!((with.num_masks(), without.num_masks()), (5, 0));
    with.check_headers().unwrap();
    let (census, left_out) = with.leave_out_unusable_masks();
    let (count, first) = left_out.unwrap();
    assert_eq!((count, census.masks), (2, 3));
    // "six" is told by its size, "three" is not.
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
fn list_errors_name_file_and_line() {
    let f = Folder::new();
    f.image("a.png", 3, 2);
    f.image("b.png", 3, 2);
    f.mask("m.png", 3, 2, |_, _| 0);
    let root = f.0.path();
    let missing = root.join("none.txt");
    let read = |path: &Path| List::read(path, root, Layout::Folder, Masks::Required);
    assert_has(&data_error(read(&missing)), &["none.txt", "cannot read"]);
    assert_has(&f.list_error(""), &["list.txt", "no image"]);
    assert_has(&f.list_error("# nothing\n\n"), &["list.txt", "no image"]);
    assert_has(&f.list_error("a.png m.png\nx.png m.png"), &["list.txt:2", "x.png", "no image file"]);
    assert_has(&f.list_error("a.png m.png\n\nb.png n.png"), &["list.txt:3", "n.png", "no mask file"]);
    assert_has(&f.list_error("a.png m.png\nb.png"), &["list.txt:2", "b.png", "has no mask"]);
    assert_has(&f.list_error("a.png m.png\nb.png m.png\n/a.png m.png"), &["list.txt:3", "a.png", "line 1"]);
    assert_has(&f.list_error("a.png m.png x"), &["list.txt:1", "3 words", "tab"]);
    assert_has(&f.list_error("a.png\tm.png\tx"), &["list.txt:1", "3 names"]);
    assert_has(&f.list_error("2007_000032"), &["list.txt:1", "JPEGImages/2007_000032.jpg"]);
    fs::write(f.path("bin.txt"), [0xFF, 0xFE, 0x00]).unwrap();
    assert_has(&data_error(read(&f.path("bin.txt"))), &["bin.txt", "UTF-8"]);
    let no_dir = List::read(&f.path("list.txt"), &root.join("no"), Layout::Folder, Masks::Required);
    assert_has(&data_error(no_dir), &["no such data directory"]);
}

#[test]
fn validation_images_are_not_labelled() {
    let entry = |name: &str, line| Entry { name: name.into(), line, image: name.into(), mask: None };
    let list = |path: &str, names: &[&str]| List {
        path: path.into(),
        layout: Layout::Folder,
        entries: names.iter().enumerate().map(|(i, n)| entry(n, i + 1)).collect(),
    };
    let labeled = list("labeled.txt", &["a", "b"]);
    let unlabeled = list("unlabeled.txt", &["a", "c", "d"]);
    check_disjoint(&labeled, Some(&unlabeled), &list("val.txt", &["d"])).unwrap();
    let message = data_error(check_disjoint(&labeled, None, &list("val.txt", &["x", "b"])));
    assert_has(&message, &["labeled.txt:2", "\"b\"", "val.txt:2"]);
}

#[cfg(unix)]
#[test]
fn an_image_is_the_same_by_whatever_path() {
    let f = Folder::new();
    f.image("real/a.png", 3, 2);
    f.image("real/b.png", 3, 2);
    f.mask("m.png", 3, 2, |_, _| 0);
    std::os::unix::fs::symlink(f.path("real"), f.path("link")).unwrap();
    std::os::unix::fs::symlink(f.path("real/a.png"), f.path("file.png")).unwrap();
    fs::hard_link(f.path("real/a.png"), f.path("hard.png")).unwrap();
    let labeled = f.read("real/a.png m.png\n", Layout::Folder, Masks::Required).unwrap();
    let absolute = f.path("real/a.png").display().to_string();
    for alias in ["real/a.png", "link/a.png", "real/../real/./a.png", "file.png", "hard.png", &absolute] {
        let val =
            f.read(&format!("real/b.png m.png\n{alias} m.png\n"), Layout::Folder, Masks::Required).unwrap();
        assert_has(&data_error(check_disjoint(&labeled, None, &val)), &["also in the validation list", ":2"]);
        let twice = f.list_error(&format!("real/a.png m.png\n{alias} m.png"));
        assert_has(&twice, &["list.txt:2", "line 1"]);
    }
}

#[test]
fn voc_ids_find_their_files() {
    for base in ["", "VOC2012/", "VOCdevkit/VOC2012/"] {
        let f = Folder::new();
        f.image(&format!("{base}JPEGImages/2007_000032.jpg"), 5, 4);
        f.image(&format!("{base}JPEGImages/2007_000039.jpg"), 5, 4);
        let plain = f.mask(&format!("{base}SegmentationClass/2007_000032.png"), 5, 4, |_, _| 1);
        for layout in [Layout::Voc, Layout::Folder] {
            let list = f.read("2007_000032\n", layout, Masks::Required).unwrap();
            assert_eq!(list.entries[0].mask.as_deref(), Some(&*plain));
        }
        let augmented = f.mask(&format!("{base}SegmentationClassAug/2007_000032.png"), 5, 4, |_, _| 2);
        let list = f.read("2007_000032\n", Layout::Voc, Masks::Required).unwrap();
        assert_eq!(list.entries[0].mask.as_deref(), Some(&*augmented));
        let lines = "/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png";
        let list = f.read(lines, Layout::Voc, Masks::Required).unwrap();
        assert_eq!(list.entries[0].mask.as_deref(), Some(&*augmented));
        let source = FolderSource::new(list, FolderOptions::new(21));
        assert_eq!(source.load(0).unwrap().mask.as_ref().unwrap().data, [2; 20]);
        let message = data_error(f.read("2007_000039\n", Layout::Voc, Masks::Required));
        assert_has(&message, &["list.txt:1", "2007_000039.png", "SegmentationClassAug"]);
        assert_eq!(f.read("2007_000039\n", Layout::Voc, Masks::Ignored).unwrap().entries.len(), 1);
    }
}

#[test]
fn cityscapes_names_find_their_masks() {
    let f = Folder::new();
    let id = "aachen_000000_000019";
    let image = format!("leftImg8bit/train/aachen/{id}_leftImg8bit.png");
    let mask = |kind: &str| format!("gtFine/train/aachen/{id}_gtFine_{kind}.png");
    f.image(&image, 4, 2);
    let labels = [7, 8, 0, 26, 33, 255, 11, 1];
    f.mask(&mask("labelIds"), 4, 2, |x, y| labels[(y * 4 + x) as usize]);
    let classes = [0, 1, 255, 13, 18, 255, 2, 255];
    let lines = [
        id.to_owned(),
        image.clone(),
        format!("/{image} /{}", mask("labelIds")),
        format!("{image} {}", mask("labelTrainIds")),
    ];
    for line in &lines {
        let list = f.read(line, Layout::Cityscapes, Masks::Required).unwrap();
        let source = FolderSource::new(list, FolderOptions::new(19));
        assert_eq!(source.load(0).unwrap().mask.as_ref().unwrap().data, classes, "{line}");
    }
    f.mask(&mask("labelTrainIds"), 4, 2, |x, _| x as u8);
    let list = f.read(id, Layout::Cityscapes, Masks::Required).unwrap();
    let sample = FolderSource::new(list, FolderOptions::new(19)).load(0).unwrap();
    assert_eq!(sample.mask.as_ref().unwrap().data, [0, 1, 2, 3, 0, 1, 2, 3]);
    let message = data_error(f.read("bonn_000000_000019", Layout::Cityscapes, Masks::Required));
    assert_has(&message, &["list.txt:1", "bonn/bonn_000000_000019_leftImg8bit.png"]);
}

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
    let mut rng = psmt_fast::rng::Key::new(1, psmt_fast::rng::Domain::Bench, 0).stream();
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

fn scenes(len: usize) -> Arc<dyn Source> {
    Arc::new(SceneSource::new(SceneSpec { seed: 5, first: 0, len, size: (40, 56) }).unwrap())
}

fn spec(batch: usize) -> LoaderSpec {
    LoaderSpec {
        seed: 11,
        stream: 3,
        batch,
        batches_per_step: 1,
        augment: Augment { crop: [32, 48], ..Augment::default() },
        prefetch: 2,
    }
}

#[test]
fn batches_do_not_depend_on_threads_or_on_where_one_starts() {
    let mut loader = Loader::unlabeled(scenes(7), spec(3)).unwrap();
    let all: Vec<UnlabeledBatch> = (0..6).map(|_| loader.next().unwrap()).collect();
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let fresh = pool.install(|| {
            let loader = Loader::unlabeled(scenes(7), spec(3)).unwrap();
            let steps = (0..all.len() as u64).rev();
            steps.map(|step| loader.batch(step).unwrap()).collect::<Vec<_>>()
        });
        assert!(fresh.iter().rev().eq(&all));
    }
    loader.start(4).unwrap();
    assert_eq!(loader.next().unwrap(), all[4]);
    assert_eq!(loader.next().unwrap(), all[5]);
    loader.start(1).unwrap();
    assert_eq!(loader.next().unwrap(), all[1]);

    let mut labeled = Loader::labeled(scenes(7), spec(3), View::Weak).unwrap();
    let first = labeled.next().unwrap();
    let second = labeled.next().unwrap();
    let mut resumed = Loader::labeled(scenes(7), spec(3), View::Weak).unwrap();
    resumed.start(1).unwrap();
    assert_eq!(resumed.next().unwrap(), second);
    assert_ne!(first, second);
    let other = Loader::labeled(scenes(7), LoaderSpec { stream: 4, ..spec(3) }, View::Weak).unwrap();
    assert_ne!(other.batch(0).unwrap(), first);
}

#[test]
fn passes_have_each_sample_at_most_once_in_full_steps() {
    let order = |len: usize, spec: LoaderSpec, batches: u64| -> Vec<usize> {
        let loader = Loader::labeled(scenes(len), spec, View::Weak).unwrap();
        (0..batches).flat_map(|s| loader.batch(s).unwrap().indices).collect()
    };
    // Two batches of two make a pass over five, which leaves one out.
    let mut orders = std::collections::HashSet::new();
    let mut left_out = std::collections::HashSet::new();
    for pass in order(5, spec(2), 40).chunks(4) {
        let taken: std::collections::BTreeSet<usize> = pass.iter().copied().collect();
        assert_eq!(taken.len(), 4, "{pass:?}");
        left_out.extend((0..5).filter(|i| !taken.contains(i)));
        orders.insert(pass.to_vec());
    }
    assert!(orders.len() > 5 && left_out.len() == 5, "{left_out:?}");
    // A step of two batches is four images: one step makes a pass over seven.
    for pass in order(7, LoaderSpec { batches_per_step: 2, ..spec(2) }, 20).chunks(4) {
        assert_eq!(pass.iter().collect::<std::collections::BTreeSet<_>>().len(), 4, "{pass:?}");
    }
    // A step larger than the list goes round it, as evenly as may be.
    for step in order(2, spec(5), 10).chunks(5) {
        let zeros = step.iter().filter(|i| **i == 0).count();
        assert!((2..=3).contains(&zeros), "{step:?}");
    }
}

#[test]
fn the_strong_view_of_labelled_images_is_the_same_crop() {
    let weak = Loader::labeled(scenes(7), spec(3), View::Weak).unwrap().batch(2).unwrap();
    let strong = Loader::labeled(scenes(7), spec(3), View::Strong).unwrap().batch(2).unwrap();
    assert_eq!((&weak.images, &weak.labels), (&strong.images, &strong.labels));
    assert!(weak.strong.is_none() && strong.strong.as_ref().unwrap().len() == 3);
    // The same draws as those of unlabelled images, whose masks come along.
    let unlabeled = Loader::unlabeled(scenes(7), spec(3)).unwrap().batch(2).unwrap();
    assert_eq!(strong.strong.unwrap(), unlabeled.strong);
    assert_eq!(Some(strong.labels), unlabeled.labels);
}

/// Scenes of which those with an odd number have no mask, or all.
struct Masked {
    scenes: Arc<dyn Source>,
    odd: bool,
}

impl Source for Masked {
    fn len(&self) -> usize {
        self.scenes.len()
    }
    fn name(&self, i: usize) -> String {
        self.scenes.name(i)
    }
    fn load(&self, i: usize) -> psmt_fast::Result<Arc<Sample>> {
        let mut sample = (*self.scenes.load(i)?).clone();
        sample.mask = sample.mask.filter(|_| self.odd && i.is_multiple_of(2));
        Ok(Arc::new(sample))
    }
    fn has_masks(&self) -> bool {
        false
    }
    fn num_masks(&self) -> usize {
        if self.odd { self.len().div_ceil(2) } else { 0 }
    }
}

#[test]
fn unlabelled_batches_bring_the_labels_that_there_are() {
    let of = |source: Arc<dyn Source>| Loader::unlabeled(source, spec(3)).unwrap().batch(4).unwrap();
    let all = of(scenes(7));
    let some = of(Arc::new(Masked { scenes: scenes(7), odd: true }));
    let none = of(Arc::new(Masked { scenes: scenes(7), odd: false }));
    let (labels, known) = (all.labels.clone().unwrap(), some.labels.clone().unwrap());
    let pixels = labels.len() / 3;
    for (place, &i) in some.indices.iter().enumerate() {
        let part = place * pixels..(place + 1) * pixels;
        match i % 2 {
            0 => assert_eq!(known[part.clone()], labels[part]),
            _ => assert!(known[part].iter().all(|&c| c == 255)),
        }
    }
    assert!(some.indices.iter().any(|i| i % 2 == 1) && some.indices.iter().any(|i| i % 2 == 0));
    // And nothing else of the batch depends on masks.
    assert_eq!(UnlabeledBatch { labels: None, ..all }, none);
    assert_eq!(UnlabeledBatch { labels: None, ..some }, none);
}

fn upload(images: &HostImages) -> Images<Cpu<f32>> {
    ops::upload_images(&Cpu::new(), images.shape, &images.data, images.shown.clone()).unwrap()
}

/// What the teachers see, and the student of labelled images.
fn weak(images: &HostImages) -> Vec<f32> {
    let b = Cpu::<f32>::new();
    b.download(&ops::normalize_bytes(&b, &upload(images), &Normalize::default()).unwrap())
}

/// What the student sees of unlabelled images.
fn strong(batch: &UnlabeledBatch) -> Vec<f32> {
    let b = Cpu::<f32>::new();
    let images = upload(&batch.images);
    let x = ops::photometric(&b, Pixels::Bytes(&images), &batch.strong, &Normalize::default());
    b.download(&x.unwrap())
}

/// Images that are a formula, each of another size.
struct Pattern;

impl Source for Pattern {
    fn len(&self) -> usize {
        5
    }
    fn name(&self, i: usize) -> String {
        format!("pattern {i}")
    }
    fn load(&self, i: usize) -> psmt_fast::Result<Arc<Sample>> {
        let (h, w) = (37 + 3 * i, 53 - 2 * i);
        let byte = |k: usize| {
            let (y, x, c) = (k / (3 * w), k / 3 % w, k % 3);
            ((7 * x + 13 * y + 29 * c + 31 * i) ^ (x * y / (c + 1))) as u8
        };
        let image = RgbImage { size: (h, w), data: (0..h * w * 3).map(byte).collect() };
        let mask = Mask { size: (h, w), data: (0..h * w).map(|k| (k % 4) as u8).collect() };
        Ok(Arc::new(Sample { image, mask: Some(mask), name: self.name(i) }))
    }
    fn has_masks(&self) -> bool {
        true
    }
}

#[test]
fn what_the_networks_see_keeps_its_bits() {
    // FNV-1a of the bits of both views for each step: a change of what is drawn, resampled or normalised shows here. The taps of blurs are the platform's `exp`: another C library's may round otherwise.
    let stored = [
        (0x209f_1bd8_ad04_9874, 0x777a_3928_10b3_2aa0),
        (0x7f55_8c18_3142_aba6, 0x31a9_b774_a10f_97c6),
        (0xe69e_cc4a_7186_c206, 0x1069_0873_e151_ea5d),
        (0x53d0_74a1_16cd_e82c, 0x9479_e6be_b0e9_678c),
        (0x0135_8ab6_3d12_c17a, 0xe365_c655_8bb0_5d9d),
        (0x4582_05fb_7d97_ba94, 0xcac2_e669_9920_e738),
    ];
    let hash = |values: &[f32]| {
        let step = |h: u64, v: &f32| (h ^ u64::from(v.to_bits())).wrapping_mul(0x0100_0000_01b3);
        values.iter().fold(0xcbf2_9ce4_8422_2325, step)
    };
    let augment = Augment { crop: [43, 47], ..Augment::default() };
    let spec = LoaderSpec { augment, ..spec(4) };
    let labeled = Loader::labeled(Arc::new(Pattern), spec.clone(), View::Weak).unwrap();
    let unlabeled = Loader::unlabeled(Arc::new(Pattern), spec).unwrap();
    for (step, want) in stored.into_iter().enumerate() {
        let batch = unlabeled.batch(step as u64).unwrap();
        assert_eq!(batch.images, labeled.batch(step as u64).unwrap().images);
        assert_eq!((hash(&weak(&batch.images)), hash(&strong(&batch))), want, "step {step}");
    }
}

#[test]
fn views_share_their_geometry_and_padding() {
    let augment =
        Augment { crop: [64, 64], scale: [0.75, 0.75], jitter: 0.0, gray: 0.0, blur: 0.0, ..spec(1).augment };
    let loader = Loader::unlabeled(scenes(3), LoaderSpec { augment: augment.clone(), ..spec(3) }).unwrap();
    let batch = loader.batch(0).unwrap();
    let worst =
        weak(&batch.images).iter().zip(&strong(&batch)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-5, "{worst}");

    // 40 x 56 at 0.75 is 30 x 42: the rest is padding in image and labels alike, mirrored with the crop.
    let loader = Loader::labeled(scenes(3), LoaderSpec { augment, ..spec(3) }, View::Weak).unwrap();
    let batch = loader.batch(0).unwrap();
    for (rgb, &label) in weak(&batch.images).chunks(3).zip(&batch.labels) {
        assert_eq!(rgb == [0.0; 3], label == 255);
    }
    let shown = batch.labels.iter().filter(|&&l| l != 255).count();
    assert_eq!(shown, 3 * 30 * 42);
}

/// A source whose sample 3 fails.
struct Broken(Arc<dyn Source>);

impl Source for Broken {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn name(&self, i: usize) -> String {
        self.0.name(i)
    }
    fn load(&self, i: usize) -> psmt_fast::Result<Arc<Sample>> {
        if i == 3 { Err(Error::data("three.png", "broken")) } else { self.0.load(i) }
    }
    fn has_masks(&self) -> bool {
        true
    }
}

#[test]
fn errors_arrive_in_order_and_stop_the_loader() {
    let mut loader = Loader::labeled(Arc::new(Broken(scenes(8))), spec(1), View::Weak).unwrap();
    let results: Vec<_> = (0..8).map(|_| loader.next()).take_while(|r| r.is_ok()).collect();
    assert!(results.len() < 8);
    assert!(data_error(loader.next()).contains("stopped"));
    let step = results.len() as u64;
    assert_eq!(data_error(loader.batch(step)), "three.png: broken");
    loader.start(step + 1).unwrap();
    loader.next().unwrap();
}

#[test]
fn dropping_a_busy_loader_ends_it() {
    for taken in 0..3 {
        let mut loader = Loader::unlabeled(scenes(6), spec(2)).unwrap();
        loader.start(0).unwrap();
        for _ in 0..taken {
            loader.next().unwrap();
        }
    }
}

#[test]
fn waiting_on_the_only_worker_makes_progress() {
    // Of the global pool, where the loader's own tasks run; every worker waits at once.
    let waits: Vec<UnlabeledBatch> = rayon::broadcast(|_| {
        let mut loader = Loader::unlabeled(scenes(6), spec(2)).unwrap();
        loader.next().unwrap();
        loader.next().unwrap()
    });
    assert!(waits.windows(2).all(|w| w[0] == w[1]));
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let fails = |augment: Augment, key: &str| {
        let error = Loader::labeled(scenes(2), LoaderSpec { augment, ..spec(2) }, View::Weak).err().unwrap();
        assert!(matches!(error, Error::Config { .. }), "{error:?}");
        assert_has(&error.to_string(), &[key]);
    };
    let good = spec(2).augment;
    fails(Augment { crop: [0, 4], ..good.clone() }, "crop");
    fails(Augment { base_size: Some(0), ..good.clone() }, "base_size");
    fails(Augment { scale: [2.0, 0.5], ..good.clone() }, "scale");
    fails(Augment { flip: 1.5, ..good.clone() }, "flip");
    fails(Augment { hue: 0.7, ..good.clone() }, "hue");
    fails(Augment { contrast: f32::NAN, ..good.clone() }, "contrast");
    for kernels in [vec![1, 4, 5], vec![1, 3, 513], vec![0, 1, 3]] {
        fails(Augment { blur_kernels: kernels, ..good.clone() }, "blur_kernels");
    }
    for shares in [vec![1.0, 1.0], vec![0.0; 3], vec![1.0, -1.0, 1.0], vec![f32::NAN, 1.0, 1.0]] {
        fails(Augment { blur_kernel_shares: shares, ..good.clone() }, "blur_kernel_shares");
    }
    assert!(Loader::labeled(scenes(0), spec(2), View::Weak).is_err());
    assert!(Loader::labeled(scenes(2), spec(0), View::Weak).is_err());
    let error = toml::from_str::<Augment>("crop = [8, 8]\nblurr = 1").unwrap_err().to_string();
    assert_has(&error, &["unknown field `blurr`"]);
    assert_eq!(toml::from_str::<Augment>("").unwrap(), Augment::default());
    let text = toml::to_string(&Augment { base_size: Some(600), ..good.clone() }).unwrap();
    assert_eq!(toml::from_str::<Augment>(&text).unwrap(), Augment { base_size: Some(600), ..good });
}

#[test]
fn a_base_size_sets_the_long_side() {
    let augment = Augment { base_size: Some(600), crop: [512, 512], ..Augment::default() };
    let mut rng = psmt_fast::rng::Key::new(1, psmt_fast::rng::Domain::Bench, 1).stream();
    let (mut least, mut most) = (usize::MAX, 0);
    for _ in 0..4000 {
        let (h, w) = augment.geometry((375, 500), &mut rng).full;
        assert_eq!(h, (w as f64 * 0.75 + 0.5) as usize);
        (least, most) = (least.min(w), most.max(w));
    }
    assert!((300..310).contains(&least) && (1190..=1200).contains(&most), "{least} {most}");
}

#[test]
fn camvid_loads_whole() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/camvid");
    if !root.is_dir() {
        println!("skipped: no {}", root.display());
        return;
    }
    let preset = Preset::Camvid;
    let read = |list: &str, masks| List::read(&root.join(list), &root, preset.layout(), masks).unwrap();
    let labeled = read("splits/46_train_supervised.txt", Masks::Required);
    let unlabeled = read("splits/46_train_unsupervised.txt", Masks::Ignored);
    let val = read("val.txt", Masks::Required);
    check_disjoint(&labeled, Some(&unlabeled), &val).unwrap();
    assert_eq!((labeled.entries.len(), unlabeled.entries.len(), val.entries.len()), (46, 321, 101));
    let options = FolderOptions::new(preset.num_classes());
    let labeled = Arc::new(FolderSource::new(labeled, options));
    load_all(&labeled).unwrap();
    assert_eq!(labeled.load(0).unwrap().image.size, (360, 480));
    let mut loader = Loader::labeled(labeled, spec(4), View::Weak).unwrap();
    for _ in 0..4 {
        let batch = loader.next().unwrap();
        assert!(weak(&batch.images).iter().all(|v| v.is_finite()));
    }
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
