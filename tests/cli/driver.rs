//! The CUDA driver's side against a stand-in for its library (`fake_cuda/cuda.c`): launches, memory, faults and refusals,
//! on machines without a GPU. Each test runs itself again in a process that finds the stand-in instead of a driver.

use psmt_fast::backend::cuda::branches::Branch;
use psmt_fast::backend::cuda::driver::{Args, DevicePtr, Driver, Kernel, Launch};
use psmt_fast::backend::cuda::gpu::{self, Gpu};
use psmt_fast::{Error, Result};
use std::path::Path;
use std::process::Command;
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

/// `command` so that it finds the stand-in with these settings; `None`, with a word, where that cannot be.
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

/// Whether this process has the stand-in. If not, runs `test` in one that has, with these settings.
fn inside(test: &str, settings: &[(&str, &str)]) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([&format!("driver::{test}"), "--exact", "--nocapture", "--test-threads=1"]).env(INSIDE, "1");
    if let Some(mut command) = with_fake(command, settings) {
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].map(|t| String::from_utf8_lossy(&t).into_owned()).concat();
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        assert!(!text.contains("never freed"), "{text}");
    }
    false
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

#[test]
fn kernels_and_copies_work_from_any_thread() {
    if !inside("kernels_and_copies_work_from_any_thread", &[]) {
        return;
    }
    let gpu = Gpu::open(0).unwrap();
    assert_eq!(gpu.name(), "cuda:0");
    // The second needs a larger staging area, the last is too large for any.
    for len in [5_usize, 2_000_000, 900_000, 900_000, 17_000_000] {
        let values: Vec<f32> = (0..len).map(|i| i as f32 - 2.0).collect();
        let (x, y) = (gpu.alloc(4 * len).unwrap(), gpu.alloc(4 * len).unwrap());
        assert!(x.0 % 256 == 0 && y.0 % 256 == 0 && x != y);
        gpu.upload(x, bytemuck::cast_slice(&values)).unwrap();
        let mut got = vec![0.0_f32; len];
        std::thread::scope(|scope| {
            let work = || {
                gpu.launch(&leaky_relu(), Launch::linear(len), &arguments(y, x, 0.5, len as u64)).unwrap();
                gpu.download(y, bytemuck::cast_slice_mut(&mut got)).unwrap();
            };
            scope.spawn(work).join().unwrap();
        });
        assert!(got.iter().zip(&values).all(|(g, v)| *g == v.max(0.5 * v)));
        gpu.clear(x, 4).unwrap();
        gpu.copy(x, y, 8).unwrap();
        let mut two = [9.0_f32; 2];
        gpu.download(y, bytemuck::cast_slice_mut(&mut two)).unwrap();
        assert_eq!(two, [0.0, values[1]]);
        gpu.free(x, 4 * len);
        gpu.free(y, 4 * len);
    }
}

#[test]
fn uploads_wait_for_nothing_and_lose_nothing() {
    if !inside("uploads_wait_for_nothing_and_lose_nothing", &[]) {
        return;
    }
    // The stand-in copies as late as it may: a staging area that is written again too early shows in the results.
    let gpu = Gpu::open(0).unwrap();
    let value = |number: usize, i: usize| (number * 31 + i * 7) as u8;
    for len in [1000_usize, 3 << 20, 100, 6 << 20, 1 << 20] {
        let blocks: Vec<DevicePtr> = (0..9).map(|_| gpu.alloc(len).unwrap()).collect();
        for (number, &block) in blocks.iter().enumerate() {
            let data: Vec<u8> = (0..len).map(|i| value(number, i)).collect();
            gpu.upload(block, &data).unwrap();
        }
        for (number, &block) in blocks.iter().enumerate() {
            let mut got = vec![0; len];
            gpu.download(block, &mut got).unwrap();
            assert!(
                got.iter().enumerate().all(|(i, &v)| v == value(number, i)),
                "{len} bytes, number {number}"
            );
            gpu.free(block, len);
        }
    }
}

