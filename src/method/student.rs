//! Passes of a network that learns by gradient descent, and its update: what every algorithm's step consists
//! of.

use super::{StepArgs, StepOut, SupervisedLoss, Tvat, tvat};
use crate::Result;
use crate::model::{Architecture, DecoderSaved, Decoders, EncoderSaved, Network};
use crate::ops::{self, Backend, LabelLoss, Sgd, Size, Teacher};

/// What memory is for, in the words of a plan.
const STUDENT: &str = "student's activations";
const BACKWARD: &str = "student's backward pass";
pub(super) const TVAT: &str = "T-VAT";
pub(super) const LOSSES: &str = "losses";

/// The student's features of images, with what the encoder's backward pass needs.
pub(super) struct Encoded<B: Backend> {
    features: B::Tensor,
    saved: EncoderSaved<B>,
    /// Rows and columns of the images.
    size: Size,
}

impl<B: Backend> Encoded<B> {
    pub fn new(b: &B, arch: &Architecture, student: &mut Network<B>, x: &B::Tensor) -> Result<Self> {
        b.phase(STUDENT);
        let (features, saved) = arch.encoder_train(b, &student.params, &mut student.stats, x)?;
        Ok(Encoded { features, saved, size: image_size::<B>(x) })
    }
}

/// A forward pass of the student with what its backward pass needs.
pub(super) struct StudentPass<B: Backend> {
    pub logits: B::Tensor,
    /// If [`StepArgs::keep_noise`].
    pub noise: Option<B::Tensor>,
    encoder: EncoderSaved<B>,
    decoder: DecoderSaved<B>,
}

impl<B: Backend> StudentPass<B> {
    /// From the features on, with noise that T-VAT makes of the raw noise `d`. `adversary` has the teachers'
    /// decoders, where T-VAT iterates them.
    pub fn new(
        b: &B,
        arch: &Architecture,
        student: &mut Network<B>,
        adversary: Option<&Decoders<'_, B>>,
        encoded: Encoded<B>,
        d: &B::Tensor,
        args: &StepArgs,
    ) -> Result<Self> {
        let Encoded { mut features, saved: encoder, size } = encoded;
        b.phase(TVAT);
        let noise = {
            let own = match args.tvat.kind {
                Tvat::StudentVat => Some(arch.decoders(b, &[student])?),
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

    /// Adds the student's gradient to `grads`. The noise is a constant: the gradient of the features is that
    /// of the noisy features.
    pub fn backward(
        self,
        b: &B,
        params: &B::Vector,
        grads: &mut B::Vector,
        dlogits: &B::Tensor,
    ) -> Result<()> {
        b.phase(BACKWARD);
        let StudentPass { encoder, decoder, logits, noise } = self;
        drop((logits, noise));
        let dfeatures = decoder.backward(b, params, grads, dlogits)?;
        encoder.backward(b, params, grads, &dfeatures)
    }
}

/// [`accumulate`](super::accumulate) on labelled images alone, of any network: for the warm-up of all of
/// them, and the supervised baseline.
///
/// # Errors
/// Those of the ops.
pub fn supervised_pass<B: Backend>(
    b: &B,
    arch: &Architecture,
    net: &mut Network<B>,
    grads: &mut B::Vector,
    (x, y): (&B::Tensor, &B::Labels),
    args: &StepArgs,
    share: f64,
) -> Result<StepOut<B>> {
    b.phase(STUDENT);
    let (features, encoder) = arch.encoder_train(b, &net.params, &mut net.stats, x)?;
    let (logits, decoder) = arch.decoder_train(b, &net.params, &mut net.stats, &features)?;
    b.phase(LOSSES);
    let LabelLoss { loss, dlogits, confusion } = supervised_loss(b, &logits, y, args, share)?;
    b.phase(BACKWARD);
    let dfeatures = decoder.backward(b, &net.params, grads, &dlogits)?;
    encoder.backward(b, &net.params, grads, &dfeatures)?;
    Ok(StepOut { loss_sup: loss, confusion, unsup: None, noise: None, logits: vec![("labelled", logits)] })
}

/// The loss on labelled images that `args` asks for, and `share` of its gradient.
pub(super) fn supervised_loss<B: Backend>(
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

/// One SGD step of `params`, after which `teacher` moves towards them.
///
/// # Errors
/// Those of the op.
pub(super) fn descend<B: Backend>(
    b: &B,
    arch: &Architecture,
    params: &mut B::Vector,
    momentum: &mut B::Vector,
    grads: &B::Vector,
    teacher: Option<Teacher<'_, B>>,
    args: &StepArgs,
) -> Result<()> {
    let spec = &Sgd {
        lr: args.lr,
        momentum: args.momentum,
        weight_decay: args.weight_decay,
        num_decayed: arch.table.num_decayed,
    };
    ops::sgd(b, ops::SgdStep { params, grads, momentum, spec, teacher })
}

/// [`update`](super::update) of a network that learns from labelled images alone.
///
/// # Errors
/// Those of the op.
pub fn supervised_update<B: Backend>(
    b: &B,
    arch: &Architecture,
    net: &mut Network<B>,
    momentum: &mut B::Vector,
    grads: &B::Vector,
    args: &StepArgs,
) -> Result<()> {
    descend(b, arch, &mut net.params, momentum, grads, None, args)
}

pub(super) fn image_size<B: Backend>(x: &B::Tensor) -> Size {
    let shape = B::shape(x);
    (shape.h, shape.w)
}
