//! Devices by name, and running code that is generic over them.

use crate::backend::cpu::Cpu;
use crate::backend::cuda::driver::Driver;
use crate::backend::cuda::gpu::{self, Gpu};
use crate::backend::cuda::{Cuda, Dtype};
use crate::ops::Backend;
use crate::{Error, Result};
use clap::ValueEnum;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

/// A device that a program adds to those of this one: runs the GPU's kernels by another driver.
pub struct ExtraDevice {
    /// As on the command line.
    pub name: &'static str,
    /// Makes the driver.
    pub open: fn() -> Result<Arc<dyn Driver>>,
}

static EXTRA: OnceLock<&'static [ExtraDevice]> = OnceLock::new();

/// Makes `--device` take these too; only the first call has an effect.
pub fn add_devices(devices: &'static [ExtraDevice]) {
    let _ = EXTRA.set(devices);
}

/// The devices that the program has added.
pub fn extra_devices() -> &'static [ExtraDevice] {
    EXTRA.get().copied().unwrap_or_default()
}

/// Where to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The processor.
    Cpu,
    /// The NVIDIA GPU with this index.
    Cuda(usize),
    /// The one with this index of [`extra_devices`].
    Extra(usize),
    /// The first GPU that this program can use, otherwise the processor.
    Auto,
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Device, String> {
        let extra = extra_devices();
        let unknown = || {
            let extra: String = extra.iter().map(|device| format!("{}, ", device.name)).collect();
            format!("expected cpu, cuda, cuda:INDEX, {extra}or auto")
        };
        match text {
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda(0)),
            "auto" => Ok(Device::Auto),
            _ => {
                if let Some(index) = extra.iter().position(|device| device.name == text) {
                    return Ok(Device::Extra(index));
                }
                let index = text.strip_prefix("cuda:").and_then(|index| index.parse().ok());
                index.map(Device::Cuda).ok_or_else(unknown)
            }
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => write!(f, "cpu"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
            Device::Extra(index) => write!(f, "{}", extra_devices()[*index].name),
            Device::Auto => write!(f, "auto"),
        }
    }
}

/// Type that a device computes in; on a GPU that of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// 64-bit floats, on the processor.
    F64,
    /// 32-bit floats.
    F32,
    /// bf16 with sums in 32 bits, where kernels run.
    Bf16,
}

/// Flags of commands that run networks.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct DeviceArgs {
    /// Where to compute: cpu, cuda, cuda:INDEX, or auto (a GPU where there is one)
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Type of activations: f32, or bf16 on a GPU [default: bf16 on a GPU, else f32]
    #[arg(long, value_enum)]
    precision: Option<Precision>,
}

impl DeviceArgs {
    /// The device that is meant and the type that it computes in.
    pub fn resolve(self) -> (Device, Precision) {
        let device = self.device.resolve();
        let usual = if matches!(device, Device::Cuda(_)) { Precision::Bf16 } else { Precision::F32 };
        (device, self.precision.unwrap_or(usual))
    }

    /// The device, where this build and this machine have it.
    pub fn open(self) -> Result<Opened> {
        let (device, precision) = self.resolve();
        device.open(precision)
    }
}

/// A device that is ready.
pub enum Opened {
    /// The processor.
    Cpu(Cpu<f32>),
    /// A GPU, or another driver of its kernels.
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
        let device = self.resolve();
        let unavailable =
            |message: &str| Err(Error::Device { name: device.to_string(), message: message.into() });
        let dtype = match precision {
            Precision::F64 if device == Device::Cpu => {
                return unavailable("computes in f64 in `op` and `gradcheck` only; expected f32");
            }
            Precision::F64 => return unavailable("computes in f32 and bf16, not in f64"),
            Precision::Bf16 if device == Device::Cpu => {
                return unavailable("computes in f64 and f32, not in bf16");
            }
            Precision::F32 => Dtype::F32,
            Precision::Bf16 => Dtype::Bf16,
        };
        Ok(match device.driver()? {
            None => Opened::Cpu(Cpu::new()),
            Some(driver) => Opened::Cuda(Cuda::new(driver, dtype)),
        })
    }

    /// What runs kernels: of a GPU or the emulator, where this build and this machine have it; `None` for the
    /// processor.
    pub fn driver(self) -> Result<Option<Arc<dyn Driver>>> {
        Ok(match self.resolve() {
            Device::Cuda(index) => Some(Arc::new(Gpu::open(index)?)),
            Device::Extra(index) => Some((extra_devices()[index].open)()?),
            Device::Cpu | Device::Auto => None,
        })
    }
}

/// `on_device!(opened, b => body)`: evaluates `body`, a `Result`, with `b` a reference to the opened device.
/// A fault of the device that `body` did not see is the result.
#[macro_export]
macro_rules! on_device {
    ($opened:expr, $b:ident => $body:expr) => {{
        use $crate::cli::device::Opened;
        match $opened {
            Opened::Cpu($b) => $crate::cli::device::finish(&$b, (|$b| $body)(&$b)),
            Opened::Cuda($b) => $crate::cli::device::finish(&$b, (|$b| $body)(&$b)),
        }
    }};
}

/// The fault of the device, if there is one, else `result`.
pub fn finish<B: Backend, T>(b: &B, result: Result<T>) -> Result<T> {
    b.check().and(result)
}
