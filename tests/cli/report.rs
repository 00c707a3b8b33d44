//! `report`: a page about runs that were really trained, and about copies of them with other seeds and given
//! scores, by what it says, by how Chromium shows it (skipped where there is none), and what becomes of
//! folders that are no runs.

use crate::cli_common::{Project, expect, read, text};
use base64::Engine;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A project with a run of the method and one of the supervised baseline.
fn trained() -> Project {
    let p = Project::new();
    expect(&p.train("ps-mt", &[]), 0, &[]);
    // Names are no markup, and one network has no confidence.
    expect(&p.train("<b>&base", &["--algorithm", "supervised", "--seed", "9"]), 0, &[]);
    p
}

fn records(p: &Project, run: &str) -> Vec<Value> {
    let text = p.read_text(&format!("{run}/metrics.jsonl"));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A copy of a run's configuration and records as those of a run with another seed.
struct Copy<'a> {
    run: &'a str,
    name: &'a str,
    seed: u64,
    /// The mIoU and pixel accuracy of networks in every validation; half of it in the first.
    scores: &'a [(&'a str, Value)],
    /// Whether the last validation is missing.
    unfinished: bool,
}

fn copy(p: &Project, Copy { run, name, seed, scores, unfinished }: Copy) {
    std::fs::create_dir_all(p.path(name)).unwrap();
    let config = p.read_text(&format!("{run}/config.toml"));
    let is_seed = |line: &&str| line.starts_with("seed = ");
    assert_eq!(config.lines().filter(is_seed).count(), 1, "{config}");
    let line = |line: &str| if is_seed(&line) { format!("seed = {seed}\n") } else { format!("{line}\n") };
    p.write(&format!("{name}/config.toml"), config.lines().map(line).collect::<String>());
    let mut records = records(p, run);
    if unfinished {
        let last = records.iter().rposition(|r| r["kind"] == "validation").unwrap();
        records.truncate(last);
    }
    let first = records.iter().find(|r| r["kind"] == "validation").unwrap()["epoch"].clone();
    for record in &mut records {
        if record["kind"] == "epoch" {
            // Another loss for each seed, so that curves have a band.
            record["loss_sup"] = (record["loss_sup"].as_f64().unwrap() * (1.0 + seed as f64)).into();
        }
        if record["kind"] != "validation" {
            continue;
        }
        for (network, score) in scores {
            let half = score.as_f64().map_or(Value::Null, |v| (v / 2.0).into());
            let score = if record["epoch"] == first { half } else { score.clone() };
            assert!(record["miou"].get(network).is_some(), "no {network}: {record}");
            (record["miou"][network], record["pixel_accuracy"][network]) = (score.clone(), score.clone());
            record["iou"][network] = vec![score, Value::Null].into();
        }
    }
    let text: String = records.iter().map(|r| format!("{r}\n")).collect();
    p.write(&format!("{name}/metrics.jsonl"), &text);
}

