//! Lists of images and where the layouts find their files, every error of a list, and real data where it is
//! there.

use crate::folder::{Folder, assert_has, camvid, data_error, load_all};
use crate::loader::{spec, weak};
use psmt_fast::data::list::Entry;
use psmt_fast::data::*;
use psmt_fast::ops::View;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
fn camvid_loads_whole() {
    let Some(root) = camvid() else { return };
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
