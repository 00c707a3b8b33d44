//! The emulator keeps the promises of kernels/common/device.cuh: each kernel of kernels/selftest.cu against plain loops, in
//! both builds, whatever the order of threads and copies.

use crate::common::{all_options, alloc, download, launch, open, upload};
use psmt_fast::backend::cuda::driver::{Driver, Launch};
use psmt_fast::backend::cuda::emulator::EmulatorOptions;
use psmt_fast::backend::cuda::{Cuda, Dtype};
use psmt_fast::ops::{Backend, Shape};

const THREADS: usize = 256;

/// Runs `test` on every kind of emulator.
fn on_all(test: impl Fn(&dyn Driver)) {
    for options in all_options() {
        let Some(d) = open(options) else { return };
        println!("{options:?}");
        test(&*d);
    }
}

fn selftest(d: &dyn Driver, name: &str, plan: Launch, args: psmt_fast::backend::cuda::driver::Args) {
    launch(d, "selftest", name, plan, args).expect("a kernel without faults");
}

fn bf16(v: f32) -> u16 {
    half::bf16::from_f32(v).to_bits()
}

#[test]
fn static_shared_arrays_and_barriers() {
    on_all(|d| {
        let blocks = 5;
        let x: Vec<f32> = (0..blocks * THREADS).map(|i| i as f32).collect();
        let px = upload(d, &x);
        let (py, pm) = (alloc::<f32>(d, x.len()), alloc::<f32>(d, x.len()));
        selftest(d, "reverse", Launch::new(blocks, 256), args![py, pm, px]);
        let (y, minus_y) = (download::<f32>(d, py, x.len()), download::<f32>(d, pm, x.len()));
        for i in 0..x.len() {
            let expected = x[i / THREADS * THREADS + THREADS - 1 - i % THREADS];
            assert_eq!((y[i], minus_y[i]), (expected, -expected), "element {i}");
        }
    });
}

#[test]
fn sums_over_a_block() {
    on_all(|d| {
        for (threads, len) in [(256, 1000), (32, 7), (64, 65)] {
            let x: Vec<f64> = (0..3 * len).map(|i| (i % 17) as f64 - 3.0).collect();
            let (px, ps) = (upload(d, &x), alloc::<f64>(d, 3));
            let plan = Launch::new(3, threads).with_shared(threads as usize / 32 * 8);
            selftest(d, "block_sum", plan, args![ps, px, len as u32]);
            let expected: Vec<f64> = x.chunks(len).map(|c| c.iter().sum()).collect();
            assert_eq!(download::<f64>(d, ps, 3), expected);
        }
    });
}

#[test]
fn warp_operations() {
    on_all(|d| {
        let x: Vec<u32> = (0..32).map(|i| i * i * 77 + 5).collect();
        let (px, po) = (upload(d, &x), alloc::<u64>(d, 6 * 32));
        selftest(d, "warp_ops", Launch::new(1, 32), args![po, px]);
        let out = download::<u64>(d, po, 6 * 32);
        let wide = |i: usize| u64::from(x[i]) << 32 | i as u64;
        let votes = (0..32).fold(0u64, |v, i| v | u64::from(x[i].is_multiple_of(3)) << i);
        for i in 0..32 {
            assert_eq!(out[i], u64::from(x[5]));
            assert_eq!(out[32 + i], wide(i ^ 3));
            assert_eq!(out[64 + i], u64::from(x[if i + 7 < 32 { i + 7 } else { i }]));
            assert_eq!(out[96 + i], votes);
            assert_eq!(out[128 + i], wide(i * 7 % 32));
            assert_eq!(out[160 + i], u64::from(x[i ^ 16]));
        }
    });
}

#[test]
fn warps_synchronise_alone() {
    on_all(|d| {
        let x: Vec<u32> = (0..THREADS as u32).map(|i| i * 3 + 1).collect();
        let (px, py) = (upload(d, &x), alloc::<u32>(d, THREADS));
        selftest(d, "warp_exchange", Launch::new(1, 256), args![py, px]);
        let mut v = x.clone();
        for _ in 0..3 {
            v = (0..THREADS).map(|t| v[t] + v[t / 32 * 32 + (t + 1) % 32]).collect();
        }
        assert_eq!(download::<u32>(d, py, THREADS), v);
    });
}

#[test]
fn integer_atomics_over_many_blocks() {
    on_all(|d| {
        let (len, bins) = (10_000, 7);
        let x: Vec<u32> = (0..len).map(|i: u32| i.wrapping_mul(2_654_435_761) % 1_000_003).collect();
        let (px, pc) = (upload(d, &x), upload(d, &[0u32; 7]));
        let (ps, pm) = (upload(d, &[0u64]), upload(d, &[0u32]));
        let plan = Launch::new(x.len().div_ceil(256), 256);
        selftest(d, "atomics", plan, args![pc, ps, pm, px, len, bins]);
        let mut counts = [0u32; 7];
        x.iter().for_each(|v| counts[(v % bins) as usize] += 1);
        assert_eq!(download::<u32>(d, pc, 7), counts);
        assert_eq!(download::<u64>(d, ps, 1), [x.iter().map(|&v| u64::from(v)).sum::<u64>()]);
        assert_eq!(download::<u32>(d, pm, 1), [*x.iter().max().expect("not empty")]);
    });
}

