//! A GPU as a [`Driver`]. The CUDA driver is loaded when first asked for, so the program also starts where
//! there is none. One stream has the work, another the uploads of the next step; kernels come from the fat
//! binaries in the program. Must not know ops.
//!
//! A step's work is recorded and submitted as a CUDA graph when the step ends (`step.rs`, `graph.rs`).
//!
//! A GPU works asynchronously and reports a fault at some later call. The message then names the kernels that
//! were launched since the last successful synchronisation; with `PSMT_CUDA_BLOCKING=1` the driver waits for
//! each kernel, and the message names the one. With `PSMT_CUDA_CACHE=0` memory is returned to the driver at
//! once, so that compute-sanitizer sees every buffer's bounds.

mod double_buffer;
mod functions;
mod graph;
mod modules;
mod pool;
mod probe;
mod recent;
mod staging;
mod step;
mod tensor_map;

use super::branches::{Branch, Branches, Place};
use super::driver::{Args, DevicePtr, Driver, Kernel, Launch};
use super::recording::{Recording, Work};
use super::tensor_map::{TensorMap, TensorMapSpec};
use crate::{Error, Result};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute, CUresult};
use double_buffer::DoubleBuffer;
use functions::Function;
use graph::StepGraph;
pub use modules::{RESOURCES, missing, targets, toolkit};
use pool::Pool;
pub use probe::{Device, Platform, first_usable, probe};
use recent::{Described, Recent};
use staging::Staging;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One card.
pub struct Gpu {
    name: String,
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    /// Shared memory that a block may ask for.
    max_shared: usize,
    /// Whether kernels with TMA and WGMMA run here.
    wgmma: bool,
    /// Wait for every kernel.
    blocking: bool,
    /// Keep memory that is given back.
    cache: bool,
    /// Submit steps as graphs.
    graphs: bool,
    state: Mutex<State>,
}

// SAFETY: the driver's handles may be used from any thread that made their context current, which every
// method does first, and everything that changes is behind the mutex.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

#[derive(Default)]
struct State {
    pool: Pool,
    staging: Staging,
    modules: HashMap<&'static str, sys::CUmodule>,
    functions: HashMap<Kernel, Function>,
    recent: Recent,
    /// The current step's branches, and blocks that were freed on one of them.
    branches: Branches<u64>,
    /// Kind and work of the current step, where it becomes a graph.
    recording: Option<(&'static str, Recording)>,
    graphs: HashMap<&'static str, StepGraph>,
    /// A graph was built again, as the driver refused to update it.
    rebuilt: bool,
    /// The driver refused to build a graph.
    no_graphs: bool,
    double_buffer: DoubleBuffer,
}

impl Gpu {
    /// The card `cuda:<index>`.
    ///
    /// # Errors
    /// [`Error::Device`] that says what is missing: kernels in the program, the driver, the card, its
    /// abilities.
    pub fn open(index: usize) -> Result<Gpu> {
        let name = format!("cuda:{index}");
        let refuse = |message| Error::Device { name: name.clone(), message };
        if let Some(missing) = missing() {
            return Err(refuse(missing));
        }
        probe().and_then(|platform| platform.usable(index).map(|_| ())).map_err(refuse)?;
        let failed = |what: &'static str| {
            let name = name.clone();
            move |e| Error::Device { name, message: format!("{what}: {}", probe::describe(e)) }
        };
        let device = result::device::get(index as i32).map_err(failed("opening it"))?;
        // SAFETY: `device` was just given by the driver; the context is released in `drop`.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(failed("creating a context"))?;
        let on = |variable: &str| std::env::var(variable).is_ok_and(|v| v == "1");
        let off = |variable: &str| std::env::var(variable).is_ok_and(|v| v == "0");
        let (blocking, cache) = (on("PSMT_CUDA_BLOCKING"), !off("PSMT_CUDA_CACHE"));
        let mut gpu = Gpu {
            name: name.clone(),
            device,
            context,
            stream: result::stream::null(),
            max_shared: 0,
            wgmma: tensor_map::has_wgmma(device),
            blocking,
            cache,
            // Blocking launches cannot be deferred, and graphs need buffers that stay.
            graphs: cache && !blocking && !off("PSMT_CUDA_GRAPHS"),
            state: Mutex::default(),
        };
        gpu.make_current()?;
        // Not the default stream, which waits for whatever else runs in the process.
        gpu.stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(failed("creating a stream"))?;
        let attribute = Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        // SAFETY: `device` was given by the driver.
        let max_shared = unsafe { result::device::get_attribute(device, attribute) };
        gpu.max_shared = max_shared.map_err(failed("asking for its limits"))? as usize;
        Ok(gpu)
    }

