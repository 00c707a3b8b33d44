//! Predictions of pictures through the built program: orientation, views, folders, files that cannot be
//! predicted.

use crate::cli_common::{Project, expect, oversized_png, turned_jpeg};
use std::process::Output;

#[test]
fn pictures_are_predicted_as_people_see_them() {
    let p = Project::new();
    expect(&p.train("o", &["--epochs", "2"]), 0, &[]);
    // 24 columns, 16 rows, a bright corner; stored turned so that viewers turn it back.
    let seen = image::RgbImage::from_fn(24, 16, |x, y| {
        if x < 8 && y < 4 { image::Rgb([250, 40, 30]) } else { image::Rgb([20, 90, 60]) }
    });
    let stored = [
        (1, seen.clone()),
        (3, image::imageops::rotate180(&seen)),
        (6, image::imageops::rotate270(&seen)),
        (8, image::imageops::rotate90(&seen)),
    ];
    std::fs::create_dir_all(p.path("photos/deep")).unwrap();
    for (orientation, image) in &stored {
        let jpeg = turned_jpeg(image, *orientation);
        p.write(&format!("photos/o{orientation}.jpg"), &jpeg);
    }
    std::fs::copy(p.path("photos/o6.jpg"), p.path("photos/deep/again.jpg")).unwrap();
    std::fs::create_dir(p.path("photos/folder.jpg")).unwrap();
    let args = ["predict", "photos", "--checkpoint", "o", "--out", "m", "--outputs", "overlay,index"];
    expect(&p.run(&args), 0, &["4 of 4"]);
    let open = |name: &str| image::open(p.path(name)).unwrap().into_rgb8();
    for (orientation, _) in &stored {
        let overlay = open(&format!("m/o{orientation}_overlay.png"));
        assert_eq!((overlay.width(), overlay.height()), (24, 16), "orientation {orientation}");
        // The corner is where it is seen, under whatever class colour.
        let red = |x, y| i32::from(overlay.get_pixel(x, y)[0]);
        assert!(red(2, 1) > red(20, 12) + 30, "orientation {orientation}");
    }
    let args = ["predict", "photos", "--recursive", "--checkpoint", "o", "--out", "deep"];
    let out = p.run(&args);
    expect(&out, 0, &["5 of 5"]);
    assert!(p.path("deep/again_index.png").exists());
}

#[test]
fn several_views_are_averaged() {
    let p = Project::new();
    expect(&p.train("o", &["--epochs", "2"]), 0, &[]);
    let predict = |out: &str, more: &[&str]| {
        let args = ["predict", "data/images/9.png", "--checkpoint", "o", "--out", out];
        p.run(&[&args[..], more].concat())
    };
    let confidence = |out: &str| {
        let path = p.path(&format!("{out}/9_confidence.png"));
        image::open(path).unwrap().into_luma8()
    };
    expect(&predict("one", &[]), 0, &["1 of 1"]);
    expect(&predict("same", &["--scales", "1"]), 0, &[]);
    assert_eq!(confidence("one"), confidence("same"));
    expect(&predict("both", &["--flip"]), 0, &[]);
    // Mirroring the image mirrors the prediction by both mirrored views.
    let mirrored = image::imageops::flip_horizontal(&image::open(p.path("data/images/9.png")).unwrap());
    mirrored.save(p.path("mirrored.png")).unwrap();
    let args = ["predict", "mirrored.png", "--checkpoint", "o", "--out", "m", "--flip"];
    expect(&p.run(&args), 0, &[]);
    let of_mirrored = image::open(p.path("m/mirrored_confidence.png")).unwrap().into_luma8();
    let (a, b) = (image::imageops::flip_horizontal(&confidence("both")), of_mirrored);
    let off = a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(off <= Some(1), "{off:?}");
    expect(&predict("many", &["--scales", "0.5,1,1.5", "--flip", "--window", "20"]), 0, &["1 of 1"]);
    assert_ne!(confidence("one"), confidence("many"));
    expect(&predict("x", &["--scales", "0"]), 2, &["--scales", "above 0"]);
    expect(&p.run(&["eval", "o", "--scales", "0.75,1", "--flip", "--network", "student"]), 0, &["mIoU"]);
}

