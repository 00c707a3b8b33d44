//! One training iteration. The order of computation is that of the numerical reference: teachers, labelled pass,
//! unlabelled pass, update. Each student pass is followed by its backward at once, so that only one pass's activations
//! are alive; the gradients add up.

use super::targets::Targets;
use super::{Algorithm, Batch, Networks, StepArgs, StepOut, SupervisedLoss, teachers_of, tvat};
use crate::model::{DecoderSaved, Decoders, DeepLab, EncoderSaved, Network};
use crate::ops::{self, Backend, Device, LabelLoss, Sgd, Size, Teacher};
use crate::{Error, Result};

/// What memory is for, in the words of a plan.
const STUDENT: &str = "student's activations";
const BACKWARD: &str = "student's backward pass";
const TVAT: &str = "T-VAT";

/// One iteration of PS-MT or of a baseline on one batch: [`accumulate`], then [`update`].
///
/// # Errors
/// Those of the ops.
pub fn train_step<B: Backend>(
    b: &B,
    arch: &DeepLab,
    nets: &mut Networks<B>,
    batch: &Batch<B>,
    args: &StepArgs,
) -> Result<StepOut<B>> {
    b.clear(&mut nets.grads);
    let out = accumulate(b, arch, nets, batch, args, 1.0)?;
    update(b, arch, nets, args)?;
    Ok(out)
}

/// Adds `share` of the batch's gradient to `nets.grads`. The running statistics of all networks move; parameters stay.
///
/// # Errors
/// [`Error::Usage`] where the algorithm's teachers or unlabelled images are missing; those of the ops.
pub fn accumulate<B: Backend>(
    b: &B,
    arch: &DeepLab,
    nets: &mut Networks<B>,
    batch: &Batch<B>,
    args: &StepArgs,
    share: f64,
) -> Result<StepOut<B>> {
    let Networks { student, teachers, grads, .. } = nets;
    if args.algorithm == Algorithm::Supervised {
        return supervised_pass(b, arch, student, grads, (&batch.x, &batch.y), args, share);
    }
    let missing = || Error::Usage(format!("a step of {:?} needs unlabelled images", args.algorithm));
    let unlabeled = batch.unlabeled.as_ref().ok_or_else(missing)?;
    let teachers = teachers_of(teachers, args.algorithm)?;
    // The student's first features need no teacher.
    let (targets, encoded) = b.join(
        || Targets::new(b, arch, teachers, &unlabeled.weak, args),
        || encode(b, arch, student, &batch.x),
    );
    let (targets, encoded) = (targets?, encoded?);

    // From here until the update nothing of the teachers changes, so both student passes share their decoders.
    b.phase(TVAT);
    let teachers: Vec<&Network<B>> = teachers.iter().collect();
    let adversary = if args.tvat.kind.asks_teachers() { Some(arch.decoders(b, &teachers)?) } else { None };

    let size = image_size::<B>(&batch.x);
    let labelled = student_forward(
        b,
        arch,
        student,
        adversary.as_ref(),
        encoded,
        (size, &unlabeled.noise_labeled),
        args,
    )?;
    b.phase("losses");
    let LabelLoss { loss: loss_sup, dlogits, confusion } =
        supervised_loss(b, &labelled.logits, &batch.y, args, share)?;
    let (logits_l, r_l) = (labelled.logits.clone(), labelled.noise.clone());
    student_backward(b, arch, &student.params, grads, labelled, &dlogits)?;

    let x_u = ops::cut_mix(b, &unlabeled.strong, &unlabeled.mix)?;
    let encoded = encode(b, arch, student, &x_u)?;
    let size = image_size::<B>(&x_u);
    let unlabelled = student_forward(
        b,
        arch,
        student,
        adversary.as_ref(),
        encoded,
        (size, &unlabeled.noise_unlabeled),
        args,
    )?;
    drop(adversary);
    b.phase("losses");
    let (unsup, dlogits) = targets.unsupervised_loss(b, &unlabelled.logits, unlabeled, args, share)?;
    let (logits_u, r_u) = (unlabelled.logits.clone(), unlabelled.noise.clone());
    student_backward(b, arch, &student.params, grads, unlabelled, &dlogits)?;

    let mut logits = vec![("core teacher's", targets.core)];
    logits.extend(targets.assist.map(|t| ("assisting teacher's", t)));
    logits.extend([("student's labelled", logits_l), ("student's unlabelled", logits_u)]);
    Ok(StepOut { loss_sup, confusion, unsup: Some(unsup), noise: r_l.zip(r_u), logits })
}

/// Moves the student by `nets.grads`, and the active teacher towards it.
///
/// # Errors
/// [`Error::Usage`] without the active teacher; those of the op.
pub fn update<B: Backend>(b: &B, arch: &DeepLab, nets: &mut Networks<B>, args: &StepArgs) -> Result<()> {
    let Networks { student, teachers, momentum, grads } = nets;
    if args.algorithm == Algorithm::Supervised {
        return supervised_update(b, arch, student, momentum, grads, args);
    }
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
    ops::sgd(
        b,
        ops::SgdStep {
            params: &mut student.params,
            grads,
            momentum,
            spec: &sgd(arch, args),
            teacher: Some(follower),
        },
    )
}