/// Steps on `len` values: data of the step's own goes up, two branches work on it, what they give is joined. Returns where the
/// results are, which nothing has waited for yet.
fn branching_steps(gpu: &Gpu, len: usize, count: usize) -> Vec<DevicePtr> {
    let bytes = 4 * len;
    let relu = |y: DevicePtr, x: DevicePtr, slope: f32, count: usize| {
        gpu.launch(&leaky_relu(), Launch::linear(count), &arguments(y, x, slope, count as u64)).unwrap();
    };
    let mut results = Vec::new();
    for step in 0..count {
        let result = gpu.alloc(2 * bytes).unwrap();
        gpu.begin_step("step");
        let values: Vec<f32> = (0..len).map(|i| step as f32 - i as f32).collect();
        let x = gpu.alloc(bytes).unwrap();
        gpu.upload(x, bytemuck::cast_slice(&values)).unwrap();
        let mut temporaries = Vec::new();
        gpu.branch(Branch::Fork);
        for (number, slope) in [0.5, 0.25 + step as f32].into_iter().enumerate() {
            if number > 0 {
                gpu.branch(Branch::Next);
            }
            let y = gpu.alloc(bytes).unwrap();
            relu(y, x, slope, len);
            gpu.copy(y, result.offset(number * bytes), bytes).unwrap();
            gpu.free(y, bytes);
            temporaries.push(y);
        }
        gpu.branch(Branch::Join);
        assert_ne!(temporaries[0], temporaries[1], "two branches write to one buffer");
        gpu.clear(result, 4).unwrap();
        relu(result, result, 2.0, 2 * len);
        gpu.free(x, bytes);
        gpu.end_step().unwrap();
        results.push(result);
    }
    results
}

/// Reads the results of [`branching_steps`] and compares them with what they should be.
fn check_branching_steps(gpu: &Gpu, len: usize, results: Vec<DevicePtr>) {
    for (step, result) in results.into_iter().enumerate() {
        let mut got = vec![0.0_f32; 2 * len];
        gpu.download(result, bytemuck::cast_slice_mut(&mut got)).unwrap();
        let relu = |v: f32, slope: f32| if v > 0.0 { v } else { slope * v };
        let expected = |i: usize| match i {
            0 => 0.0,
            _ => {
                let slope = if i < len { 0.5 } else { 0.25 + step as f32 };
                relu(relu(step as f32 - (i % len) as f32, slope), 2.0)
            }
        };
        let first = (0..2 * len).find(|&i| got[i] != expected(i));
        assert_eq!(first.map(|i| (i, got[i], expected(i))), None, "step {step} of {len} values");
        gpu.free(result, 8 * len);
    }
}

/// How many graphs the stand-in made.
fn num_graphs() -> i32 {
    // SAFETY: the library is loaded under this name, and the function takes nothing and gives an int.
    unsafe {
        let library = libc::dlopen(c"libcuda.so".as_ptr(), libc::RTLD_NOW);
        let function = libc::dlsym(library, c"fake_cuda_graphs".as_ptr());
        assert!(!function.is_null());
        std::mem::transmute::<*mut std::ffi::c_void, extern "C" fn() -> i32>(function)()
    }
}

#[test]
fn steps_become_graphs_whose_numbers_change() {
    let test = "steps_become_graphs_whose_numbers_change";
    if std::env::var_os(INSIDE).is_none() {
        // Whichever of work and data comes as early as it may.
        for eager in ["0", "1", "2"] {
            inside(test, &[("FAKE_CUDA_EAGER", eager)]);
        }
        return;
    }
    let gpu = Gpu::open(0).unwrap();
    // The last is sent in two pieces, which makes another graph.
    for (len, graphs) in [(1000, 1), (70, 1), (2_000_000, 1), (17_000_000, 2)] {
        let results = branching_steps(&gpu, len, if graphs == 1 { 5 } else { 2 });
        assert_eq!(num_graphs(), graphs, "{len} values");
        check_branching_steps(&gpu, len, results);
    }
}

#[test]
fn a_refused_change_makes_a_new_graph_once() {
    let test = "a_refused_change_makes_a_new_graph_once";
    if std::env::var_os(INSIDE).is_none() {
        // The third change alone, and every change.
        for refused in ["3", "-1"] {
            inside(test, &[("FAKE_CUDA_REFUSED", refused)]);
        }
        return;
    }
    let gpu = Gpu::open(0).unwrap();
    let results = branching_steps(&gpu, 1000, 5);
    assert_eq!(num_graphs(), 2);
    check_branching_steps(&gpu, 1000, results);
}

