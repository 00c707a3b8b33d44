//! Runs the op that a fixture names on a device: reads its tensors and settings, calls the validated op
//! functions and returns the results in the layout of files. Single ops are in the files of `crate::cases`,
//! whole networks and what the host computes here, with what all of them share.

mod host;
mod networks;

use super::fixture::{Array, Fixture, Outputs, Values, swap_inner};
use crate::cases;
pub(super) use networks::TrainStepInputs;
use psmt_fast::backend::cpu::Cpu;
use psmt_fast::ops::{Backend, IGNORE, Mix, Shape, Size};
use psmt_fast::{Error, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// No image, logits or label map of a fixture has more positions than this; a larger size in a file is an
/// error and not an allocation that cannot succeed.
const MAX_POSITIONS: usize = 1 << 26;

/// The name of an op in fixtures, and what runs it.
pub(crate) type FixtureOp<B> = (&'static str, fn(&mut Run<'_, B>) -> Result<()>);

fn all<B: Backend>() -> impl Iterator<Item = FixtureOp<B>> {
    cases::fixtures().into_iter().chain(networks::fixtures()).chain(host::fixtures())
}

/// Every op that a fixture can name.
pub fn ops() -> impl Iterator<Item = &'static str> {
    all::<Cpu<f64>>().map(|(name, _)| name)
}

/// Runs the fixture's op on `b` and returns its results, by the names of the fixture's `out.*`.
///
/// # Errors
/// [`Error::Checkpoint`] for an unknown op or a missing, mistyped or misshapen input, [`Error::Config`] for
/// settings that the op does not have or that are missing, [`Error::Shape`] where sizes do not fit each
/// other, the device's fault.
pub fn run_op<B: Backend>(b: &B, fixture: &Fixture) -> Result<Outputs> {
    let Some((_, op)) = all::<B>().find(|(name, _)| *name == fixture.op) else {
        let known = ops().collect::<Vec<_>>().join(", ");
        let message = format!("unknown op '{}', expected one of {known}", fixture.op);
        return Err(Error::checkpoint(&fixture.path, message));
    };
    let mut run = Run { b, fixture, out: Outputs::new() };
    op(&mut run)?;
    b.check()?;
    Ok(run.out)
}

/// Settings of an op that has none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoAttrs {}

/// Settings of an op that has a size.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SizeAttrs {
    pub size: [usize; 2],
}

/// One run of a fixture: its device, the file, and the results so far.
pub(crate) struct Run<'a, B: Backend> {
    pub b: &'a B,
    pub fixture: &'a Fixture,
    pub out: Outputs,
}

