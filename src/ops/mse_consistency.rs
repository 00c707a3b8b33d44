//! The mean teacher's consistency loss (Tarvainen and Valpola, 2017): validated entry point.

use super::ensemble_pseudo_label::teachers;
use super::{Backend, Device, Ensemble, LossGrad, Mix, Size, check};
use crate::Result;

/// What a device must be able to do of this family. Input is what the functions of this module have validated.
pub trait MseConsistencyOps: Device {
    /// Mean over (pixel, class) of (softmax(student) - softmax(ensemble))², the mean teacher's consistency (Tarvainen
    /// and Valpola, 2017), target read through `mix`.
    fn mse_consistency(
        &self,
        student: &Self::Tensor,
        core: &Self::Tensor,
        assist: &Self::Tensor,
        size: Size,
        ensemble: &Ensemble,
        mix: &Mix,
        grad_scale: f64,
    ) -> LossGrad<Self>;
}

/// Mean over (pixel, class) of (softmax(up(student)) - softmax(ensemble))², the target read through `mix`; logits
/// `[n, h, w, classes]`, interpolated to `size`.
///
/// # Errors
/// [`crate::Error::Shape`] where the logits differ in shape, or the size or boxes do not fit.
pub fn mse_consistency<B: Backend>(
    b: &B,
    student: &B::Tensor,
    core: &B::Tensor,
    assist: &B::Tensor,
    size: Size,
    ensemble: &Ensemble,
    mix: &Mix,
    grad_scale: f64,
) -> Result<LossGrad<B>> {
    const OP: &str = "mse_consistency";
    teachers::<B>(OP, core, assist, ensemble)?;
    check::shape(OP, "student", B::shape(core), B::shape(student))?;
    check::size(OP, size)?;
    mix.validate(B::shape(core).n, size)?;
    Ok(b.mse_consistency(student, core, assist, size, ensemble, mix, grad_scale))
}
