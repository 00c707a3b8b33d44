//! The scheduler of one block: every CUDA thread is ready, waits at the block's barrier or in an operation of its warp, or
//! is done. The last to arrive lets the others go on; where nothing is ready, the report says who waits where.

use super::check;
use super::copies::Copies;
use super::fault::{self, Fault};
use super::heap::{self, Heap, POISON};
use super::registry::Invoke;
use super::shadow::{Access, Actor, Shadow, Wrong};
use super::stack::Slot;
use super::{CopyTime, EmulatorOptions, Schedule};
use crate::backend::cuda::driver::Launch;
use corosensei::{CoroutineResult, Yielder};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_void};
use std::ptr;

/// Threads of a warp.
pub const WARP: usize = 32;
/// Shared memory that a block of compute capability 8.0 to 9.0 can have in the largest case, and the static part of it.
const SHARED_BYTES: usize = 227 << 10;
const STATIC_BYTES: usize = 48 << 10;
/// Bytes of the arena, a multiple of pages.
const ARENA_BYTES: usize = SHARED_BYTES.next_multiple_of(4096);
/// What lies between two static arrays in the check build.
const RED_ZONE: usize = 16;

/// A line of a kernel.
#[derive(Clone, Copy)]
pub struct Place {
    pub file: *const c_char,
    pub line: u32,
}

impl Place {
    const NONE: Place = Place { file: ptr::null(), line: 0 };

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

/// `EmuBlock` of kernels/common/emulated.cuh.
#[repr(C)]
struct BlockView {
    index: [u32; 3],
    dim: [u32; 3],
    grid: [u32; 3],
    shared: *mut u8,
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
    /// Has returned.
    Done,
}

/// A CUDA thread. Begins as `EmuThread` of kernels/common/emulated.cuh.
#[repr(C)]
pub struct Thread {
    index: [u32; 3],
    view: *const BlockView,
    pub block: *mut Block,
    /// Position in the block.
    pub number: usize,
    yielder: *const Yielder<*mut Thread, ()>,
    slot: Option<Box<Slot>>,
    deposit: *mut c_void,
    wait: Wait,
}

/// Does a warp operation for all lanes from what each has deposited.
pub type WarpOp = unsafe extern "C" fn(lanes: *const [*mut c_void; WARP]);

struct Warp {
    /// A bit for each lane that exists, that is ready, that has arrived at the operation.
    members: u32,
    ready: u32,
    arrived: u32,
    /// The operation that the first lane came with.
    op: Option<WarpOp>,
    place: Place,
    /// Number of barriers when its lanes last synchronised.
    synced: u64,
}

/// A static shared array.
struct Static {
    key: *const c_void,
    offset: usize,
}

/// What all blocks of a launch have in common.
pub struct Plan<'a> {
    pub invoke: Invoke,
    pub args: &'a [*mut c_void],
    pub launch: Launch,
    pub options: EmulatorOptions,
    pub heap: &'a Heap,
    /// The heap's shadow, in the check build.
    pub shadow: Option<&'a Shadow>,
    /// Number of the launch.
    pub launch_number: u64,
}

// SAFETY: kernels read their arguments through the pointers, and nothing writes them during the launch.
unsafe impl Sync for Plan<'_> {}

/// Why a block ended early, and in the check build from where that came.
struct Failure {
    message: String,
    trace: Option<Backtrace>,
}

impl Failure {
    /// The message with the kernel's line, where the program has line numbers.
    fn text(self) -> String {
        let trace = self.trace.map(|t| t.to_string()).unwrap_or_default();
        let lines = trace.lines().filter_map(|l| l.trim().strip_prefix("at "));
        let mut own = lines.filter(|l| l.contains("kernels/") && !l.contains("common/emulated.cuh"));
        match own.next() {
            Some(line) => {
                format!("{}, at {}", self.message, line.find("kernels/").map_or(line, |at| &line[at..]))
            }
            None => self.message,
        }
    }
}

/// A block, and what it takes to run it; used for one block after another.
pub struct Block {
    view: BlockView,
    plan: *const Plan<'static>,
    threads: Vec<Thread>,
    warps: Vec<Warp>,
    copies: Vec<Copies>,
    at_barrier: usize,
    barrier: Place,
    done: usize,
    statics: Vec<Static>,
    shared_used: usize,
    static_bytes: usize,
    random: u64,
    failure: Option<Failure>,
    /// Barriers of the block and of its warps so far, how many there had been at the block's last one, and who runs.
    actor: Actor,
    arena_shadow: Option<Shadow>,
    pool: Vec<Box<Slot>>,
    num_slots: usize,
    shared: usize,
    /// Where the kernels look for the running thread.
    current: *mut *mut c_void,
}

unsafe extern "C" {
    fn emu_current_slot() -> *mut *mut c_void;
}

