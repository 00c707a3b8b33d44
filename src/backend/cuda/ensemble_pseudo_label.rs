//! Launch plan of kernels/ensemble_pseudo_label.cu.

use super::Cuda;
use super::loss::{Plan, Teachers};
use super::memory::{Dtype, args};
use crate::ops::{EnsembleOps, PseudoLabel, Shape, Size, TeacherLogits};

const FILE: &str = "ensemble_pseudo_label";

impl EnsembleOps for Cuda {
    fn ensemble_pseudo_label(&self, teachers: &TeacherLogits<'_, Cuda>, size: Size) -> PseudoLabel<Cuda> {
        let &TeacherLogits { core, assist, ensemble } = teachers;
        let shape = Shape::new(core.shape.n, size.0, size.1, 1);
        let (label, confidence) = (self.labels(shape), self.tensor_of(Dtype::F32, shape));
        let plan = Plan::new(core.shape, size, 2);
        let args = args![label, confidence, core, assist, Teachers::new(ensemble), plan.upsample];
        self.launch_typed(FILE, "ensemble_pseudo_label_fwd", core.dtype, plan.read(), args);
        PseudoLabel { label, confidence }
    }
}
