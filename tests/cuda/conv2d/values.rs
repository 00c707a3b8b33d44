//! Values of convolutions by every kernel against the CPU in f64, and that they repeat.

use super::{Inputs, agree, agree_in, device_with, tiles};
use crate::compare::assert_same_bits;
use crate::cuda_common::{CHECKED, DTYPES, PLAIN, device};
use crate::draw;
use crate::layer_common::Conv;
use psmt_emulator::{CopyTime, EmulatorOptions, Schedule};
use psmt_fast::backend::cuda::Dtype;
use psmt_fast::ops::*;

/// Begins a 16-byte chunk of the parameters' copy in 16 bits.
const ALIGNED: usize = 8;

#[test]
fn pointwise() {
    let cases = [
        Conv::new(16, 24).bias().on(2, 17, 19),
        Conv::new(32, 48).stride(2).on(2, 15, 13),
        Conv::new(64, 21).bias().on(1, 9, 7),
        Conv::new(5, 72).on(3, 5, 6),
    ];
    agree(ALIGNED, &cases, PLAIN);
}

#[test]
fn single_positions() {
    let cases = [
        Conv::new(1, 1).bias().on(1, 1, 1),
        Conv::new(64, 72).on(2, 1, 1),
        Conv::new(72, 16).bias().on(2, 1, 1),
        Conv::new(5, 8).kernel(3).on(1, 1, 1),
        Conv::new(8, 8).kernel(3).stride(2).on(3, 2, 1),
        Conv::new(16, 8).stride(4).on(2, 3, 2),
    ];
    agree(ALIGNED, &cases, PLAIN);
}

#[test]
fn kernels_of_three() {
    let cases = [
        Conv::new(8, 16).kernel(3).on(2, 11, 13),
        Conv::new(48, 64).kernel(3).on(1, 16, 9),
        Conv::new(72, 8).kernel(3).stride(2).bias().on(2, 13, 11),
        Conv::new(21, 13).kernel(3).bias().on(2, 7, 5),
        Conv::new(16, 16).kernel(3).padding(0).on(1, 9, 12),
    ];
    agree(ALIGNED, &cases, PLAIN);
}

#[test]
fn stems() {
    let cases = [
        Conv::new(3, 16).kernel(7).stride(2).on(1, 29, 22),
        Conv::new(3, 64).kernel(3).stride(2).on(2, 15, 17),
        Conv::new(1, 3).kernel(7).bias().on(1, 9, 9),
        // Several segments of a row, more outputs than a block has, odd steps, biases.
        Conv::new(3, 72).kernel(3).stride(2).bias().on(2, 9, 261),
        Conv::new(3, 8).kernel(3).on(1, 3, 140),
        Conv::new(3, 64).kernel(7).stride(2).bias().on(1, 11, 270),
        Conv::new(3, 136).kernel(7).stride(3).padding(0).on(1, 13, 10),
    ];
    agree(ALIGNED, &cases, PLAIN);
}

#[test]
fn dilated() {
    let cases = [
        Conv::new(16, 8).kernel(3).dilation(6).on(1, 17, 15),
        Conv::new(8, 21).kernel(3).dilation(12).on(2, 9, 13),
        Conv::new(24, 16).kernel(3).dilation(2).bias().on(1, 12, 11),
        Conv::new(8, 16).kernel(3).stride(2).dilation(2).on(1, 14, 13),
        Conv::new(8, 16).kernel(3).stride(3).dilation(2).on(1, 14, 13),
        Conv::new(16, 8).kernel(3).stride(4).dilation(6).on(1, 7, 9),
    ];
    agree(ALIGNED, &cases, PLAIN);
}

/// Enough blocks that the plans take large tiles and split positions.
#[test]
fn large_tiles() {
    let case = Conv::new(72, 72).bias();
    agree_in(Dtype::F32, case.on(1, 130, 130), PLAIN);
    agree_in(Dtype::Bf16, case.on(2, 130, 130), PLAIN);
}

/// A weight that begins within a chunk of its 16-bit copy, or of the parameters themselves.
#[test]
fn unaligned_weights() {
    for offset in [4, 3] {
        agree(offset, &[Conv::new(16, 16).kernel(3).bias().on(1, 6, 7)], PLAIN);
    }
}

