//! Confidence-weighted cross entropy (PS-MT, equations 6 and 7): validated entry point.

use super::ensemble_pseudo_label::teachers;
use super::{Backend, ConfCe, Device, Mix, PseudoLabel, TeacherLogits, check};
use crate::Result;

/// Arguments of [`conf_ce`].
pub struct ConfCeArgs<'a, B: Device> {
    /// The student's logits `[n, h, w, classes]`.
    pub student: &'a B::Tensor,
    /// Pseudo labels at full resolution, to which the student's logits are interpolated and to which `mix`
    /// refers.
    pub pseudo: &'a PseudoLabel<B>,
    /// The logits that `pseudo` was computed from; read only with negative learning.
    pub teachers: TeacherLogits<'a, B>,
    /// The boxes through which pseudo labels are read.
    pub mix: &'a Mix,
    /// Thresholds and weights.
    pub spec: &'a ConfCe,
    /// Factor of the gradient.
    pub grad_scale: f64,
}

/// Results of [`conf_ce`]. They stay on the device until they are read.
pub struct ConfCeOut<B: Device> {
    /// Mean over passed pixels of confidence times cross entropy (0 if none passed).
    pub positive: B::Scalar,
    /// Mean over selected (pixel, class) pairs of -log(1 - p) (0 if negative learning is off).
    pub negative: B::Scalar,
    /// Mean squared student probability over (pixel, class); 0 unless `square_weight` > 0.
    pub square: B::Scalar,
    /// Number of pixels that reached the threshold.
    pub passed: B::Scalar,
    /// Confidences in [`super::HISTOGRAM_BINS`] equal bins over [0, 1], 1 in the last.
    pub histogram: B::Counts,
    /// Counts `[classes, classes]` over passed pixels: row = pseudo label, column = the student's largest
    /// logit.
    pub confusion: B::Counts,
    /// Gradient of positive + negative + square_weight * square with respect to the student's logits.
    pub dstudent: B::Tensor,
}

/// The ops of this family that a device implements. It may assume what the functions of this module validate.
pub trait ConfCeOps: Device {
    /// As [`conf_ce`].
    fn conf_ce(&self, op: &ConfCeArgs<'_, Self>) -> ConfCeOut<Self>;
}

/// Positive, negative and square terms of [`ConfCe`] and the gradient of their sum times `grad_scale`.
///
/// # Errors
/// [`crate::Error::Shape`] where logits, labels, confidences or boxes do not fit each other.
pub fn conf_ce<B: Backend>(b: &B, op: &ConfCeArgs<'_, B>) -> Result<ConfCeOut<B>> {
    const OP: &str = "conf_ce";
    teachers::<B>(OP, &op.teachers)?;
    let logits = B::shape(op.teachers.core);
    check::shape(OP, "student", logits, B::shape(op.student))?;
    let label = B::labels_shape(&op.pseudo.label);
    check::not_empty(OP, "pseudo labels", label)?;
    check::shape(OP, "pseudo labels", super::Shape { n: logits.n, c: 1, ..label }, label)?;
    check::shape(OP, "confidence", label, B::shape(&op.pseudo.confidence))?;
    op.mix.validate(label.n, (label.h, label.w))?;
    Ok(b.conf_ce(op))
}
