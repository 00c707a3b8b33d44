//! Coroutines that run CUDA threads, kept for reuse.

use super::fault::Fault;
use super::thread::Thread;
use corosensei::stack::{DefaultStack, Stack, StackPointer};
use corosensei::{Coroutine, Yielder};

/// Bytes of a thread's stack. Kernels have small frames; a guard page ends it.
const STACK_BYTES: usize = 64 << 10;
/// Stacks begin at different distances from a page, as equal ones would compete for the same lines of the
/// cache.
const COLOURS: usize = 61;
const COLOUR_BYTES: usize = 192;

/// A guarded stack that begins `shift` bytes below its memory's end.
pub struct ColouredStack {
    memory: DefaultStack,
    shift: usize,
}

// SAFETY: a part of a stack that has a guard page and, with `shift` far below its size, enough usable memory.
unsafe impl Stack for ColouredStack {
    fn base(&self) -> StackPointer {
        StackPointer::new(self.memory.base().get() - self.shift).expect("stacks lie above their size")
    }
    fn limit(&self) -> StackPointer {
        self.memory.limit()
    }
}

/// What a coroutine is resumed with and what it ends with: a thread to run (looked at when the one before is
/// done), and the fault that ended it.
pub type Routine = Coroutine<*mut Thread, (), Fault, ColouredStack>;

/// A coroutine that runs one thread after another.
pub struct Slot {
    pub routine: Routine,
}

impl Slot {
    /// A coroutine on a stack of its own; `number` chooses the stack's colour.
    pub fn new(number: usize) -> Result<Slot, String> {
        let memory =
            DefaultStack::new(STACK_BYTES).map_err(|e| format!("no memory for a thread's stack: {e}"))?;
        let shift = number % COLOURS * COLOUR_BYTES;
        Ok(Slot { routine: routine(ColouredStack { memory, shift }) })
    }

    /// Makes the coroutine usable again after a fault or in the middle of a thread.
    pub fn renew(mut self) -> Slot {
        if !self.routine.done() {
            // SAFETY: the frames that are left behind are a kernel's, which owns nothing, and those of the
            // functions that suspend it, which own nothing at that point.
            unsafe { self.routine.force_reset() };
        }
        Slot { routine: routine(self.routine.into_stack()) }
    }
}

fn routine(stack: ColouredStack) -> Routine {
    Coroutine::with_stack(stack, |yielder: &Yielder<*mut Thread, ()>, mut thread: *mut Thread| {
        loop {
            // SAFETY: the scheduler resumes a fresh or finished coroutine with a thread that is alive until
            // it is done.
            unsafe { Thread::main(thread, yielder) };
            thread = yielder.suspend(());
        }
    })
}
