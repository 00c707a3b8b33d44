//! How good pseudo labels are, through the built program: lists of unlabelled images that name masks, what
//! training then says, and that training is the same.

use crate::cli_common::{Project, epochs, expect, read, records, text};

const KEYS: [&str; 2] = ["pseudo_label_miou", "pseudo_label_accuracy"];

/// The project's unlabelled list, with masks.
fn name_masks(p: &Project) {
    let line = |i: u32| format!("images/{i}.png masks/{i}.png\n");
    p.write("unlabeled.txt", (4..9).map(line).collect::<String>());
}

#[test]
fn masks_of_unlabelled_images_measure_and_change_nothing_else() {
    let p = Project::new();
    let plain = p.train("plain", &[]);
    expect(&plain, 0, &[]);
    assert!(!text(&plain).contains("% right"));
    let without = records(&p.path("plain"));
    assert!(without.iter().all(|r| KEYS.iter().all(|key| r.get(key).is_none())));

    name_masks(&p);
    expect(&p.train("measured", &[]), 0, &["pseudo labels", "mIoU", "% right"]);
    let mut with = records(&p.path("measured"));
    let mut told = 0;
    for record in with.iter_mut().filter(|r| r["kind"] == "epoch") {
        let [miou, right] = KEYS.map(|key| record[key].as_f64().unwrap_or(-1.0));
        // Of two classes every error lies in both unions, so no IoU is above the share that is right.
        assert!((0.0..=1.0).contains(&miou) && (0.0..=1.0).contains(&right) && miou <= right, "{record}");
        told += 1;
        KEYS.iter().for_each(|key| drop(record.as_object_mut().unwrap().remove(*key)));
    }
    assert_eq!(told, 3);
    // The square is easy to learn: the last epoch's labels are mostly right.
    let last = epochs(&p.path("measured")).pop().unwrap();
    assert!(last[KEYS[1]].as_f64().unwrap() > 0.5, "{last}");
    // The same training, to the last bit.
    assert_eq!(with, without);
    for file in ["checkpoints/best.safetensors", "pictures/epoch-0003.png"] {
        assert!(read(&p.path("plain").join(file)) == read(&p.path("measured").join(file)), "{file}");
    }
    let tensors = |run: &str| {
        let bytes = p.read(&format!("{run}/checkpoints/last.safetensors"));
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[8 + header..].to_vec()
    };
    assert!(tensors("plain") == tensors("measured"));

    // The picture: crop, truth, pseudo label, confidence; the same but for the truth, which is black where it
    // is unknown.
    let open = |run: &str| {
        let picture = image::open(p.path(&format!("{run}/pictures/unlabeled-0003.png"))).unwrap().into_rgb8();
        assert_eq!(picture.dimensions(), (4 * 24, 24));
        [0, 1, 2, 3].map(|k| image::imageops::crop_imm(&picture, 24 * k, 0, 24, 24).to_image())
    };
    let (plain, measured) = (open("plain"), open("measured"));
    let black = |cell: &image::RgbImage| cell.pixels().all(|p| p.0 == [0; 3]);
    assert!(black(&plain[1]) && !black(&measured[1]) && !black(&measured[0]));
    for k in [0, 2, 3] {
        assert_eq!(plain[k], measured[k]);
    }
    // A pseudo label is there from a confidence of 0.5 on, which of two classes every pixel has; ties of the
    // two aside.
    assert!(measured[3].pixels().all(|p| p[0] >= 127 && p[0] == p[1] && p[1] == p[2]));

    // Without pictures there are none of these, and the run is the same.
    expect(&p.train("bare", &["--set", "run.pictures=0"]), 0, &[]);
    assert!(!p.path("bare/pictures/unlabeled-0003.png").exists());
    assert_eq!(records(&p.path("bare")), records(&p.path("measured")));
}

#[test]
fn masks_that_cannot_be_used_are_left_out_with_one_warning() {
    let p = Project::new();
    let gray = |w, value: u8| image::GrayImage::from_pixel(w, 32, image::Luma([value]));
    gray(31, 0).save(p.path("data/masks/wide.png")).unwrap();
    gray(32, 7).save(p.path("data/masks/classes.png")).unwrap();
    let list = "images/4.png masks/none.png\nimages/5.png masks/wide.png\nimages/6.png masks/classes.png\n\
                images/7.png\nimages/8.png masks/8.png\n";
    p.write("unlabeled.txt", list);
    let out = p.train("o", &["--epochs", "2"]);
    expect(
        &out,
        0,
        &["2 masks of unlabelled images", "left out of the measure", "wide.png: the mask is 31 x 32"],
    );
    assert_eq!(text(&out).matches("left out of the measure").count(), 1);
    assert!(epochs(&p.path("o")).iter().all(|r| r[KEYS[0]].is_number()));
    // Where none is left nothing is measured.
    p.write("unlabeled.txt", "images/4.png masks/wide.png\nimages/5.png masks/none.png\n");
    let out = p.train("none", &["--epochs", "2"]);
    expect(&out, 0, &["1 masks of unlabelled images"]);
    assert!(epochs(&p.path("none")).iter().all(|r| r.get(KEYS[0]).is_none()));
}

