//! WGMMA: asynchronous matrix multiply-accumulate of a warpgroup, both operands in shared memory, named by
//! matrix descriptors. Each warp makes its sixteen rows; the four warps of a warpgroup must issue the same
//! WGMMAs.

use super::cluster::{Cluster, WARP, Warp};
use super::shadow::Access;
use super::thread::{Place, Thread};
use super::tma::swizzled;
use std::ffi::c_void;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Warps of a warpgroup, rows of a warp, depth of a WGMMA.
const WARPS: usize = 4;
const WARP_ROWS: usize = 16;
const DEPTH: usize = 16;
/// Bytes of a chunk and of a row.
const CHUNK: usize = 16;
const ROW_BYTES: usize = 128;
/// Most columns.
const MAX_COLUMNS: usize = 256;

/// `EmuWgmma` of tools/emulator/cpp/emulated_sm90.cuh: the operands of a lane.
#[repr(C)]
pub struct Deposit {
    thread: *mut Thread,
    /// The lane's accumulators.
    d: *mut f32,
    a: u64,
    b: u64,
    columns: u32,
    /// Whether the operand is MN-major instead of K-major.
    mn_major_a: bool,
    mn_major_b: bool,
    /// Whether the accumulators are added to or overwritten.
    accumulate: bool,
    line: u32,
}

/// A WGMMA that a warp has issued.
pub struct Wgmma {
    lanes: [*mut f32; WARP],
    a: u64,
    b: u64,
    columns: usize,
    mn_major_a: bool,
    mn_major_b: bool,
    accumulate: bool,
    /// The warp's index in its warpgroup.
    warp: usize,
    /// Hash of the operands when it was issued, in the check build.
    operands: Option<u64>,
}

/// A matrix descriptor: an operand in shared memory, all fields in bytes.
struct Descriptor {
    start: usize,
    leading: usize,
    stride: usize,
    mn_major: bool,
}

impl Descriptor {
    fn new(bits: u64, mn_major: bool) -> Result<Descriptor, String> {
        let field = |shift: u32| (bits >> shift & 0x3fff) as usize * 16;
        let (swizzle, base_offset) = (bits >> 62, bits >> 49 & 7);
        if swizzle != 1 || base_offset != 0 {
            return Err(format!("descriptor {bits:#x} has another swizzle than 128 bytes, or an offset"));
        }
        Ok(Descriptor { start: field(0), leading: field(16), stride: field(32), mn_major })
    }

    /// Offset in shared memory of the chunk with the value of row or column `i` at depth `k`, and the value's
    /// index in it.
    fn place(&self, i: usize, k: usize) -> (usize, usize) {
        let at = if self.mn_major {
            self.start + i / 64 * self.leading + k / 8 * self.stride + k % 8 * ROW_BYTES + i % 64 * 2
        } else {
            self.start + i / 8 * self.stride + i % 8 * ROW_BYTES + k * 2
        };
        let at = swizzled(at);
        (at / CHUNK * CHUNK, at % CHUNK / 2)
    }
}

/// Hash of two operands.
fn hash_of(a: &[f32], b: &[f32]) -> u64 {
    let mut hasher = DefaultHasher::new();
    a.iter().chain(b).for_each(|v| v.to_bits().hash(&mut hasher));
    hasher.finish()
}

fn bf16(bits: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bits)) << 16)
}

impl Thread {
    /// `count` rows or columns of an operand from `first` on, as `[k][i]`.
    unsafe fn read_operand(
        this: *mut Thread,
        descriptor: &Descriptor,
        first: usize,
        values: &mut [f32],
        count: usize,
    ) {
        // SAFETY: called on this thread's coroutine; no reference to the cluster is alive where the thread
        // fails.
        unsafe {
            let room = (*(*(*this).cluster).plan).launch.shared as usize;
            let shared = (*this).shared_base();
            for k in 0..DEPTH {
                for i in 0..count {
                    let (chunk, e) = descriptor.place(first + i, k);
                    if chunk + CHUNK > room {
                        Thread::fail(this, format!("multiplies what lies at byte {chunk} of shared memory"));
                    }
                    if e == 0 {
                        Thread::touch(shared.add(chunk), CHUNK, Access::Read);
                    }
                    values[k * count + i] = bf16(shared.add(chunk + 2 * e).cast::<[u8; 2]>().read());
                }
            }
        }
    }

