//! The decoder: two 3x3 convolutions and a 1x1 classifier over the encoder's features, with forward,
//! backward, and, with frozen batch norm, tangent and pullback, which exact T-VAT iterates.

use crate::Result;
use crate::model::ModelConfig;
use crate::model::graph::Graph;
use crate::model::layers::{Backward, ConvBn, ConvBnSaved, Cost, Forward, Norm, Onto, Output, Pass};
use crate::model::network::Network;
use crate::model::stacking::Stacking;
use crate::model::table::{Builder, NormArgs};
use crate::model::traits::Decoder;
use crate::ops::{self, Backend, Conv2d, RELU, Shape};

/// Features `[n, h, w, aspp + low_level]` to logits `[n, h, w, num_classes]`.
#[derive(Clone, Debug)]
pub struct DeepLabDecoder {
    conv1: ConvBn,
    conv2: ConvBn,
    classifier: Conv2d,
}

pub struct DecoderSaved<B: Backend> {
    conv1: ConvBnSaved<B>,
    conv2: ConvBnSaved<B>,
    /// Input of the classifier.
    y: B::Tensor,
}

/// Outputs of the two convolutions of a pass with frozen batch norm, whose signs are the activation masks.
pub struct DecoderMasks<B: Backend> {
    y1: B::Tensor,
    y2: B::Tensor,
}

impl DeepLabDecoder {
    pub fn new(build: &mut Builder, config: &ModelConfig) -> DeepLabDecoder {
        let name = "decoder.upsample";
        let (cin, c) = (config.aspp + config.low_level, config.aspp);
        let norm = NormArgs { momentum: config.bn_momentum, eps: 1e-5 };
        let mut layer = |i: usize, cin: usize| {
            let names = (format!("{name}.last_conv.{i}"), format!("{name}.last_conv.{}", i + 1));
            ConvBn::new(build, names, (cin, c), (3, 1, 1), norm, RELU)
        };
        let (conv1, conv2) = (layer(0, cin), layer(3, c));
        let classifier = build.conv_with_bias(&format!("{name}.classifier"), (c, config.num_classes));
        DeepLabDecoder { conv1, conv2, classifier }
    }
}

impl Decoder for DeepLabDecoder {
    type Saved<B: Backend> = DecoderSaved<B>;
    type Masks<B: Backend> = DecoderMasks<B>;

    fn cost(&self, x: Shape, cost: &mut Cost) -> Shape {
        cost.keep(1, x);
        let y = self.conv1.cost(x, cost);
        let y = self.conv2.cost(y, cost);
        cost.conv(&self.classifier, y)
    }

    fn graph<G: Graph>(&self, g: &mut G, x: &G::Value) -> G::Value {
        let mut y = self.conv1.graph(g, x, None);
        y = self.conv2.graph(g, &y, None);
        g.conv(&self.classifier, &y)
    }

    fn forward<B: Backend, P: Pass<B>>(&self, pass: &mut P, x: B::Tensor) -> Output<B, P, DecoderSaved<B>> {
        let (y, conv1) = self.conv1.forward(pass, x, None)?;
        let (y, conv2) = self.conv2.forward(pass, y, None)?;
        let logits = pass.conv(&self.classifier, &y)?;
        let saved = P::map(P::zip(conv1, conv2), |(conv1, conv2)| DecoderSaved { conv1, conv2, y });
        Ok((logits, saved))
    }

    fn masks<B: Backend>(
        &self,
        b: &B,
        net: &Network<B>,
        x: B::Tensor,
    ) -> Result<(B::Tensor, DecoderMasks<B>)> {
        let mut pass = Forward { b, params: &net.params, norm: Norm::Frozen(&net.stats) };
        let (y1, ()) = self.conv1.forward(&mut pass, x, None)?;
        let (y2, ()) = self.conv2.forward(&mut pass, y1.clone(), None)?;
        Ok((pass.conv(&self.classifier, &y2)?, DecoderMasks { y1, y2 }))
    }

    fn backward<B: Backend>(
        &self,
        pass: &mut Backward<'_, B>,
        saved: DecoderSaved<B>,
        dlogits: &B::Tensor,
    ) -> Result<B::Tensor> {
        let DecoderSaved { conv1, conv2, y } = saved;
        let onto = Onto::norm(self.conv2.pass(&conv2, false));
        let d = pass.conv(&self.classifier, &y, dlogits, onto)?;
        drop(y);
        let onto = Onto::norm(self.conv1.pass(&conv1, false));
        let d = self.conv2.backward(pass, conv2, d, onto)?;
        Ok(self.conv1.backward(pass, conv1, d, Onto::nothing())?.dy)
    }

    fn tangent<B: Backend>(
        &self,
        b: &B,
        net: &Network<B>,
        DecoderMasks { y1, y2 }: &DecoderMasks<B>,
        t: &B::Tensor,
    ) -> Result<B::Tensor> {
        let t = self.conv1.tangent(b, net, y1, t)?;
        let t = self.conv2.tangent(b, net, y2, &t)?;
        let conv = Conv2d { bias: None, ..self.classifier };
        Ok(ops::conv2d_fprop(b, &ops::Fprop::new(&t, &net.params, &conv))?.y)
    }

    fn pullback<B: Backend>(
        &self,
        b: &B,
        net: &Network<B>,
        DecoderMasks { y1, y2 }: &DecoderMasks<B>,
        dlogits: &B::Tensor,
    ) -> Result<B::Tensor> {
        let params = &net.params;
        // The kernel of each data gradient also applies the derivative of the batch norm and activation below
        // it.
        let norm = self.conv2.frozen(net);
        let d = ops::conv2d_dgrad(
            b,
            &ops::Dgrad { dy: dlogits, params, conv: &self.classifier, onto: ops::Onto::Frozen(norm, y2) },
        )?
        .dx;
        let norm = self.conv1.frozen(net);
        let d = ops::conv2d_dgrad(
            b,
            &ops::Dgrad { dy: &d, params, conv: &self.conv2.conv, onto: ops::Onto::Frozen(norm, y1) },
        )?
        .dx;
        let x_shape = B::shape(y1).with_channels(self.conv1.conv.in_channels);
        Ok(ops::conv2d_dgrad(b, &ops::Dgrad::new(&d, params, &self.conv1.conv, x_shape))?.dx)
    }

    /// The first convolution has the output channels of all; from there on each network is a group.
    fn stack(&self, stacking: &mut Stacking) -> DeepLabDecoder {
        let conv1 = stacking.conv_shared_input(&self.conv1.conv);
        let conv2 = stacking.conv(&self.conv2.conv);
        let classifier = stacking.conv(&self.classifier);
        let (bn1, bn2) = (stacking.batch_norm(&self.conv1.bn), stacking.batch_norm(&self.conv2.bn));
        let bias = stacking.bias(&self.classifier);
        DeepLabDecoder {
            conv1: ConvBn { conv: conv1, bn: bn1, act: self.conv1.act },
            conv2: ConvBn { conv: conv2, bn: bn2, act: self.conv2.act },
            classifier: Conv2d { bias, ..classifier },
        }
    }
}
