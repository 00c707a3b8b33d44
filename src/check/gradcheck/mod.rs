//! Finite differences: every backward and every tangent pass in double precision on the CPU against central differences
//! of its forward pass. This file has the comparison and the table of checks; the checks themselves are one file a
//! family of ops.

mod layers;
mod losses;
mod networks;

use crate::backend::cpu::{Cpu, Tensor};
use crate::ops::Shape;
use crate::rng::{Domain, Key, Stream};
use crate::{Error, Result};

/// Largest relative error of a derivative that passes.
pub const TOLERANCE: f64 = 1e-6;

/// Random directions a problem is checked in.
const DIRECTIONS: usize = 5;

/// Points with up to this many coordinates are checked in every coordinate, larger ones in so many drawn ones.
const COORDINATES: usize = 24;

/// How often another direction is drawn where the function has a kink along the first ones.
const REDRAWS: usize = 8;

type Device = Cpu<f64>;
type Draw = fn(&mut Stream) -> Result<Vec<Problem>>;

/// Every check: the op's name and what draws its problems. A check's place seeds its draws, so new ones go to the end.
const CHECKS: &[(&str, Draw)] = &[
    ("conv2d", layers::conv2d),
    ("batch_norm_train", layers::batch_norm_train),
    ("batch_norm_eval", layers::batch_norm_eval),
    ("batch_norm_tangent", layers::batch_norm_tangent),
    ("leaky_relu", layers::leaky_relu),
    ("max_pool2d", layers::max_pool2d),
    ("adaptive_avg_pool2d", layers::adaptive_avg_pool2d),
    ("interpolate", layers::interpolate),
    ("add", layers::add),
    ("concat", layers::concat),
    ("cross_entropy", losses::cross_entropy),
    ("ohem_cross_entropy", losses::ohem_cross_entropy),
    ("conf_ce", losses::conf_ce),
    ("mse_consistency", losses::mse_consistency),
    ("kl_gradient", losses::kl_gradient),
    ("tvat_cotangent", losses::tvat_cotangent),
    ("encoder", networks::encoder),
    ("decoder", networks::decoder),
    ("decoder_pullback", networks::decoder_pullback),
    ("decoder_tangent", networks::decoder_tangent),
    ("train_step", networks::train_step),
    ("decoders", networks::decoders),
];

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
    /// Whether it is within [`TOLERANCE`].
    pub ok: bool,
}

/// Names of all checks.
pub fn names() -> impl Iterator<Item = &'static str> {
    CHECKS.iter().map(|(name, _)| *name)
}

/// Runs all checks, or the one of name `only`, with inputs drawn from `seed`; `each` sees every row as soon as it is there.
///
/// # Errors
/// [`Error::Usage`] where there is no check of that name. A wrong gradient is a row, not an error.
pub fn run(only: Option<&str>, seed: u64, mut each: impl FnMut(&Row)) -> Result<Vec<Row>> {
    if let Some(name) = only.filter(|name| !names().any(|n| n == *name)) {
        let all: Vec<_> = names().collect();
        return Err(Error::Usage(format!("no gradient check '{name}', expected one of {}", all.join(", "))));
    }
    let mut rows = Vec::new();
    for (number, &(op, draw)) in CHECKS.iter().enumerate() {
        if only.is_some_and(|name| name != op) {
            continue;
        }
        let mut rng = Key::new(seed, Domain::Bench, number as u64).stream();
        for problem in draw(&mut rng)? {
            let Checked { directions, max_error } = check(&problem, &mut rng)?;
            let row = Row { op, case: problem.case, directions, max_error, ok: max_error <= TOLERANCE };
            each(&row);
            rows.push(row);
        }
    }
    Ok(rows)
}

/// A function of a flat point.
type Function = Box<dyn Fn(&[f64]) -> Result<f64>>;

/// A function of a flat point and what a hand-written derivative claims about it.
struct Problem {
    case: String,
    point: Vec<f64>,
    value: Function,
    claim: Claim,
}

