//! Files with weights: every spelling of a network's tensors, and what is said of files that do not fit.

use crate::networks;
use crate::weight_files::{arch, backbone, in_backbone, network, put, renamed, write};
use psmt_fast::model::{Architecture, ModelConfig, NamedTensor, Stem};
use psmt_fast::weights::{WeightFile, Weights, survey};

/// `values` where the table's entry is of the backbone, else zero.
fn backbone_only(arch: &Architecture, (params, stats): &(Vec<f32>, Vec<f32>)) -> (Vec<f32>, Vec<f32>) {
    let (mut p, mut s) = (vec![0.0; params.len()], vec![0.0; stats.len()]);
    for (entries, from, to) in [(&arch.table.params, params, &mut p), (&arch.table.stats, stats, &mut s)] {
        for e in entries.iter().filter(|e| e.name.starts_with("encoder.backbone.")) {
            to[e.span.range()].copy_from_slice(&from[e.span.range()]);
        }
    }
    (p, s)
}

#[test]
fn backbones_are_found_by_every_spelling() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("b.safetensors");
    let v1c = |name: &str| {
        let name = name.replace("conv1.", "stem.").replace("bn1.", "stem.7.");
        format!("backbone.{name}")
    };
    for stem in [Stem::Deep, Stem::Single] {
        let arch = arch(stem, 3);
        let values = network(&arch, 5);
        type Rename<'a> = Box<dyn Fn(&str) -> Option<String> + 'a>;
        let rest = in_backbone("");
        let mut spellings: Vec<Rename> = vec![
            Box::new(in_backbone("")),
            Box::new(in_backbone("state_dict.module.")),
            Box::new(in_backbone("model.encoder1.backbone.")),
            Box::new(|n| Some(n.to_string())),
        ];
        if stem == Stem::Deep {
            // Only the stem's own layers move; blocks keep their names.
            spellings.push(Box::new(|n| {
                let rest = rest(n)?;
                Some(if rest.starts_with("layer") { format!("backbone.{rest}") } else { v1c(&rest) })
            }));
            for prefix in ["", "state_dict.module.", "model.encoder2.backbone."] {
                spellings.push(Box::new(move |n| Some(format!("{prefix}{}", flat(&in_backbone("")(n)?)))));
            }
        }
        for (i, spelling) in spellings.iter().enumerate() {
            let mut tensors = renamed(&arch, &values, spelling);
            tensors.push(NamedTensor { name: "fc.weight".into(), shape: vec![2, 2], data: vec![0.0; 4] });
            write(&path, &tensors);
            let weights = Weights::backbone(&path, &arch).unwrap_or_else(|e| panic!("{stem:?} {i}: {e}"));
            let expected = backbone_only(&arch, &values);
            for number in 0..3 {
                assert!(put(&weights, &arch, number) == expected, "{stem:?}, spelling {i}, network {number}");
            }
        }
    }
}

/// A deep stem's names in the 3x3resnet files; blocks keep theirs.
fn flat(name: &str) -> String {
    let stem = [
        ("conv1.0.", "conv1."),
        ("conv1.1.", "bn1."),
        ("conv1.3.", "conv2."),
        ("conv1.4.", "bn2."),
        ("conv1.6.", "conv3."),
        ("bn1.", "bn3."),
    ];
    let renamed =
        stem.iter().find_map(|(ours, theirs)| Some(format!("{theirs}{}", name.strip_prefix(ours)?)));
    renamed.unwrap_or_else(|| name.to_string())
}

