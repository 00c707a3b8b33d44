//! The emulator keeps the promises of kernels/common/device.cuh: each kernel of kernels/selftest.cu against
//! plain loops, in both builds, whatever the order of threads and copies.

use crate::common::{all_options, alloc, launch, open};
use psmt_emulator::EmulatorOptions;
use psmt_fast::backend::cuda::driver::Launch;
use psmt_fast::backend::cuda::{Cuda, Dtype};
use psmt_fast::ops::{Device, ElementwiseOps, Shape};
use psmt_lab::check::selftest;

#[test]
fn every_instruction_does_what_it_is_defined_to_do() {
    for options in all_options() {
        let Some(d) = open(options) else { return };
        let rows =
            selftest::run(&*d, |row| println!("{options:?}: {row:?}")).expect("kernels without faults");
        assert!(rows.len() > 10 && rows.iter().all(|row| row.ok && row.values > 0), "{options:?}: {rows:?}");
    }
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
