//! Pseudo labels of the two teachers' ensemble (PS-MT, section 3.1): validated entry point.

use super::{Backend, Device, Ensemble, PseudoLabel, Size, check};
use crate::{Error, Result};

/// What a device must be able to do of this family. Input is what the functions of this module have validated.
pub trait EnsembleOps: Device {
    /// Label and confidence a pixel of the ensemble's softmax at `size`.
    fn ensemble_pseudo_label(
        &self,
        core: &Self::Tensor,
        assist: &Self::Tensor,
        size: Size,
        ensemble: &Ensemble,
    ) -> PseudoLabel<Self>;
}

/// Checks two teachers' logits and the way they are combined.
pub(super) fn teachers<B: Backend>(
    op: &'static str,
    core: &B::Tensor,
    assist: &B::Tensor,
    ensemble: &Ensemble,
) -> Result<()> {
    check::logits(op, "core", B::shape(core))?;
    check::shape(op, "assist", B::shape(core), B::shape(assist))?;
    if ensemble.topk == 0 {
        return Err(Error::shape(op, "topk of at least 1", "0"));
    }
    Ok(())
}

/// Arg max and maximum of softmax(gamma up(core) + (1 - gamma) a) a pixel, a = up(assist) at its `topk` largest classes
/// and up(core) elsewhere; core, assist `[n, h, w, classes]`, outputs at `size`.
///
/// # Errors
/// [`Error::Shape`] where the logits differ in shape, the class count is not 1 to 255, topk or the size is 0.
pub fn ensemble_pseudo_label<B: Backend>(
    b: &B,
    core: &B::Tensor,
    assist: &B::Tensor,
    size: Size,
    ensemble: &Ensemble,
) -> Result<PseudoLabel<B>> {
    const OP: &str = "ensemble_pseudo_label";
    teachers::<B>(OP, core, assist, ensemble)?;
    check::size(OP, size)?;
    Ok(b.ensemble_pseudo_label(core, assist, size, ensemble))
}
