//! Confidence-weighted cross entropy (PS-MT, equations 6 and 7): validated entry point.

use super::ensemble_pseudo_label::teachers;
use super::{Backend, ConfCe, ConfCeOut, Device, Ensemble, Mix, PseudoLabel, check};
use crate::Result;

/// What a device must be able to do of this family. Input is what the functions of this module have validated.
pub trait ConfCeOps: Device {
    /// Confidence-weighted cross entropy of the student against pseudo labels read through `mix`. `core` and `assist`
    /// (the logits that made `pseudo`) are read only with negative learning.
    fn conf_ce(
        &self,
        student: &Self::Tensor,
        pseudo: &PseudoLabel<Self>,
        core: &Self::Tensor,
        assist: &Self::Tensor,
        ensemble: &Ensemble,
        mix: &Mix,
        conf_ce: &ConfCe,
        grad_scale: f64,
    ) -> ConfCeOut<Self>;
}

/// Positive, negative and square terms of [`ConfCe`] and the gradient of their sum times `grad_scale`. `student`, `core`,
/// `assist` `[n, h, w, classes]`; `pseudo` at full resolution, which is where the student is interpolated to and
/// what `mix` refers to.
///
/// # Errors
/// [`crate::Error::Shape`] where logits, labels, confidences or boxes do not fit each other.
pub fn conf_ce<B: Backend>(
    b: &B,
    student: &B::Tensor,
    pseudo: &PseudoLabel<B>,
    core: &B::Tensor,
    assist: &B::Tensor,
    ensemble: &Ensemble,
    mix: &Mix,
    conf_ce: &ConfCe,
    grad_scale: f64,
) -> Result<ConfCeOut<B>> {
    const OP: &str = "conf_ce";
    teachers::<B>(OP, core, assist, ensemble)?;
    let logits = B::shape(core);
    check::shape(OP, "student", logits, B::shape(student))?;
    let label = B::labels_shape(&pseudo.label);
    check::not_empty(OP, "pseudo labels", label)?;
    check::shape(OP, "pseudo labels", super::Shape { n: logits.n, c: 1, ..label }, label)?;
    check::shape(OP, "confidence", label, B::shape(&pseudo.confidence))?;
    mix.validate(label.n, (label.h, label.w))?;
    Ok(b.conf_ce(student, pseudo, core, assist, ensemble, mix, conf_ce, grad_scale))
}
