//! Search for values that are not finite without waiting for the device: the result is one number, a key that
//! says where the first such value is.

use super::Backend;

/// Bits of a key that hold the index.
const INDEX_BITS: u32 = 36;
/// Places are numbered from 0 to this, exclusive.
pub const MAX_PLACES: u32 = 1 << (64 - INDEX_BITS);

/// The key by which [`Device::watch_tensor`](super::Device::watch_tensor) records element `index`, below
/// 2^36, of the tensor watched as number `place`. Earlier places, then smaller indices, have larger keys; no
/// key is 0.
pub fn watch_key(place: u32, index: u64) -> u64 {
    !(u64::from(place) << INDEX_BITS | index)
}

/// Place and index of a recorded key; `None` for 0.
pub fn watched(key: u64) -> Option<(u32, u64)> {
    let at = !key;
    (key != 0).then_some(((at >> INDEX_BITS) as u32, at & ((1 << INDEX_BITS) - 1)))
}

/// Index of the first element of `v` that is not finite. Waits for the device.
pub fn first_non_finite<B: Backend>(b: &B, v: &B::Vector) -> Option<usize> {
    let mut watch = b.zero_counts(1);
    b.watch_vector(&mut watch, v, 0);
    watched(b.read_counts(&watch)[0]).map(|(_, index)| index as usize)
}

/// Flat index (NHWC) of the first element of `x` that is not finite. Waits for the device.
pub fn first_non_finite_in<B: Backend>(b: &B, x: &B::Tensor) -> Option<usize> {
    let mut watch = b.zero_counts(1);
    b.watch_tensor(&mut watch, x, 0);
    watched(b.read_counts(&watch)[0]).map(|(_, index)| index as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_place_has_the_largest_key() {
        let places = [(0, 0), (0, 5), (1, 0), (7, (1 << INDEX_BITS) - 1), (MAX_PLACES - 1, 3)];
        for pair in places.windows(2) {
            assert!(watch_key(pair[0].0, pair[0].1) > watch_key(pair[1].0, pair[1].1), "{pair:?}");
        }
        places.into_iter().for_each(|(place, index)| {
            assert_eq!(watched(watch_key(place, index)), Some((place, index)));
        });
        assert_eq!(watched(0), None);
    }
}
