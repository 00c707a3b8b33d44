//! The mean teacher's consistency loss (Tarvainen and Valpola, 2017): validated entry point.

use super::ensemble_pseudo_label::teachers;
use super::{Backend, Device, Mix, Size, TeacherLogits, check};
use crate::Result;

/// What a loss returns: its value and its gradient with respect to the low-resolution logits.
pub struct LossGrad<B: Device> {
    /// Value, on the device until [`Device::read_scalar`].
    pub loss: B::Scalar,
    /// Gradient with respect to the logits, times the `grad_scale` that was asked for.
    pub dlogits: B::Tensor,
}

/// The consistency of a student with its teachers, and what it reads.
pub struct MseConsistencyArgs<'a, B: Device> {
    /// The student's logits `[n, h, w, classes]`.
    pub student: &'a B::Tensor,
    /// The teachers'.
    pub teachers: TeacherLogits<'a, B>,
    /// Where both are interpolated to.
    pub size: Size,
    /// How the teachers' probabilities are read.
    pub mix: &'a Mix,
    /// Factor of the gradient.
    pub grad_scale: f64,
}

/// What a device must be able to do of this family. Input is what the functions of this module have validated.
pub trait MseConsistencyOps: Device {
    /// As [`mse_consistency`].
    fn mse_consistency(&self, op: &MseConsistencyArgs<'_, Self>) -> LossGrad<Self>;
}

/// Mean over (pixel, class) of (softmax(up(student)) - softmax(ensemble))², the target read through `mix`, and its gradient.
///
/// # Errors
/// [`crate::Error::Shape`] where the logits differ in shape, or the size or boxes do not fit.
pub fn mse_consistency<B: Backend>(b: &B, op: &MseConsistencyArgs<'_, B>) -> Result<LossGrad<B>> {
    const OP: &str = "mse_consistency";
    let logits = B::shape(op.teachers.core);
    teachers::<B>(OP, &op.teachers)?;
    check::shape(OP, "student", logits, B::shape(op.student))?;
    check::size(OP, op.size)?;
    op.mix.validate(logits.n, op.size)?;
    Ok(b.mse_consistency(op))
}
