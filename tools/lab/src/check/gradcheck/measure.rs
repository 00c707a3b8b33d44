//! The comparison of a claimed derivative with a measured one. Must not know ops.

use super::{Bar, Claim, Problem};
use psmt_fast::rng::Stream;
use psmt_fast::{Error, Result};

/// Random directions a problem is checked in.
const DIRECTIONS: usize = 5;

/// Points with up to this many coordinates are checked in every coordinate, larger ones in so many drawn
/// ones.
const COORDINATES: usize = 24;

/// How often another direction is drawn where the function has a kink along the first ones.
const REDRAWS: usize = 8;

/// Points near a problem's own that rounding could confuse with it, at which the derivative is measured too.
const CONFUSABLE: usize = 4;

/// Number of directions compared, and the largest relative error over them.
pub(super) struct Checked {
    pub directions: usize,
    pub max_error: f64,
}

/// Compares the claim with central differences along random directions and coordinates. The error is relative
/// to the derivative, or to a tenth of what a random direction typically has where the derivative is smaller
/// than that. `None` where too many directions meet a kink to say anything.
pub(super) fn check(problem: &Problem, bar: Bar, rng: &mut Stream) -> Result<Option<Checked>> {
    let n = problem.point.len();
    if let Claim::Gradient(g) = &problem.claim
        && g.len() != n
    {
        return Err(Error::shape("gradcheck", format!("a gradient of {n} elements"), g.len().to_string()));
    }
    let at_point = (problem.value)(&problem.point)?;
    let confusable: Vec<Vec<f64>> = if bar.rounding > 0.0 {
        let mut confuse = |v: &f64| v * (1.0 + bar.rounding * f64::from(rng.normal()));
        (0..CONFUSABLE).map(|_| problem.point.iter().map(&mut confuse).collect()).collect()
    } else {
        Vec::new()
    };
    let measure = Measure { problem, bar, at_point, confusable };
    let (mut random, mut single) = (Vec::new(), Vec::new());
    for _ in 0..DIRECTIONS {
        random.extend(measure.compare(|| (0..n).map(|_| f64::from(rng.normal())).collect())?);
    }
    let coordinates = n.min(COORDINATES);
    for k in 0..coordinates {
        // Another coordinate where the first one meets a kink; with few coordinates the redraws may all meet
        // it.
        let mut next = (n <= COORDINATES).then_some(k);
        let pair = measure.compare(|| {
            let i = next.take().unwrap_or_else(|| rng.below(n));
            (0..n).map(|j| f64::from(u8::from(i == j))).collect()
        })?;
        single.extend(pair);
    }
    let typical =
        (random.iter().map(|(claimed, _)| claimed * claimed).sum::<f64>() / random.len() as f64).sqrt();
    let floor = 0.1 * typical;
    let max_error = relative_error(&random, floor).max(relative_error(&single, floor / (n as f64).sqrt()));
    let directions = random.len() + single.len();
    if random.len() < DIRECTIONS || 2 * single.len() < coordinates {
        return Ok(None);
    }
    Ok(Some(Checked { directions, max_error }))
}

/// Largest |claimed - measured| over the pairs, each relative to the larger of both and `floor`. NaN counts
/// as infinite.
fn relative_error(pairs: &[(f64, f64)], floor: f64) -> f64 {
    let errors = pairs.iter().map(|&(claimed, measured)| {
        let difference = (claimed - measured).abs();
        let scale = claimed.abs().max(measured.abs()).max(floor);
        if difference == 0.0 { 0.0 } else { difference / scale }
    });
    errors.fold(0.0, |max, e| if e.is_nan() { f64::INFINITY } else { max.max(e) })
}

/// How a problem's derivative is measured.
struct Measure<'a> {
    problem: &'a Problem,
    bar: Bar,
    /// The function at the point.
    at_point: f64,
    /// Points that rounding could confuse with the problem's.
    confusable: Vec<Vec<f64>>,
}

