//! Targets for unlabelled images: the teachers' logits, pseudo labels, and the loss of a student against
//! them.

use super::student::image_size;
use super::{PseudoCounts, StepArgs, Unlabeled, Unsup};
use crate::model::{Architecture, Network, Norm};
use crate::ops::{self, Backend, ConfCeOut, LossGrad, PseudoLabel, Size};
use crate::{Error, Result};

/// The pseudo labels that a training step with `args` would give to weakly augmented images `x`; `None` for
/// an algorithm without them. Teachers run in training mode: their running statistics move.
///
/// # Errors
/// Those of the ops.
pub fn pseudo_labels<B: Backend>(
    b: &B,
    arch: &Architecture,
    teachers: &mut [Network<B>],
    x: &B::Tensor,
    args: &StepArgs,
) -> Result<Option<PseudoLabel<B>>> {
    Ok(Targets::new(b, arch, teachers, x, args)?.pseudo)
}

/// What the teachers predict on the weakly augmented images.
pub(super) struct Targets<B: Backend> {
    pub core: B::Tensor,
    pub assist: Option<B::Tensor>,
    /// Labels and confidences; `None` for the mean teacher, whose loss reads the logits.
    pseudo: Option<PseudoLabel<B>>,
    size: Size,
}

impl<B: Backend> Targets<B> {
    /// Runs the teachers on weakly augmented images `x`, in training mode: their running statistics move.
    pub fn new(
        b: &B,
        arch: &Architecture,
        teachers: &mut [Network<B>],
        x: &B::Tensor,
        args: &StepArgs,
    ) -> Result<Targets<B>> {
        b.phase("teachers' passes");
        let size = image_size::<B>(x);
        let logits = |net: &mut Network<B>| -> Result<B::Tensor> {
            let features = arch.encoder(b, &net.params, Norm::Train(&mut net.stats), x)?;
            arch.decoder(b, &net.params, Norm::Train(&mut net.stats), &features)
        };
        let (core, assist) = match teachers {
            [first, second] => {
                let (first, second) = b.join(|| logits(first), || logits(second));
                let (first, second) = (first?, second?);
                if args.active_teacher == 1 { (first, Some(second)) } else { (second, Some(first)) }
            }
            [teacher] => (logits(teacher)?, None),
            _ => return Err(Error::Usage(format!("expected one or two teachers, found {}", teachers.len()))),
        };
        let mut targets = Targets { core, assist, pseudo: None, size };
        if args.algorithm.has_pseudo_labels() {
            let (core, assist) = targets.pair();
            targets.pseudo = Some(ops::ensemble_pseudo_label(
                b,
                &ops::TeacherLogits { core, assist, ensemble: &args.ensemble },
                size,
            )?);
        }
        Ok(targets)
    }

    /// Both teachers' logits; a lone teacher assists itself, which leaves its logits as they are.
    fn pair(&self) -> (&B::Tensor, &B::Tensor) {
        (&self.core, self.assist.as_ref().unwrap_or(&self.core))
    }

    /// The unsupervised loss, and `share` of its weighted gradient with respect to the student's logits.
    pub fn unsupervised_loss(
        &self,
        b: &B,
        student: &B::Tensor,
        unlabeled: &Unlabeled<B>,
        args: &StepArgs,
        share: f64,
    ) -> Result<(Unsup<B>, B::Tensor)> {
        let (core, assist) = self.pair();
        let (mix, weight) = (&unlabeled.mix, args.unsup_weight);
        let scale = share * weight;
        let Some(pseudo) = &self.pseudo else {
            let LossGrad { loss, dlogits } = ops::mse_consistency(
                b,
                &ops::MseConsistencyArgs {
                    student,
                    teachers: ops::TeacherLogits { core, assist, ensemble: &args.ensemble },
                    size: self.size,
                    mix,
                    grad_scale: scale,
                },
            )?;
            return Ok((Unsup { terms: vec![(weight, loss)], pseudo: None }, dlogits));
        };
        let out = ops::conf_ce(
            b,
            &ops::ConfCeArgs {
                student,
                pseudo,
                teachers: ops::TeacherLogits { core, assist, ensemble: &args.ensemble },
                mix,
                spec: &args.conf_ce,
                grad_scale: scale,
            },
        )?;
        let terms = vec![
            (weight, out.positive),
            (weight, out.negative),
            (weight * args.conf_ce.square_weight, out.square),
        ];
        let above = Some((&pseudo.confidence, args.conf_ce.threshold));
        let count = |y: &B::Labels| ops::confusion_matrix(b, &pseudo.label, y, B::shape(student).c, above);
        let truth = unlabeled.truth.as_ref().map(count).transpose()?;
        let ConfCeOut { passed, histogram, confusion, dstudent, .. } = out;
        Ok((Unsup { terms, pseudo: Some(PseudoCounts { passed, histogram, confusion, truth }) }, dstudent))
    }
}