/// Aligned groups, groups whose channels are no whole chunks, one channel per group.
const GROUPED: [Conv; 8] = [
    Conv::new(32, 16).groups(2).kernel(3).bias().on(2, 9, 11),
    Conv::new(48, 24).groups(3).kernel(3).stride(2).on(1, 10, 7),
    Conv::new(144, 144).groups(2).bias().on(2, 7, 9),
    Conv::new(64, 10).groups(2).bias().on(2, 7, 5),
    Conv::new(10, 14).groups(2).kernel(3).stride(2).dilation(2).bias().on(1, 9, 8),
    Conv::new(16, 32).groups(2).kernel(3).dilation(6).on(1, 12, 11),
    Conv::new(12, 24).groups(4).kernel(3).stride(3).on(2, 5, 6),
    Conv::new(5, 10).groups(5).kernel(3).bias().on(1, 6, 7),
];

#[test]
fn groups() {
    agree(ALIGNED, &GROUPED, PLAIN);
    agree(3, &GROUPED[..2], PLAIN);
}

/// Enough blocks that the plans take large tiles, with positions in splits.
#[test]
fn groups_in_large_tiles() {
    agree(0, &[Conv::new(144, 144).groups(2).bias().on(1, 96, 96)], PLAIN);
}

/// Every access to memory is checked.
#[test]
fn no_access_is_out_of_place() {
    let cases = [
        Conv::new(8, 24).kernel(3).stride(2).bias().on(1, 5, 7),
        Conv::new(3, 5).kernel(3).dilation(2).bias().on(1, 4, 5),
        Conv::new(3, 8).kernel(3).stride(2).bias().on(1, 5, 7),
        Conv::new(3, 8).kernel(7).stride(2).on(1, 5, 7),
        Conv::new(16, 8).on(2, 1, 1),
        Conv::new(16, 24).groups(2).kernel(3).stride(2).bias().on(1, 5, 7),
        Conv::new(9, 6).groups(3).kernel(3).dilation(2).bias().on(1, 4, 5),
    ];
    agree(ALIGNED, &cases, CHECKED);
}

/// The same bits in any order of threads, and whenever copies land.
#[test]
fn results_do_not_depend_on_the_order_of_threads() {
    let orders = [
        EmulatorOptions { schedule: Schedule::Descending, copies: CopyTime::Early, ..PLAIN },
        EmulatorOptions { schedule: Schedule::Seeded(7), copies: CopyTime::Seeded(8), ..PLAIN },
    ];
    let cases = [
        Conv::new(16, 24).kernel(3).stride(2).bias().on(2, 13, 11),
        Conv::new(3, 8).kernel(3).bias().on(1, 19, 17),
    ];
    for dtype in DTYPES {
        for case in cases.map(|case| case.at(ALIGNED)) {
            let inputs = Inputs::new(case, dtype);
            for &tile in tiles(dtype) {
                let run = |options| Some(inputs.run(&device_with(tile, dtype, options)?));
                let Some(first) = run(PLAIN) else { return };
                for options in orders {
                    let again = run(options).expect("it opened before");
                    for ((part, got), (_, want)) in again.parts().into_iter().zip(first.parts()) {
                        let what = format!("{part} in {dtype:?} of a {case}, {tile:?}, {options:?}");
                        assert_same_bits(&what, got, want);
                    }
                }
            }
        }
    }
}

/// The copy holds every parameter rounded to nearest even, and is made once.
#[test]
fn half_precision_parameters() {
    let Some(d) = device(Dtype::Bf16, PLAIN) else { return };
    for len in [1, 8, 13, 2051] {
        let params = d.upload_vector(&draw::uniform(len, 5));
        assert!(params.half().is_none(), "a copy of {len} before one is asked for");
        let half = d.half(&params);
        assert_eq!(half.bytes(), 2 * len);
        assert_eq!(d.half(&params).ptr(), half.ptr(), "another copy of {len}");
    }
    // What a convolution sees: 1x1 of an image that is one at each channel in turn.
    let weights = draw::uniform(35 * 32, 6);
    let conv = Conv::new(32, 35).spec();
    let eye: Vec<f32> = (0..32 * 32).map(|i| f32::from(u8::from(i / 32 == i % 32))).collect();
    let x = d.upload(Shape::new(1, 32, 1, 32), &eye);
    let y = d.download(&conv2d_fprop(&d, &Fprop::new(&x, &d.upload_vector(&weights), &conv)).unwrap().y);
    for (i, v) in y.iter().enumerate() {
        let (c, o) = (i / 35, i % 35);
        assert_eq!(*v, half::bf16::from_f32(weights[o * 32 + c]).to_f32(), "output {o}, input {c}");
    }
    d.check().unwrap();
}