/// Three seeds of the baseline and three of the method, the last of which has not ended. Paths of their
/// folders in a mixed order.
fn three_seeds() -> (Project, [&'static str; 6]) {
    let p = trained();
    for (seed, student) in [(1, 0.40), (2, 0.44), (3, 0.45)] {
        let scores = &[("student", student.into())];
        copy(&p, Copy { run: "<b>&base", name: &format!("base-{seed}"), seed, scores, unfinished: false });
    }
    for (seed, ensemble, student) in [(1, 0.45, 0.42.into()), (2, 0.46, Value::Null), (3, 0.99, 0.99.into())]
    {
        let scores = &[("ensemble", ensemble.into()), ("student", student)];
        copy(&p, Copy { run: "ps-mt", name: &format!("ps-{seed}"), seed, scores, unfinished: seed == 3 });
    }
    // One of the method's has pictures, and it is not the first.
    std::fs::create_dir_all(p.path("ps-2/pictures")).unwrap();
    std::fs::copy(p.path("ps-mt/pictures/epoch-0003.png"), p.path("ps-2/pictures/epoch-0003.png")).unwrap();
    (p, ["base-1", "ps-1", "base-2", "ps-2", "base-3", "ps-3"])
}

fn page(p: &Project) -> String {
    p.read_text("page.html")
}

/// The embedded pictures whose description begins with `what`.
fn embedded(html: &str, what: &str) -> Vec<image::RgbImage> {
    let images = html.split("<img src=\"data:").skip(1);
    let images = images.filter(|rest| rest.contains(&format!("alt=\"{what} of")));
    let of = |rest: &str| {
        let (uri, rest) = rest.split_once('"').unwrap();
        if !rest.trim_start().starts_with(&format!("alt=\"{what} of")) {
            return None;
        }
        let data = uri.split_once(";base64,").unwrap().1;
        let bytes = base64::engine::general_purpose::STANDARD.decode(data).unwrap();
        Some(image::load_from_memory(&bytes).unwrap().into_rgb8())
    };
    images.filter_map(of).collect()
}

#[test]
fn a_page_has_what_the_runs_wrote() {
    let p = trained();
    expect(&p.run(&["report", "ps-mt", "<b>&base", "--out", "page.html"]), 0, &["page.html"]);
    let html = page(&p);
    // It stands alone.
    for outside in ["http://", "https://", "<script", "<link", "url("] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert!(html.contains("&lt;b&gt;&amp;base") && !html.contains("<b>&base"));
    let last = |run: &str| records(&p, run).into_iter().rfind(|r| r["kind"] == "validation").unwrap();
    let percent = |v: &Value| format!("{:.1}", 100.0 * v.as_f64().unwrap());
    let (method, baseline) = (last("ps-mt"), last("<b>&base"));
    for network in ["ensemble", "student", "teacher1", "teacher2"] {
        let cell = format!("<td>{}</td>", percent(&method["miou"][network]));
        assert!(html.contains(&cell), "{network}: {cell}");
    }
    for class in 0..2 {
        let (first, second) = (&method["iou"]["ensemble"][class], &baseline["iou"]["student"][class]);
        let difference = 100.0 * (second.as_f64().unwrap() - first.as_f64().unwrap());
        let cell = format!("<small>{difference:+.1}</small>");
        assert!(html.contains(&percent(first)) && html.contains(&cell), "class {class}: {cell}");
    }
    // What was set differently, and nothing else.
    let settings = &html[html.find("Settings that differ").unwrap()..];
    for key in ["method.algorithm", "schedule.seed"] {
        assert!(settings.contains(&format!("<th>{key}</th>")), "{key}");
    }
    assert!(!settings.contains("optim.lr"));
    // 4 + 5 images, from the first record.
    let start = &records(&p, "ps-mt")[0];
    assert_eq!(
        (&start["kind"], &start["labeled"], &start["unlabeled"]),
        (&"run".into(), &4.into(), &5.into())
    );
    assert!(html.contains("<td>4 + 5</td>"));
    // One run has pseudo labels.
    assert_eq!(html.matches("class=\"threshold\"").count(), 1);
    assert!(html.contains("threshold 0.5"));

    // One picture a validation, 32 x 32; the overlay is halfway between image and prediction.
    for what in ["image", "truth", "prediction", "overlay", "confidence"] {
        let pictures = embedded(&html, what);
        assert_eq!(pictures.len(), 2, "{what}");
        assert!(pictures.iter().all(|i| i.dimensions() == (32, 32)), "{what}");
    }
    let strip = image::open(p.path("ps-mt/pictures/epoch-0003.png")).unwrap().into_rgb8();
    assert_eq!(strip.dimensions(), (128, 32));
    let (prediction, overlay) = (&embedded(&html, "prediction")[0], &embedded(&html, "overlay")[0]);
    let mut off = 0.0;
    for (x, y, pixel) in prediction.enumerate_pixels() {
        assert_eq!(pixel, strip.get_pixel(64 + x, y));
        for k in 0..3 {
            let halfway = (f64::from(pixel[k]) + f64::from(strip.get_pixel(x, y)[k])) / 2.0;
            off += (f64::from(overlay.get_pixel(x, y)[k]) - halfway).abs() / (3.0 * 32.0 * 32.0);
        }
    }
    assert!(off < 12.0, "the overlay is off by {off} on average");
}

#[test]
fn runs_that_differ_in_the_seed_alone_share_a_column() {
    let (p, runs) = three_seeds();
    let output = [&["report"], &runs[..], &["--out", "page.html", "--markdown", "page.md"]].concat();
    expect(&p.run(&output), 0, &["page.html", "page.md"]);
    let html = page(&p);
    let columns = "base <small>3 seeds</small></th>";
    assert!(html.contains(columns) && html.contains("ps <small>3 seeds</small></th>"));
    assert!(html.contains("<h1>base, ps</h1>"));
    // 40, 44, 45: mean 43, deviation sqrt((9 + 1 + 4) / 2) = 2.6. 45 and 46 of the two that ended: 45.5,
    // sqrt(0.5) = 0.7.
    for cells in [
        "<th>runs</th><td>3 of 3 runs ended</td><td>2 of 3 runs ended</td>",
        "mIoU % of ensemble: last</th><td>–</td><td>45.5 ± 0.7 <small>n = 2</small></td>",
        "mIoU % of ensemble: best</th><td>–</td><td>45.5 ± 0.7 <small>n = 2</small></td>",
        "mIoU % of student: last</th><td>43.0 ± 2.6</td><td>42.0 <small>n = 1</small></td>",
        "pixel accuracy % of student: last</th><td>43.0 ± 2.6</td><td>42.0 <small>n = 1</small></td>",
        "<td><b>45.5 ± 0.7</b> <small>n = 2</small> <small>+2.5</small></td>",
        "<th>seeds</th><td>1, 2, 3</td><td>1, 2, 3</td>",
        // 45 - 40 and 46 - 44 for the ensemble: 3.5, sqrt(4.5 / 2) = 1.5. One seed of the student's.
        "<th>pairs</th><td>2 <small>of seeds 1, 2</small></td>",
        "<th>ensemble − student</th><td>+3.5 ± 1.5</td>",
        "<th>student − student</th><td>+2.0 ± – <small>n = 1</small></td>",
        "ps (run ps-2, seed 2), image 1, epoch 3",
        "<figcaption>ps (run ps-1, seed 1)</figcaption>",
    ] {
        assert!(html.contains(cells), "no {cells}");
    }
    // The seeds are the same in both columns.
    let settings = &html[html.find("Settings that differ").unwrap()..];
    assert!(settings.contains("<th>method.algorithm</th>") && !settings.contains("schedule.seed"));
    // Curves stop where the shortest run does, and have bands where runs differ.
    for point in
        ["base, mean of 3 runs: 43 ± 2.646 at epoch 3", "ps, mean of 3 runs: 63.33 ± 30.89 at epoch 2"]
    {
        assert!(html.contains(&format!("<title>{point}<")), "no {point}");
    }
    let miou = &html[html.find("mIoU %, ensemble<").unwrap()..html.find("mIoU %, student<").unwrap()];
    assert!(!miou.contains("at epoch 3"), "a mean without the run that has not ended");
    assert!(html.matches("<polygon class=\"band\"").count() >= 4);
    let markdown = p.read_text("page.md");
    for lines in [
        "| | runs | seeds | ensemble | student | teacher 1 | teacher 2 |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n\
         | base | 3 of 3 runs ended | 1, 2, 3 | – | 43.0 ± 2.6 | – | – |\n\
         | ps | 2 of 3 runs ended | 1, 2, 3 | 45.5 ± 0.7 (n = 2) | 42.0 (n = 1) |",
        "minus that of base with the same seed",
        "| ps | 2 (of seeds 1, 2) | +3.5 ± 1.5 | +2.0 ± – (n = 1) |",
    ] {
        assert!(markdown.contains(lines), "no {lines} in {markdown}");
    }
    assert_eq!(markdown.matches("43.0 ± 2.6").count(), 2, "mIoU and pixel accuracy: {markdown}");
}

#[test]
fn markdown_can_stand_alone() {
    let p = trained();
    expect(&p.run(&["report", "ps-mt", "<b>&base"]), 2, &["--out"]);
    let same = ["report", "ps-mt", "--out", "page.md", "--markdown", "page.md"];
    expect(&p.run(&same), 2, &["same file"]);
    expect(&p.run(&["report", "ps-mt", "<b>&base", "--markdown", "page.md"]), 0, &["page.md"]);
    assert!(!p.path("page.html").exists());
    let markdown = p.read_text("page.md");
    // Names are no markup, and no seed is in both.
    assert!(markdown.contains("| \\<b\\>\\&base | 1 of 1 run ended | 9 |"), "{markdown}");
    assert!(!markdown.contains("minus that of"), "{markdown}");
    expect(&p.run(&["report", "ps-mt", "<b>&base", "--out", "page.html"]), 0, &[]);
    assert!(page(&p).contains("No run shares its seed with one of the first column"));
    expect(&p.run(&["report", "ps-mt", "--markdown", "no/such/page.md"]), 9, &["no/such"]);
}

#[test]
fn runs_that_cannot_be_compared_are_marked() {
    let p = trained();
    expect(&p.run(&["report", "ps-mt", "<b>&base", "--out", "page.html"]), 0, &[]);
    assert!(!page(&p).contains("role=\"alert\""));
    // As runs on lists of both families of VOC leave it.
    for (run, family) in [("ps-mt", "high-quality"), ("<b>&base", "augmented")] {
        let path = p.path(&format!("{run}/metrics.jsonl"));
        let text = String::from_utf8(read(&path)).unwrap();
        let known = format!("\"voc_family\":\"{family}\"");
        assert!(text.contains("\"voc_family\":null"));
        std::fs::write(&path, text.replace("\"voc_family\":null", &known)).unwrap();
    }
    expect(&p.run(&["report", "ps-mt", "<b>&base", "--out", "page.html"]), 0, &[]);
    let html = page(&p);
    assert!(html.contains("role=\"alert\"") && html.contains("2 to 3 points"));
    assert!(html.contains("augmented, as CPS"));
    // Another list for validation.
    let path = p.path("ps-mt/config.toml");
    let config = String::from_utf8(read(&path)).unwrap();
    assert!(config.contains("/val.txt\""), "{config}");
    std::fs::write(&path, config.replace("/val.txt\"", "/other.txt\"")).unwrap();
    expect(&p.run(&["report", "ps-mt", "<b>&base", "--out", "page.html"]), 0, &[]);
    assert!(page(&p).contains("validated on different images"));
}

#[test]
fn a_run_that_has_just_begun_has_a_page() {
    let p = Project::new();
    expect(&p.train("o", &["--set", "run.pictures=0"]), 0, &[]);
    // The first record, and half of the second.
    let path = p.path("o/metrics.jsonl");
    let text = String::from_utf8(read(&path)).unwrap();
    let end = text.find('\n').unwrap() + 20;
    std::fs::write(&path, &text[..end]).unwrap();
    expect(&p.run(&["report", "o", "--out", "page.html"]), 0, &[]);
    let html = page(&p);
    for missing in [
        "No run has been validated yet.",
        "No run has finished an epoch",
        "No run has pseudo",
        "No run has pictures",
    ] {
        assert!(html.contains(missing), "{missing}");
    }
    assert!(html.contains("Settings other than the defaults") && html.contains("<th>optim.batch_size</th>"));
}

#[test]
fn folders_that_are_no_runs_are_named_and_leave_no_page() {
    let p = Project::new();
    expect(&p.train("o", &["--set", "schedule.train_epochs=2"]), 0, &[]);
    expect(&p.run(&["report", "--out", "page.html"]), 2, &["RUN"]);
    expect(&p.run(&["report", "o", "nowhere", "--out", "page.html"]), 9, &["nowhere", "config.toml"]);
    expect(&p.run(&["report", "o", "--out", "no/such/page.html"]), 9, &["no/such"]);
    let metrics = p.read("o/metrics.jsonl");
    p.write("o/metrics.jsonl", "{\"kind\":\"step\",\"step\":\"x\"}\n{}\n");
    expect(&p.run(&["report", "o", "--out", "page.html"]), 4, &["o/metrics.jsonl:1", "record of a run"]);
    p.write("o/metrics.jsonl", metrics);
    p.write("o/pictures/epoch-0009.png", "no picture");
    expect(&p.run(&["report", "o", "--out", "page.html"]), 4, &["epoch-0009.png", "picture of a validation"]);
    p.write("o/config.toml", "[optim]\nspeed = 1\n");
    expect(&p.run(&["report", "o", "--out", "page.html"]), 3, &["o/config.toml:2", "speed"]);
    assert!(!p.path("page.html").exists());
}

/// A browser without a window.
fn chromium() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found =
        std::env::split_paths(&path).flat_map(|dir| names.map(|name| dir.join(name))).find(|p| p.is_file());
    if found.is_none() {
        eprintln!("skipped: no Chromium on PATH");
    }
    found
}

