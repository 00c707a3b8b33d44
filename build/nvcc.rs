//! Compiles every `kernels/*.cu` with nvcc into one fat binary per file and writes `$OUT_DIR/modules.rs`,
//! which embeds them in the program. Where there is no nvcc the list of modules is empty and says why.
//!
//! A pair of file and target is compiled again only when its text, a header that it includes, nvcc or this
//! file changed. What ptxas reports of registers and spills goes into `$OUT_DIR/resources.tsv`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Real architectures, newest last. Cards between them run the code of the next older one of their
/// generation.
const TARGETS: [&str; 7] = ["80", "86", "89", "90a", "100", "103", "120"];
/// Architecture of the PTX for cards that no target covers. Every later card can translate it.
const PTX: &str = "compute_90";
/// The only target of files that include this header, themselves or by another: its instructions are those of
/// one architecture.
const SM90_INCLUDE: &str = "device_sm90.cuh\"";
const SM90_TARGET: &str = "90a";
/// Limits the targets: `90a`, `80 90a compute_90`, or `none` for no kernels at all.
const TARGETS_VARIABLE: &str = "PSMT_CUDA_TARGETS";
/// The oldest toolkit with sm_90a.
const OLDEST_TOOLKIT: (u32, u32) = (12, 0);
/// Line numbers cost nothing at run time and let compute-sanitizer name the line. The kernels include no
/// header of the host, so that any host compiler will do.
const FLAGS: [&str; 6] = ["-std=c++17", "-O3", "-lineinfo", "-allow-unsupported-compiler", "-Xptxas", "-v"];

/// A compiler that answered.
struct Nvcc {
    path: PathBuf,
    /// What `--version` printed.
    banner: String,
    version: (u32, u32),
}

/// One file for one target.
struct Unit {
    source: PathBuf,
    target: String,
    object: PathBuf,
    /// Hash of everything that the object depends on.
    key: u64,
}

/// Compiles the kernels in `root/kernels` into `out`.
///
/// # Errors
/// A kernel that does not compile, with nvcc's message.
pub fn build(root: &Path, out: &Path) -> Result<(), String> {
    let kernels = root.join("kernels");
    println!("cargo:rerun-if-changed={}", kernels.display());
    for name in ["CUDA_HOME", "CUDA_PATH", TARGETS_VARIABLE] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let wanted = std::env::var(TARGETS_VARIABLE).unwrap_or_default();
    let nvcc = if wanted.trim() == "none" {
        Err(format!("{TARGETS_VARIABLE} was `none` when it was built"))
    } else {
        find(root)
    };
    println!("cargo:rustc-check-cfg=cfg(has_kernels)");
    match nvcc {
        Ok(nvcc) => {
            println!("cargo:rustc-cfg=has_kernels");
            println!("cargo:rerun-if-changed={}", nvcc.path.display());
            let targets = choose_targets(&nvcc, &wanted)?;
            compile(&nvcc, &kernels, out, &targets)
        }
        Err(missing) => {
            write_if_changed(&out.join("resources.tsv"), "")?;
            write_if_changed(&out.join("modules.rs"), &modules_rs(&[], None, &[], &missing))
        }
    }
}

/// nvcc from `CUDA_HOME`, `CUDA_PATH`, `PATH`, or the folder that `tools/install_nvcc.sh` fills; why there is
/// none otherwise.
fn find(root: &Path) -> Result<Nvcc, String> {
    let mut candidates = Vec::new();
    for name in ["CUDA_HOME", "CUDA_PATH"] {
        if let Some(home) = std::env::var_os(name).filter(|v| !v.is_empty()) {
            candidates.push(Path::new(&home).join("bin/nvcc"));
        }
    }
    if let Some(path) = std::env::var_os("PATH") {
        candidates.extend(std::env::split_paths(&path).map(|dir| dir.join("nvcc")));
    }
    candidates.push(root.join(".nvcc/nvidia/cu13/bin/nvcc"));
    let mut reason = "nvcc was not found when it was built".to_string();
    for path in candidates.into_iter().filter(|path| path.is_file()) {
        let Ok(output) = Command::new(&path).arg("--version").output() else { continue };
        let banner = String::from_utf8_lossy(&output.stdout).into_owned();
        let Some(version) = parse_version(&banner) else { continue };
        if version >= OLDEST_TOOLKIT {
            return Ok(Nvcc { path, banner, version });
        }
        reason = format!(
            "nvcc was too old when it was built: {} is of CUDA {}.{}, {}.{} or newer is needed",
            path.display(),
            version.0,
            version.1,
            OLDEST_TOOLKIT.0,
            OLDEST_TOOLKIT.1
        );
    }
    Err(reason)
}

