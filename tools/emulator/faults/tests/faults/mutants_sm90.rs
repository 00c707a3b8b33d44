//! Faults in pipelines of TMA and WGMMA: each kernel of ../../kernels/mutants_sm90.cu has one, which the
//! plain or the check build of the emulator must report.

use crate::common::{all_options, alloc, download, launch, open, upload};
use psmt_emulator::{CopyTime, EmulatorOptions, Schedule};
use psmt_fast::backend::cuda::driver::Launch;
use psmt_fast::backend::cuda::tensor_map::TensorMapSpec;
use psmt_fast::{Error, Result};

const STEPS: usize = 5;
const SIDE: usize = 64;
const CHECK: EmulatorOptions =
    EmulatorOptions { check: true, schedule: Schedule::Ascending, copies: CopyTime::Late };
const PLAIN: EmulatorOptions = EmulatorOptions { check: false, ..CHECK };

/// Small integers.
fn a(m: usize, k: usize) -> f32 {
    ((m * 7 + k * 3) % 11) as f32 - 5.0
}
fn b(n: usize, k: usize) -> f32 {
    ((n * 5 + k) % 13) as f32 - 6.0
}

/// What a kernel gives; `None` where this build has no emulator.
fn run(options: EmulatorOptions, kernel: &str) -> Option<Result<Vec<f32>>> {
    let d = open(options)?;
    let depth = STEPS * SIDE;
    let map = |value: fn(usize, usize) -> f32| {
        let bits = |i: usize| half::bf16::from_f32(value(i / depth, i % depth)).to_bits();
        let data: Vec<u16> = (0..SIDE * depth).map(bits).collect();
        let spec = TensorMapSpec::tiled(upload(&*d, &data), &[depth, SIDE], &[depth], &[SIDE, SIDE]);
        d.tensor_map(&spec).expect("a tensor map")
    };
    let out = alloc::<f32>(&*d, SIDE * SIDE);
    let plan = Launch::new(1, 160).with_shared(4 * 2 * SIDE * SIDE);
    let done = launch(&*d, "mutants_sm90", kernel, plan, args![out, map(a), map(b), STEPS as u32]);
    Some(done.map(|()| download(&*d, out, SIDE * SIDE)))
}

fn want() -> Vec<f32> {
    let sum = |i: usize| (0..STEPS * SIDE).map(|k| a(i / SIDE, k) * b(i % SIDE, k)).sum();
    (0..SIDE * SIDE).map(sum).collect()
}

#[track_caller]
fn expect(options: EmulatorOptions, kernel: &str, words: &[&str]) {
    let Some(result) = run(options, kernel) else { return };
    let text = result.map(|_| ()).map_err(|e: Error| e.to_string()).expect_err("a fault");
    println!("{text}");
    words.iter().for_each(|w| assert!(text.contains(w), "{w:?} is not in: {text}"));
}

#[test]
fn a_sound_pipeline_raises_no_alarm_in_any_order() {
    for options in all_options() {
        let Some(result) = run(options, "sound") else { return };
        assert_eq!(result.expect("no alarm"), want(), "{options:?}");
    }
}

#[test]
fn tiles_that_are_read_too_early_or_overwritten_too_soon() {
    expect(CHECK, "no_wait", &["reads byte 0 of shared memory, which nothing has written"]);
    // The thread that copies runs first.
    let other = EmulatorOptions { schedule: Schedule::Descending, ..CHECK };
    expect(other, "no_wait", &["has not completed", "a wait is missing", "kernels/mutants_sm90.cu:"]);
    expect(CHECK, "no_empty", &["arrives at an mbarrier", "whose phase waits for bytes only"]);
    expect(CHECK, "early_release", &["overwritten while the WGMMA was in flight"]);
}

#[test]
fn wrong_pipelines_that_wait_for_ever_say_what_for() {
    for options in [PLAIN, CHECK] {
        expect(options, "wrong_bytes", &["mutants_sm90.cu", "for an mbarrier", "lacks", "16 bytes"]);
        expect(options, "no_init", &["mutants_sm90.cu", "that nothing has initialised"]);
    }
}

