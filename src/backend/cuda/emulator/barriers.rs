//! Barriers beside the block's own: mbarriers, which lie in shared memory and count arrivals and bytes on their way, and
//! barriers of some of a block's warps.

use super::block::{Block, WARP};
use super::shadow::Clock;
use super::thread::{Place, Thread, Wait};

/// Barriers of groups of warps that a block can have beside its own.
const GROUP_BARRIERS: u32 = 16;

/// An mbarrier. A phase is over once all arrivals and all bytes that they announced have come.
pub struct Mbarrier {
    pub address: usize,
    /// Arrivals of a phase.
    expected: u32,
    /// Arrivals, and bytes, that the running phase still waits for.
    missing: u32,
    bytes: i64,
    /// Number of the running phase.
    phase: u32,
    /// What is known to whoever arrived, and what was at the end of the last phase.
    clock: Clock,
    released: Clock,
}

impl std::fmt::Display for Mbarrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Mbarrier { expected, missing, bytes, phase, .. } = self;
        write!(f, "phase {phase} lacks {missing} of {expected} arrivals and {bytes} bytes")
    }
}

/// A barrier of some warps.
#[derive(Clone, Copy)]
pub struct GroupBarrier {
    pub id: u32,
    threads: u32,
    arrived: u32,
    place: Place,
}

/// `known` and what `more` knows beyond it.
pub fn join(known: &mut Clock, more: &Clock) {
    for (known, &more) in known.iter_mut().zip(more) {
        *known = (*known).max(more);
    }
}

impl Block {
    /// Bytes of a bulk copy have come, which thread `issuer` began.
    pub fn bulk_came(&mut self, address: usize, bytes: usize, issuer: usize) {
        self.actor.events += 1;
        let events = self.actor.events;
        if let Some(at) = self.mbarriers.iter().position(|b| b.address == address) {
            let barrier = &mut self.mbarriers[at];
            barrier.clock[issuer / WARP] = events;
            barrier.bytes -= bytes as i64;
            self.end_phase(at);
        }
    }

    /// Ends a phase that lacks nothing and lets those go on who waited for it.
    fn end_phase(&mut self, at: usize) {
        let barrier = &mut self.mbarriers[at];
        if barrier.missing > 0 || barrier.bytes != 0 {
            return;
        }
        barrier.phase += 1;
        barrier.missing = barrier.expected;
        barrier.released = barrier.clock;
        let (address, over) = (barrier.address, (barrier.phase - 1) % 2);
        self.wake(|wait| matches!(wait, Wait::Mbarrier(a, p, _) if a == address && p == over));
    }

    /// Makes the threads ready that wait for this.
    fn wake(&mut self, waits: impl Fn(Wait) -> bool) {
        for thread in self.threads.iter().filter(|t| waits(t.wait)) {
            self.warps[thread.number / WARP].ready |= 1 << (thread.number % WARP);
        }
    }
}

impl Thread {
    /// The number of the block's barrier there.
    unsafe fn mbarrier(this: *mut Thread, address: usize, verb: &str, place: Place) -> usize {
        // SAFETY: called on this thread's coroutine; the reference to the block ends here.
        unsafe {
            let barriers = &(*(*this).block).mbarriers;
            let Some(at) = barriers.iter().position(|b| b.address == address) else {
                let text = format!("{verb} an mbarrier at {place} that nothing has initialised");
                Thread::fail(this, text);
            };
            at
        }
    }

    /// `mbarrier_init`.
    ///
    /// # Safety
    /// Called on this thread's coroutine.
    pub unsafe fn mbarrier_init(this: *mut Thread, address: usize, count: u32, place: Place) {
        // SAFETY: no other reference to the block is alive.
        unsafe {
            let block = &mut *(*this).block;
            if !address.is_multiple_of(8) || count == 0 {
                Thread::fail(this, format!("makes an mbarrier of {count} arrivals at {address:#x}, {place}"));
            }
            block.mbarriers.retain(|b| b.address != address);
            block.mbarriers.push(Mbarrier {
                address,
                expected: count,
                missing: count,
                bytes: 0,
                phase: 0,
                clock: Clock::default(),
                released: Clock::default(),
            });
        }
    }

