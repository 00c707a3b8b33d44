//! The step of algorithms whose teachers are moving averages of the student: PS-MT, its form with one
//! teacher, and the mean teacher.

use super::student::{Encoded, LOSSES, StudentPass, TVAT, descend, supervised_loss};
use super::targets::Targets;
use super::{Batch, Networks, StepArgs, StepOut};
use crate::model::{Architecture, Network};
use crate::ops::{self, Backend, LabelLoss, Teacher};
use crate::{Error, Result};

/// [`accumulate`](super::accumulate) of these algorithms.
pub(super) fn accumulate<B: Backend>(
    b: &B,
    arch: &Architecture,
    nets: &mut Networks<B>,
    batch: &Batch<B>,
    args: &StepArgs,
    share: f64,
) -> Result<StepOut<B>> {
    let Networks { student, teachers, grads, .. } = nets;
    let missing = || Error::Usage(format!("a step of {:?} needs unlabelled images", args.algorithm));
    let unlabeled = batch.unlabeled.as_ref().ok_or_else(missing)?;
    let (found, expected) = (teachers.len(), args.algorithm.num_teachers());
    let few =
        || Error::Usage(format!("a step of {:?} needs {expected} teachers, found {found}", args.algorithm));
    let teachers = teachers.get_mut(..expected).ok_or_else(few)?;
    // The student's first features need no teacher.
    let (targets, encoded) = b.join(
        || Targets::new(b, arch, teachers, &unlabeled.weak, args),
        || Encoded::new(b, arch, student, &batch.x),
    );
    let (targets, encoded) = (targets?, encoded?);

    // From here until the update nothing of the teachers changes, so both student passes share their
    // decoders.
    b.phase(TVAT);
    let teachers: Vec<&Network<B>> = teachers.iter().collect();
    let adversary = if args.tvat.kind.asks_teachers() { Some(arch.decoders(b, &teachers)?) } else { None };

    let noise = &unlabeled.noise_labeled;
    let labelled = StudentPass::new(b, arch, student, adversary.as_ref(), encoded, noise, args)?;
    b.phase(LOSSES);
    let LabelLoss { loss: loss_sup, dlogits, confusion } =
        supervised_loss(b, &labelled.logits, &batch.y, args, share)?;
    let (logits_l, r_l) = (labelled.logits.clone(), labelled.noise.clone());
    labelled.backward(b, &student.params, grads, &dlogits)?;

    let x_u = ops::cut_mix(b, &unlabeled.strong, &unlabeled.mix)?;
    let encoded = Encoded::new(b, arch, student, &x_u)?;
    let noise = &unlabeled.noise_unlabeled;
    let unlabelled = StudentPass::new(b, arch, student, adversary.as_ref(), encoded, noise, args)?;
    drop(adversary);
    b.phase(LOSSES);
    let (unsup, dlogits) = targets.unsupervised_loss(b, &unlabelled.logits, unlabeled, args, share)?;
    let (logits_u, r_u) = (unlabelled.logits.clone(), unlabelled.noise.clone());
    unlabelled.backward(b, &student.params, grads, &dlogits)?;

    let mut logits = vec![("core teacher's", targets.core)];
    logits.extend(targets.assist.map(|t| ("assisting teacher's", t)));
    logits.extend([("student's labelled", logits_l), ("student's unlabelled", logits_u)]);
    Ok(StepOut { loss_sup, confusion, unsup: Some(unsup), noise: r_l.zip(r_u), logits })
}

/// [`update`](super::update) of these algorithms: one kernel moves the student and the active teacher.
pub(super) fn update<B: Backend>(
    b: &B,
    arch: &Architecture,
    nets: &mut Networks<B>,
    args: &StepArgs,
) -> Result<()> {
    let Networks { student, teachers, momentum, grads } = nets;
    let Some(teacher) = teachers.get_mut(args.active_teacher.wrapping_sub(1)) else {
        let (active, found) = (args.active_teacher, teachers.len());
        return Err(Error::Usage(format!("teacher {active} is to be moved, found {found} teachers")));
    };
    let follower = Teacher {
        params: &mut teacher.params,
        stats: &mut teacher.stats,
        student_stats: &student.stats,
        keep: args.ema_decay,
    };
    descend(b, arch, &mut student.params, momentum, grads, Some(follower), args)
}
