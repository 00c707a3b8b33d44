//! Compares the results of an op with those of its fixture. [`super::margin`] finds the integers that
//! rounding may change.

use super::bars::{Bars, UNJUDGED};
use super::fixture::{Array, Fixture, Outputs, Values};
use super::margin;
use psmt_fast::Result;

/// 8-bit images may differ by this: Pillow's rounding of its fixed-point weights is its own.
const IMAGE_STEP: f64 = 1.0;

/// Comparison of one tensor.
#[derive(Clone, Debug)]
pub struct Row {
    /// Name without the prefix `out.`, or what several tensors or a tensor's length are compared as.
    pub tensor: String,
    /// ‖got - want‖ / ‖want‖, or ‖got - want‖ where want is 0; NaN where there is nothing to compare.
    pub error: f64,
    /// The error that passes, [`super::UNJUDGED`] where any finite one does.
    pub bar: f64,
    /// Whether it is within the bar.
    pub ok: bool,
    /// Where it is not: the worst index with both values, or what does not fit. Else empty, or what was
    /// tolerated.
    pub note: String,
}

/// One row for every tensor `out.*` of the fixture, in the order of their names; then one for the length of
/// each noise and one for all gradients of a network's encoder together.
///
/// A float32 tensor is within its bar if its relative error is. Labels and counts must be equal, save at
/// pixels whose margin in double precision is under 1e-6 and what [`Bars::of_counts`] lets go; 8-bit images
/// may differ by 1. What is missing, of another shape or type, or not finite is never within the bar.
///
/// # Errors
/// Those of reading the fixture's inputs again for the margins.
pub fn compare(fixture: &Fixture, got: &Outputs, bars: Bars) -> Result<Vec<Row>> {
    let mut rows = Vec::with_capacity(fixture.outputs.len());
    for (name, want) in &fixture.outputs {
        let bar = bars.of(&fixture.op, name);
        let fail = |note: String| Row { tensor: name.clone(), error: f64::NAN, bar, ok: false, note };
        let row = match got.get(name) {
            None => fail("missing".into()),
            Some(got) if got.shape != want.shape => {
                fail(format!("expected shape {:?}, got {:?}", want.shape, got.shape))
            }
            Some(got) if got.values.type_name() != want.values.type_name() => {
                fail(format!("expected {}, got {}", want.values.type_name(), got.values.type_name()))
            }
            Some(got) => row(fixture, name, got, want, bars)?,
        };
        rows.push(row);
    }
    // Noise has a length that does not depend on its direction, and gradients that are off one by one may not
    // be all together.
    let mut joint = |tensor: String, error: Option<f64>, bar: f64| {
        let error = error.unwrap_or(f64::NAN);
        rows.push(Row { tensor, error, bar, ok: error <= bar, note: String::new() });
    };
    let fitting = |name: &str, want: &Array| got.get(name).filter(|got| got.shape == want.shape);
    for name in ["r", "r_l", "r_u"] {
        if let Some(want) = fixture.outputs.get(name) {
            let error = fitting(name, want).map(|got| length_error(got, want));
            joint(format!("{name}, its length"), error, bars.of_length());
        }
    }
    if fixture.op == "network" {
        let encoder = fixture.outputs.iter().filter(|(name, _)| name.starts_with("grad.encoder."));
        let pairs: Option<Vec<_>> = encoder.map(|(name, want)| Some((fitting(name, want)?, want))).collect();
        joint("grad.encoder.*, together".into(), pairs.map(|p| relative_error(&p)), bars.of_encoder());
    }
    Ok(rows)
}

/// Relative error of the length alone.
fn length_error(got: &Array, want: &Array) -> f64 {
    let length = |a: &Array| (0..a.values.len()).map(|i| a.values.get(i).powi(2)).sum::<f64>().sqrt();
    let (got, want) = (length(got), length(want));
    let error = (got - want).abs();
    if want > 0.0 { error / want } else { error }
}

fn row(fixture: &Fixture, name: &str, got: &Array, want: &Array, bars: Bars) -> Result<Row> {
    let error = relative_error(&[(got, want)]);
    let float = matches!(want.values, Values::F32(_));
    let bar = if float { bars.of(&fixture.op, name) } else { bars.of_counts(&fixture.op) };
    let differing = (0..want.values.len()).filter(|&i| got.values.get(i) != want.values.get(i)).count();
    // Looked at only where it matters: it needs both teachers in double precision.
    let widened = float && error > bar && fixture.op == "train_step" && error <= bars.of_pixel(name);
    let bar = if widened && margin::ambiguous_threshold(fixture)? { bars.of_pixel(name) } else { bar };
    let (ok, tolerated) = match want.values {
        Values::F32(_) if bar == UNJUDGED => (error.is_finite(), "not judged".into()),
        Values::F32(_) if widened => (error <= bar, "a pixel is within 1e-6 of the threshold".into()),
        Values::F32(_) => (error <= bar, String::new()),
        _ if differing == 0 => (true, String::new()),
        Values::U8(_) => (worst(got, want).1 <= IMAGE_STEP, format!("{differing} values off by 1")),
        Values::I32(_) => {
            let tolerable = match (fixture.op.as_str(), name) {
                ("ensemble_pseudo_label", "label") => {
                    let ambiguous = margin::ambiguous_labels(fixture)?;
                    (0..ambiguous.len()).all(|i| ambiguous[i] || got.values.get(i) == want.values.get(i))
                }
                ("conf_ce" | "train_step", "histogram") => {
                    let slack = margin::ambiguous_counts(fixture)?;
                    slack.len() == want.values.len()
                        && (0..slack.len())
                            .all(|i| (got.values.get(i) - want.values.get(i)).abs() <= slack[i] as f64)
                }
                _ => false,
            };
            if !tolerable && error <= bar {
                (true, format!("{differing} values differ"))
            } else {
                (tolerable, format!("{differing} values differ, each within 1e-6 of a decision"))
            }
        }
    };
    let note = if ok { tolerated } else { describe_worst(got, want) };
    Ok(Row { tensor: name.to_string(), error, bar, ok, note })
}