/// The toolkit's version in `Cuda compilation tools, release 13.0, V13.0.88`.
fn parse_version(banner: &str) -> Option<(u32, u32)> {
    let release = banner.split("release ").nth(1)?.split(',').next()?;
    let (major, minor) = release.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The wanted targets, by default all that this nvcc knows, PTX last.
fn choose_targets(nvcc: &Nvcc, wanted: &str) -> Result<Vec<String>, String> {
    if !wanted.trim().is_empty() {
        let targets = wanted.split([' ', ',']).filter(|t| !t.is_empty());
        return Ok(targets.map(|t| t.trim_start_matches("sm_").to_string()).collect());
    }
    let output = run(Command::new(&nvcc.path).arg("--list-gpu-code"))?;
    let known: BTreeSet<&str> = output.lines().map(str::trim).collect();
    // The list has no architecture-specific variants; nvcc takes `a` after any architecture from 90 on.
    let mut targets: Vec<String> = TARGETS
        .iter()
        .filter(|t| known.contains(format!("sm_{}", t.trim_end_matches('a')).as_str()))
        .map(|t| t.to_string())
        .collect();
    targets.push(PTX.into());
    Ok(targets)
}

fn compile(nvcc: &Nvcc, kernels: &Path, out: &Path, targets: &[String]) -> Result<(), String> {
    // A folder for each toolkit, so that builds with one and then the other compile nothing twice.
    let objects = out.join(format!("kernels-{}.{}", nvcc.version.0, nvcc.version.1));
    std::fs::create_dir_all(&objects).map_err(|e| format!("{}: {e}", objects.display()))?;
    let mut files: Vec<PathBuf> = std::fs::read_dir(kernels)
        .map_err(|e| format!("{}: {e}", kernels.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "cu"))
        .collect();
    files.sort();

    let mut units = Vec::new();
    for source in &files {
        let text = text_with_headers(source)?;
        let only_sm90 = text.contains(SM90_INCLUDE);
        for target in targets.iter().filter(|target| !only_sm90 || *target == SM90_TARGET) {
            let mut hasher = DefaultHasher::new();
            (&text, target, &nvcc.banner, include_str!("nvcc.rs")).hash(&mut hasher);
            let object = objects.join(format!("{}.{target}", stem(source)));
            units.push(Unit { source: source.clone(), target: target.clone(), object, key: hasher.finish() });
        }
    }
    compile_changed(nvcc, &units)?;

    let mut modules = Vec::new();
    let mut resources = String::new();
    for source in &files {
        let parts: Vec<&Unit> = units.iter().filter(|u| u.source == *source).collect();
        // None of the wanted targets has its instructions.
        if parts.is_empty() {
            continue;
        }
        let fat = objects.join(format!("{}.fatbin", stem(source)));
        join(nvcc, &parts, &fat)?;
        for unit in parts {
            resources.push_str(&read(&with_suffix(&unit.object, "tsv"))?);
        }
        modules.push((stem(source), fat));
    }
    write_if_changed(&out.join("resources.tsv"), &resources)?;
    write_if_changed(&out.join("modules.rs"), &modules_rs(&modules, Some(nvcc.version), targets, ""))
}

/// Compiles the units whose key changed, as many at a time as cargo allows.
fn compile_changed(nvcc: &Nvcc, units: &[Unit]) -> Result<(), String> {
    let stale: Vec<&Unit> = units
        .iter()
        .filter(|u| std::fs::read_to_string(with_suffix(&u.object, "key")).ok() != Some(u.key.to_string()))
        .collect();
    let jobs = std::env::var("NUM_JOBS").ok().and_then(|v| v.parse().ok()).unwrap_or(1);
    let next = AtomicUsize::new(0);
    // One message per file: its other targets would give the same.
    let failures: Mutex<BTreeMap<&Path, String>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..stale.len().min(jobs) {
            scope.spawn(|| {
                while let Some(unit) = stale.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if failures.lock().unwrap().contains_key(unit.source.as_path()) {
                        continue;
                    }
                    if let Err(message) = compile_unit(nvcc, unit) {
                        failures.lock().unwrap().entry(&unit.source).or_insert(message);
                    }
                }
            });
        }
    });
    let failures: Vec<String> = failures.into_inner().unwrap().into_values().collect();
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

fn compile_unit(nvcc: &Nvcc, unit: &Unit) -> Result<(), String> {
    let mut command = Command::new(&nvcc.path);
    command.args(FLAGS);
    match is_ptx(&unit.target) {
        true => command.arg("-ptx").arg(format!("-arch={}", unit.target)),
        false => command.arg("-cubin").arg(format!("-arch=sm_{}", unit.target)),
    };
    let messages = run(command.arg("-o").arg(&unit.object).arg(&unit.source))?;
    for line in messages.lines().filter(|line| line.contains("warning")) {
        println!("cargo:warning={line}");
    }
    let resources = resources(stem(&unit.source), &unit.target, &messages);
    write_if_changed(&with_suffix(&unit.object, "tsv"), &resources)?;
    write_if_changed(&with_suffix(&unit.object, "key"), &unit.key.to_string())
}

