//! Finite differences: every backward and every tangent pass of a device against central differences of its
//! forward pass, which the CPU computes in double precision. Checks of ops are in the files of
//! `crate::cases`, those of whole passes in `networks.rs`; `measure.rs` compares, and `claimant.rs` says what
//! a device must offer and how close is close enough.

mod claimant;
mod layer;
mod loss;
mod measure;
mod networks;

use crate::cases;
pub use claimant::{Bar, Claimant};
pub(crate) use layer::{resampling, unary};
pub(crate) use loss::{GRAD_SCALE, LOGITS, Loss, Teachers, loss};
use measure::{Checked, check};
use psmt_fast::backend::cpu::{Cpu, Tensor};
use psmt_fast::ops::{Backend, Shape};
use psmt_fast::rng::{Domain, Key, Stream};
use psmt_fast::{Error, Result};

/// How often another point is drawn where too many directions meet a kink.
const REDRAWN_POINTS: usize = 4;

/// What computes functions; each problem's claim comes from the device that is checked.
pub(crate) type Exact = Cpu<f64>;
type DrawProblems<B> = fn(&B, &mut Stream) -> Result<Vec<Problem>>;

/// One backward or tangent pass to check.
pub(crate) struct Check<B: Claimant> {
    /// Seeds the draws, so it is no other check's and stays. Rows are printed in the order of numbers.
    pub number: u64,
    /// Name of the op or pass.
    pub op: &'static str,
    /// Draws points, and computes what the device claims there.
    pub draw: DrawProblems<B>,
}

/// Every check, in the order of numbers.
fn checks<B: Claimant>() -> Vec<Check<B>> {
    let mut checks: Vec<Check<B>> = cases::checks().into_iter().chain(networks::checks()).collect();
    checks.sort_by_key(|check| check.number);
    checks
}

/// Result of one problem.
#[derive(Clone, Debug)]
pub struct Row {
    /// Name of the op.
    pub op: &'static str,
    /// Shape and settings.
    pub case: String,
    /// Number of directions compared.
    pub directions: usize,
    /// Largest relative error over them.
    pub max_error: f64,
    /// The bar.
    pub tolerance: f64,
    /// Whether the error is within it.
    pub ok: bool,
}

/// Names of all checks.
pub fn names() -> impl Iterator<Item = &'static str> {
    checks::<Exact>().into_iter().map(|check| check.op)
}

/// Runs all checks of `b`'s derivatives, or the one of name `only`, with inputs drawn from `seed`; `each`
/// sees every row as soon as it is there.
///
/// # Errors
/// [`Error::Usage`] where there is no check of that name, the device's fault. A wrong gradient is a row, not
/// an error.
pub fn run<B: Claimant>(
    b: &B,
    only: Option<&str>,
    seed: u64,
    mut each: impl FnMut(&Row),
) -> Result<Vec<Row>> {
    if let Some(name) = only.filter(|name| !names().any(|n| n == *name)) {
        let all: Vec<_> = names().collect();
        return Err(Error::Usage(format!("no gradient check '{name}', expected one of {}", all.join(", "))));
    }
    let mut rows = Vec::new();
    for Check { number, op, draw } in checks::<B>() {
        if only.is_some_and(|name| name != op) {
            continue;
        }
        let bar = B::bar(op);
        let mut rng = Key::new(seed, Domain::Bench, number).stream();
        for (index, mut problem) in draw(b, &mut rng)?.into_iter().enumerate() {
            let mut checked = check(&problem, bar, &mut rng)?;
            for _ in 0..REDRAWN_POINTS {
                if checked.is_some() {
                    break;
                }
                problem = draw(b, &mut rng)?.swap_remove(index);
                checked = check(&problem, bar, &mut rng)?;
            }
            b.check()?;
            // Where no point allows a measurement, nothing has been proved.
            let Checked { directions, max_error } =
                checked.unwrap_or(Checked { directions: 0, max_error: f64::INFINITY });
            let Bar { tolerance, .. } = bar;
            let ok = max_error <= tolerance;
            let row = Row { op, case: problem.case, directions, max_error, tolerance, ok };
            each(&row);
            rows.push(row);
        }
    }
    Ok(rows)
}

/// A function of a flat point.
pub(crate) type Function = Box<dyn Fn(&[f64]) -> Result<f64>>;

/// A function of a flat point and what a hand-written derivative claims about it.
pub(crate) struct Problem {
    pub case: String,
    pub point: Vec<f64>,
    pub value: Function,
    pub claim: Claim,
}

/// What is claimed.
pub(crate) enum Claim {
    /// The gradient at the point.
    Gradient(Vec<f64>),
    /// The derivative along a direction.
    Tangent(Function),
}

impl Claim {
    fn along(&self, direction: &[f64]) -> Result<f64> {
        match self {
            Claim::Gradient(g) => Ok(dot(g, direction)),
            Claim::Tangent(f) => f(direction),
        }
    }
}

pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `len` standard normal numbers, which float32 holds exactly as all that is drawn here: uploading loses
/// nothing.
pub(crate) fn normals(rng: &mut Stream, len: usize) -> Vec<f64> {
    (0..len).map(|_| f64::from(rng.normal())).collect()
}

pub(crate) fn tensor(shape: Shape, values: &[f64]) -> Tensor<f64> {
    Tensor::new(shape, values.to_vec())
}

/// Values that float32 holds, as such.
pub(crate) fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

/// The same on the device that makes the claim.
pub(crate) fn upload<B: Backend>(b: &B, shape: Shape, values: &[f64]) -> B::Tensor {
    b.upload(shape, &narrow(values))
}

/// Takes the first `shape.len()` values off `rest` as a tensor.
pub(crate) fn take(rest: &mut &[f64], shape: Shape) -> Tensor<f64> {
    let (head, tail) = rest.split_at(shape.len());
    *rest = tail;
    tensor(shape, head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_has_a_number_and_a_name_of_its_own() {
        let checks = checks::<Exact>();
        assert!(checks.is_sorted_by(|a, b| a.number < b.number));
        assert!(names().all(|name| names().filter(|n| *n == name).count() == 1));
    }
}
