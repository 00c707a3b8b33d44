//! The emulator as a [`Driver`]: memory, and launches that are done when the call returns.

use super::block::MAX_BLOCKS;
use super::cluster::{self, Plan, WARP};
use super::heap::{HEAP_BYTES, Heap};
use super::registry::{Entry, KernelFile, Registry};
use super::shadow::{MAX_WARPS, Shadow};
use super::{EmulatorOptions, Schedule};
use psmt_fast::backend::cuda::driver::{Args, DevicePtr, Driver, Kernel, Launch};
use psmt_fast::backend::cuda::tensor_map::{TensorMap, TensorMapSpec};
use psmt_fast::{Error, Result};
use rayon::prelude::*;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};

/// Largest grid and block, as on a GPU.
const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];
const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
/// Largest dynamic shared memory of a block.
const MAX_SHARED: u32 = 227 << 10;

/// Space for arguments, aligned as a tensor map is, the strictest type.
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Word([u64; 8]);

/// A device.
pub struct Emulator {
    options: EmulatorOptions,
    kernels: Registry,
    heap: Heap,
    /// Shadow of the heap, in the check build.
    shadow: Option<Shadow>,
    launches: AtomicU64,
}

impl Emulator {
    /// A device with memory of its own that runs the kernels of these files.
    pub fn new(options: EmulatorOptions, files: &[KernelFile]) -> Result<Emulator> {
        let error = |message| Error::Device { name: options.name().into(), message };
        let heap = Heap::new().map_err(error)?;
        let shadow =
            options.check.then(|| Shadow::new(heap.base(), HEAP_BYTES)).transpose().map_err(error)?;
        Ok(Emulator { options, kernels: Registry::new(files), heap, shadow, launches: AtomicU64::new(0) })
    }

    fn error(&self, message: impl Into<String>) -> Error {
        Error::Device { name: self.name(), message: message.into() }
    }

    /// Checks that the host may touch this memory.
    fn check(&self, what: &str, ptr: DevicePtr, bytes: usize) -> Result<()> {
        self.heap.check(ptr.0 as usize, bytes).map_err(|e| self.error(format!("{what} {e}")))
    }
}

impl Driver for Emulator {
    fn name(&self) -> String {
        self.options.name().into()
    }

    fn alloc(&self, bytes: usize) -> Result<DevicePtr> {
        let at = self.heap.alloc(bytes).map_err(|e| self.error(e))?;
        if let Some(shadow) = &self.shadow {
            shadow.create(at, bytes);
        }
        Ok(DevicePtr(at as u64))
    }

    fn free(&self, ptr: DevicePtr, _bytes: usize) {
        if ptr.0 == 0 {
            return;
        }
        match (self.heap.free(ptr.0 as usize), &self.shadow) {
            (Ok(bytes), Some(shadow)) => shadow.destroy(ptr.0 as usize, bytes),
            (Ok(_), None) => {}
            (Err(message), _) => tracing::error!("{}: {message}", self.name()),
        }
    }

    fn upload(&self, to: DevicePtr, data: &[u8]) -> Result<()> {
        self.check("upload to", to, data.len())?;
        // SAFETY: the range is allocated, and launches are over when they return.
        unsafe { (to.0 as *mut u8).copy_from_nonoverlapping(data.as_ptr(), data.len()) };
        if let Some(shadow) = &self.shadow {
            shadow.written_by_host(to.0 as usize, data.len());
        }
        Ok(())
    }

    fn download(&self, from: DevicePtr, data: &mut [u8]) -> Result<()> {
        self.check("download of", from, data.len())?;
        let unwritten = self.shadow.as_ref().and_then(|s| s.first_unwritten(from.0 as usize, data.len()));
        if let Some(at) = unwritten {
            let byte = self.heap.describe(from.0 as usize + at);
            return Err(self.error(format!("download of {byte}, which nothing has written")));
        }
        // SAFETY: as for `upload`.
        unsafe { (from.0 as *const u8).copy_to_nonoverlapping(data.as_mut_ptr(), data.len()) };
        Ok(())
    }

    fn copy(&self, from: DevicePtr, to: DevicePtr, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.check("copy of", from, bytes)?;
        self.check("copy to", to, bytes)?;
        // SAFETY: as for `upload`; the ranges may overlap.
        unsafe { (from.0 as *const u8).copy_to(to.0 as *mut u8, bytes) };
        if let Some(shadow) = &self.shadow {
            shadow.copied_by_host(from.0 as usize, to.0 as usize, bytes);
        }
        Ok(())
    }

