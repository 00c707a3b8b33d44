//! Several networks' decoders over the same features, stacked into one decoder with frozen batch norm, which T-VAT iterates. Must not
//! know the method.

use super::architecture::{AnyDecoder, Architecture, DecoderMasks};
use super::layers::{Forward, Norm};
use super::network::Network;
use crate::ops::{self, Backend, BatchNorm, Conv2d, Span};
use crate::{Error, Result};
use std::borrow::Cow;

/// The decoders of `count` networks as one. Logits are `[n, h, w, count * num_classes]`, one network's classes after the
/// other's. Holds copies of their values, or, of one network, the network itself.
pub struct Decoders<'a, B: Backend> {
    decoder: AnyDecoder,
    net: Cow<'a, Network<B>>,
    count: usize,
}

impl Architecture {
    /// The decoders of `nets` as they are now. Copies their parameters and running statistics if there are several.
    ///
    /// # Errors
    /// [`Error::Usage`] for no network, [`Error::Shape`] for networks of another architecture.
    pub fn decoders<'a, B: Backend>(&self, b: &B, nets: &[&'a Network<B>]) -> Result<Decoders<'a, B>> {
        let count = nets.len();
        match *nets {
            [] => Err(Error::Usage("T-VAT needs at least one decoder".into())),
            [net] => Ok(Decoders { decoder: self.decoder.clone(), net: Cow::Borrowed(net), count }),
            _ => {
                let mut stacking = Stacking { count, params: Layout::default(), stats: Layout::default() };
                let decoder = self.decoder.stack(&mut stacking);
                let net = Network {
                    params: pack(b, &stacking.params, nets.iter().map(|net| &net.params))?,
                    stats: pack(b, &stacking.stats, nets.iter().map(|net| &net.stats))?,
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

/// Where parts of a network's vector go among the parts of all.
#[derive(Default)]
struct Layout {
    /// A span of each network's vector, and where the first network's copy begins; the others' follow.
    parts: Vec<(Span, usize)>,
    len: usize,
}

impl Layout {
    /// Appends `count` copies of `span`; returns their place.
    fn place(&mut self, span: Span, count: usize) -> Span {
        let all = Span { offset: self.len, len: count * span.len };
        self.parts.push((span, all.offset));
        self.len += all.len;
        all
    }
}

/// Places the layers of several networks' decoders in the vectors of one. Weights have the output channel outermost, so several are one
/// after the other. A decoder places convolution weights first, as a network does: kernels then read them by whole vectors where
/// channel counts allow it.
pub(super) struct Stacking {
    count: usize,
    params: Layout,
    stats: Layout,
}

impl Stacking {
    /// A convolution whose input is the same for all networks.
    pub fn conv_shared_input(&mut self, conv: &Conv2d) -> Conv2d {
        let weight = self.params.place(conv.weight, self.count);
        Conv2d { weight, out_channels: self.count * conv.out_channels, ..*conv }
    }

    /// A convolution with a group for each network.
    pub fn conv(&mut self, conv: &Conv2d) -> Conv2d {
        let (in_channels, groups) = (self.count * conv.in_channels, self.count * conv.groups);
        Conv2d { in_channels, groups, ..self.conv_shared_input(conv) }
    }

    pub fn bias(&mut self, conv: &Conv2d) -> Option<Span> {
        conv.bias.map(|bias| self.params.place(bias, self.count))
    }

    pub fn batch_norm(&mut self, bn: &BatchNorm) -> BatchNorm {
        let count = self.count;
        BatchNorm {
            weight: self.params.place(bn.weight, count),
            bias: self.params.place(bn.bias, count),
            running_mean: self.stats.place(bn.running_mean, count),
            running_var: self.stats.place(bn.running_var, count),
            channels: count * bn.channels,
            ..*bn
        }
    }
}

/// A vector of the spans of all `vectors` that `layout` places.
fn pack<'v, B: Backend>(
    b: &B,
    layout: &Layout,
    vectors: impl Iterator<Item = &'v B::Vector>,
) -> Result<B::Vector> {
    let mut packed = b.zeros(layout.len);
    for (i, vector) in vectors.enumerate() {
        let moves: Vec<_> = layout.parts.iter().map(|&(span, at)| (span, at + i * span.len)).collect();
        ops::copy_spans(b, &mut packed, vector, &moves)?;
    }
    Ok(packed)
}