    /// The operands of a WGMMA as `[k][row]` and `[k][column]`.
    unsafe fn operands(this: *mut Thread, op: &Wgmma) -> (Vec<f32>, Vec<f32>) {
        // SAFETY: as for `read_operand`.
        unsafe {
            let descriptors = [(op.a, op.mn_major_a), (op.b, op.mn_major_b)];
            let [a, b] = descriptors.map(|(bits, mn_major)| Descriptor::new(bits, mn_major));
            let (a, b) = match (a, b) {
                (Ok(a), Ok(b)) => (a, b),
                (Err(e), _) | (_, Err(e)) => Thread::fail(this, e),
            };
            let columns = op.columns;
            let (mut a_values, mut b_values) = (vec![0.0; DEPTH * WARP_ROWS], vec![0.0; DEPTH * columns]);
            Thread::read_operand(this, &a, WARP_ROWS * op.warp, &mut a_values, WARP_ROWS);
            Thread::read_operand(this, &b, 0, &mut b_values, columns);
            (a_values, b_values)
        }
    }

    unsafe fn multiply(this: *mut Thread, op: &Wgmma) {
        // SAFETY: as for `read_operand`; the lanes wait, and their accumulators lie on stacks that stay.
        unsafe {
            let columns = op.columns;
            let (a_values, b_values) = Thread::operands(this, op);
            if op.operands.is_some_and(|before| before != hash_of(&a_values, &b_values)) {
                Thread::fail(
                    this,
                    "multiplied operands that were overwritten while the WGMMA was in flight".into(),
                );
            }
            let mut acc = [0.0f32; WARP_ROWS * MAX_COLUMNS];
            // Of each 8 columns, lane l holds 2 (l % 4) and the next, in rows l / 4 and l / 4 + 8.
            let place = |lane: usize, i: usize| {
                (lane / 4 + 8 * (i / 2 % 2)) * columns + i / 4 * 8 + lane % 4 * 2 + i % 2
            };
            if op.accumulate {
                for (lane, d) in op.lanes.iter().enumerate() {
                    (0..columns / 2).for_each(|i| acc[place(lane, i)] = d.add(i).read());
                }
            }
            for (row, acc) in acc.chunks_exact_mut(columns).take(WARP_ROWS).enumerate() {
                for (k, b) in b_values.chunks_exact(columns).enumerate() {
                    let a = a_values[k * WARP_ROWS + row];
                    acc.iter_mut().zip(b).for_each(|(sum, b)| *sum += a * b);
                }
            }
            for (lane, d) in op.lanes.iter().enumerate() {
                (0..columns / 2).for_each(|i| d.add(i).write(acc[place(lane, i)]));
            }
        }
    }

    /// Issues a WGMMA.
    ///
    /// # Safety
    /// Called on this thread's coroutine with the running thread in `deposit`.
    pub unsafe fn wgmma(deposit: *mut Deposit, place: Place) {
        // SAFETY: as promised by the caller.
        unsafe { Thread::warp_op((*deposit).thread, issue, deposit.cast(), false, place) }
    }

    /// Closes a group of WGMMAs.
    ///
    /// # Safety
    /// Called on this thread's coroutine.
    pub unsafe fn wgmma_commit_group(this: *mut Thread, place: Place) {
        // SAFETY: as promised by the caller.
        unsafe { Thread::warp_op(this, commit_group, this.cast(), false, place) }
    }

    /// Waits until at most `groups` groups are in flight.
    ///
    /// # Safety
    /// Called on this thread's coroutine.
    pub unsafe fn wgmma_wait_group(this: *mut Thread, groups: u32, place: Place) {
        // SAFETY: as promised by the caller; the deposit stays on this stack.
        unsafe {
            let mut deposit = (this, groups);
            Thread::warp_op(this, wait_group, (&raw mut deposit).cast(), true, place);
        }
    }