#[test]
fn a_step_that_is_read_on_the_way_is_no_graph() {
    if !inside("a_step_that_is_read_on_the_way_is_no_graph", &[]) {
        return;
    }
    let gpu = Gpu::open(0).unwrap();
    let (x, y) = (gpu.alloc(400).unwrap(), gpu.alloc(400).unwrap());
    for value in 0..3 {
        gpu.begin_step("step");
        gpu.upload(x, bytemuck::cast_slice(&[value as f32 - 1.0; 100])).unwrap();
        gpu.launch(&leaky_relu(), Launch::linear(100), &arguments(y, x, 0.5, 100)).unwrap();
        let mut got = [9.0_f32; 100];
        gpu.download(y, bytemuck::cast_slice_mut(&mut got)).unwrap();
        assert_eq!(got, [[-0.5, 0.0, 1.0][value]; 100]);
        gpu.launch(&leaky_relu(), Launch::linear(100), &arguments(x, y, 0.5, 100)).unwrap();
        gpu.end_step().unwrap();
        gpu.download(x, bytemuck::cast_slice_mut(&mut got)).unwrap();
        assert_eq!(got, [[-0.25, 0.0, 1.0][value]; 100]);
    }
    assert_eq!(num_graphs(), 0);
    gpu.free(x, 400);
    gpu.free(y, 400);
}

#[test]
fn steps_without_graphs_compute_the_same() {
    let test = "steps_without_graphs_compute_the_same";
    if std::env::var_os(INSIDE).is_none() {
        // The driver has none, or the user wants none.
        for setting in ["FAKE_CUDA_GRAPHS", "PSMT_CUDA_GRAPHS"] {
            inside(test, &[(setting, "0")]);
        }
        return;
    }
    let gpu = Gpu::open(0).unwrap();
    let results = branching_steps(&gpu, 3000, 3);
    assert_eq!(num_graphs(), 0);
    check_branching_steps(&gpu, 3000, results);
}

#[test]
fn faults_of_a_graph_name_its_last_kernels() {
    if !inside("faults_of_a_graph_name_its_last_kernels", &[("FAKE_CUDA_FAULT", "1")]) {
        return;
    }
    let gpu = Gpu::open(0).unwrap();
    branching_steps(&gpu, 1000, 1);
    let text = message(gpu.synchronize());
    expect(&text, &["ILLEGAL_ADDRESS", "last 3 kernels", "leaky_relu_fwd_f32", "grid 8x1x1"]);
    std::mem::forget(gpu);
}

#[test]
fn late_faults_name_the_last_kernels() {
    if !inside("late_faults_name_the_last_kernels", &[("FAKE_CUDA_FAULT", "1")]) {
        return;
    }
    let gpu = Gpu::open(0).unwrap();
    launch_one(&gpu, 1000).unwrap();
    let text = message(gpu.synchronize());
    expect(
        &text,
        &[
            "cuda:0",
            "ILLEGAL_ADDRESS",
            "leaky_relu_fwd_f32 of kernels/elementwise.cu",
            "grid 4x1x1, block 256",
        ],
    );
    expect(&message(launch_one(&gpu, 1000)), &["ILLEGAL_ADDRESS"]);
    // What is left after a fault belongs to the driver.
    std::mem::forget(gpu);
}

#[test]
fn blocking_launches_name_the_kernel() {
    let settings = [("FAKE_CUDA_FAULT", "1"), ("PSMT_CUDA_BLOCKING", "1")];
    if !inside("blocking_launches_name_the_kernel", &settings) {
        return;
    }
    let gpu = Gpu::open(0).unwrap();
    let text = message(launch_one(&gpu, 70));
    expect(&text, &["found while waiting for it, in leaky_relu_fwd_f32", "grid 1x1x1"]);
    std::mem::forget(gpu);
}

#[test]
fn launches_that_cannot_be_are_refused() {
    if !inside("launches_that_cannot_be_are_refused", &[]) {
        return;
    }
    let gpu = Gpu::open(0).unwrap();
    let x = gpu.alloc(64).unwrap();
    let args = arguments(x, x, 0.5, 1);
    let wide = Launch { block: [2048, 1, 1], ..Launch::new(3, 1) };
    expect(
        &message(gpu.launch(&leaky_relu(), wide, &args)),
        &["launching leaky_relu", "grid 3x1x1, block 2048"],
    );
    let much = Launch::new(1, 32).with_shared(300 << 10);
    expect(&message(gpu.launch(&leaky_relu(), much, &args)), &["307200 bytes of shared memory", "232448"]);
    let unknown = Kernel { name: "no_such_kernel".into(), ..leaky_relu() };
    expect(&message(gpu.launch(&unknown, Launch::new(1, 1), &args)), &["no_such_kernel"]);
    let unknown = Kernel { file: "nowhere", ..leaky_relu() };
    expect(&message(gpu.launch(&unknown, Launch::new(1, 1), &args)), &["no kernels/nowhere.cu"]);
    let mut wrong = Args::default();
    wrong.push(x);
    wrong.push(1_u64);
    expect(&message(gpu.launch(&leaky_relu(), Launch::new(1, 1), &wrong)), &["[8, 8, 4, 8]", "[8, 8]"]);
    // None of this harmed the device.
    gpu.launch(&leaky_relu(), Launch::new(1, 1), &args).unwrap();
    gpu.synchronize().unwrap();
    gpu.free(x, 64);
}