/// Combines the code for all targets in one fat binary.
fn join(nvcc: &Nvcc, parts: &[&Unit], fat: &Path) -> Result<(), String> {
    let key: String = parts.iter().map(|u| format!("{} ", u.key)).collect();
    if fat.is_file() && std::fs::read_to_string(with_suffix(fat, "key")).is_ok_and(|k| k == key) {
        return Ok(());
    }
    let mut command = Command::new(nvcc.path.with_file_name("fatbinary"));
    command.arg("-64").arg("--compress-all").arg(format!("--create={}", fat.display()));
    for unit in parts {
        let (kind, sm) = match is_ptx(&unit.target) {
            true => ("ptx", unit.target.trim_start_matches("compute_")),
            false => ("elf", unit.target.as_str()),
        };
        command.arg(format!("--image3=kind={kind},sm={sm},file={}", unit.object.display()));
    }
    run(&mut command)?;
    write_if_changed(&with_suffix(fat, "key"), &key)
}

fn is_ptx(target: &str) -> bool {
    target.starts_with("compute_")
}

/// A file's text with that of all headers that it includes by `#include "..."`, each once.
fn text_with_headers(source: &Path) -> Result<String, String> {
    let mut text = String::new();
    let mut seen = BTreeSet::new();
    let mut pending = vec![source.to_path_buf()];
    while let Some(path) = pending.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let part = read(&path)?;
        let names = part.lines().filter_map(|line| {
            line.trim_start().strip_prefix("#include")?.trim().strip_prefix('"')?.split('"').next()
        });
        // The emulator's header is not read by nvcc and may be absent.
        pending.extend(names.map(|name| path.with_file_name("").join(name)).filter(|path| path.is_file()));
        text.push_str(&part);
    }
    Ok(text)
}

/// What ptxas reports of each kernel: file, kernel, target, registers, bytes of static shared memory, stack,
/// spill stores, spill loads, separated by tabs.
fn resources(file: &str, target: &str, messages: &str) -> String {
    let number_before = |line: &str, what: &str| -> u32 {
        let digits = line.split(what).next().filter(|_| line.contains(what)).unwrap_or_default();
        digits
            .trim_end()
            .rsplit(|c: char| !c.is_ascii_digit())
            .next()
            .and_then(|v| v.parse().ok())
            .unwrap_or(0)
    };
    let mut table = String::new();
    let mut kernel = None;
    let mut stack = [0; 3];
    for line in messages.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            kernel = rest.split('\'').next();
        } else if line.contains("bytes stack frame") {
            stack = [" bytes stack frame", " bytes spill stores", " bytes spill loads"]
                .map(|what| number_before(line, what));
        } else if let (true, Some(name)) = (line.contains(" registers"), kernel) {
            let [frame, stores, loads] = stack;
            let registers = number_before(line, " registers");
            let shared = number_before(line, " bytes smem");
            writeln!(table, "{file}\t{name}\t{target}\t{registers}\t{shared}\t{frame}\t{stores}\t{loads}")
                .expect("writing to a string");
        }
    }
    table
}

/// The text of `modules.rs`: the constants that `src/backend/cuda/gpu/modules.rs` includes.
fn modules_rs(
    modules: &[(&str, PathBuf)],
    toolkit: Option<(u32, u32)>,
    targets: &[String],
    missing: &str,
) -> String {
    let mut text = String::from("const MODULES: &[Module] = &[\n");
    for (file, path) in modules {
        writeln!(text, "    Module {{ file: {file:?}, image: &Aligned(*include_bytes!({path:?})).0 }},")
            .expect("writing to a string");
    }
    write!(
        text,
        "];\nconst TOOLKIT: Option<(u32, u32)> = {toolkit:?};\nconst TARGETS: &[&str] = &{targets:?};\n\
         const MISSING: &str = {missing:?};\n"
    )
    .expect("writing to a string");
    text
}

/// Runs a command; returns what it printed, as `Ok` or `Err` by its exit status.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    let text = [output.stdout, output.stderr].map(|v| String::from_utf8_lossy(&v).into_owned()).concat();
    match output.status.success() {
        true => Ok(text),
        false => Err(format!("{command:?}\n{text}")),
    }
}

fn stem(path: &Path) -> &str {
    path.file_stem().and_then(|s| s.to_str()).expect("names of kernels are ASCII")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// Does not touch a file that already has this content, so that nothing is compiled again for it.
fn write_if_changed(path: &Path, content: &str) -> Result<(), String> {
    if std::fs::read_to_string(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    std::fs::write(path, content).map_err(|e| format!("{}: {e}", path.display()))
}
