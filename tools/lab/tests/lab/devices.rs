//! Training on the emulated device beside the processor: dry runs, and pseudo labels with their pictures.

use crate::cli_common::{Project, epochs, expect, text};

const KEYS: [&str; 2] = ["pseudo_label_miou", "pseudo_label_accuracy"];

/// One epoch of a small demo; `None`, with a word, where this build has no such device.
fn demo(p: &Project, device: &str) -> Option<()> {
    let size = ["data.demo_size=32", "data.demo_labeled=4", "data.demo_unlabeled=4", "data.demo_val=2"];
    let network = ["augment.crop=[24,24]", "model.blocks=[1,1,1,1]", "model.planes=1", "model.aspp=4"];
    let run = ["schedule.train_epochs=1", "method.warm_up_passes=1", "method.threshold=0.2"];
    let mut args = vec!["train", "--preset", "demo", "--out", device, "--device", device];
    for set in size.iter().chain(&network).chain(&run).chain(&["schedule.steps_per_epoch=3"]) {
        args.extend(["--set", set]);
    }
    let out = p.run(&args);
    if out.status.code() == Some(10) {
        eprintln!("skipped: {}", text(&out));
        return None;
    }
    expect(&out, 0, &["pseudo labels", "% right"]);
    Some(())
}

#[test]
fn drawn_scenes_have_masks_on_every_device() {
    let p = Project::new();
    demo(&p, "cpu").unwrap();
    let picture = |device: &str| {
        let path = p.path(&format!("{device}/pictures/unlabeled-0001.png"));
        image::open(path).unwrap().into_rgb8()
    };
    let cpu = &epochs(&p.path("cpu"))[0];
    assert!(KEYS.iter().all(|key| cpu[key].is_number()), "{cpu}");
    if demo(&p, "emulated").is_none() {
        return;
    }
    // Memory is planned there, also that of the picture; rounding turns few labels in three steps.
    let emulated = &epochs(&p.path("emulated"))[0];
    for key in KEYS {
        let [a, b] = [cpu, emulated].map(|r| r[key].as_f64().unwrap());
        assert!((a - b).abs() < 0.01, "{key}: {a} and {b}");
    }
    let (a, b) = (picture("cpu"), picture("emulated"));
    assert_eq!((a.dimensions(), a.dimensions()), ((96, 4 * 24), b.dimensions()));
    let pairs = || a.enumerate_pixels().zip(b.pixels()).map(|((x, _, a), b)| (x, a, b));
    assert!(pairs().filter(|(x, ..)| *x < 48).all(|(_, a, b)| a == b), "crops and true labels");
    let off = pairs().filter(|(x, a, b)| *x >= 72 && a[0].abs_diff(b[0]) > 4).count();
    assert!(off < 96 * 24 / 20, "{off} confidences differ");
}

#[test]
fn a_dry_run_plans_the_emulated_device_too() {
    let p = Project::new();
    let out = p.train("o", &["--dry-run", "--device", "emulated"]);
    if out.status.code() == Some(10) {
        eprintln!("skipped: {}", text(&out));
        return;
    }
    expect(&out, 0, &["ps-mt of tiny", "emulated", "networks", "largest batch"]);
    let table = text(&out);
    let number = |line: &str| line.split_whitespace().last().unwrap().parse::<f64>().unwrap();
    let find = |what: &str| number(table.lines().find(|l| l.trim().starts_with(what)).unwrap());
    assert!(find("in all") > find("networks") && find("in all") < find("available"), "{table}");
    assert!(!p.path("o").exists(), "a dry run leaves nothing");
}
