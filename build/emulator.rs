//! Compiles the kernels with the host's C++ compiler for the emulator: each file twice, once plain and once with the
//! accesses to memory instrumented, in namespaces of their own. Only files whose text, headers or flags changed are
//! compiled again. Sets the cfg `emulator` where there is a compiler.

use std::collections::hash_map::DefaultHasher;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{env, fs};

/// Folders with kernels: those of the program, and faulty ones that the tests expect the emulator to catch.
const FOLDERS: [&str; 2] = ["kernels", "tests/kernels"];
/// No runtime of C++ is linked. Contracted or reordered sums would differ between the two builds.
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
/// -O1 moves no load to where the text has none. Lines are for reports.
const CHECKED_FLAGS: [&str; 4] = ["-O1", "-g1", "-fsanitize=thread", "-DEMULATOR_CHECKED"];

/// One object file to be made.
struct Unit {
    object: PathBuf,
    source: PathBuf,
    /// Everything the object depends on.
    key: String,
    flags: Vec<String>,
}

/// Compiles what changed, archives it, writes the table of kernel files for the emulator.
pub fn build() {
    println!("cargo:rustc-check-cfg=cfg(emulator)");
    for path in ["build", "build.rs", "kernels", "tests/kernels"] {
        println!("cargo:rerun-if-changed={path}");
    }
    println!("cargo:rerun-if-env-changed=CXX");
    let os = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    // Faults are caught by a signal handler that knows these processors' registers.
    if os != "linux" || !["x86_64", "aarch64"].contains(&arch.as_str()) {
        println!("cargo:warning=the CUDA emulator runs on Linux only (x86-64, arm64); built without it");
        return;
    }
    let Some(compiler) = compiler() else {
        println!("cargo:warning=no C++ compiler found; built without the CUDA emulator");
        return;
    };
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo")).join("emulator");
    fs::create_dir_all(&out).expect("OUT_DIR can be written");

    let mut headers = format!("{:?} {:?}", compiler.path(), compiler.args());
    for file in sorted(&root.join("kernels/common")) {
        headers += &read(&file);
    }
    let mut table =
        String::from("/// Kernel files with their plain kernels, their checked ones, and their bounds.\n");
    let mut externs = String::new();
    let mut units = vec![Unit {
        object: out.join("emulated.o"),
        source: root.join("kernels/common/emulated.cpp"),
        key: headers.clone(),
        // The arithmetic of matrix instructions is worth the vector units.
        flags: vec!["-O3".into()],
    }];
    table += "pub static FILES: &[(&str, ListFn, ListFn, BoundsFn)] = &[\n";
    for folder in FOLDERS {
        for file in sorted(&root.join(folder)) {
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
                let _ = writeln!(externs, "    fn emu_list_{variant}_{name}() -> *const KernelRecord;");
            }
            let _ = writeln!(externs, "    fn emu_bounds_plain_{name}() -> *const Bound;");
            let _ = writeln!(
                table,
                "    (\"{name}\", emu_list_plain_{name}, emu_list_checked_{name}, emu_bounds_plain_{name}),"
            );
        }
    }
    table += "];\n";
    compile(&compiler, &root, &units);

    let mut archive = cc::Build::new();
    archive.cpp(true).cpp_link_stdlib(None).cargo_warnings(false);
    for unit in &units {
        archive.object(&unit.object);
    }
    archive.compile("psmt_emulated_kernels");
    println!("cargo:rustc-link-lib=m");
    write_if_changed(&out.join("table.rs"), &format!("unsafe extern \"C\" {{\n{externs}}}\n{table}"));
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

/// A translation unit that has the kernel file in a namespace and gives its list of kernels and their bounds away.
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

/// Kernels with the threads of a block and the blocks of a cluster in `KERNEL(threads) name(`, `KERNEL_RESIDENT(threads, blocks)
/// name(` or `KERNEL_CLUSTER(threads, blocks) name(`. Those that a macro makes are not seen and have no bounds.
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
fn compile(compiler: &cc::Tool, root: &Path, units: &[Unit]) {
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
                    compile_one(compiler, root, unit);
                    fs::write(stamp, hash).expect("OUT_DIR can be written");
                }
            });
        }
    });
}

fn compile_one(compiler: &cc::Tool, root: &Path, unit: &Unit) {
    let mut prefix_map = OsString::from("-ffile-prefix-map=");
    prefix_map.push(root);
    prefix_map.push("/=");
    let mut command: Command = compiler.to_command();
    command.args(FLAGS).args(&unit.flags).arg(prefix_map);
    command.arg("-I").arg(root.join("kernels")).arg("-c").arg(&unit.source).arg("-o").arg(&unit.object);
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
