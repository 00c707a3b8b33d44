//! `check-data` and `split` through the built program, on a small data set.

use crate::cli_common::{Project, expect, text};

/// Arguments of both commands for the project's data.
const SET: [&str; 4] = ["--data", "data", "--num-classes", "2"];

fn check(p: &Project, more: &[&str]) -> std::process::Output {
    p.run(&[&["check-data"], &SET[..], more].concat())
}

fn lines(p: &Project, name: &str) -> Vec<String> {
    p.read_text(name).lines().map(String::from).collect()
}

#[test]
fn a_whole_data_set_is_described() {
    let p = Project::new();
    let lists = ["--labeled", "labeled.txt", "--unlabeled", "unlabeled.txt", "--val", "val.txt"];
    let out = check(&p, &[&lists[..], &["--json", "found.json"]].concat());
    expect(&out, 0, &["4 images", "5 images", "3 images", "32 x 32", "class", "no faults"]);
    let found: serde_json::Value = p.read_json("found.json");
    let labeled = &found["labelled"];
    assert_eq!(labeled["sizes"], serde_json::json!([{"rows": 32, "columns": 32, "images": 4}]));
    // A square of 14 by 16 pixels in each.
    assert_eq!(labeled["classes"][1]["pixels"], 4 * 14 * 16);
    assert_eq!(labeled["classes"][0]["pixels"], 4 * (32 * 32 - 14 * 16));
    assert_eq!(labeled["classes"][1]["images"], 4);
    assert_eq!(found["unlabelled"]["classes"][1]["images"], 0);
}

#[test]
fn every_fault_is_named() {
    let p = Project::new();
    p.write("data/images/0.png", "no image");
    let bytes = p.read("data/masks/1.png");
    p.write("data/masks/1.png", &bytes[..bytes.len() / 2]);
    let three = image::GrayImage::from_fn(32, 32, |x, _| image::Luma([x as u8 / 11 * 3]));
    three.save(p.path("data/masks/2.png")).unwrap();
    let listed = [0, 1, 2, 77, 3, 3].map(|i| format!("images/{i}.png masks/{i}.png\n"));
    p.write("labeled.txt", listed.concat());
    p.write("val.txt", "images/3.png masks/3.png\nimages/9.png masks/9.png\n");
    let out = check(&p, &["--labeled", "labeled.txt", "--val", "val.txt"]);
    let parts = ["images/0.png", "masks/1.png", "masks/2.png", "labeled.txt:4", "labeled.txt:6", "val.txt:1"];
    expect(&out, 1, &parts);
    expect(&out, 1, &["6 faults"]);
    // What can be read is described all the same.
    expect(&out, 1, &["labelled: 1 images", "validation: 2 images"]);
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let p = Project::new();
    expect(&check(&p, &[]), 2, &["--labeled"]);
    expect(&p.run(&["check-data", "--data", "data", "--labeled", "labeled.txt"]), 2, &["--num-classes"]);
    expect(&check(&p, &["--labeled", "nowhere.txt"]), 4, &["nowhere.txt"]);
    let split = |more: &[&str]| p.run(&[&["split"], &SET[..], more].concat());
    for bad in ["0", "1.5", "-3", "few", "3/2", "1/0"] {
        expect(&split(&["--list", "labeled.txt", "--labeled", bad, "--out", "s"]), 2, &["--labeled"]);
    }
    expect(&split(&["--list", "labeled.txt", "--labeled", "5", "--out", "s"]), 2, &["at most 4"]);
    assert!(!p.path("s").exists());
}

#[test]
fn a_split_is_whole_repeats_and_trains() {
    let p = Project::new();
    let all: String = (0..9).map(|i| format!("images/{i}.png masks/{i}.png\n")).collect();
    p.write("all.txt", format!("# all of them\n{all}"));
    let split = |out: &str, labeled: &str, seed: &str| {
        let args = ["--list", "all.txt", "--labeled", labeled, "--seed", seed, "--out", out];
        p.run(&[&["split"], &SET[..], &args].concat())
    };
    expect(&split("a", "1/3", "1"), 0, &["3 labelled, 6 unlabelled"]);
    expect(&split("b", "3", "1"), 0, &["3 labelled, 6 unlabelled"]);
    expect(&split("c", "3", "2"), 0, &[]);
    let (labeled, unlabeled) = (lines(&p, "a/labeled.txt"), lines(&p, "a/unlabeled.txt"));
    assert_eq!(
        (lines(&p, "b/labeled.txt"), lines(&p, "b/unlabeled.txt")),
        (labeled.clone(), unlabeled.clone())
    );
    assert_ne!(lines(&p, "c/labeled.txt"), labeled);
    let mut images: Vec<String> =
        labeled.iter().map(|l| l.split_once(' ').unwrap().0.to_string()).chain(unlabeled).collect();
    images.sort();
    assert_eq!(images, (0..9).map(|i| format!("images/{i}.png")).collect::<Vec<_>>());
    // Lists are not overwritten.
    let again = split("a", "3", "1");
    expect(&again, 2, &["a/labeled.txt is there already"]);

    p.write("labeled.txt", p.read_text("a/labeled.txt"));
    p.write("unlabeled.txt", p.read_text("a/unlabeled.txt"));
    let out = p.train("o", &["--epochs", "2"]);
    assert!(out.status.success(), "{}", text(&out));
}

#[test]
fn published_settings_are_listed_and_applied() {
    let p = Project::new();
    let table = p.run(&["presets"]);
    expect(&table, 0, &["voc-hq-92", "65.80", "cityscapes-ohem-1488", "resnet101 79.09"]);

    // A folder as Pascal VOC's, with three of the images.
    let root = p.path("voc/VOC2012");
    for folder in ["JPEGImages", "SegmentationClass", "ImageSets/Segmentation"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    for (i, id) in ["2007_000032", "2007_000039", "2007_000063"].iter().enumerate() {
        image::open(p.path(&format!("data/images/{i}.png")))
            .unwrap()
            .save(root.join(format!("JPEGImages/{id}.jpg")))
            .unwrap();
        std::fs::copy(
            p.path(&format!("data/masks/{i}.png")),
            root.join(format!("SegmentationClass/{id}.png")),
        )
        .unwrap();
    }
    p.write("voc/VOC2012/ImageSets/Segmentation/train.txt", "2007_000032\n2007_000039\n");
    p.write("l.txt", "2007_000032\n2007_000039\n");
    p.write("u.txt", "2007_000039\n");
    p.write("v.txt", "2007_000063\n");
    let lists = ["--data", "voc", "--labeled", "l.txt", "--unlabeled", "u.txt", "--val", "v.txt"];
    let dry = |more: &[&str]| p.run(&[&["train", "--dry-run"], &lists[..], more].concat());
    let small = ["--model", "tiny", "--crop", "64", "--batch-size", "2"];
    let own = dry(&[&["--recipe", "voc-hq-92"], &small[..]].concat());
    expect(
        &own,
        0,
        &["ps-mt of tiny", "80 epochs", "high-quality", "voc-hq-92 has 92 labelled images, the list 2"],
    );
    assert!(!text(&own).contains("cannot be compared"), "{}", text(&own));
    let other = dry(&[&["--recipe", "voc-2646"], &small[..]].concat());
    expect(&other, 0, &["200 epochs", "cannot be compared"]);
    expect(&dry(&["--recipe", "voc-93"]), 2, &["voc-93", "voc-hq-92"]);
}
