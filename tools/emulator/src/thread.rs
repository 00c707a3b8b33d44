//! A CUDA thread and its operations: barriers, warp operations, shared arrays, copies. Everything here runs
//! on the thread's own coroutine.

use super::CopyTime;
use super::block::{Block, BlockView, RED_ZONE, SHARED_BYTES, STATIC_BYTES, Static};
use super::cluster::{Cluster, WARP};
use super::copies::Copies;
use super::heap::POISON;
use super::report::Failure;
use super::stack::Slot;
use corosensei::Yielder;
use std::backtrace::Backtrace;
use std::ffi::{CStr, c_char, c_void};
use std::ptr;

/// A line of a kernel.
#[derive(Clone, Copy)]
pub struct Place {
    pub file: *const c_char,
    pub line: u32,
}

impl Place {
    pub const NONE: Place = Place { file: ptr::null(), line: 0 };

    fn file(&self) -> &CStr {
        // SAFETY: a constant of the kernel's text, from `__builtin_FILE`.
        if self.file.is_null() { c"" } else { unsafe { CStr::from_ptr(self.file) } }
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Place) -> bool {
        self.line == other.line && (self.file == other.file || self.file() == other.file())
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let file = self.file().to_string_lossy();
        write!(f, "{}:{}", file.find("kernels/").map_or(&*file, |at| &file[at..]), self.line)
    }
}

/// Where a thread is.
#[derive(Clone, Copy, PartialEq)]
pub enum Wait {
    /// Runs, or can.
    Ready,
    /// In `block_sync`.
    Block(Place),
    /// In an operation of its warp.
    Warp(Place),
    /// In `named_barrier_sync` of this block and number.
    Named(usize, u32, Place),
    /// In `cluster_wait`.
    Cluster(Place),
    /// In `mbarrier_wait` at this address for the phase of this parity.
    Mbarrier(usize, u32, Place),
    /// Has returned.
    Done,
}

/// A CUDA thread. Begins as `EmuThread` of tools/emulator/cpp/emulated.cuh.
#[repr(C)]
pub struct Thread {
    pub index: [u32; 3],
    pub view: *const BlockView,
    pub cluster: *mut Cluster,
    /// Position in the cluster, whose blocks have equal shares, and the rank of its block.
    pub number: usize,
    pub rank: usize,
    pub yielder: *const Yielder<*mut Thread, ()>,
    pub slot: Option<Box<Slot>>,
    pub deposit: *mut c_void,
    pub wait: Wait,
    /// The phase of the cluster's barrier at which it has arrived and not yet waited.
    pub arrived: Option<u64>,
}

/// Does a warp operation for all lanes, from the deposit of each.
pub type WarpOp = unsafe extern "C" fn(lanes: *const [*mut c_void; WARP]);

impl Thread {
    /// Runs the kernel as this thread.
    ///
    /// # Safety
    /// Called on a coroutine with that coroutine's yielder, for a thread of a cluster that is being run.
    pub unsafe fn main(this: *mut Thread, yielder: *const Yielder<*mut Thread, ()>) {
        // SAFETY: as promised by the caller.
        unsafe {
            (*this).yielder = yielder;
            let plan = (*(*this).cluster).plan;
            ((*plan).invoke)((*plan).args.as_ptr());
            (*this).wait = Wait::Done;
            let cluster = &mut *(*this).cluster;
            cluster.blocks[(*this).rank].done += 1;
            cluster.warps[(*this).number / WARP].ready &= !(*this).lane_bit();
        }
    }

    fn lane_bit(&self) -> u32 {
        1 << (self.number % WARP)
    }

    /// Lets others run until this thread is ready again.
    pub(super) unsafe fn suspend(this: *mut Thread, wait: Wait) {
        // SAFETY: called on this thread's coroutine; no reference to the cluster is alive.
        unsafe {
            (*this).wait = wait;
            let bit = (*this).lane_bit();
            let warp = (*this).number / WARP;
            (&mut (*(*this).cluster).warps)[warp].ready &= !bit;
            (*(*this).yielder).suspend(());
            (*this).wait = Wait::Ready;
        }
    }

    /// Ends the run with a message about this thread; the thread is never resumed.
    ///
    /// # Safety
    /// Called on this thread's coroutine by a function that owns nothing else.
    pub unsafe fn fail(this: *mut Thread, message: String) -> ! {
        // SAFETY: as promised by the caller; no reference to the cluster is alive.
        unsafe {
            let cluster = &mut *(*this).cluster;
            let trace = cluster.arena_shadow.is_some().then(Backtrace::force_capture);
            let message = format!("{}: {message}", cluster.name((*this).number));
            cluster.failure = Some(Failure { message, trace });
            loop {
                (*(*this).yielder).suspend(());
            }
        }
    }

