//! Confusion matrix of label maps: validated entry point.

use super::{Backend, Device, check};
use crate::Result;

/// The ops of this family that a device implements. It may assume what the functions of this module validate.
pub trait ConfusionMatrixOps: Device {
    /// As [`confusion_matrix`].
    fn confusion_matrix(
        &self,
        pred: &Self::Labels,
        target: &Self::Labels,
        num_classes: usize,
        above: Option<(&Self::Tensor, f64)>,
    ) -> Self::Counts;
}

/// Counts `[num_classes, num_classes]`, row = target, column = prediction, over targets that are not
/// [`super::IGNORE`]. With `above`, one confidence per pixel and a threshold, only pixels whose confidence
/// reaches it count, compared in the same type as in [`super::conf_ce`].
///
/// # Errors
/// [`crate::Error::Shape`] where pred, target and confidences differ in shape, or the class count is not 1 to
/// 255.
pub fn confusion_matrix<B: Backend>(
    b: &B,
    pred: &B::Labels,
    target: &B::Labels,
    num_classes: usize,
    above: Option<(&B::Tensor, f64)>,
) -> Result<B::Counts> {
    const OP: &str = "confusion_matrix";
    let shape = B::labels_shape(target);
    check::not_empty(OP, "target", shape)?;
    check::shape(OP, "pred", shape, B::labels_shape(pred))?;
    if let Some((confidence, _)) = above {
        check::shape(OP, "confidence", shape, B::shape(confidence))?;
    }
    check::classes(OP, num_classes)?;
    Ok(b.confusion_matrix(pred, target, num_classes, above))
}