/// What is claimed.
enum Claim {
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

struct Checked {
    directions: usize,
    max_error: f64,
}

/// Compares the claim with central differences along random directions and coordinates. The error is relative to the
/// derivative, or to a tenth of what a random direction typically has where the derivative is smaller than that.
fn check(problem: &Problem, rng: &mut Stream) -> Result<Checked> {
    let n = problem.point.len();
    if let Claim::Gradient(g) = &problem.claim
        && g.len() != n
    {
        return Err(Error::shape("gradcheck", format!("a gradient of {n} elements"), g.len().to_string()));
    }
    let at_point = (problem.value)(&problem.point)?;
    let (mut random, mut single) = (Vec::new(), Vec::new());
    for _ in 0..DIRECTIONS {
        random.extend(compare(problem, at_point, || (0..n).map(|_| f64::from(rng.normal())).collect())?);
    }
    let coordinates = n.min(COORDINATES);
    for k in 0..coordinates {
        // Another coordinate where the first one meets a kink; with few coordinates the redraws may all meet it.
        let mut next = (n <= COORDINATES).then_some(k);
        let pair = compare(problem, at_point, || {
            let i = next.take().unwrap_or_else(|| rng.below(n));
            (0..n).map(|j| f64::from(u8::from(i == j))).collect()
        })?;
        single.extend(pair);
    }
    let typical =
        (random.iter().map(|(claimed, _)| claimed * claimed).sum::<f64>() / random.len() as f64).sqrt();
    let floor = 0.1 * typical;
    let mut max_error =
        relative_error(&random, floor).max(relative_error(&single, floor / (n as f64).sqrt()));
    let directions = random.len() + single.len();
    if random.len() < DIRECTIONS || 2 * single.len() < coordinates || typical.is_nan() {
        // Too many kinks to say anything: not a pass.
        max_error = f64::INFINITY;
    }
    Ok(Checked { directions, max_error })
}

/// Largest |claimed - measured| over the pairs, each relative to the larger of both and `floor`. NaN counts as infinite.
fn relative_error(pairs: &[(f64, f64)], floor: f64) -> f64 {
    let errors = pairs.iter().map(|&(claimed, measured)| {
        let difference = (claimed - measured).abs();
        let scale = claimed.abs().max(measured.abs()).max(floor);
        if difference == 0.0 { 0.0 } else { difference / scale }
    });
    errors.fold(0.0, |max, e| if e.is_nan() { f64::INFINITY } else { max.max(e) })
}

/// The claimed and the measured derivative along one drawn direction; `None` if every drawn one meets a kink.
fn compare(
    problem: &Problem,
    at_point: f64,
    mut draw: impl FnMut() -> Vec<f64>,
) -> Result<Option<(f64, f64)>> {
    for _ in 0..REDRAWS {
        let direction = draw();
        if let Some(measured) = derivative(problem, at_point, &direction)? {
            return Ok(Some((problem.claim.along(&direction)?, measured)));
        }
    }
    Ok(None)
}

/// The central difference along `direction`, `None` if at every step there seems to be a kink or jump. It decides by the
/// function alone and never by the claim: for a smooth function the central differences at h and h / 2 agree and the
/// difference of the one-sided ones shrinks with h; a kink breaks one or the other.
fn derivative(problem: &Problem, at_point: f64, direction: &[f64]) -> Result<Option<f64>> {
    let at = |t: f64| -> Result<f64> {
        let moved: Vec<f64> = problem.point.iter().zip(direction).map(|(p, d)| p + t * d).collect();
        (problem.value)(&moved)
    };
    for h in [1e-5, 1e-6, 1e-7] {
        let (ahead, behind) = (at(h)?, at(-h)?);
        let (near_ahead, near_behind) = (at(h / 2.0)?, at(-h / 2.0)?);
        let coarse = (ahead - behind) / (2.0 * h);
        let fine = (near_ahead - near_behind) / h;
        let bend = ((ahead - at_point) - (at_point - behind)).abs() / h;
        let near_bend = ((near_ahead - at_point) - (at_point - near_behind)).abs() / (h / 2.0);
        // Rounding of a sum of this size, over the step.
        let noise = 1e-14 * ahead.abs().max(behind.abs()).max(at_point.abs()) / h;
        let slack = 0.1 * TOLERANCE * coarse.abs().max(fine.abs()) + noise;
        if (coarse - fine).abs() <= slack && near_bend <= 0.75 * bend + slack {
            return Ok(Some(fine));
        }
        if !(coarse - fine).is_finite() {
            return Ok(Some(f64::NAN));
        }
    }
    Ok(None)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `len` standard normal numbers.
fn normals(rng: &mut Stream, len: usize) -> Vec<f64> {
    (0..len).map(|_| f64::from(rng.normal())).collect()
}

fn tensor(shape: Shape, values: &[f64]) -> Tensor<f64> {
    Tensor::new(shape, values.to_vec())
}

/// Takes the first `shape.len()` values off `rest` as a tensor.
fn take(rest: &mut &[f64], shape: Shape) -> Tensor<f64> {
    let (head, tail) = rest.split_at(shape.len());
    *rest = tail;
    tensor(shape, head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(scale: f64) -> Problem {
        let point = vec![0.3, -0.7, 1.1, 0.2];
        let gradient = point.iter().map(|v: &f64| scale * v.cos()).collect();
        Problem {
            case: "sum of sines".into(),
            point,
            value: Box::new(|x| Ok(x.iter().map(|v| v.sin()).sum())),
            claim: Claim::Gradient(gradient),
        }
    }

    fn error(problem: &Problem) -> f64 {
        check(problem, &mut Key::new(5, Domain::Bench, 0).stream()).unwrap().max_error
    }

    #[test]
    fn right_gradient_passes_and_one_percent_fails() {
        assert!(error(&problem(1.0)) < 1e-9);
        assert!(error(&problem(1.01)) > 1e3 * TOLERANCE);
        assert!(error(&problem(1.0 + 1e-5)) > TOLERANCE);
        assert!(error(&problem(f64::NAN)).is_infinite());
    }

    #[test]
    fn one_wrong_element_fails() {
        let mut p = problem(1.0);
        if let Claim::Gradient(g) = &mut p.claim {
            g[2] += 1e-3;
        }
        assert!(error(&p) > TOLERANCE);
    }

    #[test]
    fn missing_gradient_of_a_moving_function_fails() {
        assert!(error(&problem(0.0)) >= 1.0);
    }

    #[test]
    fn kinks_are_stepped_around_and_never_passed_over() {
        // Kinks 3e-7 away: the steps 1e-5 and 1e-6 cross them, 1e-7 does not.
        let near = |claimed: f64| Problem {
            case: "absolute value".into(),
            point: vec![3e-7; 3],
            value: Box::new(|x| Ok(x.iter().map(|v| v.abs() + 2.0 * v).sum())),
            claim: Claim::Gradient(vec![claimed; 3]),
        };
        assert!(error(&near(3.0)) < TOLERANCE);
        assert!(error(&near(3.03)) > TOLERANCE);
        // On the kink itself no derivative can be measured.
        let on = Problem { point: vec![0.0; 3], ..near(2.0) };
        assert!(error(&on).is_infinite());
    }
}
