//! Files with weights that hold more than one network, or tensors that cannot be read: what is taken, what is
//! said, and that `inspect` and `train` say the same.

use crate::cli_common::{Project, expect, text};
use crate::weight_files::{Pickle, arch, backbone, network, put, renamed, write, zip_file};
use psmt_fast::model::{Architecture, NamedTensor, Stem};
use psmt_fast::weights::{WeightFile, Weights};
use std::path::Path;

/// A file with a backbone under each prefix, no two alike.
fn backbones(path: &Path, arch: &Architecture, prefixes: &[&str]) {
    let mut tensors = Vec::new();
    for (seed, prefix) in prefixes.iter().enumerate() {
        tensors.extend(backbone(arch, &network(arch, seed as u64 + 1), prefix));
    }
    write(path, &tensors);
}

/// Which of [`backbones`] a run starts from.
fn taken(weights: &Weights, arch: &Architecture) -> usize {
    let (params, _) = put(weights, arch, 0);
    let first =
        arch.table.params.iter().find(|e| e.name.starts_with("encoder.backbone.")).unwrap().span.offset;
    (0..4).find(|&seed| network(arch, seed + 1).0[first] == params[first]).unwrap() as usize
}

fn with_selector(path: &Path, selector: &str) -> std::path::PathBuf {
    format!("{}#{selector}", path.display()).into()
}

#[test]
fn a_network_goes_before_its_copies() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("two.safetensors");
    let arch = arch(Stem::Deep, 2);
    for (prefixes, first) in [
        (&["encoder_k.", "encoder_q."][..], 1),
        (&["online.net.", "target.net."], 0),
        (&["model_ema.module.backbone.", "model.backbone."], 1),
        (&["state_dict_ema.", "state_dict."], 1),
        (&["ema.", "swa_model.module.", ""], 2),
        (&["teacher.backbone.", "student.backbone."], 1),
    ] {
        backbones(&path, &arch, prefixes);
        let weights = Weights::backbone(&path, &arch).unwrap_or_else(|e| panic!("{prefixes:?}: {e}"));
        assert_eq!(taken(&weights, &arch), first, "{prefixes:?}");
        for (i, prefix) in prefixes.iter().enumerate() {
            // The others are named, and chosen by their names.
            if i != first {
                assert!(weights.describe().contains(prefix), "{}", weights.describe());
            }
            let chosen = Weights::backbone(&with_selector(&path, prefix), &arch).unwrap();
            assert_eq!(taken(&chosen, &arch), i, "{prefix}");
        }
    }
}

#[test]
fn equally_good_networks_are_chosen_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("two.safetensors");
    let arch = arch(Stem::Deep, 2);
    backbones(&path, &arch, &["source.backbone.", "target.backbone.", "target_ema.backbone."]);
    let error = |path: &Path| Weights::backbone(path, &arch).map(|_| ()).unwrap_err();
    let refused = error(&path);
    assert_eq!(refused.exit_code(), 5);
    let parts = ["several networks fit", "two.safetensors#source.backbone.", "#target.backbone."];
    assert!(parts.iter().all(|p| refused.to_string().contains(p)), "{refused}");
    // By the whole prefix, without its dot, or by what it begins with.
    for (selector, number) in
        [("source.backbone.", 0), ("source.backbone", 0), ("source", 0), ("target_ema", 2), ("target.", 1)]
    {
        let weights = Weights::backbone(&with_selector(&path, selector), &arch).unwrap();
        assert_eq!(taken(&weights, &arch), number, "{selector}");
    }
    for selector in ["sourc", "backbone", "", "other"] {
        let refused = error(&with_selector(&path, selector)).to_string();
        let parts = ["no backbone with the prefix", "\"source.backbone.\", \"target.backbone.\""];
        assert!(parts.iter().all(|p| refused.contains(p)), "{selector}: {refused}");
    }
    // A file of that very name goes first.
    let odd = dir.path().join("two.safetensors#source");
    backbones(&odd, &arch, &["x.", "y."]);
    assert!(error(&odd).to_string().contains("#x."));
    assert_eq!(taken(&Weights::backbone(&with_selector(&odd, "y."), &arch).unwrap(), &arch), 1);
    assert_eq!(error(&dir.path().join("none.pth#x")).exit_code(), 9);
}

