//! The state of one block of a cluster: its index in the grid, its shared memory, its barrier.

use super::heap;
use super::thread::Place;
use std::ffi::c_void;

/// Shared memory that a block of compute capability 8.0 to 9.0 can have in the largest case, and the static
/// part of it.
pub const SHARED_BYTES: usize = 227 << 10;
pub const STATIC_BYTES: usize = 48 << 10;
/// Bytes of the arena, a multiple of pages.
pub const ARENA_BYTES: usize = SHARED_BYTES.next_multiple_of(heap::PAGE);
/// From one block's arena to the next one's: nothing may touch the page between them.
pub const ARENA_STRIDE: usize = ARENA_BYTES + heap::PAGE;
/// Bytes between two static arrays in the check build, which nothing may access.
pub const RED_ZONE: usize = 16;
/// Most blocks of a cluster that every device can run.
pub const MAX_BLOCKS: usize = 8;

/// `EmuBlock` of tools/emulator/cpp/emulated.cuh.
#[repr(C)]
pub struct BlockView {
    pub index: [u32; 3],
    pub dim: [u32; 3],
    pub grid: [u32; 3],
    pub shared: *mut u8,
    /// Rank in the cluster.
    pub rank: u32,
}

/// A static shared array.
pub struct Static {
    pub key: *const c_void,
    pub offset: usize,
}

/// A block.
pub struct Block {
    pub view: BlockView,
    /// Threads in `block_sync`, and where; threads that have returned.
    pub at_barrier: usize,
    pub barrier: Place,
    pub done: usize,
    pub statics: Vec<Static>,
    pub shared_used: usize,
    pub static_bytes: usize,
}

impl Block {
    /// Block number `rank` of a cluster, whose arenas begin at `arenas`.
    pub fn new(rank: usize, arenas: usize) -> Block {
        let shared = (arenas + rank * ARENA_STRIDE) as *mut u8;
        Block {
            view: BlockView { index: [0; 3], dim: [0; 3], grid: [0; 3], shared, rank: rank as u32 },
            at_barrier: 0,
            barrier: Place::NONE,
            done: 0,
            statics: Vec::new(),
            shared_used: 0,
            static_bytes: 0,
        }
    }

    /// The address of its shared memory.
    pub fn shared(&self) -> usize {
        self.view.shared as usize
    }
}
