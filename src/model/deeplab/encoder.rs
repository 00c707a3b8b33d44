//! The encoder: backbone, ASPP on its stride-16 features, 1x1 reduction of its stride-4 features.

use super::aspp::{Aspp, AsppSaved};
use crate::Result;
use crate::model::ModelConfig;
use crate::model::graph::Graph;
use crate::model::layers::{Backward, ConvBn, ConvBnSaved, Cost, Gradient, Onto, Output, Pass};
use crate::model::resnet::{Backbone, BackboneSaved};
use crate::model::table::{Builder, NormArgs};
use crate::model::traits::Encoder;
use crate::ops::{self, Backend, RELU, Shape};

/// Images `[n, h, w, 3]` to features `[n, h / 4, w / 4, aspp + low_level]`, sizes rounded up twice.
#[derive(Clone, Debug)]
pub struct DeepLabEncoder {
    backbone: Backbone,
    aspp: Aspp,
    reduce: ConvBn,
    /// Channels of the ASPP's output and of the reduced features.
    channels: [usize; 2],
}

pub struct EncoderSaved<B: Backend> {
    backbone: BackboneSaved<B>,
    aspp: AsppSaved<B>,
    reduce: ConvBnSaved<B>,
    /// Rows and columns of the ASPP's output.
    aspp_size: ops::Size,
}

impl DeepLabEncoder {
    pub fn new(build: &mut Builder, config: &ModelConfig) -> DeepLabEncoder {
        let backbone = Backbone::new(build, config);
        let aspp = Aspp::new(build, config);
        let names = ("encoder.head.reduce.0".into(), "encoder.head.reduce.1".into());
        let channels = (config.planes * 4, config.low_level);
        let norm = NormArgs { momentum: config.bn_momentum, eps: 1e-5 };
        let reduce = ConvBn::new(build, names, channels, (1, 1, 1), norm, RELU);
        DeepLabEncoder { backbone, aspp, reduce, channels: [config.aspp, config.low_level] }
    }
}

impl Encoder for DeepLabEncoder {
    type Saved<B: Backend> = EncoderSaved<B>;

    /// The batch norm of the image-pooling branch sees one value per image.
    const MIN_TRAIN_BATCH: usize = 2;

    fn cost(&self, x: Shape, cost: &mut Cost) -> Shape {
        let (low, high) = self.backbone.cost(x, cost);
        self.aspp.cost(high, cost);
        self.reduce.cost(low, cost);
        low.with_channels(self.channels.iter().sum())
    }

    fn graph<G: Graph>(&self, g: &mut G, images: &G::Value) -> G::Value {
        let (low, high) = self.backbone.graph(g, images);
        let high = self.aspp.graph(g, &high);
        let high = g.interpolate(&high, &low);
        let low = self.reduce.graph(g, &low, None);
        g.concat(&[high, low])
    }

    fn forward<B: Backend, P: Pass<B>>(&self, pass: &mut P, x: B::Tensor) -> Output<B, P, EncoderSaved<B>> {
        let ([low, high], backbone) = self.backbone.forward(pass, x)?;
        let (high, aspp) = self.aspp.forward(pass, high)?;
        let (size, high_shape) = (B::shape(&low), B::shape(&high));
        let high = ops::interpolate(pass.b(), &high, (size.h, size.w))?;
        let (low, reduce) = self.reduce.forward(pass, low, None)?;
        let features = ops::concat(pass.b(), &[&high, &low])?;
        let aspp_size = (high_shape.h, high_shape.w);
        let saved = P::zip(P::zip(backbone, aspp), reduce);
        let saved =
            P::map(saved, |((backbone, aspp), reduce)| EncoderSaved { backbone, aspp, reduce, aspp_size });
        Ok((features, saved))
    }

    fn backward<B: Backend>(
        &self,
        pass: &mut Backward<'_, B>,
        saved: EncoderSaved<B>,
        dfeatures: &B::Tensor,
    ) -> Result<()> {
        let b = pass.b;
        let [aspp_channels, low_channels] = self.channels;
        let EncoderSaved { mut backbone, aspp, reduce, aspp_size } = saved;
        let dhigh = ops::slice_channels(b, dfeatures, 0, aspp_channels)?;
        let dhigh = ops::interpolate_bwd(b, &dhigh, aspp_size)?;
        let dhigh = self.aspp.backward(pass, aspp, dhigh, self.backbone.high_pass(&backbone))?;
        let dlow = self.backbone.backward_high(pass, &mut backbone, dhigh)?;
        // The stride-4 features have two consumers: the deeper stages and the reduction.
        let onto = Onto { add: Some(&dlow.dy), norm: self.backbone.low_pass(&backbone) };
        let dreduced = ops::slice_channels(b, dfeatures, aspp_channels, low_channels)?;
        let dlow = self.reduce.backward(pass, reduce, Gradient::plain(dreduced), onto)?;
        self.backbone.backward_low(pass, backbone, dlow)
    }
}
