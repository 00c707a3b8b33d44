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

/// In training, an image without a mask is turned as it says, one with a mask is as its mask is.
#[test]
fn training_images_are_turned_as_their_masks_are() {
    use psmt_fast::data::{FolderOptions, FolderSource, List, Masks, Source};
    let dir = tempfile::tempdir().unwrap();
    let image = image::RgbImage::from_fn(6, 4, |x, y| image::Rgb([40 * x as u8, 60 * y as u8, 9]));
    std::fs::create_dir_all(dir.path().join("images")).unwrap();
    std::fs::create_dir_all(dir.path().join("masks")).unwrap();
    for name in ["stored", "upright", "free"] {
        std::fs::write(dir.path().join(format!("images/{name}.jpg")), turned_jpeg(&image, 6)).unwrap();
    }
    let mask = |w, h| image::GrayImage::from_pixel(w, h, image::Luma([1]));
    mask(6, 4).save(dir.path().join("masks/stored.png")).unwrap();
    mask(4, 6).save(dir.path().join("masks/upright.png")).unwrap();
    let source = |lines: &str, masks| {
        let list = dir.path().join("list.txt");
        std::fs::write(&list, lines).unwrap();
        let list = List::read(&list, dir.path(), Default::default(), masks).unwrap();
        FolderSource::new(list, FolderOptions::new(2))
    };
    let with =
        source("images/stored.jpg masks/stored.png\nimages/upright.jpg masks/upright.png\n", Masks::Required);
    with.check_headers().unwrap();
    with.check_masks().unwrap();
    let size = |s: &FolderSource, i| s.load(i).unwrap().image.size;
    assert_eq!((size(&with, 0), size(&with, 1)), ((4, 6), (6, 4)));
    assert_eq!(size(&source("images/free.jpg\n", Masks::Ignored), 0), (6, 4));
}
