//! Sets of warps that have read the same byte, and when each did so last. A block has few of them, as
//! neighbouring bytes are read alike, so a byte's cell holds a set's number.

use super::shadow::Clock;
use std::collections::HashMap;

/// Sets that are told apart; later ones count as read by all warps at the time of the last, which any barrier
/// of the whole block orders.
const MAX_SETS: usize = 4096;

/// What was read before: the stamp that says so.
type Before = u64;

/// The sets of one block. Times are one too many, as 0 is for warps that did not read.
#[derive(Default)]
pub struct Readers {
    sets: Vec<Clock>,
    /// Numbers of the sets that came of a stamp and one more reader.
    merged: HashMap<(Before, usize, u64), usize>,
    all: HashMap<u64, usize>,
}

impl Readers {
    /// The number of the set of `known` (whose stamp is `before`) with warp `warp` at `event`.
    pub fn add(
        &mut self,
        before: Before,
        known: impl Fn(&Readers) -> Clock,
        warp: usize,
        event: u64,
    ) -> usize {
        if let Some(&set) = self.merged.get(&(before, warp, event)) {
            return set;
        }
        if self.sets.len() >= MAX_SETS {
            let next = self.sets.len();
            let set = *self.all.entry(event).or_insert(next);
            if set == next {
                self.sets.push([event + 1; super::shadow::MAX_WARPS]);
            }
            return set;
        }
        let mut clock = known(self);
        clock[warp] = event + 1;
        self.sets.push(clock);
        self.merged.insert((before, warp, event), self.sets.len() - 1);
        self.sets.len() - 1
    }

    /// When each warp of a set read last, plus one.
    pub fn times(&self, set: usize) -> &Clock {
        &self.sets[set]
    }
}
