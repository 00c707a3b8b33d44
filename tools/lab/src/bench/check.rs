//! Whether a device computes what it is timed on: each op is compared with the processor in double precision
//! on small inputs, and results of the timed ones must be finite.

use super::case::{Draw, Outputs};
use crate::cases::Call;
use psmt_fast::backend::cpu::Cpu;
use psmt_fast::ops::*;
use psmt_fast::{Error, Result};
use std::collections::BTreeMap;

/// Share of labels and counts that rounding may change.
const TURNED: f64 = 0.01;

/// Small calls of every op, compared when they are first asked for.
pub struct Oracle {
    calls: Vec<Call>,
    tolerance: f64,
    worst: BTreeMap<&'static str, (usize, f64)>,
}

impl Oracle {
    /// With `calls` that a processor computes in a moment, and the largest relative error.
    pub fn new(calls: Vec<Call>, tolerance: f64) -> Oracle {
        Oracle { calls, tolerance, worst: BTreeMap::new() }
    }

    /// Compares all small calls of the op `name`: their number and the largest relative error.
    ///
    /// # Errors
    /// [`Error::CheckFailed`] where one differs, or where none is known.
    pub fn check<B: Backend>(&mut self, b: &B, name: &'static str) -> Result<(usize, f64)> {
        if let Some(&known) = self.worst.get(name) {
            return Ok(known);
        }
        let (mut count, mut worst) = (0, 0f64);
        for call in self.calls.iter().filter(|c| c.name() == name) {
            let error = compare(b, call, self.tolerance)?;
            (count, worst) = (count + 1, worst.max(error));
        }
        if count == 0 {
            return Err(Error::CheckFailed(format!("{name}: nothing small to compare with the processor")));
        }
        self.worst.insert(name, (count, worst));
        Ok((count, worst))
    }
}

/// Largest relative error of `call` compared with the processor in double precision, on the same inputs.
fn compare<B: Backend>(b: &B, call: &Call, tolerance: f64) -> Result<f64> {
    let cpu = Cpu::<f64>::new();
    let mut draw = Draw::to_copy(b);
    let mut work = call.prepare(&mut draw)?;
    let mut reference = call.prepare(&mut draw.copy_to(&cpu))?;
    let (mut got, mut want) = (Outputs::checked(), Outputs::checked());
    work(b, &mut got)?;
    reference(&cpu, &mut want)?;
    b.check()?;
    let what = |name: &str| format!("{} {}, {name}", call.name(), call.sizes());
    let mut worst = 0f64;
    for ((name, got), (_, want)) in got.tensors.iter().zip(&want.tensors) {
        worst = worst.max(close(&what(name), &b.download(got), &cpu.download(want), tolerance)?);
    }
    for ((name, got), (_, want)) in got.updated.iter().zip(&want.updated) {
        worst = worst.max(close(&what(name), got, want, tolerance)?);
    }
    let turned = |name: &str, differing: f64, all: f64| {
        if differing <= TURNED * all {
            return Ok(());
        }
        Err(Error::CheckFailed(format!("{} differs in {differing} of {all}", what(name))))
    };
    for ((name, got), (_, want)) in got.labels.iter().zip(&want.labels) {
        let (got, want) = (b.download_labels(got), cpu.download_labels(want));
        let differing = got.iter().zip(&want).filter(|(g, w)| g != w).count();
        turned(name, differing as f64, want.len() as f64)?;
    }
    for ((name, got), (_, want)) in got.scalars.iter().zip(&want.scalars) {
        let (got, want) = (b.read_scalar(got), cpu.read_scalar(want));
        let allowed = tolerance.max(TURNED) * want.abs();
        if (got - want).abs() > allowed || got.is_nan() {
            return Err(Error::CheckFailed(format!("{} is {got}, not {want}", what(name))));
        }
    }
    for ((name, got), (_, want)) in got.counts.iter().zip(&want.counts) {
        let (got, want) = (b.read_counts(got), cpu.read_counts(want));
        let differing: f64 = got.iter().zip(&want).map(|(&g, &w)| g.abs_diff(w) as f64).sum();
        // A lone count is a place that was found, not a number of anything.
        let all = if want.len() == 1 { 0.0 } else { want.iter().map(|&w| w as f64).sum() };
        turned(name, differing, all)?;
    }
    Ok(worst)
}

