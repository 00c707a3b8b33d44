//! Compiles kernels with the host's C++ compiler for the emulator: each file twice, once plain and once with
//! the accesses to memory instrumented, in namespaces of their own. Only files whose text, headers or flags
//! changed are compiled again. Sets the cfg `emulator` where there is a compiler.

use std::collections::hash_map::DefaultHasher;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{env, fs};

/// What to compile.
pub struct Kernels<'a> {
    /// Folder with the `.cu` files.
    pub folder: &'a Path,
    /// Folder whose `common/` has the headers that kernels include.
    pub headers: &'a Path,
    /// The emulator's own C++.
    pub cpp: &'a Path,
    /// Whether the emulator's arithmetic is compiled too, which a program needs once.
    pub with_arithmetic: bool,
    /// Name of the archive.
    pub archive: &'a str,
}

/// No C++ runtime is linked. Contracted or reordered sums would differ between the two builds.
const FLAGS: [&str; 7] = [
    "-std=c++17",
    "-ffp-contract=off",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-threadsafe-statics",
    "-fno-strict-aliasing",
    "-Wno-unknown-pragmas",
];
const PLAIN_FLAGS: [&str; 1] = ["-O2"];
/// -O1 does not introduce loads. Line numbers are for reports.
const CHECKED_FLAGS: [&str; 4] = ["-O1", "-g1", "-fsanitize=thread", "-DEMULATOR_CHECKED"];

/// One object file to be made.
struct Unit {
    object: PathBuf,
    source: PathBuf,
    /// Everything the object depends on.
    key: String,
    flags: Vec<String>,
}

/// Compiles what changed, archives it, and writes `$OUT_DIR/table.rs`, which declares `FILES`: the files and
/// their kernels.
pub fn build(kernels: &Kernels) {
    println!("cargo:rustc-check-cfg=cfg(emulator)");
    for path in [kernels.folder, kernels.headers, kernels.cpp] {
        println!("cargo:rerun-if-changed={}", path.display());
    }
    println!("cargo:rerun-if-env-changed=CXX");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    let write_table = |externs: &str, rows: &str| {
        let head = "/// The kernel files of this build.\npub static FILES: &[psmt_emulator::KernelFile] =";
        let table = format!("unsafe extern \"C\" {{\n{externs}}}\n{head} &[\n{rows}];\n");
        write_if_changed(&out.join("table.rs"), &table);
    };
    let os = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    // Faults are caught by a signal handler that knows these processors' registers.
    if os != "linux" || !["x86_64", "aarch64"].contains(&arch.as_str()) {
        println!("cargo:warning=the CUDA emulator runs on Linux only (x86-64, arm64); built without it");
        return write_table("", "");
    }
    let Some(compiler) = compiler() else {
        println!("cargo:warning=no C++ compiler found; built without the CUDA emulator");
        return write_table("", "");
    };
    let mut headers = format!("{:?} {:?}", compiler.path(), compiler.args());
    for file in sorted(&kernels.headers.join("common")).iter().chain(&sorted(kernels.cpp)) {
        headers += &read(file);
    }
    let (mut externs, mut rows, mut units) = (String::new(), String::new(), Vec::new());
    if kernels.with_arithmetic {
        units.push(Unit {
            object: out.join("emulated.o"),
            source: kernels.cpp.join("emulated.cpp"),
            key: headers.clone(),
            // The arithmetic of matrix instructions profits from vectorisation.
            flags: vec!["-O3".into()],
        });
    }
    for file in sorted(kernels.folder) {
        if file.extension().is_none_or(|e| e != "cu") {
            continue;
        }
        let name = file.file_stem().expect("a file has a name").to_string_lossy().into_owned();
        let text = read(&file);
        for (variant, flags) in [("plain", &PLAIN_FLAGS[..]), ("checked", &CHECKED_FLAGS[..])] {
            let source = out.join(format!("{variant}_{name}.cpp"));
            let wrapper = wrapper(&format!("{variant}_{name}"), &file, &text);
            write_if_changed(&source, &wrapper);
            let flags: Vec<String> = flags.iter().map(|f| f.to_string()).collect();
            let key = format!("{headers}{text}{wrapper}{flags:?}{FLAGS:?}");
            units.push(Unit { object: out.join(format!("{variant}_{name}.o")), source, key, flags });
            let _ = writeln!(
                externs,
                "    fn emu_list_{variant}_{name}() -> *const psmt_emulator::KernelRecord;"
            );
        }
        let _ = writeln!(externs, "    fn emu_bounds_plain_{name}() -> *const psmt_emulator::Bound;");
        let _ = writeln!(
            rows,
            "    psmt_emulator::KernelFile {{ name: \"{name}\", plain: emu_list_plain_{name}, checked: \
             emu_list_checked_{name}, bounds: emu_bounds_plain_{name} }},"
        );
    }
    compile(&compiler, kernels, &units);

    let mut archive = cc::Build::new();
    archive.cpp(true).cpp_link_stdlib(None).cargo_warnings(false);
    for unit in &units {
        archive.object(&unit.object);
    }
    archive.compile(kernels.archive);
    println!("cargo:rustc-link-lib=m");
    write_table(&externs, &rows);
    println!("cargo:rustc-cfg=emulator");
}

