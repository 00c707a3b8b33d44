//! Several networks' decoders over the same features, stacked into one decoder with frozen batch norm, which
//! T-VAT iterates. Must not know the method.

use super::architecture::{AnyDecoder, Architecture, DecoderMasks};
use super::layers::{Forward, Norm};
use super::network::Network;
use super::stacking::Stacking;
use crate::ops::Backend;
use crate::{Error, Result};
use std::borrow::Cow;

/// The decoders of `count` networks as one. Logits are `[n, h, w, count * num_classes]`, one network's
/// classes after the other's. Holds copies of their values, or, of one network, the network itself.
pub struct Decoders<'a, B: Backend> {
    decoder: AnyDecoder,
    net: Cow<'a, Network<B>>,
    count: usize,
}

impl Architecture {
    /// The decoders of `nets` as they are now. Copies their parameters and running statistics if there are
    /// several.
    ///
    /// # Errors
    /// [`Error::Usage`] for no network, [`Error::Shape`] for networks of another architecture.
    pub fn decoders<'a, B: Backend>(&self, b: &B, nets: &[&'a Network<B>]) -> Result<Decoders<'a, B>> {
        let count = nets.len();
        match *nets {
            [] => Err(Error::Usage("T-VAT needs at least one decoder".into())),
            [net] => Ok(Decoders { decoder: self.decoder.clone(), net: Cow::Borrowed(net), count }),
            _ => {
                let mut stacking = Stacking::new(count);
                let decoder = self.decoder.stack(&mut stacking);
                let net = Network {
                    params: stacking.params.pack(b, nets.iter().map(|net| &net.params))?,
                    stats: stacking.stats.pack(b, nets.iter().map(|net| &net.stats))?,
                };
                Ok(Decoders { decoder, net: Cow::Owned(net), count })
            }
        }
    }
}

impl<B: Backend> Decoders<'_, B> {
    /// Number of networks.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Logits of features at their own size.
    ///
    /// # Errors
    /// [`Error::Shape`] for features of another number of channels.
    pub fn logits(&self, b: &B, features: &B::Tensor) -> Result<B::Tensor> {
        let norm = Norm::Frozen(&self.net.stats);
        self.decoder.forward(&mut Forward { b, params: &self.net.params, norm }, features)
    }

    /// The same with what tangent and pullback need.
    ///
    /// # Errors
    /// As [`Decoders::logits`].
    pub fn masks(&self, b: &B, features: &B::Tensor) -> Result<(B::Tensor, DecoderMasks<B>)> {
        self.decoder.masks(b, &self.net, features)
    }

    /// J t: the Jacobian of all logits at the pass of `masks` applied to a tangent `t` of the features.
    ///
    /// # Errors
    /// [`Error::Shape`] where `t` has another shape than the features.
    pub fn tangent(&self, b: &B, masks: &DecoderMasks<B>, t: &B::Tensor) -> Result<B::Tensor> {
        masks.tangent(b, &self.net, t)
    }

    /// Jᵀ dlogits: the features' gradient at the pass of `masks`, summed over the networks.
    ///
    /// # Errors
    /// [`Error::Shape`] where `dlogits` has another shape than the logits.
    pub fn pullback(&self, b: &B, masks: &DecoderMasks<B>, dlogits: &B::Tensor) -> Result<B::Tensor> {
        masks.pullback(b, &self.net, dlogits)
    }
}
