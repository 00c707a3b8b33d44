//! TMA: a thread begins the copy of a box of a tensor to shared memory, which completes some time later and
//! counts its bytes at an mbarrier. A tensor map holds its `TensorMapSpec` here.

use super::CopyTime;
use super::block::ARENA_STRIDE;
use super::cluster::Cluster;
use super::shadow::Access;
use super::thread::{Place, Thread};
use psmt_fast::backend::cuda::tensor_map::{ROW, TensorMap, TensorMapSpec};
use std::rc::Rc;

/// Bytes of a row, of a chunk, and after which the 128-byte swizzle repeats.
const ROW_BYTES: usize = 2 * ROW as usize;
const CHUNK: usize = 16;
const SWIZZLE_PERIOD: usize = 1024;
/// Largest im2col offset in a tensor of four dimensions.
const MAX_OFFSET: u32 = 255;

/// The 128-byte swizzle: the chunk index within a row of 128 bytes is XORed with the row's number.
pub fn swizzled(address: usize) -> usize {
    address ^ ((address >> 7 & 7) << 4)
}

/// Arguments of `tma_load`.
pub struct TmaLoad {
    /// Address of the box in the thread's own shared memory.
    pub to: usize,
    pub map: *const TensorMap,
    /// Coordinates of the box in the tensor, and im2col offsets.
    pub at: [i32; 4],
    pub offsets: [u32; 2],
    /// Address of the mbarrier.
    pub barrier: usize,
    /// Multicast: a bit for each block of the cluster; 0 for the thread's own block.
    pub mask: u32,
}

/// A copy in flight.
pub struct TmaCopy {
    /// Rank of the target block, offset in its shared memory, address of its mbarrier.
    rank: usize,
    to: usize,
    barrier: usize,
    /// For each chunk of the box in order the addresses of its values; 0 for a zero.
    values: Rc<[[usize; CHUNK / 2]]>,
    issuer: usize,
    pub place: Place,
}

/// The addresses of a row's values from channel or column `first` on; `row` is the address of index 0, `None`
/// if outside.
fn row_values(spec: &TensorMapSpec, row: Option<u64>, first: i64) -> [[usize; CHUNK / 2]; ROW_BYTES / CHUNK] {
    std::array::from_fn(|chunk| {
        std::array::from_fn(|e| {
            let i = first + (chunk * CHUNK / 2 + e) as i64;
            match row {
                Some(row) if (0..spec.dims[0] as i64).contains(&i) => row as usize + 2 * i as usize,
                _ => 0,
            }
        })
    })
}

/// The addresses of a box's values.
fn values(spec: &TensorMapSpec, at: [i32; 4], offsets: [u32; 2]) -> Vec<[usize; CHUNK / 2]> {
    let mut values = Vec::with_capacity(spec.rows() * ROW_BYTES / CHUNK);
    let place = |index: [i64; 3]| {
        let inside = index.iter().zip(&spec.dims[1..]).all(|(&i, &len)| (0..len as i64).contains(&i));
        let offset: i64 = index.iter().zip(&spec.strides).map(|(&i, &stride)| i * stride as i64).sum();
        inside.then(|| spec.base.0 + offset as u64)
    };
    let [first, mut w, mut h, mut n] = at.map(i64::from);
    if spec.im2col == 0 {
        let [_, boxes @ ..] = spec.extent.map(i64::from);
        for z in 0..boxes[2] {
            for y in 0..boxes[1] {
                for x in 0..boxes[0] {
                    values.extend(row_values(spec, place([w + x, h + y, n + z]), first));
                }
            }
        }
        return values;
    }
    let [lower_w, lower_h] = spec.lower.map(i64::from);
    let end_w = spec.dims[1] as i64 + i64::from(spec.upper[0]);
    let end_h = spec.dims[2] as i64 + i64::from(spec.upper[1]);
    let [off_w, off_h] = offsets.map(i64::from);
    for _ in 0..spec.extent[1] {
        values.extend(row_values(spec, place([w + off_w, h + off_h, n]), first));
        w += i64::from(spec.step[0]);
        if w >= end_w {
            (w, h) = (lower_w, h + i64::from(spec.step[1]));
        }
        if h >= end_h {
            (h, n) = (lower_h, n + 1);
        }
    }
    values
}

