//! Matrix products of warpgroups: asynchronous, with both factors in shared memory, their places in descriptors. Each warp
//! makes its sixteen rows; a warpgroup's warps must ask for the same products.

use super::bulk::swizzled;
use super::cluster::{Cluster, WARP, Warp};
use super::shadow::Access;
use super::thread::{Place, Thread};
use std::ffi::c_void;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Warps of a warpgroup, rows of a product and of a warp, depth of a product.
const WARPS: usize = 4;
const WARP_ROWS: usize = 16;
const DEPTH: usize = 16;
/// Bytes of a chunk and of a row.
const CHUNK: usize = 16;
const ROW_BYTES: usize = 128;
/// Most columns.
const MAX_COLUMNS: usize = 256;

/// `EmuProduct` of tools/emulator/cpp/emulated_sm90.cuh: what a lane brings.
#[repr(C)]
pub struct Deposit {
    thread: *mut Thread,
    /// The lane's sums.
    d: *mut f32,
    a: u64,
    b: u64,
    columns: u32,
    /// Whether rows of the factor run along m or n instead of k.
    across_a: bool,
    across_b: bool,
    /// Whether sums are added to.
    accumulate: bool,
    line: u32,
}

/// A product that a warp has asked for.
pub struct Product {
    lanes: [*mut f32; WARP],
    a: u64,
    b: u64,
    columns: usize,
    across_a: bool,
    across_b: bool,
    accumulate: bool,
    /// The warp's place in its group.
    warp: usize,
    /// A number that stands for the factors when it was asked for, in the check build.
    factors: Option<u64>,
}

/// A factor's place in shared memory: fields of a descriptor, in bytes.
struct Factor {
    start: usize,
    leading: usize,
    stride: usize,
    across: bool,
}

impl Factor {
    fn new(descriptor: u64, across: bool) -> Result<Factor, String> {
        let field = |shift: u32| (descriptor >> shift & 0x3fff) as usize * 16;
        let (swizzle, base_offset) = (descriptor >> 62, descriptor >> 49 & 7);
        if swizzle != 1 || base_offset != 0 {
            return Err(format!(
                "descriptor {descriptor:#x} has another swizzle than 128 bytes, or an offset"
            ));
        }
        Ok(Factor { start: field(0), leading: field(16), stride: field(32), across })
    }

    /// Offset in shared memory of the chunk that holds the value of row or column `i` and depth `k`, and its number in it.
    fn place(&self, i: usize, k: usize) -> (usize, usize) {
        let at = if self.across {
            self.start + i / 64 * self.leading + k / 8 * self.stride + k % 8 * ROW_BYTES + i % 64 * 2
        } else {
            self.start + i / 8 * self.stride + i % 8 * ROW_BYTES + k * 2
        };
        let at = swizzled(at);
        (at / CHUNK * CHUNK, at % CHUNK / 2)
    }
}

/// A number that stands for two factors.
fn number_of(a: &[f32], b: &[f32]) -> u64 {
    let mut hasher = DefaultHasher::new();
    a.iter().chain(b).for_each(|v| v.to_bits().hash(&mut hasher));
    hasher.finish()
}

fn bf16(bits: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bits)) << 16)
}

