//! A CUDA device on a processor: the kernels of psmt-fast, compiled by the host's C++ compiler, run under a
//! scheduler with one stackful coroutine for each CUDA thread of a block. Blocks run in parallel, each on one
//! OS thread.
//!
//! It is as strict as it can be where a GPU is lenient: memory is poisoned and ends at guard pages,
//! asynchronous copies complete as late as they may, threads that diverge at a barrier are an error that says
//! who waits where. The check build also follows every access to memory. Must not know ops.

#[cfg(emulator)]
mod abi;
#[cfg(emulator)]
mod barriers;
#[cfg(emulator)]
mod block;
#[cfg(emulator)]
mod check;
#[cfg(emulator)]
mod cluster;
#[cfg(emulator)]
mod copies;
#[cfg(emulator)]
mod device;
#[cfg(emulator)]
mod fault;
#[cfg(emulator)]
mod heap;
#[cfg(emulator)]
mod readers;
mod registry;
#[cfg(emulator)]
mod report;
#[cfg(emulator)]
mod shadow;
#[cfg(emulator)]
mod stack;
#[cfg(emulator)]
mod thread;
#[cfg(emulator)]
mod tma;
#[cfg(emulator)]
mod wgmma;

// The table of kernels names this crate, as those of others do.
extern crate self as psmt_emulator;

use psmt_fast::Result;
use psmt_fast::backend::cuda::driver::Driver;
use std::sync::Arc;

pub use registry::{Bound, KernelFile, KernelRecord};

/// Order in which the ready threads of a block run. Results must not depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Schedule {
    /// From the first thread to the last.
    #[default]
    Ascending,
    /// From the last to the first.
    Descending,
    /// Random, drawn at every step.
    Seeded(u64),
}

/// When an asynchronous copy completes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CopyTime {
    /// Not before a wait asks for it.
    #[default]
    Late,
    /// At once.
    Early,
    /// Randomly one or the other.
    Seeded(u64),
}

/// How the emulator runs kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EmulatorOptions {
    /// Run the check build, whose accesses to memory are instrumented.
    pub check: bool,
    /// Order of threads.
    pub schedule: Schedule,
    /// Completion of asynchronous copies.
    pub copies: CopyTime,
}

impl EmulatorOptions {
    /// As on the command line.
    pub fn name(&self) -> &'static str {
        if self.check { "emulated-check" } else { "emulated" }
    }
}

/// An emulator with memory of its own, for the kernels of psmt-fast.
///
/// # Errors
/// [`psmt_fast::Error::Device`] where this build has no emulator.
pub fn open(options: EmulatorOptions) -> Result<Arc<dyn Driver>> {
    open_with(options, registry::FILES)
}

/// The same for other kernels.
///
/// # Errors
/// As [`open`].
#[cfg(emulator)]
pub fn open_with(options: EmulatorOptions, files: &[KernelFile]) -> Result<Arc<dyn Driver>> {
    Ok(Arc::new(device::Emulator::new(options, files)?))
}

/// The same for other kernels.
///
/// # Errors
/// As [`open`].
#[cfg(not(emulator))]
pub fn open_with(options: EmulatorOptions, _files: &[KernelFile]) -> Result<Arc<dyn Driver>> {
    Err(psmt_fast::Error::Device {
        name: options.name().into(),
        message: "this build has no emulator; it needs Linux on x86-64 or arm64 and, while building, a C++ compiler \
                  (install g++ or clang++, or name one in CXX)"
            .into(),
    })
}
