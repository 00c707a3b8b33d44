//! The documents against the program: the commands of `docs/own-data.md` run, `docs/configuration.md` has
//! every key with its default, `docs/exit-codes.md` every code, and paths that are named exist.

use psmt_fast::Error;
use psmt_fast::config::{self, DataConfig, EvalConfig, ModelSettings, RunConfig};
use psmt_fast::data::{Augment, Preset};
use psmt_fast::eval::Which;
use psmt_fast::model::Stem;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|t| String::from_utf8_lossy(t).into_owned()).concat()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn document(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// What stands between fences of `language`.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_string()).collect()
}

/// Cells of a document's table rows.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines()
        .filter(|line| line.starts_with("| "))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
}

/// Photographs of two kinds of things on a background, of which every other one has a mask.
fn photos(folder: &Path) {
    std::fs::create_dir_all(folder.join("images")).unwrap();
    std::fs::create_dir_all(folder.join("masks")).unwrap();
    for i in 0..20_u32 {
        let class = |x: u32, y: u32| match (x, y) {
            _ if x.abs_diff(10 + i % 7) < 6 && y.abs_diff(14) < 8 => 1_u8,
            _ if x.abs_diff(34) < 5 + i % 3 && y.abs_diff(20 + i % 5) < 9 => 2,
            _ => 0,
        };
        let image = image::RgbImage::from_fn(48, 40, |x, y| {
            let noise = ((x * 31 + y * 17 + i * 7) % 47) as u8;
            image::Rgb([[noise, 70, 90], [200, 40, noise], [40, noise, 220]][usize::from(class(x, y))])
        });
        image.save(folder.join(format!("images/{i:04}.jpg"))).unwrap();
        if i % 2 == 0 {
            let mask = image::GrayImage::from_fn(48, 40, |x, y| image::Luma([class(x, y)]));
            mask.save(folder.join(format!("masks/{i:04}.png"))).unwrap();
        }
    }
}

