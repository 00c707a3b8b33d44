//! What there is to run kernels on: the driver, its version, its cards, and whether this program can use them. Creates no
//! lasting state on a card.

use super::modules;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute, CUresult};
use std::ffi::c_int;

/// The oldest compute capability with asynchronous copies and bf16 on tensor cores.
const OLDEST_CAPABILITY: (u32, u32) = (8, 0);

/// The driver and its cards.
#[derive(Debug)]
pub struct Platform {
    /// The newest CUDA version that the driver supports.
    pub version: (u32, u32),
    /// In the driver's order.
    pub devices: Vec<Device>,
}

/// A card.
#[derive(Debug)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its compute capability.
    pub capability: (u32, u32),
    /// Its streaming multiprocessors.
    pub multiprocessors: u32,
    /// Its memory in bytes.
    pub memory: usize,
}

/// An error's name and meaning, as the driver puts them, and what helps.
pub(super) fn describe(error: DriverError) -> String {
    let text = |s: Result<&std::ffi::CStr, DriverError>| s.ok().map(|s| s.to_string_lossy().into_owned());
    let name = text(error.error_name()).unwrap_or_else(|| format!("{:?}", error.0));
    let meaning = text(error.error_string()).map_or(String::new(), |s| format!(" ({s})"));
    let hint = match error.0 {
        CUresult::CUDA_ERROR_STUB_LIBRARY => {
            "; the toolkit's stub was loaded instead of the driver: take it out of LD_LIBRARY_PATH"
        }
        CUresult::CUDA_ERROR_NO_DEVICE => "; check nvidia-smi and CUDA_VISIBLE_DEVICES",
        CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => {
            "; the driver's library and kernel module are of different versions: restart the machine"
        }
        CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            "; the driver is too old to translate this program's PTX: update it"
        }
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU => "; the program has no code for this card",
        _ => "",
    };
    format!("{name}{meaning}{hint}")
}

/// Version of the driver; why there is none otherwise.
///
/// # Errors
/// A sentence that says what is missing.
fn driver_version() -> Result<(u32, u32), String> {
    // SAFETY: opens and closes the driver's library, whose initialisers are sound to run at any time.
    if !unsafe { sys::is_culib_present() } {
        return Err("no CUDA driver was found (libcuda.so.1): install NVIDIA's driver; in a container, start it with \
                    access to the GPU"
            .into());
    }
    let mut version: c_int = 0;
    // SAFETY: the library is present, and the version may be asked for before cuInit.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(describe)?;
    Ok((version as u32 / 1000, version as u32 % 1000 / 10))
}

/// The driver and its cards.
///
/// # Errors
/// A sentence that says why there are none.
pub fn probe() -> Result<Platform, String> {
    let version = driver_version()?;
    let asked =
        |e| format!("the CUDA driver (for CUDA {}.{}) finds no GPU: {}", version.0, version.1, describe(e));
    result::init().map_err(asked)?;
    let count = result::device::get_count().map_err(asked)?;
    let devices = (0..count).map(device).collect::<Result<_, _>>().map_err(asked)?;
    Ok(Platform { version, devices })
}

fn device(ordinal: c_int) -> Result<Device, DriverError> {
    let device = result::device::get(ordinal)?;
    // SAFETY: `device` was just given by the driver, here and below.
    let attribute = |a| unsafe { result::device::get_attribute(device, a) }.map(|v| v as u32);
    Ok(Device {
        name: result::device::get_name(device)?,
        capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        // SAFETY: as above.
        memory: unsafe { result::device::total_mem(device) }?,
    })
}

impl Platform {
    /// Whether the driver can load this program's kernels. Code runs on drivers of the toolkit's major version and later.
    ///
    /// # Errors
    /// A sentence that says which driver is needed.
    pub fn check_driver(&self) -> Result<(), String> {
        match modules::toolkit() {
            Some((major, _)) if self.version.0 < major => Err(format!(
                "the driver supports CUDA {}.{}, the kernels in this program were compiled by CUDA {major} and need a \
                 driver for CUDA {major}.0 or newer: update the driver, or build with an older toolkit",
                self.version.0, self.version.1
            )),
            _ => Ok(()),
        }
    }

    /// The card with this index, if this program can run on it.
    ///
    /// # Errors
    /// A sentence that says why it cannot.
    pub fn usable(&self, index: usize) -> Result<&Device, String> {
        if let Some(missing) = modules::missing() {
            return Err(missing);
        }
        self.check_driver()?;
        let count = self.devices.len();
        let device = self.devices.get(index).ok_or_else(|| match count {
            0 => "the driver finds no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES".to_string(),
            1 => format!("no GPU has index {index}: there is one, cuda:0"),
            _ => format!("no GPU has index {index}: there are {count}, cuda:0 to cuda:{}", count - 1),
        })?;
        let (major, minor) = device.capability;
        if device.capability < OLDEST_CAPABILITY {
            return Err(format!(
                "{} has compute capability {major}.{minor}; the kernels need {}.{} (Ampere) or newer",
                device.name, OLDEST_CAPABILITY.0, OLDEST_CAPABILITY.1
            ));
        }
        if !modules::covers(device.capability) {
            return Err(format!(
                "{} has compute capability {major}.{minor}; this program has code for {} only: build it again without \
                 PSMT_CUDA_TARGETS",
                device.name,
                modules::targets().join(", ")
            ));
        }
        Ok(device)
    }
}

/// Index of the card that `--device auto` takes: the first that this program can run on; otherwise why there is none.
///
/// # Errors
/// A sentence that says why there is none.
pub fn first_usable() -> Result<usize, String> {
    if let Some(missing) = modules::missing() {
        return Err(missing);
    }
    let platform = probe()?;
    let found = (0..platform.devices.len()).find(|&i| platform.usable(i).is_ok());
    found.map_or_else(|| platform.usable(0).map(|_| 0), Ok)
}
