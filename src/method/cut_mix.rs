//! Draws CutMix boxes (Yun et al., 2019; French et al., 2020) on the host, as PS-MT's released loops for
//! Pascal VOC and Cityscapes do. Applying them is an op.

use crate::ops::{Box2d, Mix, Size};
use crate::rng::{Key, Stream};
use serde::{Deserialize, Serialize};

/// Which boxes are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum CutMixForm {
    /// One box per image with sides sqrt(1 - lambda) of the image's, one lambda ~ Beta(4, 4) per batch; the
    /// centre lies from an eighth of each side to its end, what sticks out is clipped. The partners are a
    /// permutation of the batch.
    Voc,
    /// Three boxes per image with a random aspect inside the image, each of a third of 25 to 50 % of the
    /// area: both sides are scaled by sqrt(1/3). Each box has a partner of its own, drawn from the batch with
    /// replacement.
    Cityscapes,
    /// No mixing.
    None,
}

/// Boxes and partners for a batch of `n` images of `size`.
pub fn sample(form: CutMixForm, n: usize, size: Size, key: Key) -> Mix {
    let mut rng = key.stream();
    let mut mix = Mix::default();
    match form {
        CutMixForm::None => {}
        CutMixForm::Voc => {
            let mut partners: Vec<usize> = (0..n).collect();
            rng.shuffle(&mut partners);
            let side = (1.0 - rng.beta(4, 4)).sqrt();
            mix.boxes.push((0..n).map(|_| clipped_box(&mut rng, size, side)).collect());
            mix.perm.push(partners);
        }
        CutMixForm::Cityscapes => {
            for _ in 0..CITYSCAPES_BOXES {
                mix.boxes.push((0..n).map(|_| inner_box(&mut rng, size)).collect());
                mix.perm.push((0..n).map(|_| rng.below(n)).collect());
            }
        }
    }
    mix
}

/// Boxes per image of [`CutMixForm::Cityscapes`].
const CITYSCAPES_BOXES: usize = 3;

/// A box with sides of `side` times the image's.
fn clipped_box(rng: &mut Stream, (h, w): Size, side: f32) -> Box2d {
    let mut axis = |len: usize| {
        let centre = len / 8 + rng.below(len - len / 8);
        let half = (side * len as f32) as usize / 2;
        (centre.saturating_sub(half), (centre + half).min(len))
    };
    let ((y0, y1), (x0, x1)) = (axis(h), axis(w));
    [y0, x0, y1, x1]
}

