//! A caching allocator of device memory. A step asks for the same sizes in the same order each time, so freed
//! blocks are kept by size, and after the first step none is allocated. Deals in addresses; must not know the
//! driver.

use std::collections::{BTreeMap, HashMap};

/// Granularity of the driver's allocations.
const GRANULARITY: usize = 2 << 20;

/// Bytes in use and kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Bytes in blocks given out.
    pub(super) live: usize,
    /// Bytes in blocks kept for reuse.
    pub(super) kept: usize,
}

/// Device memory of one stream. A block given back is given out again at once: what runs on it next comes
/// later in the stream than what ran on it before.
#[derive(Default)]
pub(super) struct Pool {
    /// Blocks kept, by size.
    free: BTreeMap<usize, Vec<u64>>,
    /// Sizes of the blocks given out.
    live: HashMap<u64, usize>,
    usage: Usage,
}

impl Pool {
    /// Size of a block for `bytes`: a multiple of 256, and of a sixteenth of the power of two below, so that
    /// sizes that differ a little share blocks; of large ones a multiple of the driver's own granularity, as
    /// planned memory may be nearly all that there is.
    pub(super) fn block_size(bytes: usize) -> usize {
        let step = bytes.checked_ilog2().map_or(1, |log| 1usize << log.saturating_sub(4));
        let step = step.clamp(256, GRANULARITY);
        bytes.div_ceil(step).saturating_mul(step)
    }

    /// A block of at least `bytes`, if one is kept that is not much larger.
    pub(super) fn take(&mut self, bytes: usize) -> Option<u64> {
        let size = Pool::block_size(bytes);
        let (&found, blocks) = self.free.range_mut(size..=size.saturating_add(size / 8)).next()?;
        let ptr = blocks.pop().expect("empty lists are removed");
        if blocks.is_empty() {
            self.free.remove(&found);
        }
        self.usage.kept -= found;
        self.give_out(ptr, found);
        Some(ptr)
    }

    /// Notes a new block of `size` bytes as given out.
    pub(super) fn give_out(&mut self, ptr: u64, size: usize) {
        self.live.insert(ptr, size);
        self.usage.live += size;
    }

    /// Forgets a block that was given out; returns its size.
    pub(super) fn remove(&mut self, ptr: u64) -> Option<usize> {
        let size = self.live.remove(&ptr)?;
        self.usage.live -= size;
        Some(size)
    }

    /// Keeps a block that was given out.
    pub(super) fn put_back(&mut self, ptr: u64) {
        if let Some(size) = self.remove(ptr) {
            self.free.entry(size).or_default().push(ptr);
            self.usage.kept += size;
        }
    }

    /// Empties the list of kept blocks, which the caller frees.
    pub(super) fn drain(&mut self) -> Vec<u64> {
        self.usage.kept = 0;
        std::mem::take(&mut self.free).into_values().flatten().collect()
    }

    pub(super) fn usage(&self) -> Usage {
        self.usage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_waste_little() {
        assert_eq!(Pool::block_size(1), 256);
        assert_eq!(Pool::block_size(4096), 4096);
        assert_eq!(Pool::block_size(4097), 4352);
        for bytes in [1, 255, 257, 5000, 65_537, 1_000_003, 3 << 30] {
            let size = Pool::block_size(bytes);
            assert!(
                size >= bytes && size.is_multiple_of(256) && size - bytes <= (bytes / 16).max(255),
                "{bytes}: {size}"
            );
        }
        // 72.1 GiB, an arena on a card of 80.
        let arena = (721 << 30) / 10;
        assert!(Pool::block_size(arena) - arena < GRANULARITY);
    }

    #[test]
    fn a_repeated_step_allocates_nothing() {
        let mut pool = Pool::default();
        let mut allocated = 0;
        for step in 0..3 {
            let mut blocks = Vec::new();
            for bytes in [1000, 70_000, 1000, 5_000_000, 70_000] {
                let ptr = pool.take(bytes).unwrap_or_else(|| {
                    assert_eq!(step, 0, "{bytes} bytes were not kept");
                    allocated += 1;
                    pool.give_out(allocated, Pool::block_size(bytes));
                    allocated
                });
                blocks.push(ptr);
            }
            let distinct: std::collections::BTreeSet<_> = blocks.iter().collect();
            assert_eq!(distinct.len(), blocks.len(), "a block was given out twice");
            blocks.into_iter().for_each(|ptr| pool.put_back(ptr));
            assert_eq!(pool.usage().live, 0);
        }
        assert_eq!(pool.drain().len(), 5);
        assert_eq!(pool.usage(), Usage::default());
    }

    #[test]
    fn much_larger_blocks_are_left_alone() {
        let mut pool = Pool::default();
        pool.give_out(1, Pool::block_size(1 << 20));
        pool.put_back(1);
        assert_eq!(pool.take(1000), None);
        assert_eq!(pool.take((1 << 20) - 5000), Some(1));
        assert_eq!(pool.take(1 << 20), None);
    }
}
