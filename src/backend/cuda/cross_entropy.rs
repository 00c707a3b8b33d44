//! Launch plans of kernels/cross_entropy.cu.

use super::Cuda;
use super::driver::{DevicePtr, Launch};
use super::loss::{Field, Plan, Term};
use super::memory::{Buffer, Labels, Tensor, args};
use crate::ops::{CrossEntropyOps, LabelLoss, Ohem};

impl CrossEntropyOps for Cuda {
    fn cross_entropy(&self, logits: &Tensor, target: &Labels, grad_scale: f64) -> LabelLoss<Self> {
        cross_entropy(self, logits, target, grad_scale)
    }
    fn ohem_cross_entropy(
        &self,
        logits: &Tensor,
        target: &Labels,
        ohem: &Ohem,
        grad_scale: f64,
    ) -> LabelLoss<Self> {
        ohem_cross_entropy(self, logits, target, ohem, grad_scale)
    }
}

const FILE: &str = "cross_entropy";

/// Digits of the radix selection, and bins of the highest.
const LEVELS: i32 = 3;
const BINS: usize = 2048;

/// Offset of `bound` in the kernel's `Selection`, and the size of that, in bytes.
const BOUND: usize = 8;
const SELECTION_BYTES: usize = 16;

/// Mean cross entropy over labelled pixels and its gradient times `grad_scale`.
pub(super) fn cross_entropy(d: &Cuda, logits: &Tensor, target: &Labels, grad_scale: f64) -> LabelLoss<Cuda> {
    mean(d, logits, target, grad_scale, None)
}

/// Cross entropy over the hardest pixels. The bound on their true-class probability stays on the device: one
/// pass writes the probabilities, three levels of histograms find the `min_kept`-th smallest.
pub(super) fn ohem_cross_entropy(
    d: &Cuda,
    logits: &Tensor,
    target: &Labels,
    ohem: &Ohem,
    grad_scale: f64,
) -> LabelLoss<Cuda> {
    let pixels = target.shape.positions();
    let probability = d.buffer(4 * pixels);
    let labelled = d.counts(1);
    let (histogram, selection) = (d.buffer(4 * BINS), d.buffer(SELECTION_BYTES));
    d.clear_buffer(&histogram);
    d.clear_buffer(&selection);
    let plan = Plan::new(logits.shape, (target.shape.h, target.shape.w), 1);
    let args = args![probability, labelled, histogram, Field::logits(logits), target, plan.upsample];
    d.launch_typed(FILE, "ohem_probability", logits.dtype, plan.read(), args);
    let min_kept = u32::try_from(ohem.min_kept).unwrap_or(u32::MAX);
    for level in 0..LEVELS {
        if level > 0 {
            let args = args![histogram, probability, selection, level, pixels as u64];
            d.launch(FILE, "ohem_histogram", Launch::linear(pixels), args);
        }
        let args = args![selection, histogram, labelled, level, min_kept, ohem.threshold as f32];
        d.launch(FILE, "ohem_select", Launch::new(1, 256), args);
    }
    mean(d, logits, target, grad_scale, Some((&probability, selection.ptr().offset(BOUND))))
}

/// Mean over labelled pixels, of those with probabilities only up to the bound.
fn mean(
    d: &Cuda,
    logits: &Tensor,
    target: &Labels,
    grad_scale: f64,
    bounded: Option<(&Buffer, DevicePtr)>,
) -> LabelLoss<Cuda> {
    let plan = Plan::new(logits.shape, (target.shape.h, target.shape.w), 1);
    let (workspace, kept, loss) = (plan.workspace(d, 1), d.counts(1), d.scalar());
    let confusion = d.counts(logits.shape.c * logits.shape.c);
    let (launch, matrix) = plan.loss_counting(&confusion);
    let (probability, bound) = bounded.unzip();
    let args = args![
        workspace.parts,
        workspace.sums,
        kept,
        Field::logits(logits),
        target,
        probability,
        bound,
        matrix,
        plan.upsample
    ];
    d.launch_typed(FILE, "cross_entropy_fwd_bwd", logits.dtype, launch, args);
    let term = Term::new(Some((&kept, 0)), Some(&loss), 1.0, grad_scale);
    let dlogits = plan.finish(d, &workspace, logits.dtype, &[term], None);
    LabelLoss { loss, dlogits, confusion }
}
