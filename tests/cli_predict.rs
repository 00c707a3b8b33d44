//! Predictions of pictures through the built program: orientation, views, folders.

mod cli_common;

use cli_common::{Project, expect, turned_jpeg};

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
        std::fs::write(p.path(&format!("photos/o{orientation}.jpg")), &jpeg).unwrap();
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
    // Mirroring the image mirrors what two mirrored views say of it.
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