#[test]
fn a_measured_run_that_is_killed_continues_to_the_same_bits() {
    let p = Project::new();
    name_masks(&p);
    let more = ["--set", "optim.accumulate=2"];
    expect(&p.train("whole", &more), 0, &[]);
    p.train_and_kill("killed", &more);
    expect(&p.resume("killed", &[]), 0, &["results in killed"]);
    let files = ["checkpoints/last.safetensors", "checkpoints/best.safetensors"].map(String::from);
    let pictures = (1..4).map(|epoch| format!("pictures/unlabeled-{epoch:04}.png"));
    for file in files.into_iter().chain(pictures) {
        assert!(read(&p.path("whole").join(&file)) == read(&p.path("killed").join(&file)), "{file}");
    }
    assert_eq!(records(&p.path("whole")), records(&p.path("killed")));
}

#[test]
fn only_algorithms_with_pseudo_labels_measure_them() {
    let p = Project::new();
    name_masks(&p);
    for (name, has) in [("one-teacher", true), ("mean-teacher", false), ("supervised", false)] {
        expect(&p.train(name, &["--algorithm", name, "--epochs", "2"]), 0, &[]);
        assert!(
            epochs(&p.path(name)).iter().all(|r| KEYS.iter().all(|key| r.get(key).is_some() == has)),
            "{name}"
        );
        assert_eq!(p.path(name).join("pictures/unlabeled-0002.png").exists(), has, "{name}");
    }
    // A pixel that passes is needed too.
    expect(
        &p.train("strict", &["--set", "method.threshold=1.0", "--epochs", "2"]),
        0,
        &["0 % of pixels pass"],
    );
    assert!(epochs(&p.path("strict")).iter().all(|r| r.get(KEYS[0]).is_none()));
}

#[test]
fn drawn_scenes_have_masks() {
    let p = Project::new();
    let size = ["data.demo_size=32", "data.demo_labeled=4", "data.demo_unlabeled=4", "data.demo_val=2"];
    let network = ["augment.crop=[24,24]", "model.blocks=[1,1,1,1]", "model.planes=1", "model.aspp=4"];
    let run = ["schedule.train_epochs=1", "method.warm_up_passes=1", "method.threshold=0.2"];
    let mut args = vec!["train", "--preset", "demo", "--out", "demo"];
    for set in size.iter().chain(&network).chain(&run).chain(&["schedule.steps_per_epoch=3"]) {
        args.extend(["--set", set]);
    }
    expect(&p.run(&args), 0, &["pseudo labels", "% right"]);
    let epoch = &epochs(&p.path("demo"))[0];
    assert!(KEYS.iter().all(|key| epoch[key].is_number()), "{epoch}");
    assert!(p.path("demo/pictures/unlabeled-0001.png").is_file());
}

#[test]
fn the_report_shows_quality_and_unlabelled_crops() {
    let p = Project::new();
    name_masks(&p);
    expect(&p.train("o", &[]), 0, &[]);
    expect(&p.run(&["report", "o", "--out", "page.html"]), 0, &[]);
    let html = p.read_text("page.html");
    for part in ["mIoU of pseudo labels that pass, %", "pseudo labels that pass and are right, %"] {
        assert!(html.contains(part), "{part}");
    }
    for what in ["crop", "true label", "pseudo label", "its confidence"] {
        assert_eq!(html.matches(&format!("alt=\"{what} of unlabelled crop 1, o\"")).count(), 1, "{what}");
    }
    assert!(html.contains("o, unlabelled crop 1, epoch 3") && html.contains("o, image 1, epoch 3"));
    // The events have the picture and the numbers.
    let events = std::fs::read_dir(p.path("o")).unwrap().map(|e| e.unwrap().path());
    let events = events.filter(|path| path.to_string_lossy().contains("tfevents")).map(|path| read(&path));
    let events: Vec<u8> = events.flatten().collect();
    for tag in ["epoch/pseudo_label_miou", "epoch/pseudo_label_accuracy", "unlabeled"] {
        assert!(events.windows(tag.len()).any(|w| w == tag.as_bytes()), "{tag}");
    }
}
