//! Several networks' decoders over the same features, side by side as one decoder with frozen batch norm, which T-VAT
//! iterates: the first convolution has the output channels of all, everything behind it a group a network. Knows decoders
//! and flat vectors, not the method.

use super::decoder::{Decoder, DecoderMasks};
use super::deeplab::DeepLab;
use super::layers::{ConvBn, Forward, Norm};
use super::network::Network;
use crate::ops::{self, Backend, BatchNorm, Conv2d, Span};
use crate::{Error, Result};
use std::borrow::Cow;

/// The decoders of `count` networks at once. Logits are `[n, h, w, count * num_classes]`, one network's classes after the
/// other's. Holds copies of their values, or, of one network, the network itself.
pub struct Decoders<'a, B: Backend> {
    decoder: Decoder,
    net: Cow<'a, Network<B>>,
    count: usize,
}

impl DeepLab {
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
                let (decoder, params, stats) = side_by_side(&self.decoder, count);
                let net = Network {
                    params: pack(b, &params, nets.iter().map(|net| &net.params))?,
                    stats: pack(b, &stats, nets.iter().map(|net| &net.stats))?,
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
        let mut pass = Forward { b, params: &self.net.params, norm };
        Ok(self.decoder.forward(&mut pass, features.clone())?.0)
    }

    /// The same with what tangent and pullback need.
    ///
    /// # Errors
    /// As [`Decoders::logits`].
    pub fn masks(&self, b: &B, features: &B::Tensor) -> Result<(B::Tensor, DecoderMasks<B>)> {
        self.decoder.masks(b, &self.net, features.clone())
    }

    /// J t: the Jacobian of all logits at the pass of `masks` applied to a tangent `t` of the features.
    ///
    /// # Errors
    /// [`Error::Shape`] where `t` has another shape than the features.
    pub fn tangent(&self, b: &B, masks: &DecoderMasks<B>, t: &B::Tensor) -> Result<B::Tensor> {
        self.decoder.tangent(b, &self.net, masks, t)
    }

    /// Jᵀ dlogits: the features' gradient at the pass of `masks`, summed over the networks.
    ///
    /// # Errors
    /// [`Error::Shape`] where `dlogits` has another shape than the logits.
    pub fn pullback(&self, b: &B, masks: &DecoderMasks<B>, dlogits: &B::Tensor) -> Result<B::Tensor> {
        self.decoder.pullback(b, &self.net, masks, dlogits)
    }
}

/// Where parts of a network's vector go among the parts of all.
#[derive(Default)]
struct Layout {
    /// A network's part, and where the first network's copy of it begins; the others' follow.
    parts: Vec<(Span, usize)>,
    len: usize,
}

impl Layout {
    /// The place of all `count` copies of `span`.
    fn place(&mut self, span: Span, count: usize) -> Span {
        let all = Span { offset: self.len, len: count * span.len };
        self.parts.push((span, all.offset));
        self.len += all.len;
        all
    }
}

/// `count` times `decoder` as one, with the layouts of its parameters and running statistics. Weights have the output
/// channel outermost, so several are one behind the other. As in a network they come first: convolutions read them in
/// whole chunks where channel counts allow it.
fn side_by_side(decoder: &Decoder, count: usize) -> (Decoder, Layout, Layout) {
    let (mut params, mut stats) = (Layout::default(), Layout::default());
    let mut weight = |conv: &Conv2d, shared_input: bool| Conv2d {
        weight: params.place(conv.weight, count),
        in_channels: if shared_input { conv.in_channels } else { count * conv.in_channels },
        out_channels: count * conv.out_channels,
        groups: if shared_input { 1 } else { count },
        ..*conv
    };
    let conv1 = weight(&decoder.conv1.conv, true);
    let conv2 = weight(&decoder.conv2.conv, false);
    let classifier = weight(&decoder.classifier, false);
    let mut norm = |bn: &BatchNorm| BatchNorm {
        weight: params.place(bn.weight, count),
        bias: params.place(bn.bias, count),
        running_mean: stats.place(bn.running_mean, count),
        running_var: stats.place(bn.running_var, count),
        channels: count * bn.channels,
        ..*bn
    };
    let (bn1, bn2) = (norm(&decoder.conv1.bn), norm(&decoder.conv2.bn));
    let bias = decoder.classifier.bias.map(|bias| params.place(bias, count));
    let wide = Decoder {
        conv1: ConvBn { conv: conv1, bn: bn1, act: decoder.conv1.act },
        conv2: ConvBn { conv: conv2, bn: bn2, act: decoder.conv2.act },
        classifier: Conv2d { bias, ..classifier },
    };
    (wide, params, stats)
}

/// A vector of the parts of all `vectors`.
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