/// ‖got - want‖ / ‖want‖.
///
/// # Errors
/// [`Error::CheckFailed`] where that is above `tolerance`, or lengths differ.
pub fn close(what: &str, got: &[f32], want: &[f32], tolerance: f64) -> Result<f64> {
    if got.len() != want.len() {
        return Err(Error::CheckFailed(format!("{what} has {} values, not {}", got.len(), want.len())));
    }
    let (mut off, mut norm) = (0.0, 0.0);
    for (&got, &want) in got.iter().zip(want) {
        off += (f64::from(got) - f64::from(want)).powi(2);
        norm += f64::from(want).powi(2);
    }
    let error = if norm > 0.0 { (off / norm).sqrt() } else { off.sqrt() };
    // Not "above": a NaN has no place on either side.
    if error <= tolerance {
        return Ok(error);
    }
    Err(Error::CheckFailed(format!("{what} is off by {error:.1e} of its size, {tolerance:.0e} are allowed")))
}

/// Looks through the results of a call. Waits for the device.
///
/// # Errors
/// [`Error::CheckFailed`] for a value that is not finite, and faults of the device.
pub(super) fn check_finite<B: Backend>(b: &B, call: &Call, out: &Outputs<B>) -> Result<()> {
    let mut watch = b.zero_counts(1);
    out.tensors.iter().for_each(|(_, x)| b.watch_tensor(&mut watch, x, 0));
    let found = b.read_counts(&watch)[0];
    b.check()?;
    let updated = out.updated.iter().flat_map(|(_, values)| values).all(|v| v.is_finite());
    let scalars = out.scalars.iter().all(|(_, s)| b.read_scalar(s).is_finite());
    if found == 0 && updated && scalars {
        return Ok(());
    }
    Err(Error::CheckFailed(format!("{} {}: a result is not finite", call.name(), call.sizes())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Sizes, known_calls};
    use crate::cases::LeakyRelu;
    use psmt_fast::method::Tvat;
    use psmt_fast::model::ModelConfig;

    #[test]
    fn every_op_is_compared_and_a_rounded_one_is_not_exact() {
        let sizes = Sizes::new(ModelConfig::tiny(5), 33, 2).unwrap();
        let calls: Vec<Call> =
            known_calls(&sizes, Tvat::Exact).unwrap().into_iter().map(|c| c.call).collect();
        let b = Cpu::<f32>::new();
        let mut oracle = Oracle::new(calls.clone(), 1e-4);
        for call in &calls {
            let (count, error) = oracle.check(&b, call.name()).unwrap();
            assert!(count > 0 && error < 1e-4, "{}: {error}", call.name());
        }
        let mut exact = Oracle::new(calls, 0.0);
        for rounded in ["conv2d_fprop", "batch_norm_train_bwd", "conf_ce", "sgd_ema"] {
            let text = exact.check(&b, rounded).unwrap_err().to_string();
            assert!(text.contains(rounded) && text.contains("is off by"), "{text}");
        }
        assert!(exact.check(&b, "unknown").is_err());
    }

    #[test]
    fn values_that_are_not_finite_are_found() {
        let b = Cpu::<f32>::new();
        let call = LeakyRelu { x: Shape::new(1, 1, 1, 3) }.into();
        let check = |spoil: &dyn Fn(&mut Outputs<Cpu<f32>>)| {
            let mut out = Outputs::checked();
            out.tensor("y", b.upload(Shape::new(1, 1, 1, 3), &[0.0, 1.0, 2.0]));
            spoil(&mut out);
            check_finite(&b, &call, &out)
        };
        check(&|_| {}).unwrap();
        check(&|out| out.updated(&b, "grads", &vec![0.0, 1.0])).unwrap();
        let bad = b.upload(Shape::new(1, 1, 1, 3), &[0.0, f32::NAN, 1.0]);
        assert!(check(&|out| out.tensor("dx", bad.clone())).is_err());
        assert!(check(&|out| out.updated(&b, "grads", &vec![0.0, f32::INFINITY])).is_err());
    }

    #[test]
    fn differences_are_relative_and_nan_is_never_close() {
        assert!(close("x", &[1.0, 2.0], &[1.0, 2.0], 0.0).is_ok());
        assert!(close("x", &[100.0, 0.0], &[101.0, 0.0], 1e-2).is_ok());
        let text = close("x", &[100.0, 0.0], &[102.0, 0.0], 1e-2).unwrap_err().to_string();
        assert!(text.contains("x is off"), "{text}");
        assert!(close("x", &[f32::NAN], &[1.0], 1.0).is_err());
        assert!(close("x", &[1.0], &[1.0, 1.0], 1.0).is_err());
        assert!(close("x", &[1e-3], &[0.0], 1e-4).is_err());
    }
}
