//! Leaky ReLU, channel concatenation and slices, addition and its backward.

use crate::bench::Trace;
use crate::bench::case::{Case, Draw, Facts, Work, dims, result, sized};
use crate::check::gradcheck::{Claim, Claimant, Exact, Problem, dot, normals, take, tensor, unary, upload};
use crate::check::run_op::Run;
use psmt_fast::Result;
use psmt_fast::ops::{self, Backend, ElementwiseOps, Shape};
use psmt_fast::rng::Stream;
use serde::Deserialize;

impl ElementwiseOps for Trace {
    fn leaky_relu(&self, x: &Shape, _: f64) -> Shape {
        self.note(LeakyRelu { x: *x });
        *x
    }
    fn leaky_relu_bwd(&self, dy: &Shape, _: &Shape, _: f64) -> Shape {
        self.note(LeakyReluBwd { x: *dy });
        *dy
    }
    fn concat(&self, parts: &[&Shape]) -> Shape {
        let parts: Vec<Shape> = parts.iter().map(|p| **p).collect();
        let y = parts[0].with_channels(parts.iter().map(|p| p.c).sum());
        self.note(Concat { parts });
        y
    }
    fn slice_channels(&self, x: &Shape, offset: usize, len: usize) -> Shape {
        self.note(SliceChannels { x: *x, offset, len });
        x.with_channels(len)
    }
    fn add(&self, x: &Shape, y: &Shape, _: f64) -> Shape {
        self.note(Add { x: *x, y: *y });
        *x
    }
    fn sum_positions(&self, x: &Shape) -> Shape {
        self.note(SumPositions { x: *x });
        sized(x, (1, 1))
    }
}

/// A slope that is neither of a ReLU nor of the identity.
const SLOPE: f64 = 0.01;

/// Leaky ReLU.
#[derive(Clone, Debug, PartialEq)]
pub struct LeakyRelu {
    pub x: Shape,
}

