//! Confusion matrix of label maps: validated entry point.

use super::{Backend, check};
use crate::Result;

/// Counts `[num_classes, num_classes]`, row = target, column = prediction, over targets that are not
/// [`super::IGNORE`].
///
/// # Errors
/// [`crate::Error::Shape`] where pred and target differ in shape, or the class count is not 1 to 255.
pub fn confusion_matrix<B: Backend>(
    b: &B,
    pred: &B::Labels,
    target: &B::Labels,
    num_classes: usize,
) -> Result<B::Counts> {
    const OP: &str = "confusion_matrix";
    check::not_empty(OP, "target", B::labels_shape(target))?;
    check::shape(OP, "pred", B::labels_shape(target), B::labels_shape(pred))?;
    check::classes(OP, num_classes)?;
    Ok(b.confusion_matrix(pred, target, num_classes))
}
