//! Problems of layers from one activation to one. The function is ⟨dy, y⟩ with a drawn dy.

use super::{Claim, Claimant, Exact, Problem, dot, normals, tensor, upload};
use psmt_fast::Result;
use psmt_fast::backend::cpu::Tensor;
use psmt_fast::ops::{Shape, Size};
use psmt_fast::rng::Stream;

/// A problem whose point is one activation; `backward` takes dy and x.
pub(crate) fn unary<B: Claimant>(
    b: &B,
    rng: &mut Stream,
    case: String,
    shape: Shape,
    forward: impl Fn(&Tensor<f64>) -> Result<Tensor<f64>> + 'static,
    backward: impl Fn(&B::Tensor, &B::Tensor) -> Result<B::Tensor>,
) -> Result<Problem> {
    let point = normals(rng, shape.len());
    let y_shape = forward(&tensor(shape, &point))?.shape();
    let dy = normals(rng, y_shape.len());
    let dx = backward(&upload(b, y_shape, &dy), &upload(b, shape, &point))?;
    Ok(Problem {
        case: format!("x {shape}, {case}"),
        point,
        value: Box::new(move |p| Ok(dot(forward(&tensor(shape, p))?.data(), &dy))),
        claim: Claim::Gradient(b.values(&dx)),
    })
}

/// Shapes and sizes of resampling: larger, smaller, one position in, one out, unchanged.
const SIZES: [(Shape, Size); 6] = [
    (Shape::new(2, 3, 4, 3), (7, 9)),
    (Shape::new(1, 7, 6, 2), (3, 2)),
    (Shape::new(2, 1, 1, 3), (3, 4)),
    (Shape::new(2, 4, 5, 2), (1, 1)),
    (Shape::new(1, 3, 5, 1), (3, 5)),
    (Shape::new(1, 5, 3, 2), (2, 6)),
];

/// Problems of an op that resamples to a size, over [`SIZES`].
pub(crate) fn resampling<B: Claimant>(
    b: &B,
    rng: &mut Stream,
    forward: fn(&Exact, &Tensor<f64>, Size) -> Result<Tensor<f64>>,
    backward: fn(&B, &B::Tensor, Size) -> Result<B::Tensor>,
) -> Result<Vec<Problem>> {
    SIZES
        .into_iter()
        .map(|(shape, size)| {
            unary(
                b,
                rng,
                format!("to {} by {}", size.0, size.1),
                shape,
                move |x| forward(&Exact::new(), x, size),
                |dy, _| backward(b, dy, (shape.h, shape.w)),
            )
        })
        .collect()
}
