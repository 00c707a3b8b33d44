//! Devices by name, and running code that is generic over them.

use crate::backend::cpu::Cpu;
use crate::backend::cuda::emulator::{self, EmulatorOptions};
use crate::backend::cuda::gpu::{self, Gpu};
use crate::backend::cuda::{Cuda, Dtype};
use crate::{Error, Result};
use clap::ValueEnum;
use std::str::FromStr;
use std::sync::Arc;

/// Where to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Device {
    /// The processor.
    Cpu,
    /// The NVIDIA GPU with this index.
    Cuda(usize),
    /// The kernels of the GPU, run on the processor.
    Emulated,
    /// The same with every access to memory checked.
    EmulatedCheck,
    /// The first GPU that this program can use, otherwise the processor.
    Auto,
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Device, String> {
        let unknown = || "expected cpu, cuda, cuda:INDEX, emulated, emulated-check or auto".to_string();
        match text {
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda(0)),
            "emulated" => Ok(Device::Emulated),
            "emulated-check" => Ok(Device::EmulatedCheck),
            "auto" => Ok(Device::Auto),
            _ => {
                let index = text.strip_prefix("cuda:").and_then(|index| index.parse().ok());
                index.map(Device::Cuda).ok_or_else(unknown)
            }
        }
    }
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
    /// The device that `auto` stands for; others as they are.
    pub fn resolve(self) -> Device {
        if self != Device::Auto {
            return self;
        }
        match gpu::first_usable() {
            Ok(index) => {
                tracing::info!("device cuda:{index}");
                Device::Cuda(index)
            }
            Err(reason) => {
                tracing::info!("device cpu, as {reason}");
                Device::Cpu
            }
        }
    }

    /// The device, where this build and this machine have it.
    pub fn open(self, precision: Precision) -> Result<Opened> {
        let unavailable = |name: String, message: &str| Err(Error::Device { name, message: message.into() });
        let dtype = match precision {
            Precision::F64 => None,
            Precision::F32 => Some(Dtype::F32),
            Precision::Bf16 => Some(Dtype::Bf16),
        };
        match (self.resolve(), dtype) {
            (Device::Cpu, None) => Ok(Opened::CpuDouble(Cpu::new())),
            (Device::Cpu, Some(Dtype::F32)) => Ok(Opened::Cpu(Cpu::new())),
            (Device::Cpu, Some(Dtype::Bf16)) => {
                unavailable("cpu".into(), "computes in f64 and f32, not in bf16")
            }
            (Device::Cuda(index), None) => {
                unavailable(format!("cuda:{index}"), "computes in f32 and bf16, not in f64")
            }
            (Device::Cuda(index), Some(dtype)) => {
                Ok(Opened::Cuda(Cuda::new(Arc::new(Gpu::open(index)?), dtype)))
            }
            (Device::Emulated | Device::EmulatedCheck, None) => {
                unavailable("emulated".into(), "computes in f32 and bf16, not in f64")
            }
            (Device::Emulated | Device::EmulatedCheck, Some(dtype)) => {
                let options =
                    EmulatorOptions { check: self == Device::EmulatedCheck, ..EmulatorOptions::default() };
                Ok(Opened::Cuda(Cuda::new(emulator::open(options)?, dtype)))
            }
            (Device::Auto, _) => unreachable!("resolved above"),
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
    b.check().and(result)
}
