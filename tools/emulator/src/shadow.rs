//! The check build's shadow of every byte of device and shared memory: whether it exists and was written, and
//! who accessed it last. Two accesses of which one writes must be ordered: by a barrier between them (of the
//! block, a named barrier, an arrival at an mbarrier that the other waited for), by `warp_sync` within a
//! warp, or by the end of a launch. Atomics are ordered among themselves.

use super::heap;
use super::readers::Readers;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A byte's last write and last read, each a [`Stamp`]. Blocks run in parallel, so cells are atomic; a lost
/// update between blocks can only hide a race, never invent one.
pub type Cell = [AtomicU64; 2];

/// Two fields of stamps, so that blocks and launches fit; beyond these they repeat.
const THREAD_BITS: u32 = 10;
const EVENT_BITS: u32 = 20;
const BLOCK_BITS: u32 = 15;
const MAX_EVENT: u64 = (1 << EVENT_BITS) - 1;
const THREAD_MASK: u64 = ((1 << THREAD_BITS) - 1) << 2;
const EVENT_SHIFT: u32 = 2 + THREAD_BITS;
const EVENT_MASK: u64 = MAX_EVENT << EVENT_SHIFT;

/// States of a write cell without a writer. Zero, as fresh memory is: no such byte.
const NONE: u64 = 0;
const UNWRITTEN: u64 = 1 << 2;
const HOST: u64 = 2 << 2;

/// Kinds of stamps, in the lowest bits; zero are the states above.
const KIND: u64 = 3;
const PLAIN: u64 = 1;
/// Write cells: an atomic. Read cells: several threads of a warp.
const ATOMIC: u64 = 2;
const SEVERAL_LANES: u64 = 2;
/// Write cells: an asynchronous copy in flight. Read cells: threads of several warps; the field of events has
/// the number of their set.
const PENDING: u64 = 3;
const SEVERAL_WARPS: u64 = 3;

/// The running thread and its vector clock.
#[derive(Default)]
pub struct Actor {
    /// Numbers of launch, first block of the cluster, and thread of the cluster.
    pub launch: u64,
    pub block: u64,
    pub thread: u64,
    /// Barriers so far.
    pub events: u64,
    /// Warps of the cluster.
    pub warps: usize,
    /// Vector clock of the running thread's warp.
    pub clock: Clock,
    /// Warps that read the same.
    pub readers: RefCell<Readers>,
}

/// For each warp of a cluster: everything that it did before there had been this many barriers is over (a
/// vector clock).
pub type Clock = [u64; MAX_WARPS];

/// Warps that a block has at most, and a cluster that is emulated.
pub const MAX_WARPS: usize = 32;

/// Kind of an access.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
    Atomic,
    /// The target of an asynchronous copy that begins.
    BeginCopy,
    /// The target of one that completes.
    EndCopy,
}

/// Why an access is an error.
pub enum Wrong {
    /// There is no such byte.
    Outside,
    /// Nothing wrote it.
    Unwritten,
    /// A copy to it is in flight; the thread that began it.
    Pending(usize),
    /// Not ordered with what this thread of this or another block did.
    Race { other: &'static str, thread: usize, same_block: bool, several: bool },
}

impl Actor {
    fn stamp(&self, kind: u64) -> u64 {
        let event = self.events.min(MAX_EVENT - 1);
        kind | self.thread << 2
            | event << (2 + THREAD_BITS)
            | (self.block & ((1 << BLOCK_BITS) - 1)) << (2 + THREAD_BITS + EVENT_BITS)
            | self.launch << (2 + THREAD_BITS + EVENT_BITS + BLOCK_BITS)
    }

    fn same_launch(&self, stamp: u64) -> bool {
        let shift = 2 + THREAD_BITS + EVENT_BITS + BLOCK_BITS;
        stamp >> shift == (self.launch << shift) >> shift
    }

    fn same_block(&self, stamp: u64) -> bool {
        let shift = 2 + THREAD_BITS + EVENT_BITS;
        self.same_launch(stamp)
            && (stamp >> shift) & ((1 << BLOCK_BITS) - 1) == self.block & ((1 << BLOCK_BITS) - 1)
    }