fn predict(p: &Project, images: &[&str], out: &str, more: &[&str]) -> Output {
    p.run(&[&["predict"], images, &["--checkpoint", "o", "--out", out], more].concat())
}

#[test]
fn one_bad_file_costs_no_results_of_others() {
    let p = Project::new();
    expect(&p.train("o", &["--epochs", "1", "--steps-per-epoch", "1"]), 0, &[]);
    let folder = p.path("photos");
    std::fs::create_dir_all(&folder).unwrap();
    let whole = p.read("data/images/9.png");
    // Between files of the same name, which take no names; a long name; files that are no images.
    let long = format!("{}.png", "n".repeat(250));
    for name in ["b.png", "y.png", &long] {
        std::fs::write(folder.join(name), &whole).unwrap();
    }
    std::fs::write(folder.join("b.json"), "{}").unwrap();
    std::fs::write(folder.join("cut.png"), &whole[..whole.len() - 3]).unwrap();
    oversized_png(&folder.join("large.png"), png::ColorType::Rgb, png::BitDepth::Eight);
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 0xFF;
    std::fs::write(folder.join("damaged.png"), damaged).unwrap();
    let skipped =
        ["b.json", "cut.png", "large.png", "damaged.png"].map(|name| format!("skipped: photos/{name}: "));
    let parts: Vec<&str> = skipped.iter().map(String::as_str).collect();
    let output = predict(&p, &["photos", "/dev/null", "nowhere.png"], "m", &[]);
    expect(&output, 0, &[&parts[..], &["3 of 9 files", "6 skipped"]].concat());
    for made in ["b_index.png", "y_color.png", &format!("{}_confidence.png", "n".repeat(200))] {
        assert!(p.path("m").join(made).exists(), "{made}");
    }
    let report: serde_json::Value = p.read_json("m/predictions.json");
    assert_eq!(report["images"].as_array().unwrap().len(), 3);
}

#[test]
fn sizes_that_cannot_fit_are_refused() {
    if psmt_fast::host::available_memory().is_none() {
        return eprintln!("skipped: the memory that is left is unknown");
    }
    let p = Project::new();
    expect(&p.train("o", &["--epochs", "1", "--steps-per-epoch", "1"]), 0, &[]);
    let large = ["--eval-size", "1000000"];
    let parts = ["not enough memory", "eval.long_side (--eval-size) 1000000"];
    let one = predict(&p, &["data/images/9.png"], "m", &large);
    expect(&one, 7, &[&parts[..], &["skipped: data/images/9.png: "]].concat());
    expect(&p.run(&["eval", "o", "--eval-size", "1000000"]), 7, &parts);
}

#[test]
fn predictions_replace_nothing_unless_told() {
    let p = Project::new();
    expect(&p.train("o", &["--epochs", "1", "--steps-per-epoch", "1"]), 0, &[]);
    std::fs::create_dir_all(p.path("photos")).unwrap();
    std::fs::copy(p.path("data/images/9.png"), p.path("photos/a.png")).unwrap();
    // Into the folder of the images: a mask of the user's has the name of an output.
    p.write("photos/a_index.png", "my mask");
    let files = || {
        let mut names: Vec<_> =
            std::fs::read_dir(p.path("photos")).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = files();
    let refused = predict(&p, &["photos/a.png"], "photos", &[]);
    expect(&refused, 2, &["photos/a_index.png is there already", "--overwrite"]);
    assert_eq!((files(), p.read("photos/a_index.png")), (before.clone(), b"my mask".to_vec()));
    expect(&predict(&p, &["photos/a.png"], "photos", &["--overwrite"]), 0, &["1 of 1"]);
    assert_eq!(image::open(p.path("photos/a_index.png")).unwrap().width(), 32);
    assert_eq!(files().len(), before.len() + 3);
    // Again, only that anything is there already.
    expect(&predict(&p, &["photos/a.png"], "photos", &["--outputs", "overlay"]), 2, &["predictions.json"]);
    // What is read is not replaced while it is read.
    let inputs = ["photos/a.png", "photos/a_color.png"];
    expect(&predict(&p, &inputs, "photos", &["--overwrite"]), 2, &["photos/a_color.png", "among the images"]);
}
