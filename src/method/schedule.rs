//! Schedules: learning rate and the ramp-up of the unsupervised weight. Plain functions of the step.

use serde::{Deserialize, Serialize};

/// base (1 - step / total)^0.9 (Chen et al., DeepLab, 2017); 0 from `total` on.
pub fn poly_lr(base: f64, step: u64, total: u64) -> f64 {
    if step >= total { 0.0 } else { base * (1.0 - step as f64 / total as f64).powf(0.9) }
}

/// Shape of a ramp-up from about 0 at the start to 1 at its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum RampUp {
    /// 1 - (cos(pi t) + 1) / 2.
    Cosine,
    /// exp(-5 (1 - t)²) (Laine and Aila, 2017).
    Sigmoid,
    /// t.
    Linear,
    /// 1 - exp(-5 t).
    Log,
    /// exp(5 (t - 1)).
    Exp,
    /// 1 throughout.
    Constant,
}

impl RampUp {
    /// Value at `step` of `length` (same unit), t = step / length clamped to [0, 1]; 1 where `length` is 0.
    pub fn at(self, step: f64, length: f64) -> f64 {
        if length <= 0.0 {
            return 1.0;
        }
        let t = (step / length).clamp(0.0, 1.0);
        match self {
            RampUp::Cosine => 1.0 - 0.5 * ((std::f64::consts::PI * t).cos() + 1.0),
            RampUp::Sigmoid => (-5.0 * (1.0 - t) * (1.0 - t)).exp(),
            RampUp::Linear => t,
            RampUp::Log => 1.0 - (-5.0 * t).exp(),
            RampUp::Exp => (5.0 * (t - 1.0)).exp(),
            RampUp::Constant => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poly_falls_from_base_to_zero() {
        assert_eq!(poly_lr(0.01, 0, 10), 0.01);
        assert!((poly_lr(1.0, 5, 10) - 0.5f64.powf(0.9)).abs() < 1e-15);
        assert_eq!(poly_lr(0.01, 10, 10), 0.0);
    }

    #[test]
    fn ramps_rise_to_one_and_stay() {
        for ramp in [RampUp::Cosine, RampUp::Sigmoid, RampUp::Linear, RampUp::Exp] {
            let v: Vec<f64> = (0..=12).map(|s| ramp.at(f64::from(s), 12.0)).collect();
            assert!(v.windows(2).all(|p| p[0] < p[1]), "{ramp:?} {v:?}");
            assert!(v[0] < 0.01 && (v[12] - 1.0).abs() < 1e-12 && ramp.at(40.0, 12.0) == v[12]);
            assert_eq!(ramp.at(3.0, 0.0), 1.0);
        }
        // The published logarithmic form ends at 1 - e^-5, not at 1.
        assert!((RampUp::Log.at(12.0, 12.0) - (1.0 - (-5.0f64).exp())).abs() < 1e-15);
        assert_eq!(RampUp::Constant.at(0.0, 12.0), 1.0);
    }
}