#[test]
fn asynchronous_copies() {
    on_all(|d| {
        for (stages, tail) in [(1, 16), (2, 5), (7, 0), (12, 1)] {
            let x: Vec<u8> = (0..stages * THREADS * 16).map(|i| (i * 31 % 251) as u8).collect();
            let (px, py) = (upload(d, &x), alloc::<u8>(d, x.len()));
            let plan = Launch::new(1, 256).with_shared(3 * THREADS * 16);
            selftest(d, "copy_pipeline", plan, args![py, px, stages as u32, tail]);
            let y = download::<u8>(d, py, x.len());
            for (i, &got) in y.iter().enumerate() {
                let (stage, piece, byte) = (i / (16 * THREADS), i / 16 % THREADS, i % 16);
                let from = THREADS - 1 - piece;
                let cut = from == THREADS - 1 && byte >= tail as usize;
                let expected = if cut { 0 } else { x[(stage * THREADS + from) * 16 + byte] };
                assert_eq!(got, expected, "{stages} stages, tail {tail}, byte {i}");
            }
        }
    });
}

#[test]
fn matrices_from_shared_memory() {
    on_all(|d| {
        let x: Vec<u16> = (0..256).collect();
        let (px, po) = (upload(d, &x), alloc::<u32>(d, 256));
        selftest(d, "ldmatrix", Launch::new(1, 32), args![po, px]);
        let out = download::<u32>(d, po, 256);
        let at = |r: usize, c: usize| u32::from(x[r * 16 + c]);
        for lane in 0..32 {
            for m in 0..4 {
                // Rows and columns of matrix m in the 16 by 16.
                let (r0, c0) = (m % 2 * 8, m / 2 * 8);
                let (r, c) = (lane / 4, lane % 4 * 2);
                let plain = at(r0 + r, c0 + c) | at(r0 + r, c0 + c + 1) << 16;
                let trans = at(r0 + c, c0 + r) | at(r0 + c + 1, c0 + r) << 16;
                assert_eq!(out[lane * 4 + m], plain, "lane {lane}, matrix {m}");
                assert_eq!(out[128 + lane * 4 + m], trans, "lane {lane}, matrix {m}, transposed");
            }
        }
    });
}

#[test]
fn matrix_product() {
    on_all(|d| {
        // Small integers, so that every order of the sums gives the same.
        let a: Vec<f32> = (0..256).map(|i| (i * 7 % 11) as f32 - 5.0).collect();
        let b: Vec<f32> = (0..128).map(|i| (i * 5 % 13) as f32 - 6.0).collect();
        let c: Vec<f32> = (0..128).map(|i| i as f32).collect();
        let half = |v: &[f32]| v.iter().map(|&v| bf16(v)).collect::<Vec<u16>>();
        let (pa, pb, pc) = (upload(d, &half(&a)), upload(d, &half(&b)), upload(d, &c));
        let pd = alloc::<f32>(d, 128);
        selftest(d, "mma", Launch::new(1, 32), args![pd, pa, pb, pc]);
        let got = download::<f32>(d, pd, 128);
        for r in 0..16 {
            for col in 0..8 {
                let sum: f32 = (0..16).map(|k| a[r * 16 + k] * b[k * 8 + col]).sum();
                assert_eq!(got[r * 8 + col], c[r * 8 + col] + sum, "row {r}, column {col}");
            }
        }
    });
}

#[test]
fn indices_of_threads_and_blocks() {
    on_all(|d| {
        let plan = Launch { grid: [3, 2, 4], block: [5, 3, 2], shared: 0 };
        let len = 3 * 2 * 4 * 30;
        let po = alloc::<u32>(d, len);
        selftest(d, "indices", plan, args![po]);
        let out = download::<u32>(d, po, len);
        for (i, &got) in out.iter().enumerate() {
            let (b, t) = (i as u32 / 30, i as u32 % 30);
            let block = (b / 6) << 20 | (b / 3 % 2) << 16 | (b % 3) << 12;
            assert_eq!(got, block | ((t / 15) << 8) | ((t / 5 % 3) << 4) | (t % 5), "thread {i}");
        }
    });
}

#[test]
fn ops_run_on_it() {
    let Some(driver) = open(EmulatorOptions::default()) else { return };
    let shape = Shape::new(2, 3, 5, 7);
    let x: Vec<f32> = (0..shape.len()).map(|i| i as f32 - 100.0).collect();
    let d = Cuda::new(driver, Dtype::F32);
    let y = d.download(&d.leaky_relu(&d.upload(shape, &x), 0.25));
    d.check().unwrap();
    let expected: Vec<f32> = x.iter().map(|&v| if v > 0.0 { v } else { 0.25 * v }).collect();
    assert_eq!(y, expected);
}

#[test]
fn wrong_launches_are_refused() {
    let Some(d) = open(EmulatorOptions::default()) else { return };
    let expect = |result: psmt_fast::Result<()>, words: &[&str]| {
        let text = result.expect_err("a wrong launch").to_string();
        words.iter().for_each(|w| assert!(text.contains(w), "{w:?} is not in: {text}"));
    };
    let ptr = alloc::<f32>(&*d, 256);
    let run = |name: &str, plan, args| launch(&*d, "selftest", name, plan, args);
    let one = Launch::new(1, 256);
    expect(launch(&*d, "nothing", "reverse", one, args![]), &["reverse of kernels/nothing.cu"]);
    expect(run("nothing", one, args![]), &["nothing of kernels/selftest.cu", "block_sum"]);
    expect(run("reverse", one, args![ptr, ptr]), &["[8, 8, 8]", "[8, 8]"]);
    expect(run("reverse", one, args![ptr, ptr, 1u32]), &["[8, 8, 4]"]);
    expect(run("indices", Launch::new(1, 160), args![ptr]), &["128 in all"]);
    expect(run("indices", Launch::grid3([1, 70_000, 1], 32), args![ptr]), &["65535"]);
    expect(run("reverse", one.with_shared(300_000), args![ptr, ptr, ptr]), &["232448"]);
}
