//! What a device must offer for its derivatives to be checked, and how closely they must agree.

use psmt_fast::backend::cpu::Cpu;
use psmt_fast::backend::cuda::Cuda;
use psmt_fast::ops::{Backend, Device};

/// How a claim is judged.
#[derive(Clone, Copy, Debug)]
pub struct Bar {
    /// Largest relative error that passes.
    pub tolerance: f64,
    /// How far, relative to its size, measurements of a derivative may differ: steps by a tenth of it,
    /// confusable points by half. More is a kink.
    pub smooth: f64,
    /// Steps of the central differences, tried one after another until one meets no kink.
    pub steps: &'static [f64],
    /// How far, relative to its size, a value may be off by the device's rounding; 0 where that is nothing.
    pub rounding: f64,
}

impl Bar {
    /// For claims in double precision, as exact as central differences are. A kink nearby is stepped around.
    pub const EXACT: Bar = Bar { tolerance: 1e-6, smooth: 1e-6, steps: &[1e-5, 1e-6, 1e-7], rounding: 0.0 };
}

/// A device whose claims can be read back as they are.
pub trait Claimant: Backend + Clone {
    /// The values of an activation.
    fn values(&self, x: &Self::Tensor) -> Vec<f64>;
    /// The values of a vector.
    fn vector_values(&self, v: &Self::Vector) -> Vec<f64>;
    /// The bar for a check.
    fn bar(op: &str) -> Bar;
}

impl Claimant for Cpu<f64> {
    fn values(&self, x: &Self::Tensor) -> Vec<f64> {
        x.data().to_vec()
    }
    fn vector_values(&self, v: &Self::Vector) -> Vec<f64> {
        v.clone()
    }
    fn bar(_: &str) -> Bar {
        Bar::EXACT
    }
}

impl Claimant for Cuda {
    fn values(&self, x: &Self::Tensor) -> Vec<f64> {
        self.download(x).into_iter().map(f64::from).collect()
    }
    fn vector_values(&self, v: &Self::Vector) -> Vec<f64> {
        self.download_vector(v).into_iter().map(f64::from).collect()
    }
    /// Largest errors of the emulator in f32 over 24 seeds, each relative to a tenth of a typical derivative
    /// where that is larger: 7e-5 in single ops and decoders (most are below 1e-5, the mean squared error's
    /// differences of nearly equal probabilities are the worst), 9e-5 in the encoder. In whole steps, below
    /// 1e-3 but where rounding carries a unit of the small networks over its kink: 1.6e-2. Their parts are
    /// checked more closely by themselves.
    fn bar(op: &str) -> Bar {
        let (tolerance, smooth) = match op {
            "encoder" => (1e-3, 1e-3),
            "train_step" => (3e-2, 3e-3),
            _ => (1e-4, 1e-4),
        };
        Bar { tolerance, smooth, steps: Bar::EXACT.steps, rounding: 1e-6 }
    }
}