    /// `mbarrier_arrive` and `mbarrier_arrive_expect`: one arrival, and bytes that the phase waits for beside. It orders what
    /// the thread's warp had done when it last synchronised.
    ///
    /// # Safety
    /// Called on this thread's coroutine.
    pub unsafe fn mbarrier_arrive(this: *mut Thread, address: usize, bytes: u32, place: Place) {
        // SAFETY: the references to the block end before the thread fails.
        unsafe {
            let at = Thread::mbarrier(this, address, "arrives at", place);
            let block = &mut *(*this).block;
            let clock = block.actor.clock;
            let barrier = &mut block.mbarriers[at];
            if barrier.missing == 0 {
                let text =
                    format!("arrives at an mbarrier at {place} whose phase waits for bytes only: {barrier}");
                Thread::fail(this, text);
            }
            barrier.bytes += i64::from(bytes);
            barrier.missing -= 1;
            join(&mut barrier.clock, &clock);
            block.actor.events += 1;
            block.end_phase(at);
        }
    }

    /// `mbarrier_wait`: returns once the phase of this parity is over.
    ///
    /// # Safety
    /// Called on this thread's coroutine.
    pub unsafe fn mbarrier_wait(this: *mut Thread, address: usize, parity: u32, place: Place) {
        // SAFETY: the references to the block end before the thread is suspended.
        unsafe {
            let at = Thread::mbarrier(this, address, "waits at", place);
            if (&(*(*this).block).mbarriers)[at].phase % 2 == parity {
                Thread::suspend(this, Wait::Mbarrier(address, parity, place));
            }
            let block = &mut *(*this).block;
            let warp = (*this).number / WARP;
            join(&mut block.warps[warp].clock, &block.mbarriers[at].released);
            block.actor.clock = block.warps[warp].clock;
        }
    }

    /// `group_sync`: a barrier of as many threads, whole warps.
    ///
    /// # Safety
    /// Called on this thread's coroutine.
    pub unsafe fn group_sync(this: *mut Thread, id: u32, threads: u32, place: Place) {
        // SAFETY: the references to the block end before the thread is suspended.
        unsafe {
            let block = &mut *(*this).block;
            if !(1..GROUP_BARRIERS).contains(&id) || !threads.is_multiple_of(WARP as u32) {
                Thread::fail(this, format!("comes to barrier {id} of {threads} threads at {place}"));
            }
            let new = GroupBarrier { id, threads, arrived: 0, place };
            let at = match block.groups.iter().position(|g| g.id == id) {
                Some(at) => at,
                None => {
                    block.groups.push(new);
                    block.groups.len() - 1
                }
            };
            let group = &mut block.groups[at];
            if group.threads != threads || group.place != place {
                let first = *group;
                Thread::fail(
                    this,
                    format!(
                        "comes to barrier {id} of {threads} threads at {place} while others wait for {} at {}",
                        first.threads, first.place
                    ),
                );
            }
            group.arrived += 1;
            if group.arrived < threads {
                return Thread::suspend(this, Wait::Group(id, place));
            }
            block.groups.remove(at);
            block.actor.events += 1;
            let (events, own) = (block.actor.events, (*this).number / WARP);
            let waiting = block.threads.iter().filter(|t| matches!(t.wait, Wait::Group(i, _) if i == id));
            let mut warps: Vec<usize> = waiting.map(|t| t.number / WARP).chain([own]).collect();
            warps.sort_unstable();
            warps.dedup();
            let mut clock = Clock::default();
            warps.iter().for_each(|&w| join(&mut clock, &block.warps[w].clock));
            warps.iter().for_each(|&w| clock[w] = events);
            warps.iter().for_each(|&w| block.warps[w].clock = clock);
            block.actor.clock = clock;
            block.wake(|wait| matches!(wait, Wait::Group(i, _) if i == id));
        }
    }
}
