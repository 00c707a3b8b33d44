//! Each kernel of ../../kernels/mutants.cu has one fault, which the plain or the check build of the emulator
//! must report. Sound kernels raise no alarm and give the same bits in every order.

use crate::common::{all_options, alloc, download, launch, open, upload};
use psmt_emulator::{CopyTime, EmulatorOptions, Schedule};
use psmt_fast::backend::cuda::driver::{Args, Driver, Launch};
use std::sync::Arc;

const THREADS: usize = 256;
const PLAIN: EmulatorOptions =
    EmulatorOptions { check: false, schedule: Schedule::Ascending, copies: CopyTime::Late };
const CHECK: EmulatorOptions = EmulatorOptions { check: true, ..PLAIN };

/// y and x of 256 floats each.
fn buffers(d: &dyn Driver) -> Args {
    let x: Vec<f32> = (0..THREADS).map(|i| i as f32 + 1.0).collect();
    args![alloc::<f32>(d, THREADS), upload(d, &x)]
}

/// The error of one block of 256 threads.
fn error_of(options: EmulatorOptions, kernel: &str) -> Option<String> {
    let d = open(options)?;
    let result = launch(&*d, "mutants", kernel, Launch::new(1, 256), buffers(&*d));
    Some(result.err().map_or_else(String::new, |e| e.to_string()))
}

#[track_caller]
fn expect(text: &str, words: &[&str]) {
    println!("{text}");
    words.iter().for_each(|w| assert!(text.contains(w), "{w:?} is not in: {text}"));
}

/// What y holds after a kernel without a fault that this build sees.
fn result_of(options: EmulatorOptions, kernel: &str) -> Option<Vec<f32>> {
    let d = open(options)?;
    let x: Vec<f32> = (0..THREADS).map(|i| i as f32 + 1.0).collect();
    let y = alloc::<f32>(&*d, THREADS);
    launch(&*d, "mutants", kernel, Launch::new(1, 256), args![y, upload(&*d, &x)]).expect("no alarm");
    Some(download(&*d, y, THREADS))
}

fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn sound_kernels_raise_no_alarm_and_repeat() {
    for kernel in ["reverse_sound", "twice_sound", "exchange_sound", "copy_sound"] {
        let Some(first) = result_of(PLAIN, kernel) else { return };
        assert!(first.iter().all(|v| v.is_finite()));
        for options in all_options() {
            let got = result_of(options, kernel).expect("it opened before");
            assert_eq!(bits(&got), bits(&first), "{kernel}, {options:?}");
        }
    }
}

#[test]
fn divergence_is_caught_by_both_builds() {
    for options in [PLAIN, CHECK] {
        for (kernel, words) in [
            (
                "divergent_barrier",
                &[
                    "128 threads from (0, 0, 0) on wait in block_sync at kernels/mutants.cu:",
                    "128 threads from (128, 0, 0) on have returned",
                ][..],
            ),
            ("two_barriers", &["thread (1, 0, 0): comes to block_sync at kernels/mutants.cu:"]),
            (
                "early_return",
                &["255 threads from (0, 0, 0) on wait in block_sync", "thread (100, 0, 0) have returned"],
            ),
            ("partial_shuffle", &["wait in a warp operation at kernels/mutants.cu:", "have returned"]),
            ("two_shuffles", &["thread (1, 0, 0): comes to a warp operation at kernels/mutants.cu:"]),
        ] {
            let Some(text) = error_of(options, kernel) else { return };
            expect(&text, &["kernel ", kernel, "kernels/mutants.cu", "block (0, 0, 0)"]);
            expect(&text, words);
        }
        let Some(d) = open(options) else { return };
        let result = launch(&*d, "mutants", "any_shuffle", Launch::new(1, 48), buffers(&*d));
        expect(
            &result.expect_err("a partial warp").to_string(),
            &["warp of 16 threads", "kernels/mutants.cu:"],
        );
    }
}

