//! Launch plan of kernels/mse_consistency.cu.

use super::Cuda;
use super::cut_mix::mix_buffer;
use super::loss::{Boxes, Plan, Teachers, Term};
use super::memory::args;
use crate::ops::{LossGrad, MseConsistencyArgs, MseConsistencyOps, TeacherLogits};

const FILE: &str = "mse_consistency";

impl MseConsistencyOps for Cuda {
    fn mse_consistency(&self, op: &MseConsistencyArgs<'_, Cuda>) -> LossGrad<Cuda> {
        let &MseConsistencyArgs {
            student,
            teachers: TeacherLogits { core, assist, ensemble },
            size,
            mix,
            grad_scale,
        } = op;
        let plan = Plan::new(student.shape, size, 3);
        let (workspace, loss, boxes) = (plan.workspace(self, 1), self.scalar(), mix_buffer(self, mix));
        let args = args![
            workspace.parts,
            workspace.sums,
            student,
            core,
            assist,
            Teachers::new(ensemble),
            Boxes::new(&boxes),
            plan.upsample
        ];
        self.launch_typed(FILE, "mse_consistency_fwd_bwd", student.dtype, plan.loss(), args);
        let values = (student.shape.n * size.0 * size.1 * student.shape.c) as f64;
        let term = Term::new(None, Some(&loss), 1.0 / values, grad_scale);
        let dlogits = plan.finish(self, &workspace, student.dtype, &[term], None);
        LossGrad { loss, dlogits }
    }
}