    /// `block_sync`.
    ///
    /// # Safety
    /// Called on this thread's coroutine.
    pub unsafe fn block_sync(this: *mut Thread, place: Place) {
        // SAFETY: the references to the cluster end before the thread is suspended.
        unsafe {
            let cluster = &mut *(*this).cluster;
            let num = cluster.block_threads;
            let block = &mut cluster.blocks[(*this).rank];
            if block.at_barrier == 0 {
                block.barrier = place;
            } else if block.barrier != place {
                let first = block.barrier;
                Thread::fail(
                    this,
                    format!("comes to block_sync at {place} while others wait in that at {first}"),
                );
            }
            block.at_barrier += 1;
            if block.at_barrier < num {
                return Thread::suspend(this, Wait::Block(place));
            }
            block.at_barrier = 0;
            let warps = cluster.warps_of((*this).rank);
            cluster.actor.clock = cluster.meet(warps.clone());
            for warp in &mut cluster.warps[warps] {
                warp.ready = warp.members;
            }
        }
    }

    /// An operation of the warp; the last lane does it for all.
    ///
    /// # Safety
    /// Called on this thread's coroutine; `deposit` is what `op` expects.
    pub unsafe fn warp_op(this: *mut Thread, op: WarpOp, deposit: *mut c_void, orders: bool, place: Place) {
        // SAFETY: the references to the cluster end before the thread is suspended; deposits lie on stacks
        // that stay.
        unsafe {
            (*this).deposit = deposit;
            let cluster = &mut *(*this).cluster;
            let number = (*this).number / WARP;
            let warp = &mut cluster.warps[number];
            if warp.members != u32::MAX {
                let lanes = warp.members.count_ones();
                Thread::fail(
                    this,
                    format!("is in a warp of {lanes} threads at {place}; warp operations need {WARP}"),
                );
            }
            if warp.arrived == 0 {
                (warp.op, warp.place) = (Some(op), place);
            } else if warp.place != place || !warp.op.is_some_and(|first| ptr::fn_addr_eq(first, op)) {
                let first = warp.place;
                let text = format!(
                    "comes to a warp operation at {place} while lanes of its warp wait in that at {first}"
                );
                Thread::fail(this, text);
            }
            warp.arrived |= (*this).lane_bit();
            if warp.arrived != warp.members {
                return Thread::suspend(this, Wait::Warp(place));
            }
            let first = number * WARP;
            let lanes: [*mut c_void; WARP] = std::array::from_fn(|i| cluster.threads[first + i].deposit);
            op(&lanes);
            let cluster = &mut *(*this).cluster;
            let warp = &mut cluster.warps[number];
            warp.arrived = 0;
            warp.ready = warp.members;
            if orders {
                cluster.actor.events += 1;
                cluster.actor.clock[number] = cluster.actor.events;
                cluster.warps[number].clock = cluster.actor.clock;
            }
        }
    }

    /// The address of a static array.
    ///
    /// # Safety
    /// Called on this thread's coroutine.
    pub unsafe fn shared(
        this: *mut Thread,
        key: *const c_void,
        bytes: usize,
        align: usize,
        place: Place,
    ) -> *mut u8 {
        // SAFETY: no other reference to the cluster is alive.
        unsafe {
            let cluster = &mut *(*this).cluster;
            let Cluster { blocks, arena_shadow, plan, .. } = cluster;
            let block: &mut Block = &mut blocks[(*this).rank];
            if let Some(found) = block.statics.iter().find(|s| s.key == key) {
                return block.view.shared.add(found.offset);
            }
            let offset = block.shared_used.next_multiple_of(align.max(16));
            block.static_bytes += bytes;
            if offset + bytes > SHARED_BYTES || block.static_bytes > STATIC_BYTES {
                let text = format!(
                    "{bytes} more bytes of shared memory at {place} exceed {STATIC_BYTES} static or {SHARED_BYTES} in all"
                );
                Thread::fail(this, text);
            }
            block.statics.push(Static { key, offset });
            block.shared_used = offset + bytes;
            let at = block.view.shared.add(offset);
            at.write_bytes(POISON, bytes);
            if let Some(shadow) = (**plan).shadow.and(arena_shadow.as_ref()) {
                shadow.create(at as usize, bytes);
                if offset + bytes + RED_ZONE <= SHARED_BYTES {
                    block.shared_used += RED_ZONE;
                }
            }
            at
        }
    }

    /// The copies that this thread has begun.
    ///
    /// # Safety
    /// Called on this thread's coroutine; the reference ends before the thread is suspended.
    pub unsafe fn copies<'a>(this: *mut Thread) -> &'a mut Copies {
        // SAFETY: as promised by the caller.
        unsafe {
            let number = (*this).number;
            let cluster = &mut *(*this).cluster;
            cluster.copied = true;
            &mut cluster.copies[number]
        }
    }

    /// Whether a copy that begins now completes at once.
    ///
    /// # Safety
    /// Called on this thread's coroutine.
    pub unsafe fn copy_completes_at_once(this: *mut Thread) -> bool {
        // SAFETY: no other reference to the cluster is alive.
        unsafe {
            let cluster = &mut *(*this).cluster;
            match (*cluster.plan).options.copies {
                CopyTime::Late => false,
                CopyTime::Early => true,
                CopyTime::Seeded(seed) => (cluster.draw() ^ seed) & 1 == 0,
            }
        }
    }
}
