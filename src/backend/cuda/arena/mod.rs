//! Memory of repeated steps, planned before the first: every step of a kind asks for the same sizes in the
//! same order, so a rehearsal ([`Recorder`]) gives each buffer an offset in one block of memory, the arena.
//! Knows drivers; must not know ops.

mod layout;
mod recorder;

use super::branches::{Branch, Branches, Place};
use super::driver::{Args, DevicePtr, Driver, Kernel, Launch};
use super::tensor_map::{TensorMap, TensorMapSpec};
use crate::Result;
pub(super) use recorder::{Recorder, Script};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many buffers of a script may be left out in a row before a step no longer follows it.
const LOOK_AHEAD: usize = 4;

/// A driver whose buffers lie in an arena while a planned step runs, and otherwise where the driver under it
/// puts them.
///
/// What a step asks for beyond its script, and what would overlap a buffer that is still in use, goes to the
/// driver under it too: a plan that does not fit costs memory, never correctness.
pub(super) struct Arena {
    under: Arc<dyn Driver>,
    scripts: HashMap<&'static str, Script>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The arena, once a step has begun.
    base: Option<DevicePtr>,
    /// The running step and the index of its script's next block.
    running: Option<(&'static str, usize)>,
    /// Buffers in use, by their addresses.
    live: BTreeMap<u64, Live>,
    /// The current branch, and addresses of buffers that were freed while other branches may use them.
    branches: Branches<u64>,
    /// Memory that was freed on open branches, and on which.
    left: Vec<(Range<u64>, Place)>,
}

/// A buffer in use: its end, and the branch that allocated it.
struct Live {
    end: u64,
    from: Place,
}

impl State {
    /// Whether memory is free for the current branch.
    fn is_free(&self, range: &Range<u64>) -> bool {
        let before = self.live.range(..range.end).next_back();
        let here = self.branches.place();
        before.is_none_or(|(_, other)| other.end <= range.start)
            && !self
                .left
                .iter()
                .any(|(r, until)| r.start < range.end && range.start < r.end && until.concurrent_with(here))
    }

    /// Marks a buffer as free from here on.
    fn end(&mut self, start: u64) {
        if let (Some(live), false) = (self.live.remove(&start), self.branches.place().is_trunk()) {
            self.left.push((start..live.end, self.branches.place().clone()));
        }
    }
}

impl Arena {
    pub(super) fn new(under: Arc<dyn Driver>, scripts: HashMap<&'static str, Script>) -> Arena {
        Arena { under, scripts, state: Mutex::default() }
    }

    /// Bytes of the arena: the largest step, as steps reuse the same memory.
    fn bytes(&self) -> usize {
        self.scripts.values().map(|s| s.bytes).max().unwrap_or(0)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next buffer of `bytes` bytes in the running step's script, at most LOOK_AHEAD ahead.
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
        if !state.is_free(&(start..end)) {
            return Ok(None);
        }
        let from = state.branches.place().clone();
        state.live.insert(start, Live { end, from });
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
        let state = &mut *self.state();
        match state.live.get(&ptr.0) {
            Some(live) => {
                if let Some(start) = state.branches.give_back(&live.from, ptr.0) {
                    state.end(start);
                }
            }
            None => self.under.free(ptr, bytes),
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

    fn has_wgmma(&self) -> bool {
        self.under.has_wgmma()
    }

    fn tensor_map(&self, spec: &TensorMapSpec) -> Result<TensorMap> {
        self.under.tensor_map(spec)
    }

    fn available_memory(&self) -> Option<u64> {
        self.under.available_memory()
    }

    fn begin_step(&self, kind: &'static str) {
        self.state().running = Some((kind, 0));
        self.under.begin_step(kind);
    }

    fn branch(&self, turn: Branch) {
        let mut state = self.state();
        for start in state.branches.turn(turn) {
            state.end(start);
        }
        if state.branches.place().is_trunk() {
            state.left.clear();
        }
        self.under.branch(turn);
    }

    fn end_step(&self) -> Result<()> {
        self.state().running = None;
        self.under.end_step()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if let Some(base) = self.state().base {
            self.under.free(base, self.bytes());
        }
    }
}