    /// Free and total memory of the card in bytes.
    ///
    /// # Errors
    /// A fault of the device.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.make_current()?;
        result::mem_get_info()
            .map_err(|e| self.error(format!("asking for its memory: {}", probe::describe(e))))
    }

    fn error(&self, message: String) -> Error {
        Error::Device { name: self.name.clone(), message }
    }

    /// Makes the context current in this thread.
    fn make_current(&self) -> Result<()> {
        // SAFETY: the context lives as long as `self`.
        unsafe { result::ctx::set_current(self.context) }
            .map_err(|e| self.error(format!("entering its context: {}", probe::describe(e))))
    }

    /// Makes the context current in this thread and locks the state.
    fn enter(&self) -> Result<MutexGuard<'_, State>> {
        self.make_current()?;
        Ok(self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A fault at a call that is not a launch: any kernel since the last successful synchronisation may have
    /// caused it.
    fn fault(&self, during: &str, error: DriverError, recent: &Recent) -> Error {
        self.error(format!("{} found {during}, {recent}", probe::describe(error)))
    }

    /// Waits for the stream; kernels before this are no longer suspects of later faults.
    fn settle(&self, during: &str, state: &mut State) -> Result<()> {
        self.flush(state)?;
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.stream) }
            .map_err(|e| self.fault(during, e, &state.recent))?;
        state.recent.clear();
        state.staging.reset();
        Ok(())
    }

    /// A new block from the driver; when it has none, what the pool kept is freed first.
    fn allocate(&self, bytes: usize, state: &mut State) -> Result<u64> {
        let size = if self.cache { Pool::block_size(bytes) } else { bytes };
        // SAFETY: the context is current; the block is freed in `drain`, `free` or `drop`.
        let mut ptr = unsafe { result::malloc_sync(size) };
        if ptr == Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) && state.pool.usage().kept > 0 {
            self.drain(state)?;
            // SAFETY: as above.
            ptr = unsafe { result::malloc_sync(size) };
        }
        match ptr {
            Ok(ptr) => {
                state.pool.give_out(ptr, size);
                Ok(ptr)
            }
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Err(self.out_of_memory(bytes, state)),
            Err(e) => Err(self.fault("while allocating memory", e, &state.recent)),
        }
    }

    fn out_of_memory(&self, bytes: usize, state: &State) -> Error {
        let mib = |bytes: usize| (bytes >> 20) as u64;
        let (free, total) = result::mem_get_info().unwrap_or_default();
        let live = mib(state.pool.usage().live);
        Error::Memory {
            what: format!("a buffer on {} beside the {live} MiB in use, of {} MiB,", self.name, mib(total)),
            needed_mib: mib(bytes).max(1),
            available_mib: mib(free),
        }
    }

    /// Returns the kept blocks to the driver, once the work that may use them is done.
    fn drain(&self, state: &mut State) -> Result<()> {
        self.settle("while freeing memory", state)?;
        for ptr in state.pool.drain() {
            // SAFETY: the pool has forgotten the block, and nothing runs any more that could use it.
            unsafe { result::free_sync(ptr) }
                .map_err(|e| self.fault("while freeing memory", e, &state.recent))?;
        }
        Ok(())
    }
}

impl Driver for Gpu {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn alloc(&self, bytes: usize) -> Result<DevicePtr> {
        if bytes == 0 {
            return Ok(DevicePtr(0));
        }
        let mut state = self.enter()?;
        match state.pool.take(bytes) {
            Some(ptr) => Ok(DevicePtr(ptr)),
            None => self.allocate(bytes, &mut state).map(DevicePtr),
        }
    }

    fn free(&self, ptr: DevicePtr, _bytes: usize) {
        let Ok(mut state) = self.enter() else { return };
        if self.cache {
            // Other branches may still use it; their work is not in stream order.
            if let Some(ptr) = state.branches.give_back(&Place::default(), ptr.0) {
                state.pool.put_back(ptr);
            }
        } else if state.pool.remove(ptr.0).is_some() {
            // A fault shows again at the next call that can report it.
            // SAFETY: the pool has forgotten the block; the driver waits for the work that uses it.
            let _ =
                unsafe { result::stream::synchronize(self.stream).and_then(|()| result::free_sync(ptr.0)) };
        }
    }

