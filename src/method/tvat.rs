//! T-VAT: noise for the student's features in the direction that changes the teachers' prediction most
//! (PS-MT, section 3.2; virtual adversarial training by Miyato et al., 2018), found by power iteration on the
//! teachers' decoders.

use crate::model::Decoders;
use crate::ops::{self, Backend, Size};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Kind of noise in the student's features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Tvat {
    /// Power iteration with exact Jacobian products: the limit of the finite difference for xi to 0, free of
    /// its cancellation.
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
    /// Where the direction comes from.
    pub kind: Tvat,
    /// Length of an image's noise.
    pub eps: f64,
    /// Length of the probe of [`Tvat::FiniteDifference`].
    pub xi: f64,
    /// Rounds of power iteration.
    pub iterations: usize,
}

impl Tvat {
    /// Whether the noise comes from iterating the teachers' decoders.
    pub fn asks_teachers(self) -> bool {
        matches!(self, Tvat::Exact | Tvat::FiniteDifference)
    }
}

/// Noise for features: one direction per image, and its length.
pub struct Noise<B: Backend> {
    direction: B::Tensor,
    length: f64,
}

impl<B: Backend> Noise<B> {
    /// The noise itself, of the features' shape.
    ///
    /// # Errors
    /// [`Error::Shape`] for an empty direction or a length that is not finite.
    pub fn values(&self, b: &B) -> Result<B::Tensor> {
        ops::normalize(b, &self.direction, self.length)
    }

    /// features + noise.
    ///
    /// # Errors
    /// [`Error::Shape`] for features of another shape.
    pub fn add_to(&self, b: &B, features: &B::Tensor) -> Result<B::Tensor> {
        ops::add_normalized(b, features, &self.direction, self.length)
    }
}

/// The noise for `features`, `None` for [`Tvat::None`]. `decoders` are the adversary's, needed where
/// something is iterated; `size` is the image size at which predictions are compared, `d` the raw noise it
/// starts from.
///
/// # Errors
/// [`Error::Usage`] without the decoders that it needs, [`Error::Shape`] where tensors do not fit them.
pub fn noise<B: Backend>(
    b: &B,
    decoders: Option<&Decoders<'_, B>>,
    features: &B::Tensor,
    size: Size,
    d: &B::Tensor,
    args: &TvatArgs,
) -> Result<Option<Noise<B>>> {
    if args.kind == Tvat::None {
        return Ok(None);
    }
    let rounds = if args.kind == Tvat::Uniform { 0 } else { args.iterations };
    let noise = |direction| Ok(Some(Noise { direction, length: args.eps }));
    if rounds == 0 {
        return noise(d.clone());
    }
    let decoders = decoders.ok_or_else(|| Error::Usage("T-VAT needs at least one decoder".into()))?;
    let (clean, masks) = match args.kind {
        Tvat::FiniteDifference => (decoders.logits(b, features)?, None),
        _ => {
            let (clean, masks) = decoders.masks(b, features)?;
            (clean, Some(masks))
        }
    };
    let mut gradient = d.clone();
    for _ in 0..rounds {
        // Directions have length 1 while they probe.
        let direction = ops::normalize(b, &gradient, 1.0)?;
        gradient = match &masks {
            Some(masks) => {
                let tangents = decoders.tangent(b, masks, &direction)?;
                let cotangent = ops::tvat_cotangent(b, &clean, &tangents, decoders.count(), size)?;
                decoders.pullback(b, masks, &cotangent)?
            }
            None => {
                let probe = ops::add(b, features, &direction, args.xi)?;
                let (perturbed, masks) = decoders.masks(b, &probe)?;
                let dlogits = ops::kl_gradient(b, &clean, &perturbed, decoders.count(), size)?;
                decoders.pullback(b, &masks, &dlogits)?
            }
        };
    }
    noise(gradient)
}