fn show(browser: &Path, page: &Path, size: (u32, u32), more: &[String]) -> Vec<u8> {
    let profile = tempfile::tempdir().unwrap();
    let quiet = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--hide-scrollbars",
    ];
    let offline = ["--disable-background-networking", "--disable-component-update", "--disable-sync"];
    let output = Command::new(browser)
        .args(quiet)
        .args(offline)
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--window-size={},{}", size.0, size.1))
        .args(more)
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    output.stdout
}

/// Has the page measure itself.
const MEASURE: &str = "<script>
const all = q => [...document.querySelectorAll(q)];
document.title = JSON.stringify({
  wide: document.documentElement.scrollWidth, window: innerWidth,
  pictures: all('img').length, broken: all('img').filter(i => !(i.naturalWidth > 0 && i.width > 0)).length,
  lines: all('path.line').filter(p => p.getTotalLength() > 10).length,
  bands: all('polygon.band').filter(b => b.getBBox().height > 5).length,
  small: all('figure svg').filter(s => s.getBoundingClientRect().width < 200).length,
  heading: document.querySelector('h1').innerText,
});
</script>";

/// What the page says of itself, in a window of `size`.
fn measure(browser: &Path, p: &Project, size: (u32, u32)) -> Value {
    let measured = page(p).replace("</body>", &format!("{MEASURE}</body>"));
    p.write("measured.html", measured);
    let dom = show(browser, &p.path("measured.html"), size, &["--dump-dom".into()]);
    let dom = String::from_utf8(dom).unwrap();
    let title = dom.split_once("<title>").unwrap().1.split_once("</title>").unwrap().0;
    let title = title.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    let seen: Value = serde_json::from_str(&title).unwrap();
    assert!(seen["wide"].as_u64() <= seen["window"].as_u64(), "{size:?}: wider than the window: {seen}");
    assert_eq!((&seen["broken"], &seen["small"]), (&0.into(), &0.into()), "{seen}");
    seen
}

