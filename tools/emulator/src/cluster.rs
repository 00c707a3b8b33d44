//! The scheduler of one cluster of blocks, one block in most kernels: every CUDA thread is ready, waits at a
//! barrier or in a warp operation, or is done. The last to arrive releases the others; where no thread is
//! ready, the report says who waits where.

use super::barriers::{ClusterBarrier, Mbarrier, NamedBarrier};
use super::block::{ARENA_BYTES, ARENA_STRIDE, Block, BlockView, MAX_BLOCKS};
use super::check;
use super::copies::{Copies, Groups};
use super::fault;
use super::heap::{self, Heap, POISON};
use super::registry::Invoke;
use super::report::{Failure, triple};
use super::shadow::{Access, Actor, Clock, Shadow};
use super::stack::Slot;
use super::thread::{Place, Thread, Wait, WarpOp};
use super::tma::TmaCopy;
use super::wgmma::Wgmma;
use super::{EmulatorOptions, Schedule};
use corosensei::CoroutineResult;
use psmt_fast::backend::cuda::driver::Launch;
use std::cell::Cell;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::ptr;

/// Threads of a warp.
pub const WARP: usize = 32;
/// A warp.
pub struct Warp {
    /// A bit for each lane that exists, that is ready, that has arrived at the operation.
    pub members: u32,
    pub ready: u32,
    pub arrived: u32,
    /// The operation that the first lane arrived with.
    pub op: Option<WarpOp>,
    pub place: Place,
    /// Vector clock of its lanes; for their own warp the time of their last synchronisation.
    pub clock: Clock,
    /// WGMMAs in flight, and a hash of all that were issued.
    pub wgmmas: Groups<Wgmma>,
    pub issued: u64,
}

/// What all blocks of a launch have in common.
pub struct Plan<'a> {
    pub invoke: Invoke,
    pub args: &'a [*mut c_void],
    pub launch: Launch,
    /// Blocks of a cluster.
    pub cluster: u32,
    pub options: EmulatorOptions,
    pub heap: &'a Heap,
    /// The heap's shadow, in the check build.
    pub shadow: Option<&'a Shadow>,
    /// Number of the launch.
    pub launch_number: u64,
}

// SAFETY: kernels read their arguments through the pointers, and nothing writes them during the launch.
unsafe impl Sync for Plan<'_> {}

/// A cluster of blocks, and what it takes to run it; used for one cluster after another.
pub struct Cluster {
    pub plan: *const Plan<'static>,
    /// As many as a cluster can have; those of this one come first, in order of their ranks.
    pub blocks: Vec<Block>,
    /// Threads of one block, and of all blocks in order.
    pub block_threads: usize,
    pub threads: Vec<Thread>,
    pub warps: Vec<Warp>,
    pub copies: Vec<Copies>,
    /// Whether any thread began a copy.
    pub copied: bool,
    pub mbarriers: Vec<Mbarrier>,
    pub named_barriers: Vec<NamedBarrier>,
    /// TMA copies in flight.
    pub tma_copies: VecDeque<TmaCopy>,
    pub barrier: ClusterBarrier,
    pub random: u64,
    pub failure: Option<Failure>,
    /// The running thread, its vector clock, and the number of barriers so far.
    pub actor: Actor,
    pub arena_shadow: Option<Shadow>,
    /// Boxed, as a coroutine must not move while it runs.
    #[expect(clippy::vec_box)]
    pub pool: Vec<Box<Slot>>,
    pub num_slots: usize,
    /// The address of the blocks' shared memory.
    pub arenas: usize,
    /// The variable from which kernels read the running thread.
    pub current: *mut *mut c_void,
}

unsafe extern "C" {
    fn emu_current_slot() -> *mut *mut c_void;
}

thread_local! {
    static CLUSTER: Cell<Option<Box<Cluster>>> = const { Cell::new(None) };
}