    fn same_warp(&self, stamp: u64) -> bool {
        self.same_block(stamp) && thread_of(stamp) as u64 / 32 == self.thread / 32
    }

    /// Whether what made the stamp comes before this thread's present.
    fn after(&self, stamp: u64, several: bool) -> bool {
        if stamp & KIND == 0 || !self.same_launch(stamp) {
            return true;
        }
        let (event, thread) = (event_of(stamp), thread_of(stamp));
        if !self.same_block(stamp) {
            false
        } else if several && stamp & KIND == SEVERAL_WARPS {
            // Never, or once what each of the warps did is over.
            event != MAX_EVENT && {
                let readers = self.readers.borrow();
                let times = readers.times(event as usize).iter().zip(&self.clock);
                times.take(self.warps).all(|(read, known)| read <= known)
            }
        } else {
            event < self.clock[thread / 32]
                || (thread as u64 == self.thread && !(several && stamp & KIND != PLAIN))
        }
    }

    fn race(&self, other: &'static str, stamp: u64, several: bool) -> Wrong {
        let mut thread = thread_of(stamp);
        if several && stamp & KIND == SEVERAL_WARPS && self.same_block(stamp) && event_of(stamp) != MAX_EVENT
        {
            // The first warp that is to blame.
            let readers = self.readers.borrow();
            let times = readers.times(event_of(stamp) as usize).iter().zip(&self.clock);
            thread = 32 * times.take(self.warps).position(|(read, known)| read > known).unwrap_or(0);
        }
        Wrong::Race { other, thread, same_block: self.same_block(stamp), several }
    }

    /// Checks an access to one byte and records it.
    fn touch(&self, cell: &Cell, access: Access) -> Result<(), Wrong> {
        let (written, read) = (cell[0].load(Relaxed), cell[1].load(Relaxed));
        if written == NONE {
            return Err(Wrong::Outside);
        }
        if written & KIND == PENDING && access != Access::EndCopy {
            return Err(Wrong::Pending(thread_of(written)));
        }
        let atomics = access == Access::Atomic && written & KIND == ATOMIC;
        if access != Access::EndCopy && !atomics && !self.after(written, false) {
            return Err(self.race("written", written, false));
        }
        if matches!(access, Access::Read | Access::Atomic) && written == UNWRITTEN {
            return Err(Wrong::Unwritten);
        }
        if access == Access::Read {
            let mine = self.stamp(PLAIN);
            if read != mine {
                cell[1].store(self.merge(read, mine), Relaxed);
            }
            return Ok(());
        }
        if !self.after(read, true) {
            return Err(self.race("read", read, read & KIND != PLAIN));
        }
        let kind = match access {
            Access::Atomic => ATOMIC,
            Access::BeginCopy => PENDING,
            _ => PLAIN,
        };
        cell[0].store(self.stamp(kind), Relaxed);
        if read != 0 {
            cell[1].store(0, Relaxed);
        }
        Ok(())
    }

    /// The stamp that stands for the readers so far and this one.
    fn merge(&self, read: u64, mine: u64) -> u64 {
        if self.after(read, true) {
            return mine;
        }
        let (warp, event) = (self.thread as usize / 32, self.events.min(MAX_EVENT - 1));
        let several =
            |set: u64| (mine & !(KIND | THREAD_MASK | EVENT_MASK)) | SEVERAL_WARPS | set << EVENT_SHIFT;
        if !self.same_block(read) || event_of(read) == MAX_EVENT {
            // No barrier of one block orders readers of several.
            return several(MAX_EVENT);
        }
        if self.same_warp(read) && read & KIND != SEVERAL_WARPS {
            return self.stamp(SEVERAL_LANES);
        }
        let known = |readers: &Readers| {
            if read & KIND == SEVERAL_WARPS {
                return *readers.times(event_of(read) as usize);
            }
            let mut clock = Clock::default();
            clock[thread_of(read) / 32] = event_of(read) + 1;
            clock
        };
        let set = self.readers.borrow_mut().add(read, known, warp, event);
        if set as u64 >= MAX_EVENT { several(MAX_EVENT) } else { several(set as u64) }
    }

