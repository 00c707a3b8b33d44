//! Barriers other than block_sync: mbarriers in shared memory, which count arrivals and bytes of TMA copies,
//! named barriers of some of a block's warps, and the barrier of a cluster.

use super::block::ARENA_STRIDE;
use super::cluster::{Cluster, WARP};
use super::shadow::Clock;
use super::thread::{Place, Thread, Wait};
use std::ops::Range;

/// Barriers of a block; number 0 is block_sync's.
const NAMED_BARRIERS: u32 = 16;

/// An mbarrier. A phase completes once all arrivals and all bytes that they expect have come.
pub struct Mbarrier {
    pub address: usize,
    /// Arrivals of a phase.
    expected: u32,
    /// Arrivals, and bytes, that the running phase still waits for.
    missing: u32,
    bytes: i64,
    /// Number of the running phase.
    phase: u32,
    /// Vector clocks: of all that have arrived, and the same at the end of the last phase.
    clock: Clock,
    released: Clock,
}

impl std::fmt::Display for Mbarrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Mbarrier { expected, missing, bytes, phase, .. } = self;
        write!(f, "phase {phase} lacks {missing} of {expected} arrivals and {bytes} bytes")
    }
}

/// The barrier of all threads of a cluster, at which they arrive before they wait. It orders no accesses to
/// memory.
#[derive(Default)]
pub struct ClusterBarrier {
    /// Number of the running phase, and threads that have arrived.
    phase: u64,
    arrived: usize,
}

/// A barrier of some warps of the block of this rank.
#[derive(Clone, Copy)]
pub struct NamedBarrier {
    rank: usize,
    id: u32,
    threads: u32,
    arrived: u32,
    place: Place,
}

/// known = max(known, more), the join of vector clocks.
pub fn join(known: &mut Clock, more: &Clock) {
    for (known, &more) in known.iter_mut().zip(more) {
        *known = (*known).max(more);
    }
}

impl Cluster {
    /// Counts bytes of a TMA copy that thread `issuer` began; whether there is such a barrier.
    pub fn complete_tx(&mut self, address: usize, bytes: usize, issuer: usize) -> bool {
        self.actor.events += 1;
        let events = self.actor.events;
        let Some(at) = self.mbarriers.iter().position(|b| b.address == address) else { return false };
        let barrier = &mut self.mbarriers[at];
        barrier.clock[issuer / WARP] = events;
        barrier.bytes -= bytes as i64;
        self.end_phase(at);
        true
    }

    /// Ends a phase that is complete and wakes the threads that wait for it.
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

    /// The warps of the block of this rank.
    pub fn warps_of(&self, rank: usize) -> Range<usize> {
        let each = self.block_threads.div_ceil(WARP);
        rank * each..(rank + 1) * each
    }

    /// Orders all that these warps did before what they do next; returns their joined clock.
    pub fn meet(&mut self, warps: impl Iterator<Item = usize> + Clone) -> Clock {
        self.actor.events += 1;
        let mut clock = Clock::default();
        warps.clone().for_each(|w| join(&mut clock, &self.warps[w].clock));
        warps.clone().for_each(|w| clock[w] = self.actor.events);
        warps.for_each(|w| self.warps[w].clock = clock);
        clock
    }

    /// Makes the threads ready that wait for this.
    fn wake(&mut self, waits: impl Fn(Wait) -> bool) {
        for thread in self.threads.iter().filter(|t| waits(t.wait)) {
            self.warps[thread.number / WARP].ready |= 1 << (thread.number % WARP);
        }
    }
}

