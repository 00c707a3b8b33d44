//! T-VAT: noise for the student's features in the direction that changes the teachers' prediction most (PS-MT, section
//! 3.2; virtual adversarial training by Miyato et al., 2018), found by power iteration on the teachers' decoders.

use crate::model::{DecoderSaved, DeepLab, Network, Norm};
use crate::ops::{self, Backend, Size};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Kind of noise in the student's features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Tvat {
    /// Power iteration with exact Jacobian products: the limit of the finite difference for xi to 0, free of its cancellation.
    Exact,
    /// The published recipe: gradient of KL(p(x) ‖ p(x + xi d)) with respect to d.
    FiniteDifference,
    /// Normalised uniform noise, no adversary.
    Uniform,
    /// As `Exact`, but the adversary is the student's own decoder.
    StudentVat,
    /// No noise.
    None,
}

/// Settings of the noise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TvatArgs {
    /// Kind.
    pub kind: Tvat,
    /// Length of an image's noise.
    pub eps: f64,
    /// Length of the probe of [`Tvat::FiniteDifference`].
    pub xi: f64,
    /// Rounds of power iteration.
    pub iterations: usize,
}

/// The noise for `features`, `None` for [`Tvat::None`]. `decoders` are the adversary's networks (batch norms frozen,
/// nothing of them changes), `size` is the image size at which predictions are compared, `d` the raw noise it starts from.
pub fn noise<B: Backend>(
    b: &B,
    arch: &DeepLab,
    decoders: &[&Network<B>],
    features: &B::Tensor,
    size: Size,
    d: &B::Tensor,
    args: &TvatArgs,
) -> Result<Option<B::Tensor>> {
    if args.kind == Tvat::None {
        return Ok(None);
    }
    let rounds = if args.kind == Tvat::Uniform { 0 } else { args.iterations };
    // Directions have length 1 while they probe, the last one has length eps.
    let length = |round: usize| if round == rounds { args.eps } else { 1.0 };
    let mut direction = ops::normalize(b, d, length(0))?;
    if rounds == 0 {
        return Ok(Some(direction));
    }
    let exact = args.kind != Tvat::FiniteDifference;
    let clean = Passes::new(b, arch, decoders, features, exact)?;
    for round in 1..=rounds {
        let gradient = if exact {
            let mut tangents = Vec::with_capacity(decoders.len());
            for (net, saved) in decoders.iter().zip(&clean.saved) {
                tangents.push(arch.decoder_tangent(b, net, saved, &direction)?);
            }
            let tangents: Vec<_> = tangents.iter().collect();
            let cotangent = ops::tvat_cotangent(b, &clean.logits(), &tangents, size)?;
            clean.pullback(b, arch, decoders, &cotangent)?
        } else {
            let probe = ops::add(b, features, &direction, args.xi)?;
            let perturbed = Passes::new(b, arch, decoders, &probe, true)?;
            let dlogits = ops::kl_gradient(b, &clean.logits(), &perturbed.logits(), size)?;
            perturbed.pullback(b, arch, decoders, &dlogits)?
        };
        direction = ops::normalize(b, &gradient, length(round))?;
    }
    Ok(Some(direction))
}

/// Frozen passes of all decoders over the same features.
struct Passes<B: Backend> {
    logits: Vec<B::Tensor>,
    /// One a decoder, or none if they were not asked for.
    saved: Vec<DecoderSaved<B>>,
}

impl<B: Backend> Passes<B> {
    fn new(
        b: &B,
        arch: &DeepLab,
        decoders: &[&Network<B>],
        features: &B::Tensor,
        save: bool,
    ) -> Result<Passes<B>> {
        let mut passes = Passes { logits: Vec::new(), saved: Vec::new() };
        for net in decoders {
            let norm = Norm::Frozen(&net.stats);
            let (logits, saved) = arch.decoder_forward(b, &net.params, norm, features, save)?;
            passes.logits.push(logits);
            passes.saved.extend(saved);
        }
        Ok(passes)
    }

    fn logits(&self) -> Vec<&B::Tensor> {
        self.logits.iter().collect()
    }

    /// Sum over the decoders of their transposed Jacobian times `dlogits`.
    fn pullback(
        &self,
        b: &B,
        arch: &DeepLab,
        decoders: &[&Network<B>],
        dlogits: &B::Tensor,
    ) -> Result<B::Tensor> {
        let mut total: Option<B::Tensor> = None;
        for (net, saved) in decoders.iter().zip(&self.saved) {
            let part = arch.decoder_pullback(b, net, saved, dlogits)?;
            total = Some(match total {
                None => part,
                Some(sum) => ops::add(b, &sum, &part, 1.0)?,
            });
        }
        total.ok_or_else(|| Error::Usage("T-VAT needs at least one decoder".into()))
    }
}
