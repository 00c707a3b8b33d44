//! One training iteration. Each forward pass of the student is followed by its backward pass at once, so that
//! only one pass's activations are alive; the gradients add up.

use super::student::{supervised_pass, supervised_update};
use super::{Algorithm, Batch, Networks, StepArgs, StepOut, mean_teachers};
use crate::Result;
use crate::model::Architecture;
use crate::ops::Backend;

/// One iteration on one batch: [`accumulate`], then [`update`].
///
/// # Errors
/// Those of the ops.
pub fn train_step<B: Backend>(
    b: &B,
    arch: &Architecture,
    nets: &mut Networks<B>,
    batch: &Batch<B>,
    args: &StepArgs,
) -> Result<StepOut<B>> {
    b.clear(&mut nets.grads);
    let out = accumulate(b, arch, nets, batch, args, 1.0)?;
    update(b, arch, nets, args)?;
    Ok(out)
}

/// Adds `share` of the batch's gradient to `nets.grads`. The running statistics of all networks move;
/// parameters stay.
///
/// # Errors
/// [`Error::Usage`](crate::Error::Usage) where the algorithm's teachers or unlabelled images are missing;
/// those of the ops.
pub fn accumulate<B: Backend>(
    b: &B,
    arch: &Architecture,
    nets: &mut Networks<B>,
    batch: &Batch<B>,
    args: &StepArgs,
    share: f64,
) -> Result<StepOut<B>> {
    match args.algorithm {
        Algorithm::PsMt | Algorithm::OneTeacher | Algorithm::MeanTeacher => {
            mean_teachers::accumulate(b, arch, nets, batch, args, share)
        }
        Algorithm::Supervised => {
            let Networks { student, grads, .. } = nets;
            supervised_pass(b, arch, student, grads, (&batch.x, &batch.y), args, share)
        }
    }
}

/// Moves the student by `nets.grads`, and the active teacher, where the algorithm has teachers, towards it.
///
/// # Errors
/// [`Error::Usage`](crate::Error::Usage) without the active teacher; those of the op.
pub fn update<B: Backend>(b: &B, arch: &Architecture, nets: &mut Networks<B>, args: &StepArgs) -> Result<()> {
    match args.algorithm {
        Algorithm::PsMt | Algorithm::OneTeacher | Algorithm::MeanTeacher => {
            mean_teachers::update(b, arch, nets, args)
        }
        Algorithm::Supervised => {
            let Networks { student, momentum, grads, .. } = nets;
            supervised_update(b, arch, student, momentum, grads, args)
        }
    }
}
