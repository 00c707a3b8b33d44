//! Confidence-weighted cross entropy (PS-MT, equations 6 and 7): validated entry point.

use super::ensemble_pseudo_label::teachers;
use super::{Backend, ConfCe, ConfCeOut, Device, Mix, PseudoLabel, TeacherLogits, check};
use crate::Result;

/// Confidence-weighted cross entropy of the student against pseudo labels, and what it reads.
pub struct ConfCeArgs<'a, B: Device> {
    /// The student's logits `[n, h, w, classes]`.
    pub student: &'a B::Tensor,
    /// Pseudo labels at full resolution, which is where the student is interpolated to and what `mix` refers to.
    pub pseudo: &'a PseudoLabel<B>,
    /// The logits that made `pseudo`; read only with negative learning.
    pub teachers: TeacherLogits<'a, B>,
    /// How pseudo labels are read.
    pub mix: &'a Mix,
    /// Thresholds and weights.
    pub spec: &'a ConfCe,
    /// Factor of the gradient.
    pub grad_scale: f64,
}

/// What a device must be able to do of this family. Input is what the functions of this module have validated.
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
