//! How kernels that keep channels in registers divide an activation among blocks: the geometry that
//! kernels/common/channels.cuh assumes. Must not know ops.

use super::Dtype;

/// Threads per block.
pub(super) const THREADS: u32 = 256;
/// About as many blocks as a pass over a large activation has: what 132 multiprocessors hold at a time.
const BLOCKS: usize = 1024;
/// Fewest positions per thread, to amortise what it loads once per channel.
const POSITIONS: usize = 4;

/// A block is rows of `lanes` threads along the channels; `slabs` such rows cover all channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rows {
    /// Threads along the channels, a power of two up to a warp.
    pub(super) lanes: u32,
    /// Blocks along the channels.
    pub(super) slabs: usize,
}

impl Rows {
    pub(super) fn new(dtype: Dtype, c: usize) -> Rows {
        let groups = c / dtype.vector_width(c);
        let lanes = groups.next_power_of_two().min(32);
        Rows { lanes: lanes as u32, slabs: groups.div_ceil(lanes) }
    }

    /// Parts that `positions` are divided into, where the grid has them for each of `others` images or bins.
    pub(super) fn parts(&self, positions: usize, others: usize) -> usize {
        let rows = (THREADS / self.lanes) as usize;
        let most = positions.div_ceil(rows * POSITIONS).max(1);
        (BLOCKS / (self.slabs * others).max(1)).clamp(1, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_cover_the_channels_and_parts_fill_the_device() {
        for (dtype, c, lanes, slabs) in [
            (Dtype::F32, 1, 1, 1),
            (Dtype::F32, 3, 4, 1),
            (Dtype::F32, 64, 16, 1),
            (Dtype::Bf16, 64, 8, 1),
            (Dtype::F32, 130, 32, 5),
            (Dtype::Bf16, 2048, 32, 8),
        ] {
            assert_eq!(Rows::new(dtype, c), Rows { lanes, slabs }, "{dtype:?}, {c} channels");
        }
        let rows = Rows::new(Dtype::Bf16, 2048);
        assert_eq!(rows.parts(8 * 65 * 65, 1), 128);
        assert_eq!(rows.parts(33, 1), 2);
        assert_eq!(rows.parts(1, 4096), 1);
    }
}