/// Runs the cluster whose first block is `index` to its end on this OS thread.
pub fn run(plan: &Plan<'_>, index: [u32; 3]) -> Result<(), String> {
    let mut cluster = match CLUSTER.take() {
        Some(cluster) => cluster,
        None => Box::new(Cluster::new()?),
    };
    // SAFETY: the cluster is not used between here and the end of the run but through this pointer, and
    // `plan` outlives it.
    let result = unsafe {
        let this: *mut Cluster = &mut *cluster;
        let result =
            Cluster::begin(this, ptr::from_ref(plan).cast(), index).and_then(|()| Cluster::run(this));
        Cluster::end(this);
        result
    };
    CLUSTER.set(Some(cluster));
    result.map_err(|message| format!("block {}: {message}", triple(index)))
}

impl Cluster {
    fn new() -> Result<Cluster, String> {
        let arenas = heap::reserve(MAX_BLOCKS * ARENA_STRIDE)?;
        for rank in 0..MAX_BLOCKS {
            heap::protect(arenas + rank * ARENA_STRIDE, ARENA_BYTES, libc::PROT_READ | libc::PROT_WRITE)?;
        }
        fault::install();
        Ok(Cluster {
            plan: ptr::null(),
            blocks: (0..MAX_BLOCKS).map(|rank| Block::new(rank, arenas)).collect(),
            block_threads: 0,
            threads: Vec::new(),
            warps: Vec::new(),
            copies: Vec::new(),
            copied: false,
            mbarriers: Vec::new(),
            named_barriers: Vec::new(),
            tma_copies: VecDeque::new(),
            barrier: ClusterBarrier::default(),
            random: 0,
            failure: None,
            actor: Actor::default(),
            arena_shadow: None,
            pool: Vec::new(),
            num_slots: 0,
            arenas,
            // SAFETY: returns the address of a thread-local variable of this OS thread, on which the cluster
            // stays.
            current: unsafe { emu_current_slot() },
        })
    }

    /// Sets everything up for the cluster of `plan` whose first block is `index`.
    unsafe fn begin(this: *mut Cluster, plan: *const Plan<'static>, index: [u32; 3]) -> Result<(), String> {
        // SAFETY: called between clusters; `plan` outlives the run.
        let (cluster, plan_ref) = unsafe { (&mut *this, &*plan) };
        let Launch { grid, block: dim, shared } = plan_ref.launch;
        cluster.plan = plan;
        let num = dim.iter().product::<u32>() as usize;
        (cluster.block_threads, cluster.barrier) = (num, ClusterBarrier::default());
        cluster.threads.clear();
        for (rank, block) in cluster.blocks.iter_mut().take(plan_ref.cluster as usize).enumerate() {
            let [x, y, z] = index;
            (block.view.index, block.view.dim, block.view.grid) = ([x + rank as u32, y, z], dim, grid);
            (block.at_barrier, block.done, block.static_bytes) = (0, 0, 0);
            block.statics.clear();
            block.shared_used = shared as usize;
            // SAFETY: launches with more than the arena are refused.
            unsafe { block.view.shared.write_bytes(POISON, shared as usize) };
            let view: *const BlockView = &block.view;
            cluster.threads.extend((0..num).map(|number| {
                let i = number as u32;
                Thread {
                    index: [i % dim[0], i / dim[0] % dim[1], i / (dim[0] * dim[1])],
                    view,
                    cluster: this,
                    number: rank * num + number,
                    rank,
                    yielder: ptr::null(),
                    slot: None,
                    deposit: ptr::null_mut(),
                    wait: Wait::Ready,
                    arrived: None,
                }
            }));
        }
        let num = cluster.threads.len();
        cluster.warps.clear();
        cluster.warps.extend((0..num.div_ceil(WARP)).map(|w| {
            let members = u32::MAX >> (WARP - WARP.min(num - w * WARP));
            Warp {
                members,
                ready: members,
                arrived: 0,
                op: None,
                place: Place::NONE,
                clock: Clock::default(),
                wgmmas: Groups::default(),
                issued: 0,
            }
        }));
        if std::mem::take(&mut cluster.copied) {
            cluster.copies.iter_mut().for_each(Copies::clear);
        }
        if cluster.copies.len() < num {
            cluster.copies.resize_with(num, Copies::default);
        }
        cluster.mbarriers.clear();
        cluster.named_barriers.clear();
        cluster.tma_copies.clear();
        let number = index.iter().rev().fold(0u64, |n, &v| n << 21 | u64::from(v));
        cluster.random = match plan_ref.options.schedule {
            Schedule::Seeded(seed) => seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number,
            _ => number,
        };
        cluster.failure = None;
        let flat = u64::from(index[0])
            + u64::from(grid[0]) * (u64::from(index[1]) + u64::from(grid[1]) * u64::from(index[2]));
        cluster.actor = Actor {
            launch: plan_ref.launch_number,
            block: flat,
            warps: cluster.warps.len(),
            ..Actor::default()
        };
        if plan_ref.shadow.is_some() {
            if cluster.arena_shadow.is_none() {
                cluster.arena_shadow = Some(Shadow::new(cluster.arenas, MAX_BLOCKS * ARENA_STRIDE)?);
            }
            if let Some(shadow) = &cluster.arena_shadow {
                let blocks = cluster.blocks.iter().take(plan_ref.cluster as usize);
                blocks.for_each(|block| shadow.create(block.shared(), shared as usize));
            }
            check::follow(this);
        }
        Ok(())
    }