/// [`accumulate`] on labelled images alone, of any network: for the warm-up of all three, and the supervised baseline.
///
/// # Errors
/// Those of the ops.
pub fn supervised_pass<B: Backend>(
    b: &B,
    arch: &DeepLab,
    net: &mut Network<B>,
    grads: &mut B::Vector,
    (x, y): (&B::Tensor, &B::Labels),
    args: &StepArgs,
    share: f64,
) -> Result<StepOut<B>> {
    b.phase(STUDENT);
    let (features, encoder) = arch.encoder_train(b, &net.params, &mut net.stats, x)?;
    let (logits, decoder) = arch.decoder_train(b, &net.params, &mut net.stats, &features)?;
    b.phase("losses");
    let LabelLoss { loss, dlogits, confusion } = supervised_loss(b, &logits, y, args, share)?;
    b.phase(BACKWARD);
    let dfeatures = arch.decoder_backward(b, &net.params, grads, decoder, &dlogits)?;
    arch.encoder_backward(b, &net.params, grads, encoder, &dfeatures)?;
    Ok(StepOut { loss_sup: loss, confusion, unsup: None, noise: None, logits: vec![("labelled", logits)] })
}

/// [`update`] of a network that learns from labelled images alone.
///
/// # Errors
/// Those of the op.
pub fn supervised_update<B: Backend>(
    b: &B,
    arch: &DeepLab,
    net: &mut Network<B>,
    momentum: &mut B::Vector,
    grads: &B::Vector,
    args: &StepArgs,
) -> Result<()> {
    ops::sgd(
        b,
        ops::SgdStep { params: &mut net.params, grads, momentum, spec: &sgd(arch, args), teacher: None },
    )
}

fn supervised_loss<B: Backend>(
    b: &B,
    logits: &B::Tensor,
    y: &B::Labels,
    args: &StepArgs,
    share: f64,
) -> Result<LabelLoss<B>> {
    match &args.supervised_loss {
        SupervisedLoss::CrossEntropy => ops::cross_entropy(b, logits, y, share),
        SupervisedLoss::Ohem(ohem) => ops::ohem_cross_entropy(b, logits, y, ohem, share),
    }
}

fn sgd(arch: &DeepLab, args: &StepArgs) -> Sgd {
    Sgd {
        lr: args.lr,
        momentum: args.momentum,
        weight_decay: args.weight_decay,
        num_decayed: arch.table.num_decayed,
    }
}

/// A student pass with what its backward needs.
struct StudentPass<B: Backend> {
    logits: B::Tensor,
    /// If [`StepArgs::keep_noise`].
    noise: Option<B::Tensor>,
    encoder: EncoderSaved<B>,
    decoder: DecoderSaved<B>,
}

/// The student's features of images, with what the encoder's backward needs.
type Encoded<B> = (<B as Device>::Tensor, EncoderSaved<B>);

pub(super) fn image_size<B: Backend>(x: &B::Tensor) -> Size {
    let shape = B::shape(x);
    (shape.h, shape.w)
}

fn encode<B: Backend>(b: &B, arch: &DeepLab, student: &mut Network<B>, x: &B::Tensor) -> Result<Encoded<B>> {
    b.phase(STUDENT);
    arch.encoder_train(b, &student.params, &mut student.stats, x)
}

/// The student's pass from its features on, for images of `size` with the raw noise `d`. `adversary` has the teachers' decoders,
/// where T-VAT asks them.
fn student_forward<B: Backend>(
    b: &B,
    arch: &DeepLab,
    student: &mut Network<B>,
    adversary: Option<&Decoders<'_, B>>,
    (mut features, encoder): Encoded<B>,
    (size, d): (Size, &B::Tensor),
    args: &StepArgs,
) -> Result<StudentPass<B>> {
    b.phase(TVAT);
    let noise = {
        let own = match args.tvat.kind {
            tvat::Tvat::StudentVat => Some(arch.decoders(b, &[student])?),
            _ => None,
        };
        tvat::noise(b, own.as_ref().or(adversary), &features, size, d, &args.tvat)?
    };
    b.phase(STUDENT);
    let mut kept = None;
    if let Some(noise) = noise {
        features = noise.add_to(b, &features)?;
        kept = if args.keep_noise { Some(noise.values(b)?) } else { None };
    }
    let (logits, decoder) = arch.decoder_train(b, &student.params, &mut student.stats, &features)?;
    Ok(StudentPass { logits, noise: kept, encoder, decoder })
}

/// Adds the student's gradient. The noise is a constant: the gradient of the features is that of the noisy features.
fn student_backward<B: Backend>(
    b: &B,
    arch: &DeepLab,
    params: &B::Vector,
    grads: &mut B::Vector,
    pass: StudentPass<B>,
    dlogits: &B::Tensor,
) -> Result<()> {
    b.phase(BACKWARD);
    let StudentPass { encoder, decoder, logits, noise } = pass;
    drop((logits, noise));
    let dfeatures = arch.decoder_backward(b, params, grads, decoder, dlogits)?;
    arch.encoder_backward(b, params, grads, encoder, &dfeatures)
}
