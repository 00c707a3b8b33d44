//! Inputs of losses, for tests on any device.
#![allow(dead_code)] // each test program uses a part

use psmt_fast::ops::{ConfCe, Device, Ensemble, IGNORE, Mix, Shape, Size, TeacherLogits};
use psmt_fast::rng::{Domain, Key};
use std::fmt::{Display, Formatter};

/// The shape of the logits and the size that a loss interpolates them to.
#[derive(Clone, Copy)]
pub struct Case {
    pub logits: Shape,
    pub size: Size,
}

impl Case {
    /// Shape of a value per pixel at full size.
    pub fn pixels(&self) -> Shape {
        Shape::new(self.logits.n, self.size.0, self.size.1, 1)
    }

    /// Classes of the pixels, of which a share of about `ignored` is ignored.
    pub fn labels(&self, ignored: f32, seed: u64) -> Vec<u8> {
        let mut stream = Key::new(seed, Domain::Bench, 1).stream();
        let label = |_| if stream.chance(ignored) { IGNORE } else { stream.below(self.logits.c) as u8 };
        (0..self.pixels().len()).map(label).collect()
    }

    /// CutMix of the pixels in several rounds, with boxes of any size anywhere, also empty ones.
    pub fn mix(&self, rounds: usize, seed: u64) -> Mix {
        let (n, size) = (self.logits.n, self.size);
        let mut s = Key::new(seed, Domain::CutMix, 0).stream();
        let mut mix = Mix::default();
        for _ in 0..rounds {
            let mut perm: Vec<usize> = (0..n).collect();
            s.shuffle(&mut perm);
            let mut side = |len: usize| {
                let a = s.below(len);
                (a, a + s.below(len - a + 1))
            };
            let boxes =
                (0..n).map(|_| (side(size.0), side(size.1))).map(|((y0, y1), (x0, x1))| [y0, x0, y1, x1]);
            mix.boxes.push(boxes.collect());
            mix.perm.push(perm);
        }
        mix
    }
}

impl Display for Case {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to {} by {}", self.logits, self.size.0, self.size.1)
    }
}

/// The method's own loss: pixels weighted by confidence, no negative learning.
pub const CONF_CE: ConfCe =
    ConfCe { threshold: 0.5, negative_threshold: 0.0, square_weight: 0.0, weighted: true };

/// Two teachers' logits and how they are combined.
pub struct Teachers<B: Device> {
    pub core: B::Tensor,
    pub assist: B::Tensor,
    pub ensemble: Ensemble,
}

impl<B: Device> Teachers<B> {
    /// As ops take them.
    pub fn logits(&self) -> TeacherLogits<'_, B> {
        TeacherLogits { core: &self.core, assist: &self.assist, ensemble: &self.ensemble }
    }
}