    /// Whether this thread's warp is among those that read a byte, since its last barrier.
    fn among(&self, read: u64) -> bool {
        read & KIND == SEVERAL_WARPS
            && self.same_block(read)
            && event_of(read) != MAX_EVENT
            && self.readers.borrow().times(event_of(read) as usize)[self.thread as usize / 32]
                == self.events + 1
    }
}

fn thread_of(stamp: u64) -> usize {
    (stamp >> 2 & ((1 << THREAD_BITS) - 1)) as usize
}

fn event_of(stamp: u64) -> u64 {
    (stamp >> EVENT_SHIFT) & MAX_EVENT
}

/// The cells of a range of addresses.
pub struct Shadow {
    from: usize,
    bytes: usize,
    cells: usize,
}

impl Shadow {
    /// Cells for `bytes` bytes at `from`; all say that there is no such byte.
    pub fn new(from: usize, bytes: usize) -> Result<Shadow, String> {
        let size = bytes * size_of::<Cell>();
        let cells = heap::reserve(size)?;
        heap::protect(cells, size, libc::PROT_READ | libc::PROT_WRITE)?;
        Ok(Shadow { from, bytes, cells })
    }

    /// Whether this is the shadow of `address`.
    #[inline]
    pub fn covers(&self, address: usize) -> bool {
        address.wrapping_sub(self.from) < self.bytes
    }

    fn cells(&self, address: usize, bytes: usize) -> &[Cell] {
        let offset = address - self.from;
        let bytes = bytes.min(self.bytes - offset);
        // SAFETY: the cells of the range were mapped zeroed in `new`, and are only used as atomics.
        unsafe { std::slice::from_raw_parts((self.cells as *const Cell).add(offset), bytes) }
    }

    /// Checks an access and records it; on error the first wrong byte and why.
    #[inline]
    pub fn touch(
        &self,
        actor: &Actor,
        address: usize,
        bytes: usize,
        access: Access,
    ) -> Result<(), (usize, Wrong)> {
        // Most bytes of an access are like the one before, and were read in this interval before.
        let mine = actor.stamp(PLAIN);
        // The last cell that held several warps, this one among them.
        let mut many = u64::MAX;
        let mut passed = u64::MAX;
        for (i, cell) in self.cells(address, bytes).iter().enumerate() {
            let (written, read) = (cell[0].load(Relaxed), cell[1].load(Relaxed));
            if access == Access::Read && read != many && actor.among(read) {
                many = read;
            }
            let known = access == Access::Read && written == passed && (read == mine || read == many);
            if !known {
                actor.touch(cell, access).map_err(|wrong| (address + i, wrong))?;
                passed = written;
            }
        }
        Ok(())
    }

    fn set(&self, address: usize, bytes: usize, state: u64) {
        for cell in self.cells(address, bytes) {
            cell[0].store(state, Relaxed);
            cell[1].store(0, Relaxed);
        }
    }

    /// New bytes that nothing has written.
    pub fn create(&self, address: usize, bytes: usize) {
        self.set(address, bytes, UNWRITTEN);
    }

    /// The host has written them.
    pub fn written_by_host(&self, address: usize, bytes: usize) {
        self.set(address, bytes, HOST);
    }

    /// The bytes no longer exist.
    pub fn destroy(&self, address: usize, bytes: usize) {
        self.set(address, bytes, NONE);
    }

    /// Copies the state of the bytes of `from` to those of `to`.
    pub fn copied_by_host(&self, from: usize, to: usize, bytes: usize) {
        for (a, b) in self.cells(from, bytes).iter().zip(self.cells(to, bytes)) {
            let state = if a[0].load(Relaxed) == UNWRITTEN { UNWRITTEN } else { HOST };
            b[0].store(state, Relaxed);
            b[1].store(0, Relaxed);
        }
    }

    /// The first byte that nothing wrote.
    pub fn first_unwritten(&self, address: usize, bytes: usize) -> Option<usize> {
        self.cells(address, bytes).iter().position(|c| c[0].load(Relaxed) == UNWRITTEN)
    }
}

impl Drop for Shadow {
    fn drop(&mut self) {
        heap::release(self.cells, self.bytes * size_of::<Cell>());
    }
}
