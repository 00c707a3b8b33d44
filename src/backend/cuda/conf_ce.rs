//! Launch plans of kernels/conf_ce.cu.

use super::Cuda;
use super::cut_mix::mix_buffer;
use super::driver::DevicePtr;
use super::loss::{Boxes, Plan, Teachers, Term, Workspace};
use super::memory::{Dtype, args, plain_arg};
use crate::Error;
use crate::ops::{ConfCeArgs, ConfCeOps, ConfCeOut, HISTOGRAM_BINS, TeacherLogits};
use bytemuck::{Pod, Zeroable};

impl ConfCeOps for Cuda {
    fn conf_ce(&self, op: &ConfCeArgs<'_, Cuda>) -> ConfCeOut<Cuda> {
        let &ConfCeArgs {
            student,
            pseudo,
            teachers: TeacherLogits { core, assist, ensemble },
            mix,
            spec,
            grad_scale,
        } = op;
        if pseudo.confidence.dtype != Dtype::F32 {
            self.note::<()>(Err(Error::shape(FILE, "confidences in f32", "bf16")));
        }
        let full = pseudo.label.shape;
        let (negative_on, square_on) = (spec.negative_threshold > 0.0, spec.square_weight > 0.0);
        let plain = !negative_on && !square_on;
        let groups = if plain { 1 } else { 3 };
        let plan = Plan::new(student.shape, (full.h, full.w), groups);
        let workspace = plan.workspace(self, groups);
        let [positive, negative, square, passed] = [(); 4].map(|()| self.scalar());
        // Numbers of passed pixels and of selected pairs.
        let (counts, histogram, boxes) = (self.counts(2), self.counts(HISTOGRAM_BINS), mix_buffer(self, mix));
        let confusion = self.counts(student.shape.c * student.shape.c);
        let (launch, matrix) = plan.loss_counting(&confusion);
        let labels = Pseudo {
            label: pseudo.label.buffer.ptr(),
            confidence: pseudo.confidence.buffer.ptr(),
            threshold: spec.threshold as f32,
            weighted: i32::from(spec.weighted),
        };
        let Workspace { parts, sums } = &workspace;
        let values = (full.positions() * student.shape.c) as f64;
        let terms = [
            Term::new(Some((&counts, 0)), Some(&positive), 1.0, grad_scale),
            Term::new(Some((&counts, 1)), Some(&negative), 1.0, grad_scale),
            Term::new(None, Some(&square), 1.0 / values, grad_scale * spec.square_weight),
        ];
        if plain {
            self.clear_buffer(&negative.0);
            self.clear_buffer(&square.0);
            let args = args![
                parts,
                sums,
                counts,
                histogram,
                matrix,
                student,
                labels,
                Boxes::new(&boxes),
                plan.upsample
            ];
            self.launch_typed(FILE, "conf_ce_fwd_bwd", student.dtype, launch, args);
        } else {
            let args = args![
                parts,
                sums,
                counts,
                histogram,
                matrix,
                student,
                core,
                assist,
                labels,
                Teachers::new(ensemble),
                Boxes::new(&boxes),
                spec.negative_threshold as f32,
                i32::from(square_on),
                plan.upsample
            ];
            self.launch_typed(FILE, "conf_ce_negative_fwd_bwd", student.dtype, launch, args);
        }
        let dstudent = plan.finish(self, &workspace, student.dtype, &terms[..groups], Some(&passed));
        ConfCeOut { positive, negative, square, passed, histogram, confusion, dstudent }
    }
}

const FILE: &str = "conf_ce";

/// `Pseudo` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Pseudo {
    label: DevicePtr,
    confidence: DevicePtr,
    threshold: f32,
    weighted: i32,
}
plain_arg!(Pseudo);
