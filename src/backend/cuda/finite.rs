//! Launch plan of kernels/finite.cu.

use super::Cuda;
use super::driver::Launch;
use super::memory::{Buffer, Counts, Dtype, args};
use crate::ops::watch_key;

/// Records the first of `len` values of `dtype` that is not finite in `watch`.
pub(super) fn watch(d: &Cuda, watch: &Counts, dtype: Dtype, values: &Buffer, len: usize, place: u32) {
    let launch = Launch::linear(len / (16 / dtype.size()));
    let args = args![watch, values, len as u64, watch_key(place, 0)];
    d.launch_typed("finite", "non_finite", dtype, launch, args);
}