fn inner_box(rng: &mut Stream, (h, w): Size) -> Box2d {
    let area = rng.range(0.25, 0.5);
    // The height's share lies between `area` (full width) and 1 (full height), uniform in the logarithm.
    let tall = (area.ln() * rng.uniform()).exp();
    let scale = (1.0 / CITYSCAPES_BOXES as f32).sqrt();
    let mut axis = |share: f32, len: usize| {
        let side = ((scale * share * len as f32).round() as usize).clamp(1, len);
        let start = (rng.uniform() * (len - side) as f32).round() as usize;
        (start, start + side)
    };
    let ((y0, y1), (x0, x1)) = (axis(tall, h), axis(area / tall, w));
    [y0, x0, y1, x1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Domain;

    const SIZE: Size = (160, 320);
    const N: usize = 4;
    const BATCHES: u64 = 4000;

    fn mixes(form: CutMixForm) -> Vec<Mix> {
        let mixes: Vec<Mix> =
            (0..BATCHES).map(|s| sample(form, N, SIZE, Key::new(3, Domain::CutMix, s))).collect();
        mixes.iter().for_each(|mix| mix.validate(N, SIZE).unwrap());
        mixes
    }

    fn area(b: &Box2d) -> f64 {
        ((b[2] - b[0]) * (b[3] - b[1])) as f64 / (SIZE.0 * SIZE.1) as f64
    }

    /// Checks that the shares of `counts` are those of `expected` within four standard deviations of a share.
    fn assert_shares(what: &str, counts: &[usize], expected: &[f64]) {
        let total = counts.iter().sum::<usize>() as f64;
        for (i, (&count, &p)) in counts.iter().zip(expected).enumerate() {
            let (share, sigma) = (count as f64 / total, (p * (1.0 - p) / total).sqrt());
            assert!((share - p).abs() < 4.0 * sigma, "{what} {i}: share {share}, expected {p}");
        }
    }

    #[test]
    fn voc_has_one_lambda_a_batch_and_distinct_partners() {
        let mut unclipped = Vec::new();
        let mut fixed = [0; 2];
        for mix in mixes(CutMixForm::Voc) {
            assert_eq!(mix.boxes.len(), 1);
            // Boxes that touch no border have the batch's sides.
            let inside = |b: &&Box2d| b[0] > 0 && b[1] > 0 && b[2] < SIZE.0 && b[3] < SIZE.1;
            let sides: Vec<_> =
                mix.boxes[0].iter().filter(inside).map(|b| (b[2] - b[0], b[3] - b[1])).collect();
            assert!(sides.windows(2).all(|pair| pair[0] == pair[1]), "{sides:?}");
            unclipped.extend(sides.first().copied());
            let mut partners = mix.perm[0].clone();
            fixed[usize::from(partners[0] == 0)] += 1;
            partners.sort_unstable();
            assert_eq!(partners, [0, 1, 2, 3]);
        }
        assert_shares("own partner", &fixed, &[0.75, 0.25]);
        assert!(unclipped.len() > 1000 && unclipped.windows(2).any(|pair| pair[0] != pair[1]));
        // Rows and columns have the same share of their side, up to the even number of pixels of a box.
        assert!(unclipped.iter().all(|&(h, w)| (w as f64 - 2.0 * h as f64).abs() <= 4.0));
    }

    #[test]
    fn voc_centres_are_uniform_from_an_eighth_of_the_side() {
        // Boxes of two pixels show their centres.
        let mut rng = Key::new(5, Domain::CutMix, 0).stream();
        let mut sevenths = [[0usize; 7]; 2];
        for _ in 0..7000 {
            let b = clipped_box(&mut rng, SIZE, 2.0 / SIZE.0 as f32);
            for (counts, (start, len)) in sevenths.iter_mut().zip([(b[0] + 1, SIZE.0), (b[1] + 2, SIZE.1)]) {
                assert!((len / 8..len).contains(&start), "{b:?}");
                counts[start * 8 / len - 1] += 1;
            }
        }
        sevenths.iter().for_each(|counts| assert_shares("centre in eighth", counts, &[1.0 / 7.0; 7]));
    }

    #[test]
    fn voc_areas_follow_the_released_draw() {
        // The mean over 10^6 draws of the released formula with NumPy at this size.
        const MEAN: f64 = 0.3569;
        let mixes = mixes(CutMixForm::Voc);
        let areas: Vec<f64> = mixes.iter().map(|mix| area(&mix.boxes[0][0])).collect();
        let mean = areas.iter().sum::<f64>() / areas.len() as f64;
        let variance = areas.iter().map(|a| (a - mean).powi(2)).sum::<f64>() / areas.len() as f64;
        assert!((mean - MEAN).abs() < 4.0 * (variance / areas.len() as f64).sqrt(), "{mean}");
    }

    #[test]
    fn cityscapes_boxes_are_a_third_of_their_area_with_partners_of_their_own() {
        let mut areas = Vec::new();
        let (mut own, mut same_twice, mut tall) = ([0; 2], [0; 2], [0; 2]);
        for mix in mixes(CutMixForm::Cityscapes) {
            assert_eq!((mix.boxes.len(), mix.perm.len()), (3, 3));
            for (boxes, partners) in mix.boxes.iter().zip(&mix.perm) {
                areas.extend(boxes.iter().map(area));
                own[usize::from(partners[0] == 0)] += 1;
                same_twice[usize::from(partners[0] == partners[1])] += 1;
                let b = boxes[0];
                tall[usize::from((b[2] - b[0]) * SIZE.1 > (b[3] - b[1]) * SIZE.0)] += 1;
            }
        }
        // A third of 25 to 50 %, up to rounding of the sides to whole pixels.
        assert!(areas.iter().all(|a| (0.081..0.169).contains(a)));
        let mean = areas.iter().sum::<f64>() / areas.len() as f64;
        assert!((mean - 0.125).abs() < 0.001, "{mean}");
        let below = areas.iter().filter(|a| **a < 0.125).count();
        assert_shares("area below the middle", &[below, areas.len() - below], &[0.5, 0.5]);
        assert_shares("own partner", &own, &[0.75, 0.25]);
        assert_shares("two images with one partner", &same_twice, &[0.75, 0.25]);
        assert_shares("taller than wide", &tall, &[0.5, 0.5]);
    }

    #[test]
    fn cityscapes_boxes_lie_anywhere_inside() {
        // The share of the free range before the box is uniform.
        let mut quarters = [[0usize; 4]; 2];
        for mix in mixes(CutMixForm::Cityscapes) {
            for b in mix.boxes.iter().flatten() {
                for (axis, (start, side, len)) in
                    [(b[0], b[2] - b[0], SIZE.0), (b[1], b[3] - b[1], SIZE.1)].into_iter().enumerate()
                {
                    // Halves of a pixel at the ends belong to the first and the last start.
                    let share = (start as f64 + 0.5) / (len - side + 1) as f64;
                    quarters[axis][((share * 4.0) as usize).min(3)] += 1;
                }
            }
        }
        for counts in quarters {
            let total = counts.iter().sum::<usize>() as f64;
            assert!(counts.iter().all(|&n| (n as f64 / total - 0.25).abs() < 0.015), "{counts:?}");
        }
    }

    #[test]
    fn none_mixes_nothing() {
        assert_eq!(sample(CutMixForm::None, 2, (8, 8), Key::new(0, Domain::CutMix, 0)), Mix::default());
    }
}
