//! Augmentation by distribution: what is drawn, over some thousand draws, against the released loop's
//! probabilities.

use psmt_fast::data::Augment;
use psmt_fast::ops::{Adjust, Strong};
use psmt_fast::rng::{Domain, Key, Stream};
use std::collections::BTreeMap;

const DRAWS: usize = 20_000;

fn rng(number: u64) -> Stream {
    Key::new(17, Domain::Bench, number).stream()
}

/// Asserts that an event of probability `p` happened `count` times of `draws` within four standard
/// deviations.
fn assert_share(what: &str, count: usize, draws: usize, p: f64) {
    let (share, sigma) = (count as f64 / draws as f64, (p * (1.0 - p) / draws as f64).sqrt());
    assert!((share - p).abs() < 4.0 * sigma, "{what}: share {share}, expected {p} (deviation {sigma})");
}

fn strong(augment: &Augment) -> Vec<Strong> {
    let mut rng = rng(1);
    (0..DRAWS).map(|_| augment.strong(&mut rng)).collect()
}

#[test]
fn blur_windows_have_the_released_shares_whatever_sigma() {
    // With every image blurred, windows of 1 alone leave one as it is.
    let drawn = strong(&Augment { blur: 1.0, ..Augment::default() });
    let kernel = |s: &Strong| s.blur.map_or(1, |b| b.kernel);
    for (size, share) in [(1, 2.0 / 4.95), (3, 2.0 / 4.95), (5, 0.95 / 4.95)] {
        assert_share(
            &format!("window {size}"),
            drawn.iter().filter(|s| kernel(s) == size).count(),
            DRAWS,
            share,
        );
    }
    // Sigma is uniform in 0.1 to 2, for each window alike.
    for size in [3, 5] {
        let sigmas: Vec<f32> =
            drawn.iter().filter_map(|s| s.blur).filter(|b| b.kernel == size).map(|b| b.sigma).collect();
        assert!(sigmas.iter().all(|s| (0.1..2.0).contains(s)));
        for tenth in 1..10 {
            let below = 0.1 + 0.19 * tenth as f32;
            let count = sigmas.iter().filter(|s| **s < below).count();
            assert_share(
                &format!("sigma below {below}, window {size}"),
                count,
                sigmas.len(),
                0.1 * f64::from(tenth),
            );
        }
    }
    // The published probability applies before the window of 1 is left out.
    let blurred = strong(&Augment::default()).iter().filter(|s| s.blur.is_some()).count();
    assert_share("blurred", blurred, DRAWS, 0.5 * 2.95 / 4.95);
}

#[test]
fn colours_have_the_released_probabilities() {
    let drawn = strong(&Augment::default());
    assert_share("grey", drawn.iter().filter(|s| s.gray).count(), DRAWS, 0.2);
    let jittered: Vec<&Strong> = drawn.iter().filter(|s| !s.jitter.is_empty()).collect();
    assert_share("jitter", jittered.len(), DRAWS, 0.8);
    let mut orders: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    let mut factors: BTreeMap<u8, Vec<f32>> = BTreeMap::new();
    for s in &jittered {
        let parts: Vec<(u8, f32)> = s
            .jitter
            .iter()
            .map(|adjust| match *adjust {
                Adjust::Brightness(f) => (0, (f - 0.5) / 1.0),
                Adjust::Contrast(f) => (1, (f - 0.5) / 1.0),
                Adjust::Saturation(f) => (2, (f - 0.5) / 1.0),
                Adjust::Hue(f) => (3, (f + 0.25) / 0.5),
            })
            .collect();
        *orders.entry(parts.iter().map(|p| p.0).collect()).or_default() += 1;
        parts.iter().for_each(|&(kind, place)| factors.entry(kind).or_default().push(place));
    }
    assert_eq!(orders.len(), 24);
    for (order, count) in orders {
        assert_share(&format!("order {order:?}"), count, jittered.len(), 1.0 / 24.0);
    }
    for (kind, places) in factors {
        for quarter in 1..4 {
            let below = 0.25 * quarter as f32;
            let count = places.iter().filter(|p| **p < below).count();
            assert_share(&format!("factor {kind} below {below}"), count, places.len(), below.into());
        }
    }
}

#[test]
fn crops_are_drawn_as_released() {
    let augment = Augment { crop: [64, 48], base_size: Some(100), ..Augment::default() };
    let mut rng = rng(2);
    let (mut long, mut flips, mut lower_half, mut offsets) = (Vec::new(), 0, 0, 0);
    for _ in 0..DRAWS {
        let g = augment.geometry((90, 120), &mut rng);
        // The long side is a whole number from half the base size to twice it, the other follows the aspect.
        assert_eq!(g.full.0, (g.full.1 as f64 * 0.75 + 0.5) as usize);
        long.push(g.full.1);
        flips += usize::from(g.flip);
        // An offset is uniform over all places that keep the crop inside, or 0.
        assert!(g.window.x + g.window.size.1 <= g.full.1 && g.window.y + g.window.size.0 <= g.full.0);
        assert_eq!(g.window.size, (g.full.0.min(64), g.full.1.min(48)));
        let places = g.full.1 - g.window.size.1 + 1;
        if places >= 50 && places.is_multiple_of(2) {
            offsets += 1;
            lower_half += usize::from(g.window.x < places / 2);
        }
    }
    assert_share("flip", flips, DRAWS, 0.5);
    assert_share("left half of the places", lower_half, offsets, 0.5);
    assert_eq!((long.iter().min(), long.iter().max()), (Some(&50), Some(&200)));
    for bound in [80, 100, 125, 175] {
        let below = long.iter().filter(|l| **l < bound).count();
        assert_share(&format!("long side below {bound}"), below, DRAWS, (bound - 50) as f64 / 151.0);
    }
}

#[test]
fn sides_without_a_base_size_are_cut() {
    let augment = Augment { crop: [8, 8], base_size: None, scale: [0.999, 0.999], ..Augment::default() };
    assert_eq!(augment.geometry((1024, 2048), &mut rng(3)).full, (1022, 2045));
}
