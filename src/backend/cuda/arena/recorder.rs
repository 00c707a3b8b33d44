//! A driver that computes nothing and records allocations: their size, lifetime and purpose. The sizes of a
//! step's buffers do not depend on values, so a rehearsal predicts what the real step will ask for.

use super::layout::{self, Layout, Span};
use crate::Result;
use crate::backend::cuda::branches::{Branch, Branches, Place};
use crate::backend::cuda::driver::{Args, DevicePtr, Driver, Kernel, Launch};
use crate::backend::cuda::tensor_map::{TensorMap, TensorMapSpec};
use crate::ops::{MemoryPlan, MemoryUse, StepMemory};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The driver of a rehearsal.
pub(crate) struct Recorder {
    name: String,
    wgmma: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    phase: &'static str,
    /// Counts allocations and returns.
    now: usize,
    /// In the order of allocation.
    blocks: Vec<Block>,
    /// Numbers of the blocks in use, by address.
    live: HashMap<u64, usize>,
    next_address: u64,
    steps: Vec<Step>,
    /// Whether the last step has not ended.
    in_step: bool,
    /// The current branch, and numbers of blocks that were freed on one branch while others may use them.
    branches: Branches<usize>,
}

struct Block {
    bytes: usize,
    phase: &'static str,
    born: usize,
    from: Place,
    /// When and on which branch it was freed.
    died: Option<(usize, Place)>,
}

/// The plan's entry for the double buffer of steps' data, and how many steps it holds.
const ARRIVING: &str = "data that arrives";
const ARRIVING_STEPS: u64 = 2;

/// A rehearsed step: its times and blocks, and bytes that were uploaded for it.
struct Step {
    kind: &'static str,
    begin: usize,
    end: usize,
    blocks: std::ops::Range<usize>,
    uploaded: usize,
}

/// What a step of one kind will ask for, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Script {
    /// Bytes of each allocation and its offset in the arena; no offset for what outlives the step.
    pub(crate) blocks: Vec<(usize, Option<usize>)>,
    pub(crate) bytes: usize,
}

impl Recorder {
    /// Stands in for the driver called `name`, which has WGMMA or not.
    pub(crate) fn new(name: String, wgmma: bool) -> Recorder {
        Recorder { name, wgmma, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The script of the last rehearsed step of each kind, and the memory plan for the user.
    pub(crate) fn plan(&self) -> (HashMap<&'static str, Script>, MemoryPlan) {
        let state = self.state();
        let mut last: BTreeMap<&'static str, &Step> = BTreeMap::new();
        for step in &state.steps {
            last.insert(step.kind, step);
        }
        let mut order: Vec<&Step> = last.into_values().collect();
        order.sort_by_key(|step| step.begin);
        let (mut scripts, mut plan) = (HashMap::new(), MemoryPlan::default());
        for step in order {
            let (script, memory) = state.step(step);
            scripts.insert(step.kind, script);
            plan.steps.push(memory);
            // Blocks that exist before the step and outlive it; the largest total of all kinds.
            let held = state.blocks[..step.blocks.start].iter();
            let held = sums(held.filter(|b| b.died.as_ref().is_none_or(|&(died, _)| died > step.end)));
            if total(&held) > plan.held_bytes() {
                plan.held = held;
            }
        }
        let sent = state.steps.iter().map(|step| step.uploaded as u64).max().unwrap_or(0);
        plan.hold(ARRIVING, ARRIVING_STEPS * sent);
        (scripts, plan)
    }
}

impl State {
    fn step(&self, step: &Step) -> (Script, StepMemory) {
        let blocks = &self.blocks[step.blocks.clone()];
        let span = |b: &Block| {
            let (died, until) = b.died.clone().filter(|&(died, _)| died <= step.end)?;
            Some(Span { bytes: b.bytes, born: b.born, died, from: b.from.clone(), until })
        };
        let spans: Vec<Span> = blocks.iter().filter_map(span).collect();
        let Layout { offsets, bytes } = layout::place(&spans);
        let mut offsets = offsets.into_iter();
        let places = blocks.iter().map(|b| (b.bytes, span(b).and_then(|_| offsets.next())));
        let script = Script { blocks: places.collect(), bytes };
        let (moment, _) = layout::peak(&spans);
        let at_peak = blocks.iter().filter(|b| span(b).is_some_and(|s| s.born <= moment && moment < s.died));
        let memory =
            StepMemory { kind: step.kind, bytes: bytes as u64, at_peak: sums(at_peak), buffers: spans.len() };
        (script, memory)
    }

    /// Marks a block as free from here on.
    fn end(&mut self, number: usize) {
        self.blocks[number].died = Some((self.now, self.branches.place().clone()));
        self.now += 1;
    }
}

/// Bytes by phase, largest first.
fn sums<'a>(blocks: impl Iterator<Item = &'a Block>) -> Vec<MemoryUse> {
    let mut by_phase: BTreeMap<&str, u64> = BTreeMap::new();
    for block in blocks {
        *by_phase.entry(block.phase).or_default() += block.bytes.next_multiple_of(layout::ALIGNMENT) as u64;
    }
    let mut uses: Vec<MemoryUse> =
        by_phase.into_iter().map(|(what, bytes)| MemoryUse { what: what.into(), bytes }).collect();
    uses.sort_by_key(|u| std::cmp::Reverse(u.bytes));
    uses
}

fn total(uses: &[MemoryUse]) -> u64 {
    uses.iter().map(|u| u.bytes).sum()
}

impl Driver for Recorder {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn alloc(&self, bytes: usize) -> Result<DevicePtr> {
        let mut state = self.state();
        let (phase, born) = (state.phase, state.now);
        state.now += 1;
        // Any address that no other block has.
        state.next_address += layout::ALIGNMENT as u64;
        let (address, number) = (state.next_address, state.blocks.len());
        state.live.insert(address, number);
        let from = state.branches.place().clone();
        state.blocks.push(Block { bytes, phase, born, from, died: None });
        Ok(DevicePtr(address))
    }

