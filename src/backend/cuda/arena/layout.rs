//! Offsets for blocks of known sizes and lifetimes in one range of memory. Plain arithmetic; must not know
//! devices.

use crate::backend::cuda::branches::Place;

/// Addresses of blocks are multiples of this, as a driver's are.
pub(super) const ALIGNMENT: usize = 256;

/// A block that is in use from time `born` until `died`, of a program that may fork.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) bytes: usize,
    /// Time of its allocation.
    pub(super) born: usize,
    /// Time at which it is freed.
    pub(super) died: usize,
    /// The branch that allocates it.
    pub(super) from: Place,
    /// The branch that frees it.
    pub(super) until: Place,
}

impl Span {
    fn size(&self) -> usize {
        self.bytes.next_multiple_of(ALIGNMENT)
    }

    /// Whether it is free when the other is taken, whichever branches run first.
    fn precedes(&self, other: &Span) -> bool {
        self.died <= other.born && !self.until.concurrent_with(&other.from)
    }

    fn meets(&self, other: &Span) -> bool {
        !self.precedes(other) && !other.precedes(self)
    }
}

/// Offsets of blocks, and the bytes they take in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// One per block, in the order of the blocks.
    pub(super) offsets: Vec<usize>,
    /// End of the last one.
    pub(super) bytes: usize,
}

/// Places large blocks first, each at the lowest offset where it meets no block that is needed at the same
/// time.
pub(super) fn place(blocks: &[Span]) -> Layout {
    let mut order: Vec<usize> = (0..blocks.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(blocks[i].bytes), blocks[i].born));
    let mut layout = Layout { offsets: vec![0; blocks.len()], bytes: 0 };
    // Placed blocks by offset.
    let mut placed: Vec<(usize, usize)> = Vec::with_capacity(blocks.len());
    for i in order {
        let block = &blocks[i];
        let mut offset = 0;
        for &(at, other) in &placed {
            if at >= offset + block.size() {
                break;
            }
            if block.meets(&blocks[other]) {
                offset = offset.max(at + blocks[other].size());
            }
        }
        layout.offsets[i] = offset;
        layout.bytes = layout.bytes.max(offset + block.size());
        let place = placed.partition_point(|&(at, _)| at <= offset);
        placed.insert(place, (offset, i));
    }
    layout
}

/// The time at which most bytes are in use if branches run one after another, and those bytes: no layout
/// takes fewer.
pub(super) fn peak(blocks: &[Span]) -> (usize, usize) {
    let mut changes: Vec<(usize, bool, usize)> =
        blocks.iter().flat_map(|b| [(b.born, true, b.size()), (b.died, false, b.size())]).collect();
    // What dies at a moment makes room for what is born then.
    changes.sort_unstable();
    let (mut now, mut peak) = (0, (0, 0));
    for (moment, born, size) in changes {
        if !born {
            now -= size;
            continue;
        }
        now += size;
        if now > peak.1 {
            peak = (moment, now);
        }
    }
    peak
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cuda::branches::{Branch, Branches};
    use proptest::prelude::*;

    fn span(bytes: usize, born: usize, died: usize) -> Span {
        Span { bytes, born, died, from: Place::default(), until: Place::default() }
    }

    #[test]
    fn memory_that_is_free_again_is_used_again() {
        let blocks = [span(1000, 0, 2), span(1000, 2, 4), span(300, 1, 3)];
        let layout = place(&blocks);
        assert_eq!(layout.offsets, [0, 0, 1024]);
        assert_eq!(layout.bytes, 1024 + 512);
        assert_eq!(peak(&blocks), (1, 1024 + 512));
        assert_eq!(place(&[]), Layout::default());
    }

    #[test]
    fn a_pass_and_its_backward_waste_nothing() {
        // Saved tensors pile up and are given back in the reverse order, with a temporary each.
        let n = 40;
        let mut blocks = Vec::new();
        for i in 0..n {
            blocks.push(span(1000 + 100 * i, 2 * i, 4 * n - 2 * i));
            blocks.push(span(5000, 2 * i, 2 * i + 1));
            blocks.push(span(4000, 4 * n - 2 * i - 2, 4 * n - 2 * i));
        }
        assert!(place(&blocks).bytes <= peak(&blocks).1 * 21 / 20);
    }

    #[test]
    fn branches_share_no_memory() {
        let mut program = Branches::<()>::default();
        let mut turn = |branch| {
            program.turn(branch);
            program.place().clone()
        };
        let (first, second) = (turn(Branch::Fork), turn(Branch::Next));
        let on = |place: &Place, born, died| Span {
            from: place.clone(),
            until: place.clone(),
            ..span(1000, born, died)
        };
        // Two temporaries per branch that follow each other, one before the fork and one after the join.
        let before = span(1000, 0, 1);
        let after = span(1000, 6, 7);
        let blocks =
            [before, on(&first, 2, 3), on(&first, 3, 4), on(&second, 4, 5), on(&second, 5, 6), after];
        let layout = place(&blocks);
        assert_eq!(layout.offsets, [0, 0, 0, 1024, 1024, 0]);
        // A result of the first branch lives on: it is nobody else's place until it dies.
        let result = Span { until: Place::default(), ..on(&first, 2, 9) };
        let layout = place(&[result, on(&second, 4, 5), span(1000, 8, 10)]);
        assert_eq!(layout.offsets, [0, 1024, 1024]);
    }

    proptest! {
        #[test]
        fn blocks_that_are_needed_together_lie_apart(
            raw in prop::collection::vec((1_usize..5000, 0_usize..60, 1_usize..30), 1..60)
        ) {
            let blocks: Vec<Span> = raw.iter().map(|&(bytes, born, len)| span(bytes, born, born + len)).collect();
            let layout = place(&blocks);
            for (i, a) in blocks.iter().enumerate() {
                prop_assert!(layout.offsets[i].is_multiple_of(ALIGNMENT) && layout.offsets[i] + a.bytes <= layout.bytes);
                for (j, b) in blocks.iter().enumerate().skip(i + 1) {
                    let (x, y) = (layout.offsets[i], layout.offsets[j]);
                    prop_assert!(!a.meets(b) || x + a.bytes <= y || y + b.bytes <= x);
                }
            }
            prop_assert!(layout.bytes >= peak(&blocks).1);
        }
    }
}