#[test]
fn flat_stems_are_distinguished_from_the_7x7_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.safetensors");
    let deep = arch(Stem::Deep, 3);
    let values = network(&deep, 5);
    let flat_backbone =
        |prefix: &str| renamed(&deep, &values, &|n| Some(format!("{prefix}{}", flat(&in_backbone("")(n)?))));
    for prefix in ["", "module.state."] {
        let mut tensors = flat_backbone(prefix);
        let name = format!("{prefix}fc.bias");
        tensors.push(NamedTensor { name, shape: vec![2], data: vec![0.0; 2] });
        write(&path, &tensors);
        let stem = format!("{prefix}conv1.weight");
        assert_eq!(tensors.iter().find(|t| t.name == stem).unwrap().shape, [2, 3, 3, 3]);
        // One finding, of a deep stem: nothing takes the file for one by torchvision's names.
        let findings = survey(&WeightFile::open(&path).unwrap());
        let [found] = &findings[..] else { panic!("{findings:?}") };
        assert!(found.spelling.starts_with("backbone by 3x3resnet's names") && !found.whole, "{found:?}");
        let expected = (Stem::Deep, deep.config.stem_width, "");
        assert_eq!((found.config.stem, found.config.stem_width, found.faults.as_str()), expected);
        let weights = Weights::backbone(&path, &deep).unwrap();
        assert!(weights.describe().contains("3x3resnet's names"), "{}", weights.describe());
        // For a run with a 7x7 stem the error says what the file has.
        let single = arch(Stem::Single, 3);
        let error = Weights::backbone(&path, &single).map(|_| ()).unwrap_err().to_string();
        let parts = ["conv1.weight", "the file's network is", "deep stem", "the run's", "7x7 stem"];
        assert!(parts.iter().all(|p| error.contains(p)), "{error}");
    }
    // The 7x7 stem is found by torchvision's names alone, as ever.
    let single = arch(Stem::Single, 3);
    write(&path, &backbone(&single, &network(&single, 5), ""));
    let findings = survey(&WeightFile::open(&path).unwrap());
    let [found] = &findings[..] else { panic!("{findings:?}") };
    assert!(found.spelling == "backbone by torchvision's names" && found.faults.is_empty(), "{found:?}");
    assert_eq!(found.config.stem, Stem::Single);
    // A damaged flat stem is named by its own names.
    let mut tensors = flat_backbone("");
    tensors.retain(|t| t.name != "bn3.running_mean");
    write(&path, &tensors);
    let error = Weights::backbone(&path, &deep).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("3x3resnet's") && error.contains("1 missing (bn3.running_mean [4])"), "{error}");
}

#[test]
fn teachers_keep_their_own_start_where_only_the_student_is_pretrained() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("b.safetensors");
    let arch = arch(Stem::Deep, 3);
    let values = network(&arch, 5);
    write(&path, &backbone(&arch, &values, ""));
    let all = Weights::backbone(&path, &arch).unwrap();
    assert!(all.describe().ends_with("for every network"), "{}", all.describe());
    let weights = all.for_student();
    assert!(weights.describe().ends_with("for the student alone"), "{}", weights.describe());
    assert!(put(&weights, &arch, 0) == backbone_only(&arch, &values));
    let untouched = (vec![0.0; arch.table.num_params], vec![0.0; arch.table.num_stats]);
    assert!((1..3).all(|number| put(&weights, &arch, number) == untouched));
}

#[test]
fn networks_are_found_by_every_spelling() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("n.safetensors");
    let arch = arch(Stem::Deep, 3);
    let all: Vec<_> = (1..4).map(|seed| network(&arch, seed)).collect();
    let zeros = NamedTensor { name: String::new(), shape: vec![1], data: vec![0.0] };
    let authors = |mark: &str, name: &str| {
        let (half, rest) = name.split_once('.').unwrap();
        format!("state_dict.{half}{mark}.{rest}")
    };
    let own = |net: &str, name: &str| format!("{net}.{name}");
    let mut files: Vec<Vec<NamedTensor>> = vec![Vec::new(), Vec::new()];
    for (values, (mark, net)) in all.iter().zip([("_s", "student"), ("1", "teacher1"), ("2", "teacher2")]) {
        files[0].extend(renamed(&arch, values, &|n| Some(authors(mark, n))));
        files[1].extend(renamed(&arch, values, &|n| Some(own(net, n))));
        // What the authors' encoder carries and nothing uses, and momenta of this program.
        let unused = authors(mark, "encoder.head.last_conv.0.weight");
        files[0].push(NamedTensor { name: unused, ..zeros.clone() });
        files[1].extend(renamed(&arch, values, &|n| {
            (!n.contains("running_")).then(|| format!("momentum.{net}.{n}"))
        }));
    }
    for tensors in &files {
        write(&path, tensors);
        let weights = Weights::networks(&path, &arch).unwrap();
        for number in 0..3 {
            assert!(put(&weights, &arch, number) == all[number as usize], "network {number}");
        }
        // Of several networks the student's backbone is taken.
        let students = Weights::backbone(&path, &arch).unwrap();
        assert!(put(&students, &arch, 1) == backbone_only(&arch, &all[0]));
    }
    // One network starts all, and so does the student where there are no teachers.
    for spelling in [
        &(|n: &str| Some(n.to_string())) as &dyn Fn(&str) -> Option<String>,
        &|n| Some(own("student", n)),
        &|n| Some(format!("net.module.{n}")),
    ] {
        write(&path, &renamed(&arch, &all[1], spelling));
        let weights = Weights::networks(&path, &arch).unwrap();
        assert!((0..3).all(|number| put(&weights, &arch, number) == all[1]));
    }
    let findings = survey(&WeightFile::open(&path).unwrap());
    let whole = findings.iter().find(|f| f.whole).unwrap();
    assert_eq!((whole.faults.as_str(), &whole.config), ("", &arch.config));
}