/// The host's C++ compiler, if it runs.
fn compiler() -> Option<cc::Tool> {
    let tool = cc::Build::new()
        .cpp(true)
        .warnings(false)
        .cargo_metadata(false)
        .opt_level(0)
        .try_get_compiler()
        .ok()?;
    let runs = tool.to_command().arg("--version").output().is_ok_and(|o| o.status.success());
    (runs && !tool.is_like_msvc()).then_some(tool)
}

/// A translation unit that has the kernel file in a namespace and exports its list of kernels and their
/// bounds.
fn wrapper(name: &str, file: &Path, text: &str) -> String {
    let mut bounds = String::new();
    for (kernel, threads, cluster) in launch_bounds(text) {
        let _ = writeln!(bounds, "    {{\"{kernel}\", {threads}, {cluster}}},");
    }
    format!(
        "#include <math.h>\n#include <string.h>\nnamespace emu_{name} {{\n#include \"{}\"\n\
         struct EmuBound {{ const char* name; u32 threads, cluster; }};\n\
         static const EmuBound emu_bounds[] = {{\n{bounds}    {{nullptr, 0, 0}},\n}};\n}}\n\
         extern \"C\" const void* emu_list_{name}() {{ return emu_{name}::emu_kernels; }}\n\
         extern \"C\" const void* emu_bounds_{name}() {{ return emu_{name}::emu_bounds; }}\n",
        file.display()
    )
}

/// Kernels with the threads per block and the blocks per cluster in `KERNEL(threads) name(`,
/// `KERNEL_RESIDENT(threads, blocks) name(` or `KERNEL_CLUSTER(threads, blocks) name(`. Kernels that a macro
/// defines are not found and have no bounds.
fn launch_bounds(text: &str) -> Vec<(&str, &str, &str)> {
    // The name may stand on the next line.
    let lines = text.match_indices("\nKERNEL").map(|(at, head)| &text[at + head.len()..]);
    let heads = lines.filter(|l| !l.lines().next().is_some_and(|l| l.ends_with('\\')));
    heads
        .filter_map(|line| {
            let (kind, head) = line.split_once('(')?;
            if !["", "_RESIDENT", "_CLUSTER"].contains(&kind) {
                return None;
            }
            // The bound may have parentheses of its own.
            let mut depth = 1;
            let end = head.find(|c| {
                depth += i32::from(c == '(') - i32::from(c == ')');
                depth == 0
            })?;
            let bound = &head[..end];
            let (threads, blocks) = if kind.is_empty() { (bound, "1") } else { bound.rsplit_once(',')? };
            let cluster = if kind == "_CLUSTER" { blocks.trim() } else { "1" };
            let rest = head[end + 1..].trim_start();
            let name = &rest[..rest.find('(')?];
            name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_').then_some((name, threads, cluster))
        })
        .collect()
}

/// Compiles the units whose key changed, several at a time.
fn compile(compiler: &cc::Tool, kernels: &Kernels, units: &[Unit]) {
    let stale: Vec<(&Unit, PathBuf, String)> = units
        .iter()
        .filter_map(|unit| {
            let mut hasher = DefaultHasher::new();
            unit.key.hash(&mut hasher);
            let hash = format!("{:016x}", hasher.finish());
            let stamp = unit.object.with_extension("hash");
            let fresh = unit.object.exists() && fs::read_to_string(&stamp).is_ok_and(|old| old == hash);
            (!fresh).then_some((unit, stamp, hash))
        })
        .collect();
    let jobs = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize).min(stale.len());
    let queue = Mutex::new(stale.into_iter());
    let next = || queue.lock().expect("no job panics while it holds the queue").next();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some((unit, stamp, hash)) = next() {
                    compile_one(compiler, kernels, unit);
                    fs::write(stamp, hash).expect("OUT_DIR can be written");
                }
            });
        }
    });
}

fn compile_one(compiler: &cc::Tool, kernels: &Kernels, unit: &Unit) {
    let mut command: Command = compiler.to_command();
    command.args(FLAGS).args(&unit.flags);
    // Messages and line tables name `kernels/FILE`, wherever the sources lie.
    for folder in [kernels.headers, kernels.folder] {
        let mut prefix_map = OsString::from("-ffile-prefix-map=");
        prefix_map.push(folder.parent().unwrap_or(folder));
        prefix_map.push("/=");
        command.arg(prefix_map);
    }
    for folder in [kernels.headers, kernels.cpp] {
        command.arg("-I").arg(folder);
    }
    command
        .arg("-I")
        .arg(kernels.headers.join("common"))
        .arg("-c")
        .arg(&unit.source)
        .arg("-o")
        .arg(&unit.object);
    let output = command.output().expect("the compiler ran a moment ago");
    if !output.status.success() {
        eprintln!("{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
        panic!("{} does not compile for the emulator", unit.source.display());
    }
}

fn sorted(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut files: Vec<PathBuf> =
        entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_file()).collect();
    files.sort();
    files
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

fn write_if_changed(path: &Path, text: &str) {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return;
    }
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}