/// ‖got - want‖ / ‖want‖ in double precision over all pairs (got, want) as if they were one, ‖got - want‖
/// where want is 0.
fn relative_error(pairs: &[(&Array, &Array)]) -> f64 {
    let (mut difference, mut norm) = (0.0, 0.0);
    for (got, want) in pairs {
        for i in 0..want.values.len() {
            let w = want.values.get(i);
            difference += (got.values.get(i) - w).powi(2);
            norm += w * w;
        }
    }
    if norm > 0.0 { (difference / norm).sqrt() } else { difference.sqrt() + norm }
}

/// Index and size of the largest difference; a value that is not a number is larger than any.
fn worst(got: &Array, want: &Array) -> (usize, f64) {
    let mut worst = (0, 0.0);
    for i in 0..want.values.len() {
        let difference = (got.values.get(i) - want.values.get(i)).abs();
        if difference > worst.1 || difference.is_nan() && !worst.1.is_nan() {
            worst = (i, difference);
        }
    }
    worst
}

fn describe_worst(got: &Array, want: &Array) -> String {
    let (flat, _) = worst(got, want);
    let mut rest = flat;
    let mut index: Vec<usize> = want.shape.iter().rev().map(|&len| (rest % len, rest /= len).0).collect();
    index.reverse();
    format!("worst at {index:?}: got {}, want {}", got.values.get(flat), want.values.get(flat))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(want: Array) -> Fixture {
        Fixture {
            path: "test".into(),
            op: "leaky_relu".into(),
            attrs: "{}".into(),
            inputs: Outputs::new(),
            outputs: [("y".to_string(), want)].into(),
        }
    }

    fn check(want: Array, got: Option<Array>) -> Row {
        let got = got.into_iter().map(|a| ("y".to_string(), a)).collect();
        compare(&fixture(want), &got, Bars::F32).unwrap().remove(0)
    }

    #[test]
    fn small_errors_pass_and_large_ones_name_the_place() {
        let want = || Array::f32([2, 2], vec![3.0, 0.0, 0.0, 4.0]);
        assert!(check(want(), Some(want())).ok);
        assert!(check(want(), Some(Array::f32([2, 2], vec![3.0004, 0.0, 0.0, 4.0]))).ok);
        let row = check(want(), Some(Array::f32([2, 2], vec![3.0, 0.0, 0.05, 4.0])));
        assert!(!row.ok && (row.error - 0.01).abs() < 1e-8, "{row:?}");
        assert!(row.note.contains("[1, 0]") && row.note.contains("0.05"), "{row:?}");
    }

    #[test]
    fn error_is_absolute_where_zero_is_expected() {
        let zero = || Array::f32([2], vec![0.0; 2]);
        assert!(check(zero(), Some(zero())).ok);
        assert_eq!(check(zero(), Some(Array::f32([2], vec![3.0, 4.0]))).error, 5.0);
    }

    #[test]
    fn nan_missing_shape_and_type_fail() {
        let want = || Array::f32([2], vec![1.0, 2.0]);
        let nan = check(want(), Some(Array::f32([2], vec![1.0, f32::NAN])));
        assert!(!nan.ok && nan.note.contains("[1]"), "{nan:?}");
        assert!(!check(Array::f32([1], vec![f32::NAN]), Some(Array::f32([1], vec![1.0]))).ok);
        assert!(!check(want(), None).ok);
        assert!(!check(want(), Some(Array::f32([1, 2], vec![1.0, 2.0]))).ok);
        assert!(!check(want(), Some(Array { shape: vec![2], values: Values::I32(vec![1, 2]) })).ok);
    }

    #[test]
    fn integers_are_exact_and_images_within_one() {
        let int = |v: i32| Array { shape: vec![1], values: Values::I32(vec![v]) };
        assert!(check(int(3), Some(int(3))).ok);
        assert!(!check(int(3), Some(int(4))).ok);
        let byte = |v: u8| Array { shape: vec![1], values: Values::U8(vec![v]) };
        assert!(check(byte(3), Some(byte(4))).ok);
        assert!(!check(byte(3), Some(byte(5))).ok);
    }
}
