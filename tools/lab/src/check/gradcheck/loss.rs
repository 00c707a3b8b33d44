//! Problems of losses with respect to low-resolution logits.

use super::{Claim, Claimant, Exact, Problem, normals, tensor, upload};
use crate::cases;
use psmt_fast::Result;
use psmt_fast::ops::{Backend, Ensemble, Mix, Shape, Size};
use psmt_fast::rng::Stream;

/// A factor that a loss's gradient must carry.
pub(crate) const GRAD_SCALE: f64 = 0.7;

/// Logits and the size of their labels: larger, one position, unchanged, one class.
pub(crate) const LOGITS: [(Shape, Size); 4] = [
    (Shape::new(2, 3, 4, 5), (7, 9)),
    (Shape::new(1, 1, 1, 3), (4, 5)),
    (Shape::new(2, 4, 3, 21), (4, 3)),
    (Shape::new(1, 3, 3, 2), (13, 11)),
];

/// A loss over logits: its value, and its gradient times [`GRAD_SCALE`].
pub(crate) trait Loss: 'static {
    fn of<B: Backend>(&self, b: &B, logits: &B::Tensor) -> Result<(f64, B::Tensor)>;
}

/// A problem from logits to a loss: its value in double precision, its gradient on `b`.
pub(crate) fn loss<B: Claimant>(
    b: &B,
    rng: &mut Stream,
    case: String,
    shape: Shape,
    loss: impl Loss,
) -> Result<Problem> {
    let point: Vec<f64> = normals(rng, shape.len()).iter().map(|v| 2.0 * v).collect();
    let gradient = b.values(&loss.of(b, &upload(b, shape, &point))?.1);
    let value = move |p: &[f64]| Ok(GRAD_SCALE * loss.of(&Exact::new(), &tensor(shape, p))?.0);
    Ok(Problem { case, point, value: Box::new(value), claim: Claim::Gradient(gradient) })
}

fn random_mix(rng: &mut Stream, rounds: usize, n: usize, (h, w): Size) -> Mix {
    let mut mix = Mix::default();
    for _ in 0..rounds {
        let mut perm: Vec<usize> = (0..n).collect();
        rng.shuffle(&mut perm);
        mix.perm.push(perm);
        let mut corners = || {
            let (y0, x0) = (rng.below(h), rng.below(w));
            [y0, x0, y0 + rng.below(h - y0 + 1), x0 + rng.below(w - x0 + 1)]
        };
        mix.boxes.push((0..n).map(|_| corners()).collect());
    }
    mix
}

/// Two teachers' logits, confident enough that thresholds divide the pixels, and how they are read.
pub(crate) struct Teachers {
    shape: Shape,
    core: Vec<f32>,
    assist: Vec<f32>,
    ensemble: Ensemble,
    pub size: Size,
    pub mix: Mix,
}

impl Teachers {
    pub fn draw(rng: &mut Stream, shape: Shape, size: Size, ensemble: Ensemble, rounds: usize) -> Teachers {
        let mut draw = || normals(rng, shape.len()).iter().map(|v| (3.0 * v) as f32).collect();
        let (core, assist) = (draw(), draw());
        Teachers { shape, core, assist, size, ensemble, mix: random_mix(rng, rounds, shape.n, size) }
    }

    pub fn upload<B: Backend>(&self, b: &B) -> cases::Teachers<B> {
        let Teachers { shape, core, assist, ensemble, .. } = self;
        cases::Teachers {
            core: b.upload(*shape, core),
            assist: b.upload(*shape, assist),
            ensemble: *ensemble,
        }
    }
}