thread_local! {
    static BLOCK: Cell<Option<Box<Block>>> = const { Cell::new(None) };
}

/// Runs the block `index` of a launch to its end on this OS thread.
pub fn run(plan: &Plan<'_>, index: [u32; 3]) -> Result<(), String> {
    let mut block = match BLOCK.take() {
        Some(block) => block,
        None => Box::new(Block::new()?),
    };
    // SAFETY: the block is not used between here and the end of the run but through this pointer, and `plan` outlives it.
    let result = unsafe {
        let this: *mut Block = &mut *block;
        let result = Block::begin(this, ptr::from_ref(plan).cast(), index).and_then(|()| Block::run(this));
        Block::end(this);
        result
    };
    BLOCK.set(Some(block));
    result.map_err(|message| format!("block {}: {message}", triple(index)))
}

/// An index in words.
pub fn triple([x, y, z]: [u32; 3]) -> String {
    format!("({x}, {y}, {z})")
}

impl Thread {
    /// Runs the kernel as this thread.
    ///
    /// # Safety
    /// Called on a coroutine with that coroutine's yielder, for a thread of a block that is being run.
    pub unsafe fn main(this: *mut Thread, yielder: *const Yielder<*mut Thread, ()>) {
        // SAFETY: as promised by the caller.
        unsafe {
            (*this).yielder = yielder;
            let plan = (*(*this).block).plan;
            ((*plan).invoke)((*plan).args.as_ptr());
            (*this).wait = Wait::Done;
            let block = &mut *(*this).block;
            block.done += 1;
            block.warps[(*this).number / WARP].ready &= !(*this).lane_bit();
        }
    }

    fn lane_bit(&self) -> u32 {
        1 << (self.number % WARP)
    }

    /// Lets others run until this thread is ready again.
    unsafe fn suspend(this: *mut Thread, wait: Wait) {
        // SAFETY: called on this thread's coroutine; no reference to the block is alive.
        unsafe {
            (*this).wait = wait;
            let bit = (*this).lane_bit();
            let warp = (*this).number / WARP;
            (&mut (*(*this).block).warps)[warp].ready &= !bit;
            (*(*this).yielder).suspend(());
            (*this).wait = Wait::Ready;
        }
    }

