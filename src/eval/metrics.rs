//! Confusion matrices and the numbers made from them. Plain host arithmetic.

use serde::{Deserialize, Serialize};

/// Counts of (target, prediction) pairs: row = target, column = prediction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored")]
pub struct Confusion {
    num_classes: usize,
    counts: Vec<u64>,
}

/// A confusion matrix as a file has it, whose numbers may not fit each other.
#[derive(Deserialize)]
struct Stored {
    num_classes: usize,
    counts: Vec<u64>,
}

impl TryFrom<Stored> for Confusion {
    type Error = String;

    fn try_from(Stored { num_classes, counts }: Stored) -> Result<Confusion, String> {
        if num_classes.checked_mul(num_classes) != Some(counts.len()) {
            return Err(format!(
                "a confusion matrix of {num_classes} classes: expected as many counts squared, got {}",
                counts.len()
            ));
        }
        // Sums of counts must stay numbers.
        if counts.iter().try_fold(0u64, |sum, c| sum.checked_add(*c)).is_none_or(|sum| sum > 1 << 62) {
            return Err("a confusion matrix of more pixels than there can be".into());
        }
        Ok(Confusion { num_classes, counts })
    }
}

/// What a confusion matrix says, as shares of 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Mean of `iou` over the classes that have one; `None` where none has.
    pub miou: Option<f64>,
    /// Intersection over union a class; `None` for a class in neither targets nor predictions.
    pub iou: Vec<Option<f64>>,
    /// Share of counted pixels that are right; `None` where none was counted.
    pub pixel_accuracy: Option<f64>,
}

impl Confusion {
    /// An empty matrix.
    pub fn new(num_classes: usize) -> Confusion {
        Confusion { num_classes, counts: vec![0; num_classes * num_classes] }
    }

    /// Adds the counts of one batch, `[num_classes, num_classes]` row by row; the default matrix becomes one
    /// of their classes.
    pub fn add(&mut self, counts: &[u64]) {
        if self.counts.is_empty() {
            *self = Confusion::new(counts.len().isqrt());
        }
        for (sum, c) in self.counts.iter_mut().zip(counts) {
            *sum += c;
        }
    }

    /// Number of pixels that were counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Intersection over union, its mean and pixel accuracy.
    pub fn scores(&self) -> Scores {
        let n = self.num_classes;
        let at = |t: usize, p: usize| self.counts[t * n + p];
        let iou: Vec<Option<f64>> = (0..n)
            .map(|c| {
                let target: u64 = (0..n).map(|p| at(c, p)).sum();
                let pred: u64 = (0..n).map(|t| at(t, c)).sum();
                let union = target + pred - at(c, c);
                (union > 0).then(|| at(c, c) as f64 / union as f64)
            })
            .collect();
        let present: Vec<f64> = iou.iter().flatten().copied().collect();
        let total = self.total();
        let right: u64 = (0..n).map(|c| at(c, c)).sum();
        Scores {
            miou: (!present.is_empty()).then(|| present.iter().sum::<f64>() / present.len() as f64),
            iou,
            pixel_accuracy: (total > 0).then(|| right as f64 / total as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_classes_and_ignored_pixels_do_not_count() {
        let mut m = Confusion::new(4);
        // Class 3 is in neither targets nor predictions, class 2 is only predicted.
        m.add(&[1, 0, 0, 0, 1, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let s = m.scores();
        assert_eq!(s.iou, vec![Some(0.5), Some(0.5), Some(0.0), None]);
        assert!((s.miou.unwrap() - 1.0 / 3.0).abs() < 1e-15);
        assert!((s.pixel_accuracy.unwrap() - 0.6).abs() < 1e-15);
    }

    #[test]
    fn stored_counts_must_fit_their_classes() {
        let mut m = Confusion::new(2);
        m.add(&[1, 2, 3, 4]);
        let text = serde_json::to_string(&m).unwrap();
        assert_eq!(serde_json::from_str::<Confusion>(&text).unwrap(), m);
        let read = |text: &str| serde_json::from_str::<Confusion>(text);
        assert_eq!(read(r#"{"num_classes": 0, "counts": []}"#).unwrap(), Confusion::default());
        for (text, message) in [
            (
                r#"{"num_classes": 100, "counts": [1]}"#,
                "of 100 classes: expected as many counts squared, got 1",
            ),
            (r#"{"num_classes": 18446744073709551615, "counts": [1]}"#, "got 1"),
            (r#"{"num_classes": 1, "counts": [18446744073709551615]}"#, "more pixels"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn nothing_counted_has_no_scores() {
        for nothing in [Confusion::new(2), Confusion::default()] {
            let s = nothing.scores();
            assert_eq!((s.miou, s.pixel_accuracy), (None, None));
            assert!(s.iou.iter().all(Option::is_none));
            assert_eq!(serde_json::json!(s)["miou"], serde_json::Value::Null);
        }
    }

    #[test]
    fn scores_of_older_checkpoints_are_read() {
        let s: Scores =
            serde_json::from_str(r#"{"miou":0.5,"iou":[0.5,null],"pixel_accuracy":0.75}"#).unwrap();
        assert_eq!((s.miou, s.pixel_accuracy), (Some(0.5), Some(0.75)));
    }
}