#[test]
fn chromium_shows_the_page() {
    let Some(browser) = chromium() else { return };
    let p = trained();
    expect(&p.run(&["report", "ps-mt", "<b>&base", "--out", "page.html"]), 0, &[]);
    for size in [(1280, 3600), (500, 3600)] {
        let seen = measure(&browser, &p, size);
        // Five of each run's validation, and four of the unlabelled crop of the one that has pseudo labels.
        assert_eq!((&seen["heading"], &seen["pictures"]), (&"ps-mt, <b>&base".into(), &14.into()), "{seen}");
        assert!(seen["lines"].as_u64().unwrap() >= 12, "{seen}");

        let shot = p.path("shot.png");
        show(&browser, &p.path("page.html"), size, &[format!("--screenshot={}", shot.display())]);
        let picture = image::open(&shot).unwrap().into_rgb8();
        assert_eq!(picture.width(), size.0);
        for (run, color) in [("ps-mt", [0, 114, 178]), ("base", [213, 94, 0])] {
            let near = |p: &image::Rgb<u8>| (0..3).all(|k| p[k].abs_diff(color[k]) < 12);
            let count = picture.pixels().filter(|p| near(p)).count();
            assert!(count > 300, "{size:?}: {count} pixels of {run}'s lines");
        }
    }
}

#[test]
fn chromium_shows_bands_around_means() {
    let Some(browser) = chromium() else { return };
    let (p, runs) = three_seeds();
    expect(&p.run(&[&["report"], &runs[..], &["--out", "page.html"]].concat()), 0, &[]);
    for size in [(1280, 3600), (500, 3600)] {
        let seen = measure(&browser, &p, size);
        assert_eq!((&seen["heading"], &seen["pictures"]), (&"base, ps".into(), &5.into()), "{seen}");
        // Both groups' students, the ensemble, both supervised losses.
        assert!(seen["bands"].as_u64().unwrap() >= 5, "{seen}");
    }
}