impl Cluster {
    /// Completes a copy, whatever thread runs.
    ///
    /// # Errors
    /// The target block has returned, or has no such mbarrier.
    pub fn complete(&mut self, copy: TmaCopy) -> Result<(), String> {
        if !self.runs(copy.rank) {
            return Err(format!(
                "a TMA copy that began at {} comes to a block that has returned",
                copy.place
            ));
        }
        let shared = self.blocks[copy.rank].shared();
        // On behalf of the thread that began it.
        let runs = std::mem::replace(&mut self.actor.thread, copy.issuer as u64);
        for (chunk, values) in copy.values.iter().enumerate() {
            let offset = swizzled(copy.to + chunk * CHUNK);
            let mut data = [0u8; CHUNK];
            for (to, &from) in data.chunks_exact_mut(2).zip(values) {
                if from != 0 {
                    // SAFETY: an address inside a tensor that a launch described; a wrong one faults as a
                    // kernel's would.
                    to.copy_from_slice(&unsafe { (from as *const [u8; 2]).read() });
                }
            }
            // SAFETY: the range was checked to be shared memory when the copy began.
            unsafe { data.as_ptr().copy_to_nonoverlapping((shared + offset) as *mut u8, CHUNK) };
            if let Some(shadow) = self.shadow() {
                // The access was checked when the copy began.
                let _ = shadow.touch(&self.actor, shared + offset, CHUNK, Access::EndCopy);
            }
        }
        self.actor.thread = runs;
        match self.complete_tx(copy.barrier, copy.values.len() * CHUNK, copy.issuer) {
            true => Ok(()),
            false => Err(format!(
                "a TMA copy that began at {} counts at an mbarrier that nothing has initialised",
                copy.place
            )),
        }
    }
}

impl Thread {
    /// `tma_load` in any of its forms: to the same offset in each block of the mask, and counted there.
    ///
    /// # Safety
    /// Called on this thread's coroutine; `map` is a tensor map.
    pub unsafe fn tma_load(this: *mut Thread, load: &TmaLoad, place: Place) {
        let &TmaLoad { to, map, at, offsets, barrier, mask } = load;
        // SAFETY: as promised by the caller; no reference to the cluster is alive where the thread fails.
        unsafe {
            let spec: TensorMapSpec = bytemuck::cast((*map).0);
            if let Some(fault) = spec.fault() {
                Thread::fail(this, format!("{fault}, at {place}"));
            }
            let bytes = spec.rows() * ROW_BYTES;
            let own = (*this).rank;
            let shared = (&(*(*this).cluster).blocks)[own].shared();
            let offset = to.wrapping_sub(shared);
            let room = (*(*(*this).cluster).plan).launch.shared as usize;
            if !offset.is_multiple_of(SWIZZLE_PERIOD) || offset.saturating_add(bytes) > room {
                Thread::fail(
                    this,
                    format!(
                        "copies {bytes} bytes to byte {offset} of shared memory at {place}, expected a multiple of \
                         {SWIZZLE_PERIOD} within {room}"
                    ),
                );
            }
            if offsets.iter().any(|&v| v > MAX_OFFSET) {
                Thread::fail(
                    this,
                    format!("copies with offsets {offsets:?} at {place}, expected at most 255"),
                );
            }
            let values: Rc<[_]> = values(&spec, at, offsets).into();
            let mask = if mask == 0 { 1 << own } else { mask };
            let ranks: Vec<usize> = (0..u32::BITS as usize).filter(|rank| mask >> rank & 1 == 1).collect();
            if let Some(rank) = ranks.iter().find(|&&rank| !(*(*this).cluster).runs(rank)) {
                let text = format!(
                    "copies to block {rank} of the cluster at {place}, which is none or has returned"
                );
                Thread::fail(this, text);
            }
            let there = |at: usize, rank: usize| at - own * ARENA_STRIDE + rank * ARENA_STRIDE;
            if (*(*this).cluster).shadow().is_some() {
                values.iter().flatten().filter(|&&v| v != 0).for_each(|&v| {
                    Thread::touch(v as *const u8, 2, Access::Read);
                });
                ranks.iter().for_each(|&rank| {
                    Thread::touch(there(to, rank) as *const u8, bytes, Access::BeginCopy);
                });
            }
            for rank in ranks {
                let (values, barrier) = (values.clone(), there(barrier, rank));
                let copy = TmaCopy { rank, to: offset, barrier, values, issuer: (*this).number, place };
                let cluster = &mut *(*this).cluster;
                let now = match (*cluster.plan).options.copies {
                    CopyTime::Late => false,
                    CopyTime::Early => true,
                    CopyTime::Seeded(seed) => (cluster.draw() ^ seed) & 1 == 0,
                };
                if !now {
                    cluster.tma_copies.push_back(copy);
                } else if let Err(text) = cluster.complete(copy) {
                    Thread::fail(this, text);
                }
            }
        }
    }
}
