//! Draws CutMix boxes (Yun et al., 2019; French et al., 2020) on the host. Applying them is an op.

use crate::ops::{Mix, Size};
use crate::rng::{Key, Stream};
use serde::{Deserialize, Serialize};

/// Which boxes are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum CutMixForm {
    /// One box an image with sides sqrt(1 - lambda) of the image's, lambda ~ Beta(4, 4), centre anywhere, clipped.
    Voc,
    /// Three boxes an image, each of 25 to 50 % of the area with a random aspect, inside the image.
    Cityscapes,
    /// No mixing.
    None,
}

/// Boxes and permutations for `n` images of `size`.
pub fn sample(form: CutMixForm, n: usize, size: Size, key: Key) -> Mix {
    let mut rng = key.stream();
    let rounds = match form {
        CutMixForm::Voc => 1,
        CutMixForm::Cityscapes => 3,
        CutMixForm::None => 0,
    };
    let mut mix = Mix::default();
    for _ in 0..rounds {
        let mut perm: Vec<usize> = (0..n).collect();
        rng.shuffle(&mut perm);
        let draw = if form == CutMixForm::Voc { clipped_box } else { inner_box };
        mix.boxes.push((0..n).map(|_| draw(&mut rng, size)).collect());
        mix.perm.push(perm);
    }
    mix
}

fn clipped_box(rng: &mut Stream, (h, w): Size) -> [usize; 4] {
    let side = (1.0 - rng.beta(4, 4)).sqrt();
    let (cy, cx) = (rng.below(h), rng.below(w));
    let axis = |centre: usize, len: usize| {
        let half = (side * len as f32) as usize / 2;
        (centre.saturating_sub(half), (centre + half).min(len))
    };
    let ((y0, y1), (x0, x1)) = (axis(cy, h), axis(cx, w));
    [y0, x0, y1, x1]
}

fn inner_box(rng: &mut Stream, (h, w): Size) -> [usize; 4] {
    let area = rng.range(0.25, 0.5);
    // The height's share lies between `area` (full width) and 1 (full height), uniform in the logarithm.
    let tall = (area.ln() * rng.uniform()).exp();
    let bh = ((tall * h as f32).round() as usize).clamp(1, h);
    let bw = ((area / tall * w as f32).round() as usize).clamp(1, w);
    let (y0, x0) = (rng.below(h - bh + 1), rng.below(w - bw + 1));
    [y0, x0, y0 + bh, x0 + bw]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Domain;

    fn mixes(form: CutMixForm) -> impl Iterator<Item = Mix> {
        (0..500).map(move |s| sample(form, 4, (60, 100), Key::new(3, Domain::CutMix, s)))
    }

    fn share(b: &[usize; 4]) -> f64 {
        ((b[2] - b[0]) * (b[3] - b[1])) as f64 / 6000.0
    }

    #[test]
    fn voc_boxes_cover_at_most_one_minus_lambda() {
        let mut mean = 0.0;
        for mix in mixes(CutMixForm::Voc) {
            mix.validate(4, (60, 100)).unwrap();
            assert_eq!(mix.boxes.len(), 1);
            mean += mix.boxes[0].iter().map(share).sum::<f64>() / 2000.0;
        }
        // E[1 - lambda] is 0.5, clipping at the border takes some of it.
        assert!(mean > 0.2 && mean < 0.5, "{mean}");
    }

    #[test]
    fn cityscapes_boxes_have_their_area() {
        for mix in mixes(CutMixForm::Cityscapes) {
            mix.validate(4, (60, 100)).unwrap();
            assert_eq!(mix.boxes.len(), 3);
            for b in mix.boxes.iter().flatten() {
                assert!((0.23..=0.53).contains(&share(b)), "{b:?}");
            }
        }
    }

    #[test]
    fn none_mixes_nothing() {
        assert_eq!(sample(CutMixForm::None, 2, (8, 8), Key::new(0, Domain::CutMix, 0)), Mix::default());
    }
}