    fn upload(&self, to: DevicePtr, data: &[u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let mut state = self.enter()?;
        if self.upload_ahead(to, data, &mut state)? {
            return Ok(());
        }
        let during = "while copying to the device";
        // All but large data passes through pinned memory, so that the caller does not wait for the stream.
        // SAFETY: the context is current, there is one stream, and the copy is submitted below.
        let staged = unsafe { state.staging.put(data, self.stream) }
            .map_err(|e| self.fault(during, e, &state.recent))?;
        let source = staged.map_or(data.as_ptr(), |copy| copy.as_ptr().cast_const());
        // SAFETY: the caller's buffer holds `data.len()` bytes, and so does `source`, which stays as it is
        // until the copy is done: the staging area waits for it before that part is written again, and `data`
        // is waited for below.
        unsafe { sys::cuMemcpyHtoDAsync_v2(to.0, source.cast(), data.len(), self.stream) }
            .result()
            .map_err(|e| self.fault(during, e, &state.recent))?;
        if staged.is_none() { self.settle(during, &mut state) } else { Ok(()) }
    }

    fn download(&self, from: DevicePtr, data: &mut [u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let mut state = self.enter()?;
        self.flush(&mut state)?;
        let during = "while copying from the device";
        // SAFETY: the caller's buffer holds `data.len()` bytes, and the copy is waited for before `data` is
        // used.
        let copied = unsafe { result::memcpy_dtoh_async(data, from.0, self.stream) };
        copied.map_err(|e| self.fault(during, e, &state.recent))?;
        self.settle(during, &mut state)
    }

    fn copy(&self, from: DevicePtr, to: DevicePtr, bytes: usize) -> Result<()> {
        match bytes {
            0 => Ok(()),
            _ => self.work(Work::Copy { from, to, bytes }, &mut *self.enter()?),
        }
    }

    fn clear(&self, ptr: DevicePtr, bytes: usize) -> Result<()> {
        match bytes {
            0 => Ok(()),
            _ => self.work(Work::Clear { ptr, bytes }, &mut *self.enter()?),
        }
    }

    fn launch(&self, kernel: &Kernel, launch: Launch, args: &Args) -> Result<()> {
        let mut state = self.enter()?;
        let function = self.function(kernel, &mut state)?;
        self.check_args(&function, &launch, args)?;
        self.permit_shared(&function, &launch, &mut state)?;
        self.work(Work::Launch { kernel: kernel.clone(), launch, args: args.clone() }, &mut state)
    }

    fn synchronize(&self) -> Result<()> {
        let mut state = self.enter()?;
        self.settle("while waiting for the device", &mut state)
    }

    fn has_wgmma(&self) -> bool {
        self.wgmma
    }

    fn tensor_map(&self, spec: &TensorMapSpec) -> Result<TensorMap> {
        self.make_current()?;
        self.encode(spec)
    }

    fn available_memory(&self) -> Option<u64> {
        let (free, _) = self.memory().ok()?;
        Some((free + self.enter().ok()?.pool.usage().kept) as u64)
    }

    /// Without the cache every buffer is to have bounds of its own.
    fn allows_arena(&self) -> bool {
        self.cache
    }

    fn begin_step(&self, kind: &'static str) {
        // A context that cannot be entered is reported by the step's first call that can.
        let Ok(mut state) = self.enter() else { return };
        if self.graphs && !state.no_graphs {
            state.double_buffer.swap();
            state.recording = Some((kind, Recording::default()));
        }
    }

    fn branch(&self, turn: Branch) {
        let Ok(mut state) = self.enter() else { return };
        let state = &mut *state;
        if let Some((_, recording)) = &mut state.recording {
            recording.turn(turn);
        }
        for ptr in state.branches.turn(turn) {
            state.pool.put_back(ptr);
        }
    }

    fn end_step(&self) -> Result<()> {
        let mut state = self.enter()?;
        match state.recording.take() {
            Some((kind, recording)) => self.finish(kind, &recording, &mut state),
            None => Ok(()),
        }
    }
}

impl Gpu {
    /// A launch is refused for what it asks, or because something that ran before it went wrong.
    fn launch_error(&self, error: DriverError, kernel: &Kernel, launch: &Launch, state: &State) -> Error {
        let refused = [
            CUresult::CUDA_ERROR_INVALID_VALUE,
            CUresult::CUDA_ERROR_INVALID_HANDLE,
            CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
            CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU,
            CUresult::CUDA_ERROR_OUT_OF_MEMORY,
        ];
        match refused.contains(&error.0) {
            true => {
                self.error(format!("launching {}: {}", Described(kernel, launch), probe::describe(error)))
            }
            false => self.fault(&format!("while launching {kernel}"), error, &state.recent),
        }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        let Ok(mut state) = self.enter() else { return };
        // After a fault each of these calls fails; the driver then frees everything when the process ends.
        // SAFETY: buffers hold the driver, so none is left; nothing uses the handles after this.
        unsafe {
            let _ = result::stream::synchronize(self.stream);
            for ptr in state.pool.drain() {
                let _ = result::free_sync(ptr);
            }
            state.staging.free();
            state.double_buffer.free();
            state.graphs.clear();
            for (_, module) in state.modules.drain() {
                let _ = result::module::unload(module);
            }
            if !self.stream.is_null() {
                let _ = result::stream::destroy(self.stream);
            }
            let _ = result::primary_ctx::release(self.device);
        }
    }
}
