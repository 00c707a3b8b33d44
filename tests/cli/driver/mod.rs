//! The CUDA driver's side against a stand-in for its library (`fake_cuda/cuda.c`): launches, memory, faults
//! and refusals, on machines without a GPU. Each test runs itself again in a process that finds the stand-in
//! instead of a driver.

mod commands;
mod launches;
mod steps;

use psmt_fast::backend::cuda::driver::{Args, DevicePtr, Driver, Kernel, Launch};
use psmt_fast::backend::cuda::gpu::{self, Gpu};
use psmt_fast::{Error, Result};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;

/// Set in the process with the stand-in.
const INSIDE: &str = "PSMT_TEST_FAKE_CUDA";

/// The folder with the stand-in; `None` where there is no C compiler.
fn fake_driver() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<std::path::PathBuf>> = OnceLock::new();
    let build = || {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fake_cuda");
        std::fs::create_dir_all(&folder).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake_cuda/cuda.c");
        let mut compiler = Command::new("cc");
        compiler
            .args(["-std=c11", "-O1", "-shared", "-fPIC", "-o"])
            .arg(folder.join("libcuda.so"))
            .arg(source);
        match compiler.output() {
            Ok(output) if output.status.success() => Some(folder),
            Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
            Err(_) => None,
        }
    };
    FOLDER.get_or_init(build).as_deref()
}

/// `command` so that it finds the stand-in with these settings; none, which standard error says, where that
/// cannot be.
fn with_fake(mut command: Command, settings: &[(&str, &str)]) -> Option<Command> {
    if let Some(missing) = gpu::missing() {
        eprintln!("skipped: {missing}");
        return None;
    }
    let Some(folder) = fake_driver() else {
        eprintln!("skipped: there is no C compiler for the stand-in");
        return None;
    };
    command.env("LD_LIBRARY_PATH", folder).envs(settings.iter().copied());
    Some(command)
}

/// Whether this process has the stand-in. If not, runs the test that calls this in one that has, with these
/// settings.
fn inside<T: Fn()>(test: T, settings: &[(&str, &str)]) -> bool {
    let has_stand_in = is_inside();
    if !has_stand_in {
        run_inside(test, settings);
    }
    has_stand_in
}

fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs a test function of this program in a process that has the stand-in with these settings.
fn run_inside<T: Fn()>(_test: T, settings: &[(&str, &str)]) {
    // Tests go by their path in the crate.
    let (_, name) = std::any::type_name::<T>().split_once("::").unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]).env(INSIDE, "1");
    if let Some((status, text)) = run_with_fake(command, settings) {
        assert!(status.success() && text.contains("1 passed"), "{text}");
        assert!(!text.contains("never freed"), "{text}");
    }
}

/// Runs `command` as [`with_fake`], to its exit status and what it says.
fn run_with_fake(command: Command, settings: &[(&str, &str)]) -> Option<(ExitStatus, String)> {
    let output = with_fake(command, settings)?.output().unwrap();
    Some((output.status, crate::cli_common::text(&output)))
}

fn leaky_relu() -> Kernel {
    Kernel { file: "elementwise", name: "leaky_relu_fwd_f32".into() }
}

fn arguments(y: DevicePtr, x: DevicePtr, slope: f32, len: u64) -> Args {
    let mut args = Args::default();
    args.push(y);
    args.push(x);
    args.push(slope);
    args.push(len);
    args
}

/// Launches leaky_relu on `len` new values.
fn launch_one(gpu: &Gpu, len: usize) -> Result<()> {
    let x = gpu.alloc(4 * len)?;
    let launched =
        gpu.launch(&leaky_relu(), Launch::linear(len), &arguments(DevicePtr(x.0), x, 0.5, len as u64));
    gpu.free(x, 4 * len);
    launched
}

/// The message of a device's error.
fn message<T>(result: Result<T>) -> String {
    match result {
        Err(e @ Error::Device { .. }) => {
            assert_eq!(e.exit_code(), 10);
            e.to_string()
        }
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("no error"),
    }
}

fn expect(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}