    fn shared_base(&self) -> *mut u8 {
        // SAFETY: the cluster outlives its threads.
        unsafe { (*self.view).shared }
    }
}

unsafe extern "C" fn issue(lanes: *const [*mut c_void; WARP]) {
    // SAFETY: the lanes wait with deposits of this kind, the last of them runs.
    unsafe {
        let deposits = (*lanes).map(|lane| lane.cast::<Deposit>());
        let first = &*deposits[0];
        // Any lane stands for the warp; the running one must be asked to fail.
        let this = running(first.thread);
        let same = |d: &Deposit| {
            (d.a, d.b, d.columns, d.accumulate) == (first.a, first.b, first.columns, first.accumulate)
        };
        if !deposits.iter().all(|&d| same(&*d)) {
            Thread::fail(this, "issues another WGMMA than its warp".into());
        }
        let cluster = &mut *(*this).cluster;
        let number = (*this).number / WARP;
        let mut op = Wgmma {
            lanes: deposits.map(|d| (*d).d),
            a: first.a,
            b: first.b,
            columns: first.columns as usize,
            mn_major_a: first.mn_major_a,
            mn_major_b: first.mn_major_b,
            accumulate: first.accumulate,
            warp: (number - cluster.warps_of((*this).rank).start) % WARPS,
            operands: None,
        };
        let mut hasher = DefaultHasher::new();
        (cluster.warps[number].issued, first.a, first.b, first.columns, first.accumulate, first.line)
            .hash(&mut hasher);
        cluster.warps[number].issued = hasher.finish();
        // The accumulators are undefined until the wait: they are computed then, or at once.
        let (idle, followed) = (cluster.warps[number].wgmmas.is_idle(), cluster.shadow().is_some());
        if Thread::copy_completes_at_once(this) && idle {
            Thread::multiply(this, &op);
            return;
        }
        if followed {
            let (a, b) = Thread::operands(this, &op);
            op.operands = Some(hash_of(&a, &b));
        }
        let warps = &mut (*(*this).cluster).warps;
        warps[number].wgmmas.push(op);
    }
}

unsafe extern "C" fn commit_group(lanes: *const [*mut c_void; WARP]) {
    // SAFETY: the lanes wait, the last of them runs; their deposits are threads.
    unsafe {
        let this = (*lanes)[0].cast::<Thread>();
        let warps = &mut (*(*this).cluster).warps;
        warps[(*this).number / WARP].wgmmas.commit();
    }
}

unsafe extern "C" fn wait_group(lanes: *const [*mut c_void; WARP]) {
    // SAFETY: the lanes wait with deposits of this kind, the last of them runs.
    unsafe {
        let &(first, groups) = &*(*lanes)[0].cast::<(*mut Thread, u32)>();
        let this = running(first);
        let number = (*this).number / WARP;
        loop {
            let warps = &mut (*(*this).cluster).warps;
            let Some(op) = warps[number].wgmmas.next_before(groups as usize) else { return };
            Thread::multiply(this, &op);
        }
    }
}

/// The thread of this one's cluster that runs.
unsafe fn running(thread: *mut Thread) -> *mut Thread {
    // SAFETY: a thread of a cluster that runs.
    unsafe {
        let cluster = (*thread).cluster;
        let number = (*cluster).actor.thread as usize;
        let threads = &mut (*cluster).threads;
        threads.as_mut_ptr().add(number)
    }
}

impl Cluster {
    /// Asynchronous work that was not waited for by blocks whose threads have all returned.
    pub fn loose_ends(&self) -> Option<String> {
        if let Some(copy) = self.tma_copies.front() {
            return Some(format!("returns while a TMA copy that began at {} is in flight", copy.place));
        }
        let differ = |group: &[Warp]| group.iter().any(|w| w.issued != group[0].issued);
        for rank in 0..self.blocks().len() {
            if let Some(group) = self.warps[self.warps_of(rank)].chunks(WARPS).position(differ) {
                return Some(format!("the warps of warpgroup {group} issued different WGMMAs"));
            }
        }
        let open = self.warps.iter().position(|w| !w.wgmmas.is_idle());
        open.map(|warp| format!("warp {warp} returns while WGMMAs are in flight"))
    }
}
