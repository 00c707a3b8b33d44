//! Device memory of the emulator: one reserved range of addresses. An allocation ends (to within its
//! alignment) at a page that cannot be touched, is filled with 0xFF before its first use, and stays
//! inaccessible for a while after it is given back.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Addresses reserved for one device. Only what is allocated takes memory.
pub const HEAP_BYTES: usize = 64 << 30;
pub const PAGE: usize = 4096;
/// Alignment of every allocation, as on a GPU.
const ALIGN: usize = 256;
/// What memory holds before it is written: NaN as a float.
pub const POISON: u8 = 0xFF;
/// Pieces of one size that wait, inaccessible, before the first of them is used again.
const QUARANTINE: usize = 16;

/// The memory of one device.
pub struct Heap {
    base: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Bytes of the range that were ever used.
    used: usize,
    /// Start and bytes of allocations.
    live: BTreeMap<usize, usize>,
    /// Start and bytes of what was given back and not used again.
    freed: BTreeMap<usize, usize>,
    /// Pieces that were given back, by number of pages, oldest first.
    pieces: HashMap<usize, VecDeque<usize>>,
}

impl Heap {
    /// Reserves addresses.
    pub fn new() -> Result<Heap, String> {
        Ok(Heap { base: reserve(HEAP_BYTES)?, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first address.
    pub fn base(&self) -> usize {
        self.base
    }

    /// Memory of `bytes` bytes, poisoned.
    pub fn alloc(&self, bytes: usize) -> Result<usize, String> {
        let span = bytes.max(1).next_multiple_of(ALIGN);
        let pages = span.div_ceil(PAGE);
        let mut state = self.state();
        let reused =
            state.pieces.get_mut(&pages).filter(|q| q.len() >= QUARANTINE).and_then(VecDeque::pop_front);
        let piece = match reused {
            Some(piece) => piece,
            None => {
                let size = (pages + 1) * PAGE;
                if state.used + size > HEAP_BYTES {
                    return Err(format!("its {} GiB of addresses are used up", HEAP_BYTES >> 30));
                }
                state.used += size;
                self.base + state.used - size
            }
        };
        let start = piece + pages * PAGE - span;
        protect(piece, pages * PAGE, libc::PROT_READ | libc::PROT_WRITE)?;
        // SAFETY: the pages were just made writable and belong to nothing else.
        unsafe { (piece as *mut u8).write_bytes(POISON, pages * PAGE) };
        let end = piece + pages * PAGE;
        let old: Vec<usize> = state.freed.range(piece..end).map(|(&start, _)| start).collect();
        for start in old {
            state.freed.remove(&start);
        }
        state.live.insert(start, bytes);
        Ok(start)
    }

    /// Gives memory back.
    pub fn free(&self, start: usize) -> Result<usize, String> {
        let mut state = self.state();
        let Some(bytes) = state.live.remove(&start) else {
            return Err(format!("{start:#x} is given back but was not allocated"));
        };
        let pages = bytes.max(1).next_multiple_of(ALIGN).div_ceil(PAGE);
        let piece = start / PAGE * PAGE;
        // SAFETY: the pages belong to this allocation alone, and nothing in Rust refers to them.
        unsafe { libc::madvise(piece as *mut _, pages * PAGE, libc::MADV_DONTNEED) };
        protect(piece, pages * PAGE, libc::PROT_NONE)?;
        state.freed.insert(start, bytes);
        state.pieces.entry(pages).or_default().push_back(piece);
        Ok(bytes)
    }

    /// Whether `bytes` bytes at `start` lie in one allocation; says otherwise what is there.
    pub fn check(&self, start: usize, bytes: usize) -> Result<(), String> {
        let inside = match self.state().live.range(..=start).next_back() {
            Some((&at, &len)) => start + bytes <= at + len,
            None => false,
        };
        if inside { Ok(()) } else { Err(format!("{bytes} bytes at {}", self.describe(start))) }
    }

    /// An address in words.
    pub fn describe(&self, address: usize) -> String {
        if address < PAGE {
            return format!("{address:#x} (a null pointer)");
        }
        if !(self.base..self.base + HEAP_BYTES).contains(&address) {
            return format!("{address:#x} (no device memory)");
        }
        let state = self.state();
        let near = |map: &BTreeMap<usize, usize>| map.range(..=address).next_back().map(|(&s, &l)| (s, l));
        let (live, freed) = (near(&state.live), near(&state.freed));
        if let Some((start, len)) = freed.filter(|f| address < f.0 + f.1) {
            return format!("byte {} of {len} that were given back", address - start);
        }
        match (live, state.live.range(address..).next()) {
            (Some((start, len)), _) if address < start + len => format!("byte {} of {len}", address - start),
            (Some((start, len)), after)
                if after.is_none_or(|(&next, _)| address - start - len <= next - address) =>
            {
                format!("{} bytes past the end of {len}", address - start - len)
            }
            (_, Some((&next, &len))) => format!("{} bytes before the start of {len}", next - address),
            _ => format!("{address:#x} (never allocated)"),
        }
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        release(self.base, HEAP_BYTES);
    }
}

/// Addresses that nothing may touch yet.
pub fn reserve(bytes: usize) -> Result<usize, String> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the system's choice.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        return Err(format!(
            "cannot reserve {} GiB of addresses: {}",
            bytes >> 30,
            std::io::Error::last_os_error()
        ));
    }
    Ok(at as usize)
}

/// Ends what `reserve` began.
pub fn release(base: usize, bytes: usize) {
    // SAFETY: a mapping made by `reserve` that its owner gives up.
    unsafe { libc::munmap(base as *mut _, bytes) };
}

/// Changes what may be done with reserved pages.
pub fn protect(at: usize, bytes: usize, rights: i32) -> Result<(), String> {
    // SAFETY: pages of a reservation of ours.
    if unsafe { libc::mprotect(at as *mut _, bytes, rights) } != 0 {
        return Err(format!("no memory for {bytes} bytes: {}", std::io::Error::last_os_error()));
    }
    Ok(())
}
