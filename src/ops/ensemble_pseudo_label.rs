//! Pseudo labels of the two teachers' ensemble (PS-MT, section 3.1): validated entry point.

use super::{Backend, Device, Ensemble, Size, check};
use crate::{Error, Result};

/// Two teachers' logits `[n, h, w, classes]` and how they are combined.
pub struct TeacherLogits<'a, B: Device> {
    /// Logits of the active teacher, which follows the student in this epoch.
    pub core: &'a B::Tensor,
    /// Logits of the other teacher.
    pub assist: &'a B::Tensor,
    /// Weights of the combination.
    pub ensemble: &'a Ensemble,
}

impl<B: Device> Clone for TeacherLogits<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Device> Copy for TeacherLogits<'_, B> {}

/// Hard labels and their confidences, one of each per pixel.
pub struct PseudoLabel<B: Device> {
    /// Arg max class, `[n, h, w]`.
    pub label: B::Labels,
    /// Probability of that class, `[n, h, w, 1]`.
    pub confidence: B::Tensor,
}

/// The ops of this family that a device implements. It may assume what the functions of this module validate.
pub trait EnsembleOps: Device {
    /// As [`ensemble_pseudo_label`].
    fn ensemble_pseudo_label(&self, teachers: &TeacherLogits<'_, Self>, size: Size) -> PseudoLabel<Self>;
}

/// Checks two teachers' logits and how they are combined.
pub(super) fn teachers<B: Backend>(op: &'static str, teachers: &TeacherLogits<'_, B>) -> Result<()> {
    let core = B::shape(teachers.core);
    check::logits(op, "core", core)?;
    check::shape(op, "assist", core, B::shape(teachers.assist))?;
    if teachers.ensemble.topk == 0 {
        return Err(Error::shape(op, "topk of at least 1", "0"));
    }
    Ok(())
}

/// Arg max and maximum of softmax(gamma up(core) + (1 - gamma) a) for each pixel, a = up(assist) at its
/// `topk` largest classes and up(core) elsewhere, at `size`.
///
/// # Errors
/// [`Error::Shape`] where the logits differ in shape, the class count is not 1 to 255, topk or the size is 0.
pub fn ensemble_pseudo_label<B: Backend>(
    b: &B,
    teachers: &TeacherLogits<'_, B>,
    size: Size,
) -> Result<PseudoLabel<B>> {
    const OP: &str = "ensemble_pseudo_label";
    self::teachers::<B>(OP, teachers)?;
    check::size(OP, size)?;
    Ok(b.ensemble_pseudo_label(teachers, size))
}
