//! The vectors of several networks' decoders stacked into one.

use crate::Result;
use crate::ops::{self, Backend, BatchNorm, Conv2d, Span};

/// Where parts of a network's vector go among the parts of all.
#[derive(Default)]
pub(super) struct Layout {
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

    /// A vector of the placed spans of all `vectors`.
    pub fn pack<'v, B: Backend>(
        &self,
        b: &B,
        vectors: impl Iterator<Item = &'v B::Vector>,
    ) -> Result<B::Vector> {
        let mut packed = b.zeros(self.len);
        for (i, vector) in vectors.enumerate() {
            let moves: Vec<_> = self.parts.iter().map(|&(span, at)| (span, at + i * span.len)).collect();
            ops::copy_spans(b, &mut packed, vector, &moves)?;
        }
        Ok(packed)
    }
}

/// Places the layers of several networks' decoders in the vectors of one. Weights have the output channel
/// outermost, so several are one after the other. A decoder places convolution weights first, as a network
/// does: kernels then read them by whole vectors where channel counts allow it.
pub(super) struct Stacking {
    count: usize,
    pub params: Layout,
    pub stats: Layout,
}

impl Stacking {
    pub fn new(count: usize) -> Stacking {
        Stacking { count, params: Layout::default(), stats: Layout::default() }
    }

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
