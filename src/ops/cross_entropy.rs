//! Supervised losses over labelled pixels: validated entry points. Logits `[n, h, w, classes]` at low
//! resolution are interpolated (bilinear, align_corners) to the target's size inside; labels are classes or
//! [`super::IGNORE`].

use super::{Backend, Device, Ohem, check};
use crate::{Error, Result};

/// Results of a loss over labelled pixels.
pub struct LabelLoss<B: Device> {
    /// Mean loss, on the device until [`Device::read_scalar`].
    pub loss: B::Scalar,
    /// Gradient with respect to the logits, times `grad_scale`.
    pub dlogits: B::Tensor,
    /// Counts `[classes, classes]` over all labelled pixels: row = label, column = largest logit, of equal
    /// ones the first.
    pub confusion: B::Counts,
}

/// The ops of this family that a device implements. It may assume what the functions of this module validate.
pub trait CrossEntropyOps: Device {
    /// As [`cross_entropy`].
    fn cross_entropy(&self, logits: &Self::Tensor, target: &Self::Labels, grad_scale: f64)
    -> LabelLoss<Self>;
    /// As [`ohem_cross_entropy`].
    fn ohem_cross_entropy(
        &self,
        logits: &Self::Tensor,
        target: &Self::Labels,
        ohem: &Ohem,
        grad_scale: f64,
    ) -> LabelLoss<Self>;
}

fn valid<B: Backend>(op: &'static str, logits: &B::Tensor, target: &B::Labels) -> Result<()> {
    let (logits, target) = (B::shape(logits), B::labels_shape(target));
    check::logits(op, "logits", logits)?;
    check::not_empty(op, "target", target)?;
    if target.n != logits.n || target.c != 1 {
        return Err(Error::shape(
            op,
            format!("one target per image for logits {logits}"),
            target.to_string(),
        ));
    }
    Ok(())
}

/// Mean over pixels that are not ignored of `-log softmax(up(logits))[target]`; 0, with a gradient of 0,
/// where there is none. The target is `[n, height, width]`.
///
/// # Errors
/// [`Error::Shape`] where logits and target differ in their images, or the class count is not 1 to 255.
pub fn cross_entropy<B: Backend>(
    b: &B,
    logits: &B::Tensor,
    target: &B::Labels,
    grad_scale: f64,
) -> Result<LabelLoss<B>> {
    valid::<B>("cross_entropy", logits, target)?;
    Ok(b.cross_entropy(logits, target, grad_scale))
}

/// [`cross_entropy`] over the pixels whose true-class probability is at most max(threshold, the min_kept-th
/// smallest); over all pixels where fewer than `min_kept` are labelled (Shrivastava et al., 2016).
///
/// # Errors
/// As [`cross_entropy`], and for a `min_kept` of 0.
pub fn ohem_cross_entropy<B: Backend>(
    b: &B,
    logits: &B::Tensor,
    target: &B::Labels,
    ohem: &Ohem,
    grad_scale: f64,
) -> Result<LabelLoss<B>> {
    const OP: &str = "ohem_cross_entropy";
    valid::<B>(OP, logits, target)?;
    if ohem.min_kept == 0 {
        return Err(Error::shape(OP, "min_kept of at least 1", "0"));
    }
    Ok(b.ohem_cross_entropy(logits, target, ohem, grad_scale))
}