impl<B: Backend> Run<'_, B> {
    pub fn attrs<T: DeserializeOwned>(&self) -> Result<T> {
        self.fixture.attrs()
    }

    /// `size` of the settings if `n` images of it are no more than a fixture may have.
    pub fn size(&self, n: usize, [h, w]: [usize; 2]) -> Result<Size> {
        let positions = n.max(1).checked_mul(h).and_then(|v| v.checked_mul(w));
        match positions {
            Some(1..=MAX_POSITIONS) => Ok((h, w)),
            _ => Err(self.fixture.bad_attrs(format!(
                "size: expected at least 1 by 1 and at most {MAX_POSITIONS} positions over {n} images, found {h} by {w}"
            ))),
        }
    }

    /// An activation, NCHW in the file.
    pub fn tensor(&self, name: &str) -> Result<B::Tensor> {
        let ([n, c, h, w], values) = self.fixture.f32(name)?;
        Ok(self.b.upload(Shape::new(n, h, w, c), &swap_inner(values, n, c, h * w)))
    }

    /// An activation of a known shape.
    pub fn tensor_of(&self, name: &str, shape: Shape) -> Result<B::Tensor> {
        let tensor = self.tensor(name)?;
        let got = B::shape(&tensor);
        if got != shape {
            return Err(self.fixture.bad_input(name, format!("expected shape {shape}, found {got}")));
        }
        Ok(tensor)
    }

    /// A float32 array of one axis with `len` values.
    pub fn values(&self, name: &str, len: usize) -> Result<&[f32]> {
        let ([got], values) = self.fixture.f32(name)?;
        if got != len {
            return Err(self.fixture.bad_input(name, format!("expected {len} values, found {got}")));
        }
        Ok(values)
    }

    /// Labels `[n, h, w]` of `num_classes` classes; `ignore_index` becomes [`IGNORE`].
    pub fn labels(&self, name: &str, num_classes: usize, ignore_index: Option<i64>) -> Result<B::Labels> {
        let ([n, h, w], values) = self.fixture.i32(name)?;
        if num_classes > usize::from(IGNORE) {
            return Err(self
                .fixture
                .bad_input(name, format!("expected at most {IGNORE} classes, found {num_classes}")));
        }
        let mut bytes = Vec::with_capacity(values.len());
        for (i, &v) in values.iter().enumerate() {
            let class = usize::try_from(v).ok().filter(|&v| v < num_classes);
            bytes.push(match class {
                _ if ignore_index == Some(i64::from(v)) => IGNORE,
                Some(class) => class as u8,
                None => {
                    let expected = format!("expected classes 0 to {}", num_classes.saturating_sub(1));
                    return Err(self.fixture.bad_input(name, format!("{expected}, found {v} at index {i}")));
                }
            });
        }
        Ok(self.b.upload_labels(Shape::new(n, h, w, 1), &bytes))
    }

    /// Output and gradient of a layer that resamples `x` to the size of the settings.
    pub fn resample(
        &mut self,
        forward: fn(&B, &B::Tensor, Size) -> Result<B::Tensor>,
        backward: fn(&B, &B::Tensor, Size) -> Result<B::Tensor>,
    ) -> Result<()> {
        let x = self.tensor("x")?;
        let shape = B::shape(&x);
        let (h, w) = self.size(shape.n, self.attrs::<SizeAttrs>()?.size)?;
        let dy = self.tensor_of("dy", Shape { h, w, ..shape })?;
        let (y, dx) = (forward(self.b, &x, (h, w))?, backward(self.b, &dy, (shape.h, shape.w))?);
        self.put_layer(&y, &dx);
        Ok(())
    }

    pub fn put(&mut self, name: &str, array: Array) {
        self.out.insert(name.to_string(), array);
    }

    pub fn put_tensor(&mut self, name: &str, x: &B::Tensor) {
        self.put(name, Array::activation(B::shape(x), &self.b.download(x)));
    }

    /// Output and gradient of the input.
    pub fn put_layer(&mut self, y: &B::Tensor, dx: &B::Tensor) {
        self.put_tensor("y", y);
        self.put_tensor("dx", dx);
    }

    pub fn put_scalar(&mut self, name: &str, value: f64) {
        self.put(name, Array::f32([], vec![value as f32]));
    }

    pub fn put_vector(&mut self, name: &str, values: &[f32]) {
        self.put(name, Array::f32([values.len()], values.to_vec()));
    }

    /// Counts, which a file holds in 32 bits.
    pub fn put_counts(&mut self, name: &str, shape: Vec<usize>, counts: &[u64]) {
        let values = counts.iter().map(|&v| i32::try_from(v).unwrap_or(i32::MAX)).collect();
        self.put(name, Array { shape, values: Values::I32(values) });
    }
}

/// The fixture's `boxes` `[b, n, 4]` and `perm` `[b, n]` for `n` images of `size`.
pub(crate) fn mix(fixture: &Fixture, n: usize, size: Size) -> Result<Mix> {
    let ([rounds, images, corners], boxes) = fixture.i32("boxes")?;
    if corners != 4 || images != n {
        let message = format!("expected shape [rounds, {n}, 4], found {:?}", [rounds, images, corners]);
        return Err(fixture.bad_input("boxes", message));
    }
    let (shape, perm) = fixture.i32::<2>("perm")?;
    if shape != [rounds, n] {
        return Err(fixture.bad_input("perm", format!("expected shape [{rounds}, {n}], found {shape:?}")));
    }
    let index = |name: &str, v: i32| {
        usize::try_from(v)
            .map_err(|_| fixture.bad_input(name, format!("expected no negative value, found {v}")))
    };
    let mut mix = Mix::default();
    for round in 0..rounds {
        let (mut round_boxes, mut round_perm) = (Vec::with_capacity(n), Vec::with_capacity(n));
        for i in round * n..(round + 1) * n {
            let mut corners = [0; 4];
            for (to, &from) in corners.iter_mut().zip(&boxes[4 * i..]) {
                *to = index("boxes", from)?;
            }
            round_boxes.push(corners);
            round_perm.push(index("perm", perm[i])?);
        }
        mix.boxes.push(round_boxes);
        mix.perm.push(round_perm);
    }
    mix.validate(n, size)?;
    Ok(mix)
}
