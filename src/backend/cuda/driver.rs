//! What runs kernels: the CUDA driver on a GPU, or the emulator on a processor. Both load the same kernels by
//! name and take the same launches, so launch plans are tested wherever the emulator runs. Must not know ops.

use super::branches::Branch;
use super::tensor_map::{TensorMap, TensorMapSpec};
use crate::{Error, Result};

pub use super::device_ptr::DevicePtr;

/// Grid, threads per block, and dynamic shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads along x, y, z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: u32,
}

impl Launch {
    /// `blocks` blocks of `threads` threads without dynamic shared memory.
    pub fn new(blocks: usize, threads: u32) -> Launch {
        Launch { grid: [blocks as u32, 1, 1], block: [threads, 1, 1], shared: 0 }
    }

    /// 256 threads per block for a grid-stride loop over `len` elements.
    pub fn linear(len: usize) -> Launch {
        Launch::new(len.div_ceil(256).clamp(1, 4096), 256)
    }

    /// A grid of `blocks` along x, y, z without dynamic shared memory.
    pub fn grid3(blocks: [usize; 3], threads: u32) -> Launch {
        Launch { grid: blocks.map(|v| v as u32), block: [threads, 1, 1], shared: 0 }
    }

    /// The same with `bytes` of dynamic shared memory.
    pub fn with_shared(self, bytes: usize) -> Launch {
        Launch { shared: bytes as u32, ..self }
    }
}

/// Kernel arguments as the bytes of each, in the kernel's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Args {
    /// Appends one argument: a number, a [`DevicePtr`] or a `#[repr(C)]` struct that the kernel takes by
    /// value.
    pub fn push<T: bytemuck::Pod>(&mut self, value: T) {
        self.bytes.extend_from_slice(bytemuck::bytes_of(&value));
        self.ends.push(self.bytes.len());
    }

    /// The arguments' bytes, one after another.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.ends.len()).map(|i| &self.bytes[if i == 0 { 0 } else { self.ends[i - 1] }..self.ends[i]])
    }
}

/// A kernel by the file in `kernels/` that holds it (without `.cu`) and its name there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// Name of the file.
    pub file: &'static str,
    /// Name of the function.
    pub name: String,
}

impl std::fmt::Display for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of kernels/{}.cu", self.name, self.file)
    }
}

/// Memory and launches of one device, in the order of the calls. Within a step a device may do the work of
/// branches at the same time, and all of it as late as when the step ends.
pub trait Driver: Send + Sync {
    /// As on the command line: `cuda:0`, `emulated`.
    fn name(&self) -> String;
    /// `bytes` of memory of unspecified content, aligned to 256 bytes.
    ///
    /// # Errors
    /// Not enough memory.
    fn alloc(&self, bytes: usize) -> Result<DevicePtr>;
    /// Frees what `alloc` returned, once the work submitted so far is done.
    fn free(&self, ptr: DevicePtr, bytes: usize);
    /// Copies to the device; `data` may be reused on return.
    ///
    /// # Errors
    /// A fault of the device.
    fn upload(&self, to: DevicePtr, data: &[u8]) -> Result<()>;
    /// Copies to the host, waiting for the work submitted so far.
    ///
    /// # Errors
    /// A fault of the device, also one of earlier work.
    fn download(&self, from: DevicePtr, data: &mut [u8]) -> Result<()>;
    /// Copies within the device.
    ///
    /// # Errors
    /// A fault of the device.
    fn copy(&self, from: DevicePtr, to: DevicePtr, bytes: usize) -> Result<()>;
    /// Sets bytes to zero.
    ///
    /// # Errors
    /// A fault of the device.
    fn clear(&self, ptr: DevicePtr, bytes: usize) -> Result<()>;
    /// Runs a kernel.
    ///
    /// # Errors
    /// No such kernel, arguments of other sizes than the kernel's, a launch that the device cannot do, a
    /// fault.
    fn launch(&self, kernel: &Kernel, launch: Launch, args: &Args) -> Result<()>;
    /// Waits for the work submitted so far.
    ///
    /// # Errors
    /// A fault of that work.
    fn synchronize(&self) -> Result<()>;

    /// Whether kernels of kernels/*_wgmma.cu run: TMA and WGMMA, of compute capability 9.0.
    fn has_wgmma(&self) -> bool {
        false
    }
    /// A tensor map for TMA.
    ///
    /// # Errors
    /// A device without TMA, and specifications beyond the hardware's limits.
    fn tensor_map(&self, _spec: &TensorMapSpec) -> Result<TensorMap> {
        Err(Error::Device { name: self.name(), message: "it has no tensor maps".into() })
    }
    /// Bytes that can still be allocated, if that is known.
    fn available_memory(&self) -> Option<u64> {
        None
    }
    /// Whether buffers may share one block of memory; not where the bounds of each buffer are checked.
    fn allows_arena(&self) -> bool {
        true
    }
    /// Sets what memory is allocated for from now on, for memory plans; returns the previous value.
    fn phase(&self, _name: &'static str) -> &'static str {
        ""
    }
    /// A step begins. Steps of a kind ask for the same memory and the same work in the same order.
    fn begin_step(&self, _kind: &'static str) {}
    /// The step forks, goes on to the next branch, or joins its branches. A branch writes nothing that
    /// another reads or writes.
    fn branch(&self, _turn: Branch) {}
    /// The step ends; memory that it has not freed stays.
    ///
    /// # Errors
    /// A fault of the device.
    fn end_step(&self) -> Result<()> {
        Ok(())
    }
}
