//! Means over runs, their spread, and how sure they are. Knows numbers, not what they mean.

/// Mean and spread of what several runs gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    /// Number of values.
    pub n: usize,
    pub mean: f64,
    /// Their sample standard deviation, with n - 1 below; one value has none.
    pub deviation: Option<f64>,
}

impl Sample {
    /// Over the finite ones of `values`; `None` where there is none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Sample> {
        let values: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        let n = values.len();
        if n == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        Some(Sample { n, mean, deviation: (n > 1).then(|| (squares / (n - 1) as f64).sqrt()) })
    }

    /// The standard error of the mean: the deviation over the root of n. One value has none.
    pub fn standard_error(&self) -> Option<f64> {
        self.deviation.map(|deviation| deviation / (self.n as f64).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_deviations_and_errors_are_those_of_the_definitions() {
        // Deviations from 5: -3, -1, -1, -1, 0, 0, 2, 4; squares add up to 32, over 7.
        let s = Sample::of([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]).unwrap();
        assert_eq!((s.n, s.mean), (8, 5.0));
        assert!((s.deviation.unwrap() - (32.0f64 / 7.0).sqrt()).abs() < 1e-15);
        assert!((s.standard_error().unwrap() - (32.0f64 / 56.0).sqrt()).abs() < 1e-15);
        let s = Sample::of([1.0, 4.0]).unwrap();
        assert!((s.deviation.unwrap() - 4.5f64.sqrt()).abs() < 1e-15);
        assert!((s.standard_error().unwrap() - 1.5).abs() < 1e-15);
    }

    #[test]
    fn one_value_has_no_spread_and_none_no_mean() {
        let s = Sample::of([0.25, f64::NAN, f64::INFINITY]).unwrap();
        assert_eq!(s, Sample { n: 1, mean: 0.25, deviation: None });
        assert_eq!(s.standard_error(), None);
        assert_eq!(Sample::of([f64::NAN]), None);
        assert_eq!(Sample::of([]), None);
        assert_eq!(Sample::of([3.0, 3.0]).unwrap().deviation, Some(0.0));
    }
}