#[test]
fn kept_memory_is_returned_before_memory_is_short() {
    if !inside("kept_memory_is_returned_before_memory_is_short", &[("FAKE_CUDA_MEMORY", "10485760")]) {
        return;
    }
    let gpu = Gpu::open(0).unwrap();
    let first = gpu.alloc(6 << 20).unwrap();
    gpu.free(first, 6 << 20);
    assert_eq!(gpu.alloc(6 << 20).unwrap(), first);
    gpu.free(first, 6 << 20);
    let second = gpu.alloc(8 << 20).unwrap();
    match gpu.alloc(4 << 20) {
        Err(e @ Error::Memory { needed_mib: 4, available_mib: 2, .. }) => {
            expect(&e.to_string(), &["cuda:0", "8 MiB in use", "10 MiB"]);
        }
        other => panic!("{other:?}"),
    }
    gpu.free(second, 8 << 20);
}

#[test]
fn memory_goes_back_at_once_without_the_cache() {
    let settings = [("FAKE_CUDA_MEMORY", "10485760"), ("PSMT_CUDA_CACHE", "0")];
    if !inside("memory_goes_back_at_once_without_the_cache", &settings) {
        return;
    }
    let gpu = Gpu::open(0).unwrap();
    let block = gpu.alloc(100).unwrap();
    gpu.upload(block, &[1; 100]).unwrap();
    expect(&message(gpu.upload(block, &[1; 101])), &["while copying to the device"]);
    gpu.free(block, 100);
    assert_eq!(gpu.memory().unwrap(), (10 << 20, 10 << 20));
}

#[test]
fn unusable_cards_are_refused() {
    let cases: [(&str, &str, usize, &[&str]); 5] = [
        ("FAKE_CUDA_VERSION", "11040", 0, &["driver supports CUDA 11.4", "update the driver", "docs/gpu.md"]),
        ("FAKE_CUDA_CAPABILITY", "75", 0, &["compute capability 7.5", "8.0"]),
        ("FAKE_CUDA_DEVICES", "0", 0, &["finds no GPU", "CUDA_VISIBLE_DEVICES"]),
        ("FAKE_CUDA_DEVICES", "1", 1, &["cuda:1", "there is one"]),
        ("FAKE_CUDA_DEVICES", "3", 7, &["cuda:7", "there are 3"]),
    ];
    let doctor = |name: &str, value: &str| {
        let mut command = Command::new(crate::PROGRAM);
        command.args(["doctor", "--json"]);
        let output = with_fake(command, &[(name, value)])?.output().unwrap();
        Some(serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap())
    };
    if std::env::var_os(INSIDE).is_none() {
        for (i, (name, value, index, parts)) in cases.into_iter().enumerate() {
            let case = i.to_string();
            inside("unusable_cards_are_refused", &[(name, value), ("PSMT_TEST_CASE", &case)]);
            let Some(report) = doctor(name, value) else { return };
            assert_eq!(report["auto"], if index > 0 { "cuda:0" } else { "cpu" }, "{report}");
            if index == 0 {
                expect(&report.to_string(), parts);
            }
        }
        return;
    }
    let case: usize = std::env::var("PSMT_TEST_CASE").unwrap().parse().unwrap();
    let (_, _, index, parts) = cases[case];
    expect(&message(Gpu::open(index)), parts);
}

#[test]
fn drivers_of_the_toolkits_major_version_run_its_machine_code() {
    let test = "drivers_of_the_toolkits_major_version_run_its_machine_code";
    let Some((major, minor)) = gpu::toolkit() else {
        eprintln!("skipped: {}", gpu::missing().unwrap());
        return;
    };
    let [first, same] = [0, minor].map(|minor| (1000 * major + 10 * minor).to_string());
    if std::env::var_os(INSIDE).is_none() {
        // The first driver of the major version, and cards of compute capability 9.0 or later than any machine code.
        for (version, capability) in [(&first, "90"), (&first, "990"), (&same, "990")] {
            inside(test, &[("FAKE_CUDA_VERSION", version), ("FAKE_CUDA_CAPABILITY", capability)]);
        }
        return;
    }
    let setting = |name: &str| std::env::var(name).unwrap();
    let ptx = setting("FAKE_CUDA_CAPABILITY") == "990";
    if ptx && minor > 0 && setting("FAKE_CUDA_VERSION") == first {
        let text = message(Gpu::open(0));
        expect(&text, &["compute capability 99.0", &format!("PTX of CUDA {major}.{minor}"), "docs/gpu.md"]);
    } else {
        Gpu::open(0).unwrap();
    }
}