#[test]
fn what_does_not_fit_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("n.safetensors");
    let arch = arch(Stem::Deep, 3);
    let values = network(&arch, 1);
    let same = |n: &str| Some(n.to_string());
    let error = |tensors: &[NamedTensor], arch: &Architecture, whole: bool| {
        write(&path, tensors);
        let opened = if whole { Weights::networks(&path, arch) } else { Weights::backbone(&path, arch) };
        let error = opened.map(|_| ()).unwrap_err();
        assert_eq!(error.exit_code(), 5);
        error.to_string()
    };
    let tensors = renamed(&arch, &values, &same);
    let expect = |text: String, parts: &[&str]| {
        assert!(parts.iter().all(|p| text.contains(p)), "{parts:?} in {text}");
    };

    let other_classes = crate::weight_files::arch(Stem::Deep, 5);
    expect(
        error(&tensors, &other_classes, true),
        &[
            "decoder.upsample.classifier.weight: expected [5, 4, 1, 1], got [3, 4, 1, 1]",
            "has 3 classes, the run 5",
        ],
    );
    let single = crate::weight_files::arch(Stem::Single, 3);
    expect(
        error(&tensors, &single, false),
        &["missing (encoder.backbone.conv1.weight [2, 3, 7, 7]", "deep stem", "7x7 stem"],
    );
    // A deeper network holds all of a shallower one's tensors and is another one all the same.
    let deeper = networks::arch(ModelConfig { blocks: [1, 2, 1, 1], ..arch.config.clone() });
    let of_deeper = renamed(&deeper, &network(&deeper, 1), &same);
    expect(error(&of_deeper, &arch, true), &["not in this network", "layer2.1.", "blocks [1, 2, 1, 1]"]);
    let mut lacking = tensors.clone();
    lacking.retain(|t| t.name != "encoder.head.aspp.map_bn.running_var");
    expect(error(&lacking, &arch, true), &["1 missing (encoder.head.aspp.map_bn.running_var [16])"]);
    let part: Vec<_> = tensors.iter().filter(|t| t.name.contains(".backbone.")).cloned().collect();
    expect(error(&part, &arch, true), &["missing (", "decoder"]);
    let bare = backbone(&arch, &values, "");
    expect(error(&bare, &arch, true), &["expected the tensors of a network", "--pretrained takes"]);
    expect(error(&[], &arch, false), &["expected the tensors of a ResNet's backbone"]);

    let mut twice = renamed(&arch, &values, &|n| Some(format!("a.{n}")));
    twice.extend(renamed(&arch, &values, &|n| Some(format!("b.{n}"))));
    expect(error(&twice, &arch, true), &["several networks fit", "a.encoder", "b.encoder"]);
    // A teacher that is there but damaged is an error.
    let mut broken = renamed(&arch, &values, &|n| Some(format!("student.{n}")));
    broken.extend(renamed(&arch, &values, &|n| {
        (n != "decoder.upsample.classifier.bias").then(|| format!("teacher1.{n}"))
    }));
    expect(
        error(&broken, &arch, true),
        &["teacher1", "1 missing (teacher1.decoder.upsample.classifier.bias [3])"],
    );
}
