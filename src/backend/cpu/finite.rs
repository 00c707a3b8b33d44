//! Search for values that are not finite.

use super::Real;
use crate::ops::watch_key;

/// Records the first value that is not finite in `watch`, as [`watch_key`] orders them.
pub fn watch<T: Real>(watch: &mut [u64], values: &[T], place: u32) {
    if let Some(index) = values.iter().position(|v| !v.to_f64().is_finite()) {
        watch[0] = watch[0].max(watch_key(place, index as u64));
    }
}
