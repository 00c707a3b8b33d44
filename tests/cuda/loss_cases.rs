//! What tests of losses share: devices and cases to run on, the same inputs on a device and on the CPU, and
//! the comparison of both.

use crate::compare::{assert_within, largest};
use crate::cuda_common::{DTYPES, PLAIN, assert_no_fault};
use crate::draw;
use crate::driver_common::emulator;
use crate::loss_common::{Case, Teachers};
use psmt_emulator::EmulatorOptions;
use psmt_fast::backend::cpu::{self, Cpu};
use psmt_fast::backend::cuda::{Cuda, Dtype, Tensor};
use psmt_fast::ops::*;
use std::sync::Arc;

pub type Cpu64 = Cpu<f64>;
pub type Tensor64 = cpu::Tensor<f64>;
type Labels = <Cuda as Device>::Labels;

/// They include 1, primes, sizes that are no multiple of 4, downsampling and more than one tile.
const CASES: [Case; 6] = [
    Case { logits: Shape::new(2, 5, 7, 11), size: (17, 25) },
    Case { logits: Shape::new(1, 1, 1, 2), size: (5, 6) },
    Case { logits: Shape::new(2, 3, 9, 21), size: (9, 33) },
    Case { logits: Shape::new(2, 11, 13, 5), size: (7, 5) },
    Case { logits: Shape::new(1, 6, 5, 33), size: (21, 17) },
    Case { logits: Shape::new(1, 2, 3, 1), size: (2, 140) },
];

/// A device of each type of activations; none, which standard error says, where this build has no emulator.
pub fn devices(options: EmulatorOptions) -> Vec<(Dtype, Cuda)> {
    let driver = emulator(options);
    driver
        .into_iter()
        .flat_map(|driver| DTYPES.map(|dtype| (dtype, Cuda::new(driver.clone(), dtype))))
        .collect()
}

/// A case on a device.
pub struct Trial {
    pub dtype: Dtype,
    pub b: Cuda,
    pub case: Case,
}

/// Runs `test` in every case on every device; what it is given as text names op, device and case.
pub fn each_case(op: &str, test: impl Fn(&Trial, &str)) {
    for (dtype, b) in devices(PLAIN) {
        for case in CASES {
            let what = format!("{op} in {dtype:?}, {case}");
            let trial = Trial { dtype, b: b.clone(), case };
            test(&trial, &what);
            assert_no_fault(&b, &what);
        }
    }
}

impl Trial {
    /// Logits of the case's shape on the CPU and on the device, as [`pair`].
    pub fn logits(&self, scale: f64, seed: u64) -> (Tensor64, Tensor) {
        pair(&self.b, self.case.logits, scale, seed)
    }

    /// The same labels on the CPU and on the device, of which a share of about `ignored` is ignored.
    pub fn labels(&self, ignored: f32, seed: u64) -> (cpu::Labels, Labels) {
        let (shape, data) = (self.case.pixels(), self.case.labels(ignored, seed));
        let device = self.b.upload_labels(shape, &data);
        (cpu::Labels { shape, data: Arc::new(data) }, device)
    }

    /// The same two teachers on the CPU and on the device.
    pub fn teachers(&self, ensemble: Ensemble, seed: u64) -> (Teachers<Cpu64>, Teachers<Cuda>) {
        let ((core64, core), (assist64, assist)) = (self.logits(2.0, seed), self.logits(2.0, seed + 1));
        (Teachers { core: core64, assist: assist64, ensemble }, Teachers { core, assist, ensemble })
    }

    /// The teachers' pseudo labels at the case's size.
    pub fn pseudo_labels(&self, teachers: &Teachers<Cuda>) -> PseudoLabel<Cuda> {
        ensemble_pseudo_label(&self.b, &teachers.logits(), self.case.size).expect("valid input")
    }

    /// As [`all_close`].
    #[track_caller]
    pub fn assert_close(&self, what: &str, got: &Tensor, want: &Tensor64) {
        all_close(what, self.dtype, &to_cpu(&self.b, got), want);
    }

    /// Asserts that losses, which are f32 terms summed in f64, differ by at most a part in 10^5.
    #[track_caller]
    pub fn assert_loss(&self, what: &str, got: &<Cuda as Device>::Scalar, want: f64) {
        assert_within(what, &[self.b.read_scalar(got)], &[want], |_| 1e-5 * want.abs() + 1e-12);
    }
}

/// Asserts that a device's tensor is the CPU's: sums in f32 of terms of either sign may differ by a few dozen
/// roundings (2^-24 each) of the largest value; results in bf16 are rounded once more, by up to 2^-9 of their
/// own value.
#[track_caller]
pub fn all_close(what: &str, dtype: Dtype, got: &Tensor64, want: &Tensor64) {
    assert_eq!(got.shape(), want.shape(), "{what}");
    let sums = 1e-5 * largest(want.data()) + 1e-30;
    let rounding = if dtype == Dtype::Bf16 { 1.0 / 256.0 } else { 0.0 };
    assert_within(what, got.data(), want.data(), |i| sums + rounding * want.data()[i].abs());
}

/// The same values on the CPU and on a device, normal with deviation `scale`.
pub fn pair(b: &Cuda, shape: Shape, scale: f64, seed: u64) -> (Tensor64, Tensor) {
    let values: Vec<f32> = draw::normal(shape.len(), scale, seed).into_iter().map(|v| v as f32).collect();
    let x = b.upload(shape, &values);
    // What the device holds: rounded where its activations are bf16.
    (to_cpu(b, &x), x)
}

pub fn to_cpu(b: &Cuda, x: &Tensor) -> Tensor64 {
    Tensor64::new(Cuda::shape(x), b.download(x).into_iter().map(f64::from).collect())
}
