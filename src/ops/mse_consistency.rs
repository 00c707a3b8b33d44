//! The mean teacher's consistency loss (Tarvainen and Valpola, 2017): validated entry point.

use super::ensemble_pseudo_label::teachers;
use super::{Backend, Device, Mix, Size, TeacherLogits, check};
use crate::Result;

/// Results of a loss: its value and its gradient with respect to the low-resolution logits.
pub struct LossGrad<B: Device> {
    /// Value, on the device until [`Device::read_scalar`].
    pub loss: B::Scalar,
    /// Gradient with respect to the logits, times `grad_scale`.
    pub dlogits: B::Tensor,
}

/// Arguments of [`mse_consistency`].
pub struct MseConsistencyArgs<'a, B: Device> {
    /// The student's logits `[n, h, w, classes]`.
    pub student: &'a B::Tensor,
    /// The teachers' logits, whose ensemble is the target.
    pub teachers: TeacherLogits<'a, B>,
    /// Size to which all logits are interpolated.
    pub size: Size,
    /// The boxes through which the target is read.
    pub mix: &'a Mix,
    /// Factor of the gradient.
    pub grad_scale: f64,
}

/// The ops of this family that a device implements. It may assume what the functions of this module validate.
pub trait MseConsistencyOps: Device {
    /// As [`mse_consistency`].
    fn mse_consistency(&self, op: &MseConsistencyArgs<'_, Self>) -> LossGrad<Self>;
}

/// Mean over (pixel, class) of (softmax(up(student)) - softmax(ensemble))², the target read through `mix`,
/// and its gradient.
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