    /// Ends the block with a message about this thread; the thread is never resumed.
    ///
    /// # Safety
    /// Called on this thread's coroutine by a function that owns nothing else.
    pub unsafe fn fail(this: *mut Thread, message: String) -> ! {
        // SAFETY: as promised by the caller; no reference to the block is alive.
        unsafe {
            let block = &mut *(*this).block;
            let trace = block.arena_shadow.is_some().then(Backtrace::force_capture);
            let message = format!("thread {}: {message}", triple((*this).index));
            block.failure = Some(Failure { message, trace });
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
        // SAFETY: the references to the block end before the thread is suspended.
        unsafe {
            let block = &mut *(*this).block;
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
            if block.at_barrier < block.threads.len() {
                return Thread::suspend(this, Wait::Block(place));
            }
            block.at_barrier = 0;
            block.actor.events += 1;
            block.actor.block_synced = block.actor.events;
            block.warps.iter_mut().for_each(|w| w.ready = w.members);
        }
    }

    /// An operation of the warp; the last lane does it for all.
    ///
    /// # Safety
    /// Called on this thread's coroutine; `deposit` is what `op` expects.
    pub unsafe fn warp_op(this: *mut Thread, op: WarpOp, deposit: *mut c_void, orders: bool, place: Place) {
        // SAFETY: the references to the block end before the thread is suspended; deposits lie on stacks that stay.
        unsafe {
            (*this).deposit = deposit;
            let block = &mut *(*this).block;
            let number = (*this).number / WARP;
            let warp = &mut block.warps[number];
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
            let lanes: [*mut c_void; WARP] = std::array::from_fn(|i| block.threads[first + i].deposit);
            op(&lanes);
            warp.arrived = 0;
            warp.ready = warp.members;
            if orders {
                block.actor.events += 1;
                block.actor.warp_synced = block.actor.events;
                warp.synced = block.actor.events;
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
        // SAFETY: no other reference to the block is alive.
        unsafe {
            let block = &mut *(*this).block;
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
            if let Some(shadow) = block.shadow() {
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
            let block = &mut *(*this).block;
            &mut block.copies[number]
        }
    }

    /// Whether a copy that begins now lands at once.
    ///
    /// # Safety
    /// Called on this thread's coroutine.
    pub unsafe fn copy_lands_at_once(this: *mut Thread) -> bool {
        // SAFETY: no other reference to the block is alive.
        unsafe {
            let block = &mut *(*this).block;
            match (*block.plan).options.copies {
                CopyTime::Late => false,
                CopyTime::Early => true,
                CopyTime::Seeded(seed) => (block.draw() ^ seed) & 1 == 0,
            }
        }
    }
}

impl Block {
    fn new() -> Result<Block, String> {
        let shared = heap::reserve(ARENA_BYTES + 4096)?;
        heap::protect(shared, ARENA_BYTES, libc::PROT_READ | libc::PROT_WRITE)?;
        fault::install();
        Ok(Block {
            view: BlockView { index: [0; 3], dim: [0; 3], grid: [0; 3], shared: shared as *mut u8 },
            plan: ptr::null(),
            threads: Vec::new(),
            warps: Vec::new(),
            copies: Vec::new(),
            at_barrier: 0,
            barrier: Place::NONE,
            done: 0,
            statics: Vec::new(),
            shared_used: 0,
            static_bytes: 0,
            random: 0,
            failure: None,
            actor: Actor::default(),
            arena_shadow: None,
            pool: Vec::new(),
            num_slots: 0,
            shared,
            // SAFETY: returns the address of a thread-local variable of this OS thread, on which the block stays.
            current: unsafe { emu_current_slot() },
        })
    }

    /// Sets everything up for a block of `plan`.
    unsafe fn begin(this: *mut Block, plan: *const Plan<'static>, index: [u32; 3]) -> Result<(), String> {
        // SAFETY: called between blocks; `plan` outlives the run.
        let (block, plan_ref) = unsafe { (&mut *this, &*plan) };
        let Launch { grid, block: dim, shared } = plan_ref.launch;
        block.plan = plan;
        (block.view.index, block.view.dim, block.view.grid) = (index, dim, grid);
        let num = dim.iter().product::<u32>() as usize;
        let view: *const BlockView = &block.view;
        block.threads.clear();
        block.threads.extend((0..num).map(|number| {
            let i = number as u32;
            Thread {
                index: [i % dim[0], i / dim[0] % dim[1], i / (dim[0] * dim[1])],
                view,
                block: this,
                number,
                yielder: ptr::null(),
                slot: None,
                deposit: ptr::null_mut(),
                wait: Wait::Ready,
            }
        }));
        block.warps.clear();
        block.warps.extend((0..num.div_ceil(WARP)).map(|w| {
            let members = u32::MAX >> (WARP - WARP.min(num - w * WARP));
            Warp { members, ready: members, arrived: 0, op: None, place: Place::NONE, synced: 0 }
        }));
        block.copies.resize_with(num, Copies::default);
        block.copies.iter_mut().for_each(Copies::clear);
        (block.at_barrier, block.done, block.static_bytes) = (0, 0, 0);
        block.statics.clear();
        block.shared_used = shared as usize;
        // SAFETY: launches with more than the arena are refused.
        unsafe { block.view.shared.write_bytes(POISON, shared as usize) };
        let number = index.iter().rev().fold(0u64, |n, &v| n << 21 | u64::from(v));
        block.random = match plan_ref.options.schedule {
            Schedule::Seeded(seed) => seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number,
            _ => number,
        };
        block.failure = None;
        let flat = u64::from(index[0])
            + u64::from(grid[0]) * (u64::from(index[1]) + u64::from(grid[1]) * u64::from(index[2]));
        block.actor = Actor { launch: plan_ref.launch_number, block: flat, ..Actor::default() };
        if plan_ref.shadow.is_some() {
            if block.arena_shadow.is_none() {
                block.arena_shadow = Some(Shadow::new(block.shared, ARENA_BYTES)?);
            }
            if let Some(shadow) = &block.arena_shadow {
                shadow.create(block.shared, shared as usize);
            }
            check::follow(this);
        }
        Ok(())
    }

    /// The shadow of shared memory, in the check build.
    fn shadow(&self) -> Option<&Shadow> {
        // SAFETY: the plan outlives the run.
        unsafe { (*self.plan).shadow.and(self.arena_shadow.as_ref()) }
    }

    /// Follows an access of the running thread, which ends here where it is forbidden.
    ///
    /// # Safety
    /// Called on the running thread's coroutine, by a function that owns nothing else, while the block is followed.
    pub unsafe fn touch(this: *mut Block, address: usize, bytes: usize, access: Access) {
        // SAFETY: as promised by the caller; the references end before the thread is suspended.
        unsafe {
            let block = &*this;
            let shadows = [(*block.plan).shadow, block.arena_shadow.as_ref()];
            let Some(shadow) = shadows.into_iter().flatten().find(|s| s.covers(address)) else { return };
            if let Err((at, wrong)) = shadow.touch(&block.actor, address, bytes, access) {
                let thread = (&mut (*this).threads).as_mut_ptr().add(block.actor.thread as usize);
                Thread::fail(thread, block.forbidden(at, bytes, access, wrong));
            }
        }
    }

    /// A forbidden access in words.
    fn forbidden(&self, at: usize, bytes: usize, access: Access, wrong: Wrong) -> String {
        let verb = match access {
            Access::Read => "reads",
            Access::Write => "writes",
            Access::Atomic => "updates",
            Access::BeginCopy => "begins a copy to",
            Access::LandCopy => "ends a copy to",
        };
        let target = self.describe_address(at);
        let copy = match wrong {
            Wrong::Pending(thread) => {
                self.copies[thread].find(at).map(|c| format!(" (begun at {})", c.place))
            }
            _ => None,
        };
        let name = |number: usize| self.threads.get(number).map_or_else(String::new, |t| triple(t.index));
        check::describe(verb, bytes, &target, wrong, name) + &copy.unwrap_or_default()
    }

    /// An address in words.
    fn describe_address(&self, address: usize) -> String {
        if address.wrapping_sub(self.shared) >= ARENA_BYTES + 4096 {
            // SAFETY: the plan outlives the run.
            return unsafe { (*self.plan).heap.describe(address) };
        }
        format!("byte {} of shared memory", address - self.shared)
    }

    /// Runs all threads until they are done or one fails.
    unsafe fn run(this: *mut Block) -> Result<(), String> {
        // SAFETY: no reference to the block is held while a thread runs.
        unsafe {
            loop {
                let Some(number) = (*this).next() else {
                    let block = &*this;
                    return if block.done == block.threads.len() { Ok(()) } else { Err(block.who_waits()) };
                };
                Block::resume(this, number)?;
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
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Lets a thread run until it waits or is done.
    unsafe fn resume(this: *mut Block, number: usize) -> Result<(), String> {
        // SAFETY: no reference to the block is held while the thread runs; its coroutine lies in a box that stays.
        unsafe {
            let thread: *mut Thread = (&mut (*this).threads).as_mut_ptr().add(number);
            if (*thread).slot.is_none() {
                (*thread).slot = Some((*this).take_slot()?);
            }
            let slot: *mut Slot = match &mut (*thread).slot {
                Some(slot) => &mut **slot,
                None => return Ok(()),
            };
            (*this).actor.thread = number as u64;
            (*this).actor.warp_synced = (&(*this).warps)[number / WARP].synced;
            *(*this).current = thread.cast();
            fault::set_running(&(*slot).routine);
            let result = (*slot).routine.resume(thread);
            fault::set_running(ptr::null());
            *(*this).current = ptr::null_mut();
            match result {
                CoroutineResult::Yield(()) => {
                    if (*thread).wait == Wait::Done {
                        (&mut (*this).pool).extend((*thread).slot.take());
                    }
                    Ok(())
                }
                CoroutineResult::Return(fault) => {
                    Err(format!("thread {}: {}", triple((*thread).index), (*this).describe(fault)))
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
    unsafe fn end(this: *mut Block) {
        check::follow(ptr::null_mut());
        // SAFETY: nothing of the block runs any more.
        let block = unsafe { &mut *this };
        if let Some(shadow) = block.shadow() {
            shadow.destroy(block.shared, block.shared_used.min(ARENA_BYTES));
        }
        for thread in &mut block.threads {
            if let Some(slot) = thread.slot.take() {
                block.pool.push(Box::new(slot.renew()));
            }
        }
    }

    fn describe(&self, fault: Fault) -> String {
        if fault.overflow {
            return "uses up its stack".into();
        }
        match fault.signal {
            libc::SIGFPE => "divides an integer by zero".into(),
            libc::SIGILL => "came to a place that the compiler took to be out of reach".into(),
            _ if fault.address == 0 => {
                "reads or writes through a null pointer, or 16 bytes at an address that is no multiple of 16"
                    .into()
            }
            _ => format!("reads or writes {}", self.describe_address(fault.address)),
        }
    }

    /// Threads by what they wait for.
    fn who_waits(&self) -> String {
        let mut groups: Vec<(Wait, u32, [u32; 3])> = Vec::new();
        for thread in &self.threads {
            match groups.iter_mut().find(|g| g.0 == thread.wait) {
                Some(group) => group.1 += 1,
                None => groups.push((thread.wait, 1, thread.index)),
            }
        }
        let words = groups.iter().map(|&(wait, count, first)| {
            let first = triple(first);
            let who = if count == 1 {
                format!("thread {first}")
            } else {
                format!("{count} threads from {first} on")
            };
            match wait {
                Wait::Ready => format!("{who} can run"),
                Wait::Block(place) => format!("{who} wait in block_sync at {place}"),
                Wait::Warp(place) => format!("{who} wait in a warp operation at {place}"),
                Wait::Done => format!("{who} have returned"),
            }
        });
        format!("threads diverge: {}", words.collect::<Vec<_>>().join("; "))
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        heap::release(self.shared, ARENA_BYTES + 4096);
    }
}
