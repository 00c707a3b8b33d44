//! Devices by name, and running code that is generic over them.

use crate::backend::cpu::Cpu;
use crate::backend::cuda::emulator::{self, EmulatorOptions};
use crate::backend::cuda::{Cuda, Dtype};
use crate::{Error, Result};
use clap::ValueEnum;

/// Where to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// The kernels of the GPU, run on the processor.
    Emulated,
    /// The same with every access to memory checked.
    EmulatedCheck,
}

/// Type of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Precision {
    F64,
    F32,
    Bf16,
}

/// A device that is ready.
pub(super) enum Opened {
    Cpu(Cpu<f32>),
    CpuDouble(Cpu<f64>),
    Cuda(Cuda),
}

impl Device {
    /// The device, where this build has it.
    pub fn open(self, precision: Precision) -> Result<Opened> {
        let unavailable =
            |name: &str, message: &str| Err(Error::Device { name: name.into(), message: message.into() });
        let dtype = match precision {
            Precision::F64 => None,
            Precision::F32 => Some(Dtype::F32),
            Precision::Bf16 => Some(Dtype::Bf16),
        };
        match (self, dtype) {
            (Device::Cpu, None) => Ok(Opened::CpuDouble(Cpu::new())),
            (Device::Cpu, Some(Dtype::F32)) => Ok(Opened::Cpu(Cpu::new())),
            (Device::Cpu, Some(Dtype::Bf16)) => unavailable("cpu", "computes in f64 and f32, not in bf16"),
            (Device::Cuda, _) => {
                unavailable("cuda", "this version computes on the CPU only; use --device cpu")
            }
            (Device::Emulated | Device::EmulatedCheck, None) => {
                unavailable("emulated", "computes in f32 and bf16, not in f64")
            }
            (Device::Emulated | Device::EmulatedCheck, Some(dtype)) => {
                let options =
                    EmulatorOptions { check: self == Device::EmulatedCheck, ..EmulatorOptions::default() };
                Ok(Opened::Cuda(Cuda::new(emulator::open(options)?, dtype)))
            }
        }
    }
}

/// `on_device!(device, precision, b => body)`: opens the device and evaluates `body`, a `Result`, with `b` a reference to
/// it. A fault of the device that `body` did not see is the result.
macro_rules! on_device {
    ($device:expr, $precision:expr, $b:ident => $body:expr) => {{
        use $crate::cli::device::Opened;
        match $device.open($precision)? {
            Opened::Cpu($b) => $crate::cli::device::finish(&$b, (|$b| $body)(&$b)),
            Opened::CpuDouble($b) => $crate::cli::device::finish(&$b, (|$b| $body)(&$b)),
            Opened::Cuda($b) => $crate::cli::device::finish(&$b, (|$b| $body)(&$b)),
        }
    }};
}
pub(super) use on_device;

/// The fault of the device, if there is one, else `result`.
pub(super) fn finish<B: crate::ops::Backend, T>(b: &B, result: Result<T>) -> Result<T> {
    match b.take_fault() {
        Some(fault) => Err(fault),
        None => result,
    }
}