#[test]
fn wgmmas_that_are_not_waited_for_or_differ() {
    expect(PLAIN, "no_wgmma_wait", &["while WGMMAs are in flight"]);
    expect(CHECK, "no_wgmma_wait", &["begins a copy to byte 0", "read with no barrier in between"]);
    for options in [PLAIN, CHECK] {
        expect(options, "other_wgmma", &["warpgroup 0 issued different WGMMAs"]);
        expect(options, "unaligned", &["expected a multiple of 1024"]);
    }
}

/// What a kernel in clusters gives: the sums of columns, once for each of four blocks.
fn run_clusters(options: EmulatorOptions, kernel: &str, blocks: usize) -> Option<Result<Vec<f32>>> {
    let d = open(options)?;
    let bits = |i: usize| half::bf16::from_f32(a(i / SIDE, i % SIDE)).to_bits();
    let data: Vec<u16> = (0..8 * STEPS * SIDE).map(bits).collect();
    let spec = TensorMapSpec::tiled(upload(&*d, &data), &[SIDE, 8 * STEPS], &[SIDE], &[SIDE, 8]);
    let out = alloc::<f32>(&*d, blocks * SIDE);
    let plan = Launch::new(blocks, 64).with_shared(1024);
    let map = d.tensor_map(&spec).expect("a tensor map");
    let done = launch(&*d, "mutants_sm90", kernel, plan, args![out, map, STEPS as u32]);
    Some(done.map(|()| download(&*d, out, blocks * SIDE)))
}

#[test]
fn sound_clusters_raise_no_alarm_in_any_order() {
    let sum = |i: usize| (0..8 * STEPS).map(|row| a(row, i % SIDE)).sum();
    let want: Vec<f32> = (0..4 * SIDE).map(sum).collect();
    for options in all_options() {
        let Some(result) = run_clusters(options, "cluster_sound", 4) else { return };
        assert_eq!(result.expect("no alarm"), want, "{options:?}");
    }
}

#[test]
fn wrong_clusters_say_what_is_wrong() {
    let said = |options, kernel, blocks| {
        let result = run_clusters(options, kernel, blocks)?;
        let text = result.map(|_| ()).map_err(|e: Error| e.to_string()).expect_err("a fault");
        println!("{kernel}: {text}");
        Some(text)
    };
    let expect = |options, kernel, words: &[&str]| {
        let Some(text) = said(options, kernel, 2) else { return };
        words.iter().for_each(|w| assert!(text.contains(w), "{kernel}: {w:?} is not in: {text}"));
    };
    for options in [PLAIN, CHECK] {
        let early = EmulatorOptions { copies: CopyTime::Early, ..options };
        expect(
            early,
            "cluster_no_sync",
            &["a TMA copy that began at", "an mbarrier that nothing has initialised"],
        );
        expect(options, "cluster_no_arrive", &["cluster's barrier", "has not arrived"]);
        expect(
            options,
            "cluster_no_block",
            &["arrives at an mbarrier", "block 2 of the cluster", "none or has returned"],
        );
        expect(options, "cluster_leaves", &["arrives at an mbarrier", "none or has returned"]);
        if let Some(text) = said(options, "cluster_sound", 3) {
            assert!(text.contains("a multiple of 2 blocks along x"), "{text}");
        }
    }
    // The other block's consumers may still read what is copied to both.
    expect(
        CHECK,
        "cluster_own_empty",
        &["begins a copy to byte 0 of shared memory of block", "with no barrier in between"],
    );
}

#[test]
fn tensor_maps_beyond_the_hardware_are_refused() {
    let Some(d) = open(PLAIN) else { return };
    let at = alloc::<u16>(&*d, 4096);
    let refused = |spec: TensorMapSpec, what: &str| {
        let text = d.tensor_map(&spec).expect_err("no such tensor map").to_string();
        assert!(text.contains(what), "{what} is not in: {text}");
    };
    refused(TensorMapSpec::tiled(at, &[64, 8], &[63], &[64, 8]), "stride");
    refused(TensorMapSpec::tiled(at.offset(2), &[64, 8], &[64], &[64, 8]), "address");
    refused(TensorMapSpec::tiled(at, &[64, 8], &[64], &[32, 8]), "box");
    refused(TensorMapSpec::tiled(at, &[64, 0], &[64], &[64, 8]), "size");
    refused(TensorMapSpec::im2col(at, [1, 8, 8, 64], (-129, [0; 2], 1), 64), "bounding box");
    refused(TensorMapSpec::im2col(at, [1, 8, 8, 64], (0, [0; 2], 9), 64), "column");
}
