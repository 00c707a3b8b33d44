//! Emulated CUDA devices, and one body of a test for them and for the CPU device in double precision with the
//! comparison of what it gives.
#![allow(dead_code)] // each test program uses a part

use crate::compare::{assert_same_bits, assert_within, largest};
use crate::draw;
use crate::driver_common::emulator;
use psmt_emulator::{CopyTime, EmulatorOptions, Schedule};
use psmt_fast::backend::cpu::Cpu;
use psmt_fast::backend::cuda::{Cuda, Dtype};
use psmt_fast::ops::*;

/// Both types of activations.
pub const DTYPES: [Dtype; 2] = [Dtype::F32, Dtype::Bf16];

/// The build of the emulator that follows every access to memory.
pub const CHECKED: EmulatorOptions = EmulatorOptions { check: true, ..PLAIN };

/// The other build, with threads in their order.
pub const PLAIN: EmulatorOptions =
    EmulatorOptions { check: false, schedule: Schedule::Ascending, copies: CopyTime::Late };

/// An emulated device; none, which standard error says, where this build has no emulator.
pub fn device(dtype: Dtype, options: EmulatorOptions) -> Option<Cuda> {
    Some(Cuda::new(emulator(options)?, dtype))
}

/// Panics with the device's first fault, if it had one.
#[track_caller]
pub fn assert_no_fault<B: Backend>(b: &B, what: &str) {
    if let Err(fault) = b.check() {
        panic!("{what}: {fault}");
    }
}

/// The value that an activation of this type holds.
pub fn rounded(value: f32, dtype: Dtype) -> f32 {
    if dtype == Dtype::Bf16 { half::bf16::from_f32(value).to_f32() } else { value }
}

/// A result of a body.
pub struct Outcome {
    what: String,
    /// How far a value may be off by its own rounding, as a share of itself.
    rounding: f64,
    values: Vec<f32>,
}

/// The inputs that a body draws and the results that it gives.
pub struct Run {
    pub dtype: Dtype,
    draws: u64,
    results: Vec<Outcome>,
}

impl Run {
    /// Numbers from -1 to 1, other ones at each call.
    pub fn values(&mut self, len: usize) -> Vec<f32> {
        self.draws += 1;
        draw::uniform(len, self.draws)
    }

    /// An activation with the given values, which are first rounded to what the activation type can hold, so
    /// that both devices read the same.
    pub fn upload<B: Backend>(&self, b: &B, shape: Shape, mut data: Vec<f32>) -> B::Tensor {
        data.iter_mut().for_each(|v| *v = rounded(*v, self.dtype));
        b.upload(shape, &data)
    }

    pub fn tensor<B: Backend>(&mut self, b: &B, shape: Shape) -> B::Tensor {
        let data = self.values(shape.len());
        self.upload(b, shape, data)
    }

    pub fn vector<B: Backend>(&mut self, b: &B, len: usize) -> B::Vector {
        let data = self.values(len);
        b.upload_vector(&data)
    }

    /// A result that is rounded once to the activation type.
    pub fn put<B: Backend>(&mut self, b: &B, what: impl Into<String>, y: &B::Tensor) {
        // Half the distance of neighbours at 1.
        let rounding = if self.dtype == Dtype::Bf16 { (-8f64).exp2() } else { (-24f64).exp2() };
        let what = format!("{} {}", what.into(), B::shape(y));
        self.results.push(Outcome { what, rounding, values: b.download(y) });
    }

    /// A result in single precision.
    pub fn put_vector<B: Backend>(&mut self, b: &B, what: impl Into<String>, v: &B::Vector) {
        self.results.push(Outcome {
            what: what.into(),
            rounding: (-24f64).exp2(),
            values: b.download_vector(v),
        });
    }

    /// A result that is exact.
    pub fn put_exact(&mut self, what: String, values: Vec<f32>) {
        self.results.push(Outcome { what, rounding: 0.0, values });
    }
}

/// What a body gives on a device.
pub fn run<B: Backend>(b: &B, dtype: Dtype, body: fn(&B, &mut Run)) -> Vec<Outcome> {
    let mut run = Run { dtype, draws: 0, results: Vec::new() };
    body(b, &mut run);
    assert_no_fault(b, &format!("{dtype:?}"));
    run.results
}

/// Asserts that results have the same bits.
pub fn assert_same(what: &str, got: &[Outcome], want: &[Outcome]) {
    assert_eq!(got.len(), want.len(), "{what}: number of results");
    for (got, want) in got.iter().zip(want) {
        assert_same_bits(&format!("{}: {what}", got.what), &got.values, &want.values);
    }
}

/// Each value may be off by its own rounding to the result's type, and by `tolerance` of the largest
/// reference value: what the sums in f32 may lose.
fn close(dtype: Dtype, got: &[Outcome], want: &[Outcome], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "number of results");
    for (got, want) in got.iter().zip(want) {
        let sums = tolerance * largest(&want.values);
        let allowed = |i: usize| got.rounding * f64::from(want.values[i].abs()) + sums;
        assert_within(&format!("{} in {dtype:?}", got.what), &got.values, &want.values, allowed);
    }
}

/// Runs a body on the CPU in f64 and on the emulated device in f32 and bf16; the device once more with every
/// access checked and the threads in another order, which must give the same bits. It is one generic body,
/// given for both devices.
pub fn agree(on_cpu: fn(&Cpu<f64>, &mut Run), on_cuda: fn(&Cuda, &mut Run), tolerance: f64) {
    for dtype in DTYPES {
        let Some(plain) = device(dtype, PLAIN) else { return };
        let want = run(&Cpu::<f64>::new(), dtype, on_cpu);
        let got = run(&plain, dtype, on_cuda);
        close(dtype, &got, &want, tolerance);
        let other_order = EmulatorOptions { schedule: Schedule::Seeded(7), ..CHECKED };
        let Some(checked) = device(dtype, other_order) else { return };
        let again = run(&checked, dtype, on_cuda);
        assert_same(&format!("{dtype:?}, another order of threads"), &again, &got);
    }
}