impl Thread {
    /// The number of the cluster's mbarrier there.
    unsafe fn mbarrier(this: *mut Thread, address: usize, verb: &str, place: Place) -> usize {
        // SAFETY: called on this thread's coroutine; the reference to the cluster ends here.
        unsafe {
            let barriers = &(*(*this).cluster).mbarriers;
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
        // SAFETY: no other reference to the cluster is alive.
        unsafe {
            let cluster = &mut *(*this).cluster;
            if !address.is_multiple_of(8) || count == 0 {
                Thread::fail(this, format!("makes an mbarrier of {count} arrivals at {address:#x}, {place}"));
            }
            cluster.mbarriers.retain(|b| b.address != address);
            cluster.mbarriers.push(Mbarrier {
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

    /// `mbarrier_arrive` in the thread's own block or, with a `rank`, at the same offset in another, and
    /// `mbarrier_arrive_expect_tx`: one arrival, and bytes that the phase waits for as well. It orders what
    /// the thread's warp had done when it last synchronised.
    ///
    /// # Safety
    /// Called on this thread's coroutine.
    pub unsafe fn mbarrier_arrive(
        this: *mut Thread,
        address: usize,
        rank: Option<u32>,
        bytes: u32,
        place: Place,
    ) {
        // SAFETY: the references to the cluster end before the thread fails.
        unsafe {
            let own = (*this).rank;
            let rank = rank.map_or(own, |rank| rank as usize);
            if !(*(*this).cluster).runs(rank) {
                let text = format!(
                    "arrives at an mbarrier at {place} in block {rank} of the cluster, which is none or has returned"
                );
                Thread::fail(this, text);
            }
            let address = address - own * ARENA_STRIDE + rank * ARENA_STRIDE;
            let at = Thread::mbarrier(this, address, "arrives at", place);
            let cluster = &mut *(*this).cluster;
            let clock = cluster.actor.clock;
            let barrier = &mut cluster.mbarriers[at];
            if barrier.missing == 0 {
                let text =
                    format!("arrives at an mbarrier at {place} whose phase waits for bytes only: {barrier}");
                Thread::fail(this, text);
            }
            barrier.bytes += i64::from(bytes);
            barrier.missing -= 1;
            join(&mut barrier.clock, &clock);
            cluster.actor.events += 1;
            cluster.end_phase(at);
        }
    }

    /// `mbarrier_wait`: returns once the phase of this parity has completed.
    ///
    /// # Safety
    /// Called on this thread's coroutine.
    pub unsafe fn mbarrier_wait(this: *mut Thread, address: usize, parity: u32, place: Place) {
        // SAFETY: the references to the cluster end before the thread is suspended.
        unsafe {
            let at = Thread::mbarrier(this, address, "waits at", place);
            if (&(*(*this).cluster).mbarriers)[at].phase % 2 == parity {
                Thread::suspend(this, Wait::Mbarrier(address, parity, place));
            }
            let cluster = &mut *(*this).cluster;
            let warp = (*this).number / WARP;
            join(&mut cluster.warps[warp].clock, &cluster.mbarriers[at].released);
            cluster.actor.clock = cluster.warps[warp].clock;
        }
    }

    /// `named_barrier_sync`: a barrier of as many threads, whole warps.
    ///
    /// # Safety
    /// Called on this thread's coroutine.
    pub unsafe fn named_barrier_sync(this: *mut Thread, id: u32, threads: u32, place: Place) {
        // SAFETY: the references to the cluster end before the thread is suspended.
        unsafe {
            let cluster = &mut *(*this).cluster;
            if !(1..NAMED_BARRIERS).contains(&id) || !threads.is_multiple_of(WARP as u32) {
                Thread::fail(this, format!("comes to barrier {id} of {threads} threads at {place}"));
            }
            let rank = (*this).rank;
            let new = NamedBarrier { rank, id, threads, arrived: 0, place };
            let at = match cluster.named_barriers.iter().position(|b| (b.rank, b.id) == (rank, id)) {
                Some(at) => at,
                None => {
                    cluster.named_barriers.push(new);
                    cluster.named_barriers.len() - 1
                }
            };
            let barrier = &mut cluster.named_barriers[at];
            if barrier.threads != threads || barrier.place != place {
                let first = *barrier;
                Thread::fail(
                    this,
                    format!(
                        "comes to barrier {id} of {threads} threads at {place} while others wait for {} at {}",
                        first.threads, first.place
                    ),
                );
            }
            barrier.arrived += 1;
            if barrier.arrived < threads {
                return Thread::suspend(this, Wait::Named(rank, id, place));
            }
            cluster.named_barriers.remove(at);
            let here = |wait| matches!(wait, Wait::Named(r, i, _) if (r, i) == (rank, id));
            let waiting = cluster.threads.iter().filter(|t| here(t.wait));
            let mut warps: Vec<usize> =
                waiting.map(|t| t.number / WARP).chain([(*this).number / WARP]).collect();
            warps.sort_unstable();
            warps.dedup();
            cluster.actor.clock = cluster.meet(warps.into_iter());
            cluster.wake(here);
        }
    }

    /// `cluster_arrive`: the thread arrives at the barrier of the cluster.
    ///
    /// # Safety
    /// Called on this thread's coroutine.
    pub unsafe fn cluster_arrive(this: *mut Thread, place: Place) {
        // SAFETY: no other reference to the cluster is alive.
        unsafe {
            let cluster = &mut *(*this).cluster;
            if (*this).arrived.is_some() {
                let text = format!("arrives at the cluster's barrier again at {place}, and has not waited");
                Thread::fail(this, text);
            }
            let barrier = &mut cluster.barrier;
            (*this).arrived = Some(barrier.phase);
            barrier.arrived += 1;
            if barrier.arrived == cluster.threads.len() {
                (barrier.phase, barrier.arrived) = (barrier.phase + 1, 0);
                cluster.wake(|wait| matches!(wait, Wait::Cluster(_)));
            }
        }
    }

    /// `cluster_wait`: returns once all threads have arrived.
    ///
    /// # Safety
    /// Called on this thread's coroutine.
    pub unsafe fn cluster_wait(this: *mut Thread, place: Place) {
        // SAFETY: no reference to the cluster is alive where the thread fails or is suspended.
        unsafe {
            let Some(phase) = (*this).arrived.take() else {
                Thread::fail(this, format!("waits at the cluster's barrier at {place}, and has not arrived"));
            };
            if (*(*this).cluster).barrier.phase == phase {
                Thread::suspend(this, Wait::Cluster(place));
            }
        }
    }
}
