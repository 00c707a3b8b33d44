//! Finds the driver, its version and its cards, and whether this program can use them. Leaves no state on a
//! card.

use super::modules::{self, Code};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute, CUresult};
use std::ffi::c_int;

/// The oldest compute capability with asynchronous copies and bf16 on tensor cores.
const OLDEST_CAPABILITY: (u32, u32) = (8, 0);

/// Major versions of CUDA that can have compiled the kernels, and the oldest driver for each: it runs machine
/// code of every toolkit of that major version (NVIDIA's "CUDA Compatibility", minor version compatibility).
const OLDEST_DRIVERS: [(u32, u32); 2] = [(12, 525), (13, 580)];

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
    /// The driver's name of it.
    pub name: String,
    /// Compute capability: major, minor.
    pub capability: (u32, u32),
    /// Number of streaming multiprocessors.
    pub multiprocessors: u32,
    /// Total memory in bytes.
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
    /// Whether the driver can load this program's machine code.
    ///
    /// # Errors
    /// A sentence that says which driver is needed, and how to do without.
    pub fn check_driver(&self) -> Result<(), String> {
        modules::toolkit().map_or(Ok(()), |toolkit| runs(self.version, toolkit))
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
        let what = format!("{} has compute capability {major}.{minor}", device.name);
        match (modules::code_for(device.capability), modules::toolkit()) {
            (None, _) => Err(format!(
                "{what}; this program has code for {} only: build it again without PSMT_CUDA_TARGETS",
                modules::targets().join(", ")
            )),
            (Some(Code::Ptx), Some(toolkit)) => {
                translates(self.version, toolkit).map_err(|e| format!("{what}; {e}"))?;
                Ok(device)
            }
            _ => Ok(device),
        }
    }
}

/// Whether a driver for CUDA `driver` runs machine code that `toolkit` compiled: it does where its major
/// version is the same or newer, whatever the minor version.
fn runs(driver: (u32, u32), toolkit: (u32, u32)) -> Result<(), String> {
    let (major, minor) = toolkit;
    if driver.0 >= major {
        return Ok(());
    }
    let oldest = |major: u32| OLDEST_DRIVERS.iter().find(|d| d.0 == major);
    let needed = oldest(major).map_or(format!("one for CUDA {major}.0"), |d| format!("driver {}", d.1));
    let (first, for_first) = OLDEST_DRIVERS[0];
    let instead = match major > first {
        true => format!(", or build the program with CUDA {first} for driver {for_first} or newer"),
        false => String::new(),
    };
    Err(format!(
        "the driver supports CUDA {}.{}, and CUDA {major}.{minor} compiled the kernels in this program: update the driver to \
         {needed} or newer{instead} (docs/gpu.md)",
        driver.0, driver.1
    ))
}

/// Whether a driver for CUDA `driver` translates PTX of `toolkit`, which no older driver does: minor versions
/// count.
fn translates(driver: (u32, u32), toolkit: (u32, u32)) -> Result<(), String> {
    if driver >= toolkit {
        return Ok(());
    }
    let ((a, b), (c, d)) = (driver, toolkit);
    Err(format!(
        "for it the program has PTX of CUDA {c}.{d} alone, and the driver supports CUDA {a}.{b}: update the driver to one for \
         CUDA {c}.{d} or newer, or build the program with a toolkit that is no newer than the driver (docs/gpu.md)"
    ))
}

/// Index of the card that `--device auto` takes: the first that this program can run on; otherwise why there
/// is none.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_code_needs_the_major_version_and_ptx_the_minor_version_too() {
        for (driver, toolkit, machine_code, ptx) in [
            ((13, 0), (13, 0), true, true),
            ((13, 0), (13, 2), true, false),
            ((12, 2), (12, 4), true, false),
            ((12, 9), (13, 0), false, false),
            ((13, 0), (12, 9), true, true),
            ((14, 0), (13, 3), true, true),
        ] {
            assert_eq!(runs(driver, toolkit).is_ok(), machine_code, "{driver:?} {toolkit:?}");
            assert_eq!(translates(driver, toolkit).is_ok(), ptx, "{driver:?} {toolkit:?}");
        }
    }

    #[test]
    fn drivers_that_are_too_old_are_told_both_ways_out() {
        let says = |driver, toolkit, parts: &[&str]| {
            let text = runs(driver, toolkit).unwrap_err();
            parts.iter().for_each(|part| assert!(text.contains(part), "no {part:?} in: {text}"));
            text
        };
        says(
            (12, 2),
            (13, 0),
            &["CUDA 12.2", "CUDA 13.0", "driver 580", "CUDA 12 for driver 525", "docs/gpu.md"],
        );
        let text = says((11, 8), (12, 4), &["CUDA 11.8", "CUDA 12.4", "driver 525", "docs/gpu.md"]);
        assert!(!text.contains("build"), "{text}");
        says((13, 0), (14, 1), &["one for CUDA 14.0 or newer", "CUDA 12 for driver 525"]);
        let text = translates((12, 2), (12, 4)).unwrap_err();
        assert!(text.contains("PTX of CUDA 12.4") && text.contains("CUDA 12.2"), "{text}");
    }
}
