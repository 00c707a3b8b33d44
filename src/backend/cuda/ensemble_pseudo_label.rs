//! Launch plan of kernels/ensemble_pseudo_label.cu.

use super::loss::{Plan, Teachers};
use super::*;

impl EnsembleOps for Cuda {
    fn ensemble_pseudo_label(
        &self,
        core: &Tensor,
        assist: &Tensor,
        size: Size,
        ensemble: &Ensemble,
    ) -> PseudoLabel<Self> {
        forward(self, core, assist, size, ensemble)
    }
}

const FILE: &str = "ensemble_pseudo_label";

/// Label and confidence a pixel of the ensemble's softmax at `size`.
pub fn forward(
    d: &Cuda,
    core: &Tensor,
    assist: &Tensor,
    size: Size,
    ensemble: &Ensemble,
) -> PseudoLabel<Cuda> {
    let shape = Shape::new(core.shape.n, size.0, size.1, 1);
    let (label, confidence) = (d.labels(shape), d.tensor_of(Dtype::F32, shape));
    let plan = Plan::new(core.shape, size, 2);
    let args = args![label, confidence, core, assist, Teachers::new(ensemble), plan.upsample];
    d.launch_typed(FILE, "ensemble_pseudo_label_fwd", core.dtype, plan.read(), args);
    PseudoLabel { label, confidence }
}