impl Case for LeakyRelu {
    fn facts(&self) -> Facts {
        Facts::new("leaky_relu", dims(&self.x)).values(2 * self.x.len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let x = draw.tensor(self.x);
        result("y", move |b| ops::leaky_relu(b, &x, SLOPE))
    }
}

/// Backward pass of [`LeakyRelu`].
#[derive(Clone, Debug, PartialEq)]
pub struct LeakyReluBwd {
    pub x: Shape,
}

impl Case for LeakyReluBwd {
    fn facts(&self) -> Facts {
        Facts::new("leaky_relu_bwd", dims(&self.x)).values(3 * self.x.len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let (dy, x) = (draw.tensor(self.x), draw.tensor(self.x));
        result("dx", move |b| ops::leaky_relu_bwd(b, &dy, &x, SLOPE))
    }
}

/// Channels of several activations one after another.
#[derive(Clone, Debug, PartialEq)]
pub struct Concat {
    pub parts: Vec<Shape>,
}

impl Case for Concat {
    fn facts(&self) -> Facts {
        let sizes = self.parts.iter().map(dims).collect::<Vec<_>>().join(" + ");
        Facts::new("concat", sizes).values(2 * self.parts.iter().map(Shape::len).sum::<usize>())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let parts: Vec<B::Tensor> = self.parts.iter().map(|part| draw.tensor(*part)).collect();
        result("y", move |b| ops::concat(b, &parts.iter().collect::<Vec<_>>()))
    }
}

/// Some of the channels.
#[derive(Clone, Debug, PartialEq)]
pub struct SliceChannels {
    pub x: Shape,
    pub offset: usize,
    pub len: usize,
}

impl Case for SliceChannels {
    fn facts(&self) -> Facts {
        Facts::new("slice_channels", format!("{} from {}, {}", dims(&self.x), self.offset, self.len))
            .values(2 * self.x.with_channels(self.len).len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let (x, offset, len) = (draw.tensor(self.x), self.offset, self.len);
        result("y", move |b| ops::slice_channels(b, &x, offset, len))
    }
}

/// A sum, its second term of x's shape or one value per image and channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Add {
    pub x: Shape,
    pub y: Shape,
}

impl Case for Add {
    fn facts(&self) -> Facts {
        let other = if self.x == self.y { String::new() } else { format!(" + {}", dims(&self.y)) };
        Facts::new("add", dims(&self.x) + &other).values(2 * self.x.len() + self.y.len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let (x, y) = (draw.tensor(self.x), draw.tensor(self.y));
        result("sum", move |b| ops::add(b, &x, &y, 0.5))
    }
}

/// A sum over the positions of each image.
#[derive(Clone, Debug, PartialEq)]
pub struct SumPositions {
    pub x: Shape,
}

impl Case for SumPositions {
    fn facts(&self) -> Facts {
        Facts::new("sum_positions", dims(&self.x)).values(self.x.len() + sized(&self.x, (1, 1)).len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let x = draw.tensor(self.x);
        result("sum", move |b| ops::sum_positions(b, &x))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SlopeAttrs {
    slope: f64,
}

pub(super) fn leaky_relu_fixture<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let SlopeAttrs { slope } = run.attrs()?;
    let (x, dy) = (run.tensor("x")?, run.tensor("dy")?);
    let y = ops::leaky_relu(run.b, &x, slope)?;
    let dx = ops::leaky_relu_bwd(run.b, &dy, &x, slope)?;
    run.put_layer(&y, &dx);
    Ok(())
}

pub(super) fn leaky_relu_problems<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    [0.0, 0.01, 0.3]
        .into_iter()
        .map(|slope| {
            unary(
                b,
                rng,
                format!("slope {slope}"),
                Shape::new(2, 3, 5, 3),
                move |x| ops::leaky_relu(&Exact::new(), x, slope),
                |dy, x| ops::leaky_relu_bwd(b, dy, x, slope),
            )
        })
        .collect()
}

/// Addition with its broadcast; `sum_positions` is the broadcast's backward.
pub(super) fn add_problems<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    let shape = Shape::new(2, 3, 4, 3);
    let mut problems = Vec::new();
    for (y_shape, alpha) in [(shape, 0.7), (Shape::new(2, 1, 1, 3), -1.5)] {
        let point = normals(rng, shape.len() + y_shape.len());
        let dy = normals(rng, shape.len());
        let dy_tensor = upload(b, shape, &dy);
        let summed = if y_shape == shape { dy_tensor } else { ops::sum_positions(b, &dy_tensor)? };
        let mut gradient = dy.clone();
        gradient.extend(b.values(&summed).iter().map(|v| alpha * v));
        problems.push(Problem {
            case: format!("x {shape} + {alpha} y {y_shape}"),
            point,
            value: Box::new(move |mut p| {
                let x = take(&mut p, shape);
                Ok(dot(ops::add(&Exact::new(), &x, &tensor(y_shape, p), alpha)?.data(), &dy))
            }),
            claim: Claim::Gradient(gradient),
        });
    }
    Ok(problems)
}

/// Concatenation; its backward is a slice of each part.
pub(super) fn concat_problems<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    let shape = Shape::new(2, 3, 2, 1);
    let channels = [3, 1, 4];
    let point = normals(rng, shape.len() * 8);
    let dy = normals(rng, shape.len() * 8);
    let dy_tensor = upload(b, shape.with_channels(8), &dy);
    let (mut gradient, mut offset) = (Vec::new(), 0);
    for c in channels {
        gradient.extend(b.values(&ops::slice_channels(b, &dy_tensor, offset, c)?));
        offset += c;
    }
    Ok(vec![Problem {
        case: format!("channels {channels:?} at {shape}"),
        point,
        value: Box::new(move |mut p| {
            let parts: Vec<_> = channels.iter().map(|&c| take(&mut p, shape.with_channels(c))).collect();
            Ok(dot(ops::concat(&Exact::new(), &parts.iter().collect::<Vec<_>>())?.data(), &dy))
        }),
        claim: Claim::Gradient(gradient),
    }])
}