    /// The blocks of this cluster.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks[..self.threads.len() / self.block_threads.max(1)]
    }

    /// Whether the cluster has a block of this rank that has not returned.
    pub fn runs(&self, rank: usize) -> bool {
        self.blocks().get(rank).is_some_and(|block| block.done < self.block_threads)
    }

    /// A thread in words.
    pub fn name(&self, number: usize) -> String {
        let Some(thread) = self.threads.get(number) else { return String::new() };
        match self.blocks().len() {
            1 => format!("thread {}", triple(thread.index)),
            _ => format!("thread {} of block {} of the cluster", triple(thread.index), thread.rank),
        }
    }

    /// The shadow of shared memory, in the check build.
    pub fn shadow(&self) -> Option<&Shadow> {
        // SAFETY: the plan outlives the run.
        unsafe { (*self.plan).shadow.and(self.arena_shadow.as_ref()) }
    }

    /// Follows an access of the running thread, which ends here where it is forbidden.
    ///
    /// # Safety
    /// Called on the running thread's coroutine, by a function that owns nothing else, while the cluster is
    /// followed.
    pub unsafe fn touch(this: *mut Cluster, address: usize, bytes: usize, access: Access) {
        // SAFETY: as promised by the caller; the references end before the thread is suspended.
        unsafe {
            let cluster = &*this;
            let shadows = [(*cluster.plan).shadow, cluster.arena_shadow.as_ref()];
            let Some(shadow) = shadows.into_iter().flatten().find(|s| s.covers(address)) else { return };
            if let Err((at, wrong)) = shadow.touch(&cluster.actor, address, bytes, access) {
                let (text, number) =
                    (cluster.forbidden(at, bytes, access, wrong), cluster.actor.thread as usize);
                let threads = &mut (*this).threads;
                let thread = threads.as_mut_ptr().add(number);
                Thread::fail(thread, text);
            }
        }
    }

    /// Runs all threads until they are done or one fails.
    unsafe fn run(this: *mut Cluster) -> Result<(), String> {
        // SAFETY: no reference to the cluster is held while a thread runs.
        unsafe {
            loop {
                let Some(number) = (*this).next() else {
                    let cluster = &mut *this;
                    if cluster.blocks().iter().map(|b| b.done).sum::<usize>() == cluster.threads.len() {
                        return cluster.loose_ends().map_or(Ok(()), Err);
                    }
                    // As late as possible: no thread can run.
                    match cluster.tma_copies.pop_front() {
                        Some(copy) => cluster.complete(copy)?,
                        None => return Err(cluster.who_waits()),
                    }
                    continue;
                };
                Cluster::resume(this, number)?;
                if let Some(failure) = (*this).failure.take() {
                    return Err(failure.text());
                }
            }
        }
    }

    /// The thread that runs next. In order of threads, a warp goes on until none of its lanes is ready.
    fn next(&mut self) -> Option<usize> {
        // SAFETY: the plan outlives the run.
        match unsafe { (*self.plan).options.schedule } {
            Schedule::Ascending => {
                let w = self.warps.iter().position(|w| w.ready != 0)?;
                Some(w * WARP + self.warps[w].ready.trailing_zeros() as usize)
            }
            Schedule::Descending => {
                let w = self.warps.iter().rposition(|w| w.ready != 0)?;
                Some(w * WARP + WARP - 1 - self.warps[w].ready.leading_zeros() as usize)
            }
            Schedule::Seeded(_) => {
                let draw = self.draw();
                let num = self.warps.len();
                let from = draw as usize % num;
                let w = (0..num).map(|i| (from + i) % num).find(|&w| self.warps[w].ready != 0)?;
                let turn = (draw >> 32) as u32 % WARP as u32;
                let lane = (self.warps[w].ready.rotate_right(turn).trailing_zeros() + turn) as usize % WARP;
                Some(w * WARP + lane)
            }
        }
    }

    /// A random number (SplitMix64).
    pub fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Lets a thread run until it waits or is done.
    unsafe fn resume(this: *mut Cluster, number: usize) -> Result<(), String> {
        // SAFETY: no reference to the cluster is held while the thread runs; its coroutine lies in a box that
        // stays.
        unsafe {
            let threads = &mut (*this).threads;
            let thread: *mut Thread = threads.as_mut_ptr().add(number);
            if (*thread).slot.is_none() {
                (*thread).slot = Some((*this).take_slot()?);
            }
            let slot: *mut Slot = match &mut (*thread).slot {
                Some(slot) => &mut **slot,
                None => return Ok(()),
            };
            (*this).actor.thread = number as u64;
            (*this).actor.clock = (&(*this).warps)[number / WARP].clock;
            *(*this).current = thread.cast();
            fault::set_running(&(*slot).routine);
            let result = (*slot).routine.resume(thread);
            fault::set_running(ptr::null());
            *(*this).current = ptr::null_mut();
            match result {
                CoroutineResult::Yield(()) => {
                    if (*thread).wait == Wait::Done {
                        let pool = &mut (*this).pool;
                        pool.extend((*thread).slot.take());
                    }
                    Ok(())
                }
                CoroutineResult::Return(fault) => {
                    Err(format!("{}: {}", (*this).name(number), (*this).describe(fault)))
                }
            }
        }
    }

    fn take_slot(&mut self) -> Result<Box<Slot>, String> {
        if let Some(slot) = self.pool.pop() {
            return Ok(slot);
        }
        self.num_slots += 1;
        Slot::new(self.num_slots).map(Box::new)
    }

    /// Takes the coroutines of threads that did not finish back.
    unsafe fn end(this: *mut Cluster) {
        check::follow(ptr::null_mut());
        // SAFETY: nothing of the cluster runs any more.
        let cluster = unsafe { &mut *this };
        if let Some(shadow) = cluster.shadow() {
            for block in cluster.blocks() {
                shadow.destroy(block.shared(), block.shared_used.min(ARENA_BYTES));
            }
        }
        for thread in &mut cluster.threads {
            if let Some(slot) = thread.slot.take() {
                cluster.pool.push(Box::new(slot.renew()));
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A coroutine that waits for its next thread would be unwound; a renewed one has nothing to unwind.
        for slot in self.pool.drain(..) {
            slot.renew();
        }
        heap::release(self.arenas, MAX_BLOCKS * ARENA_STRIDE);
    }
}