#[test]
fn a_missing_barrier() {
    let Some(text) = error_of(CHECK, "reverse_no_barrier") else { return };
    // The first reads what nothing has written yet.
    expect(&text, &["thread (0, 0, 0): reads byte 1020 of shared memory, which nothing has written"]);
    let text = error_of(EmulatorOptions { schedule: Schedule::Descending, ..CHECK }, "reverse_no_barrier");
    expect(&text.expect("open"), &["thread (255, 0, 0): reads byte 0 of shared memory"]);
    let text = error_of(CHECK, "twice_no_barrier").expect("open");
    expect(
        &text,
        &["writes byte", "of shared memory, which thread (", ") has read with no barrier in between"],
    );
    let text = error_of(CHECK, "exchange_no_sync").expect("open");
    expect(&text, &["thread (0, 0, 0): reads byte 4 of shared memory"]);
    // The plain build shows it by results that depend on the order of threads.
    for kernel in ["reverse_no_barrier", "twice_no_barrier", "exchange_no_sync"] {
        let up = result_of(PLAIN, kernel).expect("open");
        let down =
            result_of(EmulatorOptions { schedule: Schedule::Descending, ..PLAIN }, kernel).expect("open");
        assert_ne!(bits(&up), bits(&down), "{kernel}");
    }
}

#[test]
fn a_missing_wait_for_a_copy() {
    // Late copies leave the poison.
    let Some(late) = result_of(PLAIN, "copy_no_wait") else { return };
    assert!(late.iter().all(|v| v.is_nan()));
    for copies in [CopyTime::Late, CopyTime::Early, CopyTime::Seeded(3)] {
        let text = error_of(EmulatorOptions { copies, ..CHECK }, "copy_no_wait").expect("open");
        expect(
            &text,
            &[
                "where an asynchronous copy of thread (63, 0, 0) has not completed",
                "begun at kernels/mutants.cu:",
            ],
        );
    }
}

#[test]
fn accesses_outside_of_memory() {
    /// Blocks of 256 threads on `len` values.
    struct Grid {
        blocks: usize,
        len: usize,
    }
    let run = |options: EmulatorOptions, kernel: &str, Grid { blocks, len }: Grid| -> Option<String> {
        let d = open(options)?;
        let x = upload(&*d, &vec![1.0f32; len]);
        let y = alloc::<f32>(&*d, len);
        let result = launch(&*d, "mutants", kernel, Launch::new(blocks, 256), args![y, x, len as u32]);
        Some(result.err().map_or_else(String::new, |e| e.to_string()))
    };
    // Far beyond the end both builds see it; in the 256 bytes of alignment only the check build.
    let Some(text) = run(PLAIN, "scale_no_guard", Grid { blocks: 1, len: 128 }) else { return };
    expect(&text, &["scale_no_guard of kernels/mutants.cu", "thread (128, 0, 0)", "past the end of 512"]);
    let text = run(CHECK, "scale_no_guard", Grid { blocks: 1, len: 250 }).expect("open");
    expect(&text, &["thread (250, 0, 0): reads 4 bytes, 0 bytes past the end of 1000"]);
    let text = run(CHECK, "scale_before_start", Grid { blocks: 1, len: 256 }).expect("open");
    expect(&text, &["thread (0, 0, 0): reads 4 bytes, 4 bytes before the start of 1024"]);
    for options in [PLAIN, CHECK] {
        assert_eq!(run(options, "scale_sound", Grid { blocks: 3, len: 600 }).expect("open"), "");
    }
    let text = error_of(CHECK, "shared_overrun").expect("open");
    expect(&text, &["thread (255, 0, 0): writes 4 bytes, byte 1024 of shared memory among them"]);

    let d = open(PLAIN).expect("open");
    let null = psmt_fast::backend::cuda::driver::DevicePtr(0);
    let result = launch(&*d, "mutants", "scale_sound", Launch::new(1, 256), args![null, null, 1u32]);
    expect(&result.expect_err("null").to_string(), &["thread (0, 0, 0)", "null pointer"]);
    // What was given back is out of bounds too.
    for options in [PLAIN, CHECK] {
        let d = open(options).expect("open");
        let (x, y) = (upload(&*d, &[1.0f32; 256]), alloc::<f32>(&*d, 256));
        d.free(x, 1024);
        let result = launch(&*d, "mutants", "scale_sound", Launch::new(1, 256), args![y, x, 256u32]);
        expect(&result.expect_err("freed").to_string(), &["byte 0 of 1024 that were given back"]);
    }
}