impl Measure<'_> {
    /// The claimed and the measured derivative along one drawn direction; `None` if every drawn one meets a
    /// kink.
    fn compare(&self, mut draw: impl FnMut() -> Vec<f64>) -> Result<Option<(f64, f64)>> {
        for _ in 0..REDRAWS {
            let direction = draw();
            if let Some(measured) = self.derivative(&direction)? {
                return Ok(Some((self.problem.claim.along(&direction)?, measured)));
            }
        }
        Ok(None)
    }

    /// The central difference along `direction`, `None` if at every step there seems to be a kink or jump. It
    /// decides by the function alone and never by the claim: for a smooth function the central differences at
    /// h and h / 2 agree and the difference of the one-sided ones shrinks with h; a kink breaks one or the
    /// other. A kink so near that a device's rounding may cross it shows by other derivatives at the
    /// confusable points.
    fn derivative(&self, direction: &[f64]) -> Result<Option<f64>> {
        let (Measure { problem, bar, at_point, .. }, point) = (self, &self.problem.point);
        let at = |t: f64| along(problem, point, direction, t);
        for &h in bar.steps {
            let (ahead, behind) = (at(h)?, at(-h)?);
            let (near_ahead, near_behind) = (at(h / 2.0)?, at(-h / 2.0)?);
            let coarse = (ahead - behind) / (2.0 * h);
            let fine = (near_ahead - near_behind) / h;
            let bend = ((ahead - at_point) - (at_point - behind)).abs() / h;
            let near_bend = ((near_ahead - at_point) - (at_point - near_behind)).abs() / (h / 2.0);
            // Rounding of a sum of this size, over the step.
            let noise = 1e-14 * ahead.abs().max(behind.abs()).max(at_point.abs()) / h;
            let slack = 0.1 * bar.smooth * coarse.abs().max(fine.abs()) + noise;
            if (coarse - fine).abs() <= slack && near_bend <= 0.75 * bend + slack {
                for point in &self.confusable {
                    let ahead = along(problem, point, direction, h / 2.0)?;
                    let behind = along(problem, point, direction, -h / 2.0)?;
                    if ((ahead - behind) / h - fine).abs() > 5.0 * slack {
                        return Ok(None);
                    }
                }
                return Ok(Some(fine));
            }
            if !(coarse - fine).is_finite() {
                return Ok(Some(f64::NAN));
            }
        }
        Ok(None)
    }
}

/// The function at `point` + `t` `direction`.
fn along(problem: &Problem, point: &[f64], direction: &[f64], t: f64) -> Result<f64> {
    let moved: Vec<f64> = point.iter().zip(direction).map(|(p, d)| p + t * d).collect();
    (problem.value)(&moved)
}

#[cfg(test)]
mod tests {
    use super::super::{Claimant, DrawProblems, checks};
    use super::*;
    use psmt_emulator::{self as emulator, EmulatorOptions};
    use psmt_fast::backend::cuda::{Cuda, Dtype};
    use psmt_fast::rng::{Domain, Key};

    const EXACT: Bar = Bar::EXACT;
    const TOLERANCE: f64 = EXACT.tolerance;

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
        let checked = check(problem, EXACT, &mut Key::new(5, Domain::Bench, 0).stream()).unwrap();
        checked.map_or(f64::INFINITY, |c| c.max_error)
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

    fn errors<B: Claimant>(b: &B, draw: DrawProblems<B>, bar: Bar, spoil: impl Fn(&mut Problem)) -> Vec<f64> {
        let mut rng = Key::new(3, Domain::Bench, 0).stream();
        let mut problems = draw(b, &mut rng).unwrap();
        problems.iter_mut().for_each(spoil);
        let checked = problems.iter().map(|p| check(p, bar, &mut rng).unwrap());
        checked.flatten().map(|c| c.max_error).collect()
    }

    #[test]
    fn wrong_derivatives_of_a_device_in_single_precision_fail() {
        let Ok(driver) = emulator::open(EmulatorOptions::default()) else {
            eprintln!("skipped: this build has no emulator");
            return;
        };
        let b = Cuda::new(driver, Dtype::F32);
        for op in ["conv2d", "batch_norm_train", "conf_ce", "encoder", "train_step"] {
            let draw = checks::<Cuda>().into_iter().find(|check| check.op == op).expect("a check").draw;
            let bar = Cuda::bar(op);
            let right = errors(&b, draw, bar, |_| {});
            assert!(!right.is_empty() && right.iter().all(|e| *e <= bar.tolerance), "{op}: {right:?}");
            let scaled = |p: &mut Problem| {
                if let Claim::Gradient(g) = &mut p.claim {
                    g.iter_mut().for_each(|v| *v *= 1.1);
                }
            };
            // Losses of pixels that all fall away have no gradient to scale.
            let moving = right.iter().filter(|e| **e > 0.0).count();
            let wrong = errors(&b, draw, bar, scaled);
            assert_eq!(wrong.iter().filter(|e| **e > bar.tolerance).count(), moving, "{op}: {wrong:?}");
            let without_last_third = |p: &mut Problem| {
                if let Claim::Gradient(g) = &mut p.claim {
                    let len = g.len();
                    g[len - len / 3..].fill(0.0);
                }
            };
            let wrong = errors(&b, draw, bar, without_last_third);
            assert_eq!(wrong.iter().filter(|e| **e > bar.tolerance).count(), moving, "{op}: {wrong:?}");
        }
    }
}
