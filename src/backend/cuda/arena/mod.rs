//! Memory of repeated steps, planned before the first: every step of a kind asks for the same sizes in the same order, so a
//! rehearsal ([`Recorder`]) tells where each buffer goes in one block of memory, the arena. Knows drivers, not ops.

mod layout;
mod recorder;

use super::driver::{Args, DevicePtr, Driver, Kernel, Launch};
use super::tensor_map::{TensorMap, TensorMapSpec};
use crate::Result;
pub use recorder::{Recorder, Script};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many buffers of a script may be left out in a row before a step no longer follows it.
const LOOK_AHEAD: usize = 4;

/// A driver whose buffers lie in an arena while a planned step runs, and otherwise where the driver under it puts them.
///
/// What a step asks for beyond its script, and what would overlap a buffer that is still in use, goes to the driver under it
/// too: a plan that does not fit costs memory, never correctness.
pub struct Arena {
    under: Arc<dyn Driver>,
    scripts: HashMap<&'static str, Script>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The arena, once a step has begun.
    base: Option<DevicePtr>,
    /// The running step and how far its script is done.
    running: Option<(&'static str, usize)>,
    /// Ends of the buffers in use, by their addresses.
    live: BTreeMap<u64, u64>,
}

impl Arena {
    /// Steps of each kind follow its script.
    pub fn new(under: Arc<dyn Driver>, scripts: HashMap<&'static str, Script>) -> Arena {
        Arena { under, scripts, state: Mutex::default() }
    }

    /// Bytes of the arena: steps follow one another in the same memory.
    fn bytes(&self) -> usize {
        self.scripts.values().map(|s| s.bytes).max().unwrap_or(0)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next buffer of the running step's script that has `bytes` bytes, if it is not far.
    fn take(&self, bytes: usize) -> Result<Option<DevicePtr>> {
        let mut state = self.state();
        let Some((kind, done)) = state.running else { return Ok(None) };
        let Some(script) = self.scripts.get(kind) else { return Ok(None) };
        let ahead = script.blocks.iter().skip(done).take(LOOK_AHEAD).position(|&(size, _)| size == bytes);
        let Some(number) = ahead.map(|ahead| done + ahead) else { return Ok(None) };
        state.running = Some((kind, number + 1));
        let Some(offset) = script.blocks[number].1 else { return Ok(None) };
        let base = match state.base {
            Some(base) => base,
            None => {
                let base = self.under.alloc(self.bytes())?;
                *state.base.insert(base)
            }
        };
        let start = base.offset(offset).0;
        let end = start + bytes as u64;
        let before = state.live.range(..end).next_back();
        if before.is_some_and(|(_, &other)| other > start) {
            return Ok(None);
        }
        state.live.insert(start, end);
        Ok(Some(DevicePtr(start)))
    }
}

impl Driver for Arena {
    fn name(&self) -> String {
        self.under.name()
    }

    fn alloc(&self, bytes: usize) -> Result<DevicePtr> {
        match self.take(bytes)? {
            Some(ptr) => Ok(ptr),
            None => self.under.alloc(bytes),
        }
    }

    fn free(&self, ptr: DevicePtr, bytes: usize) {
        if self.state().live.remove(&ptr.0).is_none() {
            self.under.free(ptr, bytes);
        }
    }

    fn upload(&self, to: DevicePtr, data: &[u8]) -> Result<()> {
        self.under.upload(to, data)
    }

    fn download(&self, from: DevicePtr, data: &mut [u8]) -> Result<()> {
        self.under.download(from, data)
    }

    fn copy(&self, from: DevicePtr, to: DevicePtr, bytes: usize) -> Result<()> {
        self.under.copy(from, to, bytes)
    }

    fn clear(&self, ptr: DevicePtr, bytes: usize) -> Result<()> {
        self.under.clear(ptr, bytes)
    }

    fn launch(&self, kernel: &Kernel, launch: Launch, args: &Args) -> Result<()> {
        self.under.launch(kernel, launch, args)
    }

    fn synchronize(&self) -> Result<()> {
        self.under.synchronize()
    }

    fn has_warpgroup_products(&self) -> bool {
        self.under.has_warpgroup_products()
    }

    fn tensor_map(&self, spec: &TensorMapSpec) -> Result<TensorMap> {
        self.under.tensor_map(spec)
    }

    fn available_memory(&self) -> Option<u64> {
        self.under.available_memory()
    }

    fn begin_step(&self, kind: &'static str) {
        self.state().running = Some((kind, 0));
    }

    fn end_step(&self) {
        self.state().running = None;
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if let Some(base) = self.state().base {
            self.under.free(base, self.bytes());
        }
    }
}