#[test]
fn whole_networks_are_chosen_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("two.safetensors");
    let arch = arch(Stem::Deep, 2);
    let mut tensors = Vec::new();
    for (seed, prefix) in [(1, "a."), (2, "b."), (3, "a_ema.")] {
        tensors.extend(renamed(&arch, &network(&arch, seed), &|n| Some(format!("{prefix}{n}"))));
    }
    write(&path, &tensors);
    let error = Weights::networks(&path, &arch).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("#a. or two.safetensors#b."), "{error}");
    for (selector, number) in [("a", 0), ("b.", 1), ("a_ema.", 2)] {
        let weights = Weights::networks(&with_selector(&path, selector), &arch).unwrap();
        assert_eq!(taken(&weights, &arch), number, "{selector}");
    }
    // One of a run's networks alone starts all.
    let own: Vec<NamedTensor> = tensors
        .iter()
        .filter_map(|t| {
            let (net, name) = t.name.split_once('.').unwrap();
            let net =
                ["student", "teacher1", "teacher2"][["a", "b", "a_ema"].iter().position(|n| *n == net)?];
            Some(NamedTensor { name: format!("{net}.{name}"), ..t.clone() })
        })
        .collect();
    write(&path, &own);
    let weights = Weights::networks(&with_selector(&path, "teacher2"), &arch).unwrap();
    assert_eq!(taken(&weights, &arch), 2);
    assert!(weights.describe().contains("for every network"), "{}", weights.describe());
}

