//! Confusion matrix of label maps: validated entry point.

use super::{Backend, Device, check};
use crate::Result;

/// What a device must be able to do of this family. Input is what the functions of this module have validated.
pub trait ConfusionMatrixOps: Device {
    /// Counts `[num_classes, num_classes]`, row = target, column = prediction; ignored targets do not count, nor, with
    /// `above`, pixels whose confidence is below its threshold (compared in the type that [`conf_ce`](super::conf_ce) compares in).
    fn confusion_matrix(
        &self,
        pred: &Self::Labels,
        target: &Self::Labels,
        num_classes: usize,
        above: Option<(&Self::Tensor, f64)>,
    ) -> Self::Counts;
}

/// Counts `[num_classes, num_classes]`, row = target, column = prediction, over targets that are not
/// [`super::IGNORE`]; with `above`, a confidence per pixel and a threshold, only over pixels whose confidence reaches it, as
/// [`super::conf_ce`] compares them.
///
/// # Errors
/// [`crate::Error::Shape`] where pred, target and confidences differ in shape, or the class count is not 1 to 255.
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
