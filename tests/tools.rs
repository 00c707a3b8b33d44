//! The scripts of `tools/`: what they compare, ask of the program and refuse.

use std::path::Path;
use std::process::Command;

/// The records of twelve steps whose last supervised loss is `last`.
fn records(last: &str) -> String {
    let step = |i: usize, loss: &str| {
        format!("{{\"kind\":\"step\",\"loss_sup\":{loss},\"loss_unsup\":0.5,\"lr\":0.1,\"step\":{i}}}\n")
    };
    (1..12).map(|i| step(i, "1.25")).chain([step(12, last)]).collect()
}

/// Whether two runs that differ in one loss are the same to within `tolerance`, and what the tool says;
/// `None` without awk.
fn same(first: &str, second: &str, tolerance: &str) -> Option<(bool, String)> {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["a", "b"].map(|name| dir.path().join(name));
    std::fs::write(&paths[0], records(first)).unwrap();
    std::fs::write(&paths[1], records(second)).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/same_losses.awk");
    let mut awk = Command::new("awk");
    awk.arg("-v").arg(format!("tolerance={tolerance}")).arg("-f").arg(script).args(paths);
    match awk.output() {
        Ok(out) => Some((out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())),
        Err(e) => {
            eprintln!("skipped: awk: {e}");
            None
        }
    }
}

#[test]
fn losses_compare_as_numbers() {
    for (first, second, tolerance, expected) in [
        ("3.1", "12.3", "1e-3", false),
        ("12.3", "3.1", "1e-3", false),
        ("9.5", "10.5", "1e-3", false),
        ("10.0", "10.005", "1e-3", true),
        ("1e1", "10", "0", true),
        ("2e-3", "0.002", "0", true),
        ("9e-5", "1.2e2", "1e-3", false),
        ("-0.5", "0.5", "1e-3", false),
        ("-0.5", "-0.50001", "1e-3", true),
        // Below 0.1 differences count as of 0.1.
        ("0.00001", "0.00003", "1e-3", true),
        ("0.001", "0.002", "1e-3", false),
        ("1.25", "1.25", "0", true),
        ("1.25", "1.2500001", "0", false),
        ("null", "1.25", "1e-3", false),
        ("1.25", "null", "1e-3", false),
    ] {
        let Some((same, said)) = same(first, second, tolerance) else { return };
        assert_eq!(same, expected, "{first} {second} {tolerance}: {said}");
    }
}

/// An executable script of this text.
fn script(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// What the GPU suite asks of the program on a card of this compute capability, command by command.
fn commands_of_the_suite(capability: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let [program, log, home] = ["program", "log", "cuda"].map(|name| dir.path().join(name));
    std::fs::create_dir_all(home.join("bin")).unwrap();
    let card = format!(r#"{{"auto": "cuda:0", "compute_capability": "{capability}"}}"#);
    script(&program, &format!("#!/bin/sh\necho \"$*\" >>'{}'\necho '{card}'\n", log.display()));
    script(
        &home.join("bin/compute-sanitizer"),
        &format!("#!/bin/sh\necho \"sanitizer $*\" >>'{}'\n", log.display()),
    );
    let suite = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/gpu_suite.sh");
    let mut bash = Command::new("bash");
    bash.arg(suite).arg(&program).arg(dir.path().join("out")).env("CUDA_HOME", &home);
    let out = bash.output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let commands = std::fs::read_to_string(&log).unwrap_or_else(|e| panic!("{e}: {said}"));
    commands.lines().map(str::to_string).collect()
}

#[test]
fn the_suite_asks_for_each_tile_before_large_layers_and_under_memcheck() {
    let all = [
        "f32 large",
        "f32 small",
        "bf16 large",
        "bf16 small",
        "bf16 wgmma64",
        "bf16 wgmma128",
        "bf16 wgmma256",
        "bf16 wgmma256x2",
    ];
    for (capability, tiles) in [("9.0", &all[..]), ("8.0", &all[..4])] {
        let commands = commands_of_the_suite(capability);
        let place = |what: &dyn Fn(&str) -> bool| commands.iter().position(|command| what(command));
        let all_bf16 =
            place(&|c| c.starts_with("op ") && c.contains(" bf16 ") && c.contains("leaky_relu_0")).unwrap();
        let layers = place(&|c| c.starts_with("bench layers")).unwrap();
        for tile in tiles {
            let (precision, tile) = tile.split_once(' ').unwrap();
            let asked = format!("--precision {precision} --tile {tile} ");
            let files = ["conv2d_0", "conv2d_7", "network_0", "tvat_0", "train_step_0"];
            let plain =
                place(&|c| c.starts_with("op ") && c.contains(&asked) && files.iter().all(|f| c.contains(f)));
            assert!(plain.is_some_and(|at| all_bf16 < at && at < layers), "{asked}: {commands:#?}");
            let checked = place(&|c| {
                c.starts_with("sanitizer --tool memcheck") && c.contains(&asked) && c.contains(files[1])
            });
            assert!(checked.is_some_and(|at| at > layers), "{asked}: {commands:#?}");
        }
        let forced = commands.iter().filter(|c| c.contains("--tile")).count();
        assert_eq!(forced, 2 * tiles.len(), "{commands:#?}");
    }
}

#[test]
fn cuda_12_is_refused_and_leaves_nothing_where_there_is_no_apt() {
    let dir = tempfile::tempdir().unwrap();
    let (bin, home) = (dir.path().join("bin"), dir.path().join("home"));
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::create_dir_all(&home).unwrap();
    let paths = std::env::var_os("PATH").unwrap();
    for tool in ["bash", "cat", "dirname", "mktemp", "mkdir", "rm", "sed"] {
        let found = std::env::split_paths(&paths).map(|folder| folder.join(tool)).find(|path| path.is_file());
        std::os::unix::fs::symlink(found.unwrap_or_else(|| panic!("no {tool}")), bin.join(tool)).unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/install_nvcc.sh");
    let mut install = Command::new(bin.join("bash"));
    install.arg(script).arg("--cuda12").arg(home.join("cuda")).env("PATH", &bin);
    let output = install.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("no apt-get") && said.contains("CUDA_HOME"), "{said}");
    assert_eq!(std::fs::read_dir(&home).unwrap().count(), 0, "something was left");
}