#[test]
fn reads_of_unwritten_memory() {
    let unwritten = |options| -> Option<Arc<dyn Driver>> {
        let d = open(options)?;
        let (x, y) = (alloc::<f32>(&*d, 256), alloc::<f32>(&*d, 256));
        let result = launch(&*d, "mutants", "scale_sound", Launch::new(1, 256), args![y, x, 256u32]);
        if options.check {
            let text = result.expect_err("unwritten").to_string();
            expect(&text, &["thread (0, 0, 0): reads byte 0 of 1024, which nothing has written"]);
        } else {
            result.expect("no alarm");
            assert!(download::<f32>(&*d, y, 256).iter().all(|v| v.is_nan()));
        }
        Some(d)
    };
    if unwritten(PLAIN).is_none() {
        return;
    }
    unwritten(CHECK);
    let text = error_of(CHECK, "shared_unwritten").expect("open");
    expect(&text, &["thread (0, 0, 0): reads byte 0 of shared memory, which nothing has written"]);
    assert!(result_of(PLAIN, "shared_unwritten").expect("open")[0].is_nan());
    // An output that is not written fully.
    let d = open(CHECK).expect("open");
    let (x, y) = (upload(&*d, &[1.0f32; 256]), alloc::<f32>(&*d, 256));
    launch(&*d, "mutants", "scale_misses_last", Launch::new(1, 256), args![y, x, 256u32]).expect("no alarm");
    let text = d.download(y, &mut [0; 1024]).expect_err("unwritten").to_string();
    expect(&text, &["byte 1020 of 1024, which nothing has written"]);
    d.download(y, &mut [0; 1020]).expect("written");
}

#[test]
fn races_on_device_memory() {
    let Some(text) = error_of(CHECK, "global_race") else { return };
    expect(&text, &["thread (1, 0, 0): writes byte 0 of 1024, which thread (0, 0, 0) has written"]);
    let d = open(CHECK).expect("open");
    let result = launch(&*d, "mutants", "block_race", Launch::new(2, 256), buffers(&*d));
    expect(&result.expect_err("a race").to_string(), &["of another block has written"]);
    let d = open(CHECK).expect("open");
    let x = upload(&*d, &[1.0f32; 256]);
    let result = launch(&*d, "mutants", "plain_count", Launch::new(1, 256), args![upload(&*d, &[0u32]), x]);
    expect(&result.expect_err("a race").to_string(), &["thread (1, 0, 0)", "which thread (0, 0, 0) has"]);
}

#[test]
fn other_faults_name_the_thread() {
    let Some(d) = open(PLAIN) else { return };
    let mut x = [1u32; 32];
    x[7] = 0;
    let (px, y) = (upload(&*d, &x), upload(&*d, &[0u32; 128]));
    let run = |kernel: &str, args: Args| {
        launch(&*d, "mutants", kernel, Launch::new(1, 32), args).expect_err("a fault").to_string()
    };
    expect(&run("divide", args![y, px]), &["thread (7, 0, 0): divides an integer by zero"]);
    expect(&run("recurse", args![y]), &["thread (0, 0, 0): uses up its stack"]);
    expect(&run("large_shared", args![y]), &["52000 more bytes of shared memory", "49152 static"]);
    expect(&run("crooked_copy", args![y, y]), &["thread (0, 0, 0): copies from", "multiples of 16"]);
    // The coroutines are as good as new after each.
    let z = alloc::<u32>(&*d, 32);
    launch(&*d, "mutants", "divide", Launch::new(1, 32), args![z, upload(&*d, &[4u32; 32])])
        .expect("no fault");
    assert_eq!(download::<u32>(&*d, z, 32), [25; 32]);
}