    fn free(&self, ptr: DevicePtr, _bytes: usize) {
        let state = &mut *self.state();
        let Some(number) = state.live.remove(&ptr.0) else { return };
        if let Some(number) = state.branches.give_back(&state.blocks[number].from, number) {
            state.end(number);
        }
    }

    fn upload(&self, _to: DevicePtr, data: &[u8]) -> Result<()> {
        let state = &mut *self.state();
        if let (true, Some(step)) = (state.in_step, state.steps.last_mut()) {
            step.uploaded += data.len().next_multiple_of(layout::ALIGNMENT);
        }
        Ok(())
    }

    fn download(&self, _from: DevicePtr, data: &mut [u8]) -> Result<()> {
        data.fill(0);
        Ok(())
    }

    fn copy(&self, _from: DevicePtr, _to: DevicePtr, _bytes: usize) -> Result<()> {
        Ok(())
    }

    fn clear(&self, _ptr: DevicePtr, _bytes: usize) -> Result<()> {
        Ok(())
    }

    fn launch(&self, _kernel: &Kernel, _launch: Launch, _args: &Args) -> Result<()> {
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn has_wgmma(&self) -> bool {
        self.wgmma
    }

    fn tensor_map(&self, _spec: &TensorMapSpec) -> Result<TensorMap> {
        Ok(TensorMap([0; 16]))
    }

    fn phase(&self, name: &'static str) -> &'static str {
        std::mem::replace(&mut self.state().phase, name)
    }

    fn begin_step(&self, kind: &'static str) {
        let mut state = self.state();
        let (begin, first) = (state.now, state.blocks.len());
        state.steps.push(Step { kind, begin, end: begin, blocks: first..first, uploaded: 0 });
        state.in_step = true;
    }

    fn branch(&self, turn: Branch) {
        let mut state = self.state();
        for number in state.branches.turn(turn) {
            state.end(number);
        }
    }

    fn end_step(&self) -> Result<()> {
        let mut state = self.state();
        let (now, end) = (state.now, state.blocks.len());
        if let Some(step) = state.steps.last_mut() {
            step.end = now;
            step.blocks.end = end;
        }
        state.in_step = false;
        Ok(())
    }
}