#[test]
fn the_commands_for_own_data_run() {
    let dir = tempfile::tempdir().unwrap();
    photos(&dir.path().join("photos"));
    let text_of = document("docs/own-data.md");
    // The document's settings are for real images; these are as small as the photographs above.
    let [settings] = &blocks(&text_of, "toml")[..] else { panic!("one block of settings") };
    let mut settings = settings.clone();
    for (from, to) in [
        ("crop = [321, 321]", "crop = [32, 32]"),
        ("base_size = 500", "base_size = 48"),
        (
            "name = \"resnet50\"",
            "name = \"tiny\"\nblocks = [1, 1, 1, 1]\nstem_width = 4\nplanes = 2\naspp = 8\nlow_level = 4",
        ),
        ("batch_size = 8", "batch_size = 2"),
        ("train_epochs = 80", "train_epochs = 3"),
    ] {
        assert!(settings.contains(from), "the document has no {from}");
        settings = settings.replace(from, to);
    }
    settings += "steps_per_epoch = 4\n[method]\nwarm_up_passes = 1\n";
    std::fs::write(dir.path().join("mine.toml"), settings).unwrap();
    let script = blocks(&text_of, "sh").concat();
    let program = Path::new(crate::PROGRAM);
    let mut path = vec![program.parent().unwrap().to_path_buf()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
    let output = Command::new("sh")
        .args(["-ec", &script])
        .env("PATH", std::env::join_paths(path).unwrap())
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    // Ten drawn images, of which two are for validation; half of the eight stay labelled.
    let lines = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap().lines().count();
    let lists = ["photos/labeled.txt", "photos/val.txt", "photos/unlabeled.txt", "photos/half/labeled.txt"];
    assert_eq!(lists.map(lines), [8, 2, 10, 4]);
    for made in ["mine.html", "half.html", "mine.onnx", "scores.json", "predicted/0003_index.png"] {
        assert!(dir.path().join(made).is_file(), "{made}");
    }
    assert!(dir.path().join("predicted/predictions.json").is_file());
}

#[test]
fn every_key_is_documented_with_its_default() {
    let defaults = config::flatten(&RunConfig::default()).unwrap();
    // All keys: those that are left out where nothing is set, too. A new field does not compile until it
    // stands here.
    let path = || Some(PathBuf::from("x"));
    let data = DataConfig::default();
    let all = RunConfig {
        data: DataConfig {
            preset: Some(Preset::Voc),
            dir: path(),
            labeled: path(),
            unlabeled: path(),
            val: path(),
            num_classes: 2,
            exif_masks: data.exif_masks,
            demo_labeled: data.demo_labeled,
            demo_unlabeled: data.demo_unlabeled,
            demo_val: data.demo_val,
            demo_size: data.demo_size,
            demo_seed: data.demo_seed,
        },
        model: ModelSettings {
            name: "tiny".into(),
            blocks: Some([1; 4]),
            stem: Some(Stem::Deep),
            stem_width: Some(1),
            planes: Some(1),
            aspp: Some(1),
            low_level: Some(1),
            dilations: Some([1; 3]),
            bn_momentum: Some(0.5),
            bn_eps: Some(0.5),
            initialization: ModelSettings::default().initialization,
            pretrained: path(),
            pretrained_networks: ModelSettings::default().pretrained_networks,
            init: path(),
        },
        augment: Augment { base_size: Some(1), ..Augment::default() },
        eval: EvalConfig { network: Some(Which::Student), ..EvalConfig::default() },
        ..RunConfig::default()
    };
    let keys: BTreeSet<String> = config::flatten(&all).unwrap().into_keys().collect();
    let text = document("docs/configuration.md");
    let documented: BTreeMap<String, String> = rows(&text)
        .filter(|cells| cells.len() >= 3 && cells[0].contains('.'))
        .map(|cells| (cells[0].trim_matches('`').to_string(), cells[1].trim_matches('`').to_string()))
        .collect();
    assert_eq!(documented.keys().cloned().collect::<BTreeSet<_>>(), keys);
    for (key, said) in documented {
        let default = defaults.get(&key).map_or("–", String::as_str);
        // One number may be written in several ways.
        let same = match (said.parse::<f64>(), default.parse::<f64>()) {
            (Ok(a), Ok(b)) => a == b,
            _ => said == default,
        };
        assert!(same, "{key} is documented as {said}, and is {default}");
    }
}

#[test]
fn flags_that_are_documented_set_their_keys() {
    let help = Command::new(crate::PROGRAM).args(["train", "--help"]).output().unwrap();
    let help = text(&help);
    let configuration = document("docs/configuration.md");
    let flags: Vec<&str> = rows(&configuration)
        .filter_map(|cells| cells.get(3).map(|cell| cell.trim_matches('`')))
        .filter(|cell| cell.starts_with("--") && !cell.starts_with("---"))
        .collect();
    assert!(flags.len() > 25, "{flags:?}");
    for flag in flags {
        assert!(help.contains(&format!("{flag} <")), "train has no {flag}");
    }
}

#[test]
fn every_exit_code_is_documented() {
    let text = document("docs/exit-codes.md");
    let documented: BTreeSet<u8> = rows(&text).filter_map(|cells| cells[0].parse().ok()).collect();
    let path = || PathBuf::from("x");
    let word = || String::from("x");
    let all = [
        Error::Usage(word()),
        Error::Config { origin: word(), message: word() },
        Error::Data { path: path(), line: None, message: word() },
        Error::Checkpoint { path: path(), message: word() },
        Error::Shape { op: "x", expected: word(), got: word() },
        Error::Memory { what: word(), needed_mib: 2, available_mib: 1 },
        Error::NonFinite { tensor: word(), step: 0, checkpoint: word() },
        Error::Device { name: word(), message: word() },
        Error::Io { path: path(), source: std::io::Error::other("x") },
        Error::CheckFailed(word()),
        Error::Interrupted { resume: word() },
    ];
    let mut codes: BTreeSet<u8> = all.iter().map(Error::exit_code).collect();
    assert_eq!(codes.len(), all.len(), "two kinds share a code");
    codes.insert(0);
    assert_eq!(documented, codes);
}

/// Words between backticks.
fn code_words(text: &str) -> impl Iterator<Item = &str> {
    text.split("```").step_by(2).flat_map(|prose| prose.split('`').skip(1).step_by(2))
}

#[test]
fn paths_that_documents_name_exist() {
    let mut names: Vec<String> = vec!["README.md".into(), "ARCHITECTURE.md".into(), "CHANGELOG.md".into()];
    let docs = std::fs::read_dir(root().join("docs")).unwrap();
    names.extend(docs.map(|e| format!("docs/{}", e.unwrap().file_name().to_str().unwrap())));
    let folders = ["src/", "tests/", "docs/", "kernels/", "tools/", "benches/", "build/", "../"];
    let mut found = 0;
    for name in names {
        let text = document(&name);
        let base = if name.starts_with("docs/") { "docs" } else { "" };
        for word in code_words(&text) {
            let path = word.split([' ', ',', ':']).next().unwrap();
            // What stands for many, or for one that is yet to be written.
            if path.contains(['<', '*', '{', '…', '$']) || path.contains("soft_dice") {
                continue;
            }
            let sibling = base == "docs" && path.ends_with(".md");
            let inside = folders.iter().any(|f| path.starts_with(f) && path.len() > f.len());
            if !sibling && !inside {
                continue;
            }
            let exists = root().join(path).exists() || root().join(base).join(path).exists();
            assert!(exists, "{name} names {path}, which is not there");
            found += 1;
        }
    }
    assert!(found > 60, "{found} paths");
}

#[test]
fn readme_names_every_document() {
    let readme = document("README.md");
    for entry in std::fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(readme.contains(&format!("docs/{name}")), "README.md does not name docs/{name}");
    }
}