#[test]
fn the_command_line_takes_devices_by_name() {
    let run = |device: &str, settings: &[(&str, &str)]| {
        let mut command = Command::new(crate::PROGRAM);
        command.args(["train", "--dry-run", "--device", device]);
        let output = with_fake(command, settings)?.output().unwrap();
        let text = [output.stdout, output.stderr].map(|t| String::from_utf8_lossy(&t).into_owned()).concat();
        Some((output.status.code(), text))
    };
    // A driver without cards: `auto` falls back, and names say why they cannot be had.
    let none = [("FAKE_CUDA_DEVICES", "0")];
    let Some((code, text)) = run("auto", &none) else { return };
    assert_eq!(code, Some(0), "{text}");
    expect(&text, &["device cpu", "finds no GPU"]);
    let refused = |device: &str, settings: &[(&str, &str)], code: i32, parts: &[&str]| {
        let (got, text) = run(device, settings).unwrap();
        assert_eq!(got, Some(code), "{text}");
        expect(&text, parts);
    };
    refused("cuda", &none, 10, &["device cuda:0", "finds no GPU"]);
    refused("cuda:2", &[], 10, &["device cuda:2", "there is one"]);
    let (major, minor) = gpu::toolkit().unwrap();
    let compiled = format!("CUDA {major}.{minor} compiled the kernels");
    refused("cuda", &[("FAKE_CUDA_VERSION", "11080")], 10, &["driver supports CUDA 11.8", &compiled]);
    refused("cuda:first", &[], 2, &["cuda:first", "expected cpu, cuda, cuda:INDEX"]);
    // The stand-in does not know this kernel, so only the choice counts.
    expect(&run("auto", &[("FAKE_CUDA_DEVICES", "2")]).unwrap().1, &["device cuda:0"]);
}

#[test]
fn doctor_reports_without_a_driver() {
    let empty = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(crate::PROGRAM);
        let output = command.args(args).env("LD_LIBRARY_PATH", empty.path()).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let text = run(&["doctor"]);
    expect(&text, &["processor", "memory", "kernels", "driver", "auto"]);
    let report: serde_json::Value = serde_json::from_str(&run(&["doctor", "--json"])).unwrap();
    if report["cuda"]["driver"].is_null() {
        expect(&text, &["no CUDA driver was found", "install NVIDIA's driver"]);
        assert_eq!(report["auto"], "cpu");
    }
    let kernels = run(&["doctor", "--kernels"]);
    assert!(kernels.lines().all(|line| line.split('\t').count() == 8), "{kernels}");
    assert_eq!(kernels.lines().count() > 1, gpu::missing().is_none());
}

#[test]
fn training_that_does_not_fit_a_card_is_refused_with_its_plan() {
    let run = |memory: &str, batch: &str| {
        let mut command = Command::new(crate::PROGRAM);
        command.args(["train", "--dry-run", "--device", "cuda", "--batch-size", batch]);
        let output = with_fake(command, &[("FAKE_CUDA_MEMORY", memory)])?.output().unwrap();
        let text = [output.stdout, output.stderr].map(|t| String::from_utf8_lossy(&t).into_owned()).concat();
        Some((output.status.code(), text))
    };
    // 48 MiB beside the reserve of 256: the demo's own batch fits, one of 64 does not, and the first says where the limit lies.
    const MEMORY: &str = "318767104";
    let Some((code, text)) = run(MEMORY, "4") else { return };
    assert_eq!(code, Some(0), "{text}");
    expect(
        &text,
        &["tiny on cuda:0", "16-bit copies", "T-VAT", "validation", "reserve", "256.0", "available", "304.0"],
    );
    let line = text.lines().find(|l| l.contains("largest batch")).unwrap();
    let largest: usize = line.split_whitespace().last().unwrap().parse().unwrap();
    assert!((4..64).contains(&largest), "{text}");
    assert_eq!(run(MEMORY, &largest.to_string()).unwrap().0, Some(0));
    // Smaller validations would make room for one image more, not for as many as this.
    for (batch, decides) in [(largest + 1, "eval.batch_size=1"), (64, "optim.batch_size")] {
        let (code, text) = run(MEMORY, &batch.to_string()).unwrap();
        assert_eq!(code, Some(7), "{text}");
        expect(&text, &["not enough memory", decides, "cuda:0", "304 MiB are available"]);
    }
}