impl Thread {
    /// `count` rows or columns of a factor from `first` on, as `[k][i]`.
    unsafe fn read_factor(
        this: *mut Thread,
        factor: &Factor,
        first: usize,
        values: &mut [f32],
        count: usize,
    ) {
        // SAFETY: called on this thread's coroutine; no reference to the cluster is alive where the thread fails.
        unsafe {
            let room = (*(*(*this).cluster).plan).launch.shared as usize;
            let shared = (*this).shared_base();
            for k in 0..DEPTH {
                for i in 0..count {
                    let (chunk, e) = factor.place(first + i, k);
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

    /// The factors of a product as `[k][row]` and `[k][column]`.
    unsafe fn factors(this: *mut Thread, product: &Product) -> (Vec<f32>, Vec<f32>) {
        // SAFETY: as for `read_factor`.
        unsafe {
            let factors = [(product.a, product.across_a), (product.b, product.across_b)];
            let [a, b] = factors.map(|(descriptor, across)| Factor::new(descriptor, across));
            let (a, b) = match (a, b) {
                (Ok(a), Ok(b)) => (a, b),
                (Err(e), _) | (_, Err(e)) => Thread::fail(this, e),
            };
            let columns = product.columns;
            let (mut a_values, mut b_values) = (vec![0.0; DEPTH * WARP_ROWS], vec![0.0; DEPTH * columns]);
            Thread::read_factor(this, &a, WARP_ROWS * product.warp, &mut a_values, WARP_ROWS);
            Thread::read_factor(this, &b, 0, &mut b_values, columns);
            (a_values, b_values)
        }
    }

    unsafe fn multiply(this: *mut Thread, product: &Product) {
        // SAFETY: as for `read_factor`; the lanes wait, and their sums lie on stacks that stay.
        unsafe {
            let columns = product.columns;
            let (a_values, b_values) = Thread::factors(this, product);
            if product.factors.is_some_and(|before| before != number_of(&a_values, &b_values)) {
                Thread::fail(this, "multiplied what was overwritten while the product was under way".into());
            }
            let mut sums = [0.0f32; WARP_ROWS * MAX_COLUMNS];
            // Lane l holds of each 8 columns two: 2 (l % 4) and the next, in rows l / 4 and l / 4 + 8.
            let place = |lane: usize, i: usize| {
                (lane / 4 + 8 * (i / 2 % 2)) * columns + i / 4 * 8 + lane % 4 * 2 + i % 2
            };
            if product.accumulate {
                for (lane, d) in product.lanes.iter().enumerate() {
                    (0..columns / 2).for_each(|i| sums[place(lane, i)] = d.add(i).read());
                }
            }
            for (row, sums) in sums.chunks_exact_mut(columns).take(WARP_ROWS).enumerate() {
                for (k, b) in b_values.chunks_exact(columns).enumerate() {
                    let a = a_values[k * WARP_ROWS + row];
                    sums.iter_mut().zip(b).for_each(|(sum, b)| *sum += a * b);
                }
            }
            for (lane, d) in product.lanes.iter().enumerate() {
                (0..columns / 2).for_each(|i| d.add(i).write(sums[place(lane, i)]));
            }
        }
    }

    /// Asks for a product.
    ///
    /// # Safety
    /// Called on this thread's coroutine with the running thread in `deposit`.
    pub unsafe fn product(deposit: *mut Deposit, place: Place) {
        // SAFETY: as promised by the caller.
        unsafe { Thread::warp_op((*deposit).thread, begin_product, deposit.cast(), false, place) }
    }

    /// Closes a group of products.
    ///
    /// # Safety
    /// Called on this thread's coroutine.
    pub unsafe fn product_commit(this: *mut Thread, place: Place) {
        // SAFETY: as promised by the caller.
        unsafe { Thread::warp_op(this, commit_products, this.cast(), false, place) }
    }

    /// Waits until at most `groups` groups of products are under way.
    ///
    /// # Safety
    /// Called on this thread's coroutine.
    pub unsafe fn product_wait(this: *mut Thread, groups: u32, place: Place) {
        // SAFETY: as promised by the caller; the deposit stays on this stack.
        unsafe {
            let mut deposit = (this, groups);
            Thread::warp_op(this, end_products, (&raw mut deposit).cast(), true, place);
        }
    }

    fn shared_base(&self) -> *mut u8 {
        // SAFETY: the cluster outlives its threads.
        unsafe { (*self.view).shared }
    }
}

unsafe extern "C" fn begin_product(lanes: *const [*mut c_void; WARP]) {
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
            Thread::fail(this, "asks for another product than its warp".into());
        }
        let cluster = &mut *(*this).cluster;
        let number = (*this).number / WARP;
        let mut product = Product {
            lanes: deposits.map(|d| (*d).d),
            a: first.a,
            b: first.b,
            columns: first.columns as usize,
            across_a: first.across_a,
            across_b: first.across_b,
            accumulate: first.accumulate,
            warp: (number - cluster.warps_of((*this).rank).start) % WARPS,
            factors: None,
        };
        let mut hasher = DefaultHasher::new();
        (cluster.warps[number].asked, first.a, first.b, first.columns, first.accumulate, first.line)
            .hash(&mut hasher);
        cluster.warps[number].asked = hasher.finish();
        // Results may not be there before the wait: they are made as late, or at once.
        let (idle, followed) = (cluster.warps[number].products.is_idle(), cluster.shadow().is_some());
        if Thread::copy_lands_at_once(this) && idle {
            Thread::multiply(this, &product);
            return;
        }
        if followed {
            let (a, b) = Thread::factors(this, &product);
            product.factors = Some(number_of(&a, &b));
        }
        let warps = &mut (*(*this).cluster).warps;
        warps[number].products.push(product);
    }
}

unsafe extern "C" fn commit_products(lanes: *const [*mut c_void; WARP]) {
    // SAFETY: the lanes wait, the last of them runs; their deposits are threads.
    unsafe {
        let this = (*lanes)[0].cast::<Thread>();
        let warps = &mut (*(*this).cluster).warps;
        warps[(*this).number / WARP].products.commit();
    }
}

unsafe extern "C" fn end_products(lanes: *const [*mut c_void; WARP]) {
    // SAFETY: the lanes wait with deposits of this kind, the last of them runs.
    unsafe {
        let &(first, groups) = &*(*lanes)[0].cast::<(*mut Thread, u32)>();
        let this = running(first);
        let number = (*this).number / WARP;
        loop {
            let warps = &mut (*(*this).cluster).warps;
            let Some(product) = warps[number].products.next_before(groups as usize) else { return };
            Thread::multiply(this, &product);
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
    /// What is wrong with blocks whose threads have all returned.
    pub fn loose_ends(&self) -> Option<String> {
        if let Some(copy) = self.bulk.front() {
            return Some(format!("returns while a bulk copy that began at {} is under way", copy.place));
        }
        let differ = |group: &[Warp]| group.iter().any(|w| w.asked != group[0].asked);
        for rank in 0..self.blocks().len() {
            if let Some(group) = self.warps[self.warps_of(rank)].chunks(WARPS).position(differ) {
                return Some(format!("the warps of warpgroup {group} asked for different products"));
            }
        }
        let open = self.warps.iter().position(|w| !w.products.is_idle());
        open.map(|warp| format!("warp {warp} returns while products are under way"))
    }
}
