//! Devices by name, and running code that is generic over them.

use crate::backend::cpu::Cpu;
use crate::backend::cuda::driver::Driver;
use crate::backend::cuda::emulator::{self, EmulatorOptions};
use crate::backend::cuda::gpu::{self, Gpu};
use crate::backend::cuda::{Cuda, Dtype, Tile};
use crate::ops::Backend;
use crate::{Error, Result};
use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};
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

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => write!(f, "cpu"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
            Device::Emulated => write!(f, "emulated"),
            Device::EmulatedCheck => write!(f, "emulated-check"),
            Device::Auto => write!(f, "auto"),
        }
    }
}

/// Type that a device computes in; on a GPU that of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Precision {
    F64,
    F32,
    Bf16,
}

/// Flags of commands that run networks.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(super) struct DeviceArgs {
    /// Where to compute: cpu, cuda, cuda:INDEX, emulated, emulated-check, or auto (a GPU where there is one)
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Type of activations: f32, or bf16 on a GPU or the emulator [default: bf16 on a GPU, else f32]
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

/// The tiles that can be asked for, smallest first.
fn tiles() -> [Tile; Tile::CHOICES.len()] {
    let mut tiles = Tile::CHOICES;
    tiles.reverse();
    tiles
}

/// Reads the name of a tile of the convolution kernels.
pub(super) fn tile_parser() -> impl TypedValueParser<Value = Tile> {
    let tiles = tiles();
    let tile = move |name: String| tiles.into_iter().find(|tile| tile.name() == name);
    PossibleValuesParser::new(tiles.map(Tile::name)).map(move |name| tile(name).expect("a possible value"))
}

/// The processor, which `--tile` is no use to.
///
/// # Errors
/// [`Error::Usage`] where a tile is asked for.
pub(super) fn refuse_tile(tile: Option<Tile>) -> Result<()> {
    match tile {
        None => Ok(()),
        Some(tile) => Err(Error::Usage(format!(
            "--tile {}: the processor has no tiles; expected --device cuda or --device emulated",
            tile.name()
        ))),
    }
}

/// The device with a tile for all convolutions that it fits, where one is asked for.
///
/// # Errors
/// [`Error::Usage`] where the device has no kernel of this tile in its precision.
pub(super) fn with_tile(b: Cuda, tile: Option<Tile>) -> Result<Cuda> {
    let Some(tile) = tile else { return Ok(b) };
    if b.has_tile(tile) {
        return Ok(b.with_tile(tile));
    }
    let has: Vec<&str> = tiles().into_iter().filter(|&t| b.has_tile(t)).map(Tile::name).collect();
    Err(Error::Usage(format!(
        "--tile {}: {} has no kernels with it in this precision (wgmma needs bf16 and compute capability 9.0); expected {}",
        tile.name(),
        b.name(),
        has.join(" or ")
    )))
}

/// A device that is ready.
pub(super) enum Opened {
    Cpu(Cpu<f32>),
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

    /// What runs kernels: of a GPU or the emulator, where this build and this machine have it; `None` for the processor.
    pub fn driver(self) -> Result<Option<Arc<dyn Driver>>> {
        Ok(match self.resolve() {
            Device::Cuda(index) => Some(Arc::new(Gpu::open(index)?)),
            device @ (Device::Emulated | Device::EmulatedCheck) => {
                let check = device == Device::EmulatedCheck;
                Some(emulator::open(EmulatorOptions { check, ..EmulatorOptions::default() })?)
            }
            Device::Cpu | Device::Auto => None,
        })
    }
}

/// `on_device!(opened, b => body)`: evaluates `body`, a `Result`, with `b` a reference to the opened device. A fault of the
/// device that `body` did not see is the result.
macro_rules! on_device {
    ($opened:expr, $b:ident => $body:expr) => {{
        use $crate::cli::device::Opened;
        match $opened {
            Opened::Cpu($b) => $crate::cli::device::finish(&$b, (|$b| $body)(&$b)),
            Opened::Cuda($b) => $crate::cli::device::finish(&$b, (|$b| $body)(&$b)),
        }
    }};
}
pub(super) use on_device;

/// The fault of the device, if there is one, else `result`.
pub(super) fn finish<B: Backend, T>(b: &B, result: Result<T>) -> Result<T> {
    b.check().and(result)
}
