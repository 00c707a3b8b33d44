//! What tests of losses on any device draw.

use psmt_fast::ops::{Mix, Size};
use psmt_fast::rng::{Domain, Key};

/// CutMix of `n` images with boxes of any size anywhere, also empty ones.
pub fn mix(n: usize, size: Size, rounds: usize, seed: u64) -> Mix {
    let mut s = Key::new(seed, Domain::CutMix, 0).stream();
    let mut mix = Mix::default();
    for _ in 0..rounds {
        let mut perm: Vec<usize> = (0..n).collect();
        s.shuffle(&mut perm);
        let mut side = |len: usize| {
            let a = s.below(len);
            (a, a + s.below(len - a + 1))
        };
        let boxes = (0..n).map(|_| (side(size.0), side(size.1))).map(|((y0, y1), (x0, x1))| [y0, x0, y1, x1]);
        mix.boxes.push(boxes.collect());
        mix.perm.push(perm);
    }
    mix
}