/// A dictionary of the tensors as `torch.save` writes it, followed by more.
fn torch_file(path: &Path, tensors: &[NamedTensor], more: impl FnOnce(Pickle) -> Pickle) {
    let int = |n: usize| i32::try_from(n).unwrap();
    let (mut pickle, mut storages) = (Pickle::new().dict(), Vec::new());
    for (i, t) in tensors.iter().enumerate() {
        let shape: Vec<i32> = t.shape.iter().map(|&d| int(d)).collect();
        let strides: Vec<i32> = (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect();
        pickle = pickle.text(&t.name).tensor(&i.to_string(), int(t.data.len()), &shape, &strides).op(b's');
        let bytes = t.data.iter().flat_map(|v| v.to_le_bytes()).collect();
        storages.push((format!("a/data/{i}"), bytes));
    }
    storages.push(("a/data/x".into(), vec![0; 24]));
    zip_file(path, &more(pickle).end(), &storages, zip::CompressionMethod::Stored);
}

#[test]
fn odd_tensors_next_to_a_backbone_are_skipped_and_named() {
    let p = Project::new();
    let path = p.path("odd.pth");
    let arch = arch(Stem::Deep, 2);
    let tensors = backbone(&arch, &network(&arch, 1), "");
    // Quantised; of an unknown class; outside its storage; far more elements than there are; expanded.
    let storage = |p: Pickle, class: &str| {
        p.raw(b"((").text("storage").global("torch", class).text("x").text("cpu").int(6).raw(b"tQ")
    };
    let odd = |p: Pickle| {
        let p = p.text("quant.w").global("torch._utils", "_rebuild_qtensor");
        let p = storage(p, "QInt8Storage").int(0).raw(b"(J\x06\0\0\0t(J\x01\0\0\0t\x89}tRs");
        let p = p.text("new.w").global("torch._utils", "_rebuild_tensor_v2");
        let p = p.raw(b"((").text("storage").global("torch", "FancyStorage").text("y").text("cpu").int(6);
        let p = p.raw(b"tQ").int(0).raw(b"(J\x06\0\0\0t(J\x01\0\0\0t\x89}tRs");
        let p = p.text("cut.w").tensor("z", 6, &[7], &[1]).op(b's');
        p.text("fc.huge").tensor("z", 6, &[1 << 30], &[0]).op(b's')
    };
    torch_file(&path, &tensors, odd);
    let file = WeightFile::open(&path).unwrap();
    let unreadable: Vec<_> = file.unreadable().keys().map(String::as_str).collect();
    assert_eq!(unreadable, ["cut.w", "fc.huge", "new.w", "quant.w"]);
    assert_eq!(file.tensors().len(), tensors.len());
    assert_eq!(taken(&Weights::backbone(&path, &arch).unwrap(), &arch), 0);
    let reasons =
        ["quant.w: a tensor of torch._utils._rebuild_qtensor", "cut.w: it lies outside its storage"];
    let out = p.run(&["inspect", "odd.pth"]);
    expect(&out, 0, &["--pretrained takes it", "new.w: its storage is of an unknown class"]);
    expect(&out, 0, &reasons);
    let out = p.train("o", &["--pretrained", "odd.pth", "--dry-run"]);
    expect(&out, 0, &["starts with backbone", "which cannot be read, are left out: 4 (", reasons[1]]);
    // Where the network needs it, it is missed by its name and its reason.
    let (lost, others): (Vec<_>, Vec<_>) =
        tensors.into_iter().partition(|t| t.name == "layer1.0.conv2.weight");
    assert_eq!(lost.len(), 1);
    torch_file(&path, &others, |p| p.text("layer1.0.conv2.weight").tensor("z", 6, &[7], &[1]).op(b's'));
    let parts = ["1 unreadable", "layer1.0.conv2.weight: it lies outside its storage"];
    expect(&p.train("o", &["--pretrained", "odd.pth", "--dry-run"]), 5, &parts);
    let out = p.run(&["inspect", "odd.pth"]);
    expect(&out, 0, &["no fit"]);
    expect(&out, 0, &parts);
}

/// The flags that `inspect` says take a file, unquoted.
fn said(p: &Project, file: &str) -> Vec<Vec<String>> {
    let out = p.run(&["inspect", file]);
    expect(&out, 0, &[]);
    let lines = text(&out);
    let takes = lines.lines().filter_map(|line| line.split_once(" takes it"));
    takes.map(|(flag, _)| flag.split(' ').map(|word| word.trim_matches('\'').to_string()).collect()).collect()
}

#[test]
fn inspect_says_what_train_takes() {
    let p = Project::new();
    let arch = arch(Stem::Deep, 2);
    let path = p.path("f.safetensors");
    let check = |expected: &[&[&str]]| {
        let said = said(&p, "f.safetensors");
        assert_eq!(said, expected);
        for flags in said {
            let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            if flags.len() == 1 {
                flags.push("f.safetensors");
            }
            expect(&p.train("o", &[&flags[..], &["--dry-run"]].concat()), 0, &["starts with"]);
        }
        expected.iter().any(|flags| flags == &["--pretrained"])
    };
    backbones(&path, &arch, &["model.backbone.", "model_ema.backbone."]);
    assert!(check(&[&["--pretrained"], &["--pretrained", "f.safetensors#model_ema.backbone."]]));
    backbones(&path, &arch, &["a.", "b."]);
    assert!(!check(&[&["--pretrained", "f.safetensors#a."], &["--pretrained", "f.safetensors#b."]]));
    let refused = p.train("o", &["--pretrained", "f.safetensors", "--dry-run"]);
    expect(&refused, 5, &["several networks fit"]);
    let out = p.train("o", &["--pretrained", "f.safetensors#b", "--epochs", "1"]);
    expect(&out, 0, &["starting with backbone by torchvision's names with the prefix \"b.\""]);
    let config = p.read_text("o/config.toml");
    assert!(config.contains("f.safetensors#b\"\n"), "{config}");
    // A run's networks: all at once, and each one's backbone.
    std::fs::copy(p.path("o/checkpoints/last.safetensors"), &path).unwrap();
    let out = said(&p, "f.safetensors");
    let init = vec!["--init".to_string()];
    assert_eq!(out.iter().filter(|flags| **flags == init).count(), 3, "{out:?}");
    let pretrained: Vec<_> = out.iter().filter(|flags| flags[0] == "--pretrained").collect();
    let teacher = |n: u32| format!("f.safetensors#teacher{n}.encoder.backbone.");
    assert_eq!(pretrained.len(), 3, "{out:?}");
    assert!(pretrained.iter().any(|f| f.len() == 1), "{out:?}");
    for n in [1, 2] {
        assert!(pretrained.iter().any(|f| f.get(1) == Some(&teacher(n))), "{out:?}");
        expect(&p.train("n", &["--pretrained", &teacher(n), "--dry-run"]), 0, &["teacher"]);
    }
}