    fn clear(&self, ptr: DevicePtr, bytes: usize) -> Result<()> {
        self.check("clear of", ptr, bytes)?;
        // SAFETY: as for `upload`.
        unsafe { (ptr.0 as *mut u8).write_bytes(0, bytes) };
        if let Some(shadow) = &self.shadow {
            shadow.written_by_host(ptr.0 as usize, bytes);
        }
        Ok(())
    }

    fn launch(&self, kernel: &Kernel, launch: Launch, args: &Args) -> Result<()> {
        let entry = self.kernels.find(kernel, self.options.check).map_err(|e| self.error(e))?;
        let fault = |message: String| self.error(format!("kernel {kernel}, {launch:?}: {message}"));
        check_launch(launch, entry).map_err(fault)?;
        let sizes: Vec<u32> = args.iter().map(|a| a.len() as u32).collect();
        if sizes != entry.sizes {
            let expected = &entry.sizes;
            return Err(fault(format!("expected arguments of {expected:?} bytes, got {sizes:?}")));
        }
        // Each argument at an address that suits any type.
        let words = |bytes: usize| bytes.div_ceil(size_of::<Word>());
        let mut storage = vec![Word([0; 8]); args.iter().map(|a| words(a.len())).sum()];
        let mut pointers: Vec<*mut c_void> = Vec::with_capacity(sizes.len());
        let mut at = 0;
        for arg in args.iter() {
            let to = &mut storage[at..at + words(arg.len())];
            bytemuck::cast_slice_mut(to)[..arg.len()].copy_from_slice(arg);
            pointers.push(to.as_mut_ptr().cast());
            at += words(arg.len());
        }
        let plan = Plan {
            invoke: entry.invoke,
            args: &pointers,
            launch,
            cluster: entry.cluster,
            options: self.options,
            heap: &self.heap,
            shadow: self.shadow.as_ref(),
            launch_number: self.launches.fetch_add(1, Ordering::Relaxed) + 1,
        };
        let [blocks, y, z] = launch.grid.map(u64::from);
        let cluster = u64::from(entry.cluster);
        let x = blocks / cluster;
        let num = x * y * z;
        let failed = (0..num).into_par_iter().find_map_first(|i| {
            let i = if self.options.schedule == Schedule::Descending { num - 1 - i } else { i };
            cluster::run(&plan, [i % x * cluster, i / x % y, i / (x * y)].map(|v| v as u32)).err()
        });
        failed.map_or(Ok(()), |message| Err(fault(message)))
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn has_wgmma(&self) -> bool {
        true
    }

    fn tensor_map(&self, spec: &TensorMapSpec) -> Result<TensorMap> {
        match spec.fault() {
            Some(fault) => Err(self.error(fault)),
            None => Ok(TensorMap(bytemuck::cast(*spec))),
        }
    }

    fn available_memory(&self) -> Option<u64> {
        psmt_fast::host::available_memory()
    }

    /// The check build watches the bounds of each buffer.
    fn allows_arena(&self) -> bool {
        !self.options.check
    }
}

/// Refuses launches that no GPU could do, and clusters of more warps than a vector clock has.
fn check_launch(launch: Launch, entry: &Entry) -> std::result::Result<(), String> {
    let &Entry { max_threads, cluster, .. } = entry;
    let Launch { grid, block, shared } = launch;
    let inside = |v: [u32; 3], max: [u32; 3]| v.iter().zip(max).all(|(&v, max)| (1..=max).contains(&v));
    if !inside(grid, MAX_GRID) {
        return Err(format!("expected a grid of 1 to {MAX_GRID:?} blocks"));
    }
    let threads = block.iter().map(|&v| u64::from(v)).product::<u64>();
    if !inside(block, MAX_BLOCK) || threads > u64::from(max_threads) {
        return Err(format!("expected blocks of 1 to {MAX_BLOCK:?} threads, {max_threads} in all"));
    }
    let warps = threads as usize / WARP * cluster as usize;
    if cluster > 1
        && (cluster as usize > MAX_BLOCKS || !(threads as usize).is_multiple_of(WARP) || warps > MAX_WARPS)
    {
        return Err(format!(
            "clusters of {cluster} blocks, expected at most {MAX_BLOCKS} of whole warps, {MAX_WARPS} warps in all"
        ));
    }
    if !grid[0].is_multiple_of(cluster) {
        return Err(format!("expected a multiple of {cluster} blocks along x, as many as a cluster has"));
    }
    if shared > MAX_SHARED {
        return Err(format!("expected at most {MAX_SHARED} bytes of shared memory"));
    }
    Ok(())
}
