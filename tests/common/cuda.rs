//! One body of a test for the CPU device in double precision and the emulated CUDA device, and the comparison of what it gives.
#![allow(dead_code)] // each test binary uses a part

use psmt_emulator::{self as emulator, EmulatorOptions, Schedule};
use psmt_fast::backend::cpu::Cpu;
use psmt_fast::backend::cuda::{Cuda, Dtype};
use psmt_fast::ops::*;
use psmt_fast::rng::{Domain, Key};

/// What a result is, how far it may be off by its own rounding, its values.
pub type Outcome = (String, f64, Vec<f32>);

/// The inputs that a body draws and the results that it gives.
pub struct Run {
    pub dtype: Dtype,
    draws: u64,
    pub results: Vec<Outcome>,
}

impl Run {
    /// Numbers from -1 to 1, other ones at each call.
    pub fn values(&mut self, len: usize) -> Vec<f32> {
        self.draws += 1;
        let key = Key::new(self.draws, Domain::Bench, 0);
        (0..len).map(|i| key.uniform(i as u64) * 2.0 - 1.0).collect()
    }

    /// An activation with the given values, which are first rounded to what the activation type can hold, so that both
    /// devices read the same.
    pub fn upload<B: Backend>(&self, b: &B, shape: Shape, mut data: Vec<f32>) -> B::Tensor {
        if self.dtype == Dtype::Bf16 {
            data.iter_mut().for_each(|v| *v = half::bf16::from_f32(*v).to_f32());
        }
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
        self.results.push((format!("{} {}", what.into(), B::shape(y)), rounding, b.download(y)));
    }

    pub fn put_vector<B: Backend>(&mut self, b: &B, what: impl Into<String>, v: &B::Vector) {
        self.results.push((what.into(), (-24f64).exp2(), b.download_vector(v)));
    }
}

/// What a body gives on a device.
pub fn run<B: Backend>(b: &B, dtype: Dtype, body: fn(&B, &mut Run)) -> Vec<Outcome> {
    let mut run = Run { dtype, draws: 0, results: Vec::new() };
    body(b, &mut run);
    if let Err(fault) = b.check() {
        panic!("{fault}");
    }
    run.results
}

/// An emulated device; `None`, with a word, where this build has none.
pub fn device(dtype: Dtype, check: bool, schedule: Schedule) -> Option<Cuda> {
    match emulator::open(EmulatorOptions { check, schedule, ..EmulatorOptions::default() }) {
        Ok(driver) => Some(Cuda::new(driver, dtype)),
        Err(e) => {
            eprintln!("skipped: {e}");
            None
        }
    }
}

/// Each value may be off by its own rounding to the result's type, and by `tolerance` of the largest reference value:
/// what the sums in f32 may lose.
fn close(dtype: Dtype, got: &[Outcome], want: &[Outcome], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "number of results");
    for ((what, rounding, got), (_, _, want)) in got.iter().zip(want) {
        assert_eq!(got.len(), want.len(), "{what}: length");
        let scale = want.iter().fold(0.0, |m: f64, v| m.max(f64::from(v.abs())));
        for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
            let allowed = rounding * f64::from(want.abs()) + tolerance * scale;
            let error = f64::from(got) - f64::from(want);
            assert!(
                error.abs() <= allowed,
                "{what} in {dtype:?}: element {i} is {got}, not {want}; {allowed:e} allowed"
            );
        }
    }
}

/// Runs a body on the CPU in f64 and on the emulated device in f32 and bf16; the device once more with every access
/// checked and the threads in another order, which must give the same bits. It is one generic body, given for both devices.
pub fn agree(on_cpu: fn(&Cpu<f64>, &mut Run), on_cuda: fn(&Cuda, &mut Run), tolerance: f64) {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let want = run(&Cpu::<f64>::new(), dtype, on_cpu);
        let Some(plain) = device(dtype, false, Schedule::Ascending) else { return };
        let got = run(&plain, dtype, on_cuda);
        close(dtype, &got, &want, tolerance);
        let Some(checked) = device(dtype, true, Schedule::Seeded(7)) else { return };
        let again = run(&checked, dtype, on_cuda);
        for ((what, _, a), (_, _, b)) in got.iter().zip(&again) {
            let same = a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{what} in {dtype:?}: depends on the order of threads");
        }
    }
}
