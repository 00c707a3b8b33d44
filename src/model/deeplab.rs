//! DeepLabv3+ (Chen et al., 2018) as PS-MT uses it: encoder (backbone, ASPP, reduced stride-4 features) and decoder.
//! This is the model's interface to the method; it knows values only as flat vectors that are passed in.

use super::aspp::{Aspp, AsppSaved};
use super::decoder::{Decoder, DecoderSaved};
use super::graph::Graph;
use super::layers::{Backward, ConvBn, ConvBnSaved, Cost, Forward, Gradient, Norm, Onto};
use super::resnet::{Backbone, BackboneOut, BackboneSaved};
use super::table::{Builder, NormArgs, ParamTable};
use super::{Initialization, ModelConfig, init};
use crate::ops::{self, Backend, RELU, Shape};
use crate::{Error, Result};

/// Values of one network on a device.
pub struct Network<B: Backend> {
    /// Flat parameters, as [`ParamTable::params`] lays them out.
    pub params: B::Vector,
    /// Flat running statistics, as [`ParamTable::stats`] lays them out.
    pub stats: B::Vector,
}

impl<B: Backend> Clone for Network<B> {
    fn clone(&self) -> Network<B> {
        Network { params: self.params.clone(), stats: self.stats.clone() }
    }
}

impl<B: Backend> Network<B> {
    /// Copies flat values to the device.
    pub fn upload(b: &B, params: &[f32], stats: &[f32]) -> Network<B> {
        Network { params: b.upload_vector(params), stats: b.upload_vector(stats) }
    }

    /// Copies (parameters, running statistics) to the host.
    pub fn download(&self, b: &B) -> (Vec<f32>, Vec<f32>) {
        (b.download_vector(&self.params), b.download_vector(&self.stats))
    }
}

/// The architecture: layers with their places in the flat vectors, no values.
#[derive(Clone, Debug)]
pub struct DeepLab {
    /// Sizes.
    pub config: ModelConfig,
    /// Names and places of all parameters and running statistics.
    pub table: ParamTable,
    backbone: Backbone,
    aspp: Aspp,
    reduce: ConvBn,
    pub(super) decoder: Decoder,
}

/// What the encoder keeps of a training pass.
pub struct EncoderSaved<B: Backend> {
    backbone: BackboneSaved<B>,
    aspp: AsppSaved<B>,
    reduce: ConvBnSaved<B>,
    /// Rows and columns of the ASPP's output.
    aspp_size: ops::Size,
}

impl DeepLab {
    /// The architecture of a configuration.
    ///
    /// # Errors
    /// [`Error::Config`] for sizes that [`ModelConfig::validate`] rejects.
    pub fn new(config: ModelConfig) -> Result<DeepLab> {
        config.validate()?;
        let num_decayed = DeepLab::build(config.clone(), 0).table.num_decayed;
        Ok(DeepLab::build(config, num_decayed))
    }

    fn build(config: ModelConfig, num_decayed: usize) -> DeepLab {
        let mut build = Builder::new(num_decayed);
        let backbone = Backbone::new(&mut build, &config);
        let aspp = Aspp::new(&mut build, &config);
        let names = ("encoder.head.reduce.0".into(), "encoder.head.reduce.1".into());
        let channels = (config.planes * 4, config.low_level);
        let norm = NormArgs { momentum: config.bn_momentum, eps: 1e-5 };
        let reduce = ConvBn::new(&mut build, names, channels, (1, 1, 1), norm, RELU);
        let decoder = Decoder::new(&mut build, &config);
        DeepLab { table: build.finish(), config, backbone, aspp, reduce, decoder }
    }

    /// Adds the cost of a pass over images `x`; returns the shapes of features and logits.
    fn cost(&self, x: Shape, cost: &mut Cost) -> (Shape, Shape) {
        let (low, high) = self.backbone.cost(x, cost);
        self.aspp.cost(high, cost);
        self.reduce.cost(low, cost);
        let features = low.with_channels(self.config.aspp + self.config.low_level);
        (features, self.decoder.cost(features, cost))
    }

    /// Shape of the encoder's features for images `x`: a quarter of the size (rounded up twice), aspp + low_level channels.
    pub fn feature_shape(&self, x: Shape) -> Shape {
        self.cost(x, &mut Cost::default()).0
    }

    /// Shape of the decoder's logits for images `x`: the features' size, num_classes channels.
    pub fn logits_shape(&self, x: Shape) -> Shape {
        self.cost(x, &mut Cost::default()).1
    }

    /// Bytes of activations that one training pass over images `x` keeps for its backward pass, in f32. The backward
    /// pass itself holds the gradients of a few of the largest layers beside them.
    pub fn activation_bytes(&self, x: Shape) -> u64 {
        let mut cost = Cost::default();
        self.cost(x, &mut cost);
        cost.saved * size_of::<f32>() as u64
    }

    /// Floating-point operations (multiply-adds times two) of the convolutions of one forward pass over images `x`; a
    /// backward pass takes about twice as many.
    pub fn flops(&self, x: Shape) -> u64 {
        let mut cost = Cost::default();
        self.cost(x, &mut cost);
        cost.flops
    }

    /// Tells `g` the operations of evaluation mode on normalised images; returns the stride-4 logits. Computes the same as
    /// [`DeepLab::predict`].
    pub fn graph<G: Graph>(&self, g: &mut G, images: &G::Value) -> G::Value {
        let (low, high) = self.backbone.graph(g, images);
        let high = self.aspp.graph(g, &high);
        let high = g.interpolate(&high, &low);
        let low = self.reduce.graph(g, &low, None);
        let features = g.concat(&[high, low]);
        self.decoder.graph(g, &features)
    }

    /// Initial (parameters, running statistics) of network number `network`, a pure function of all three arguments: convolutions by
    /// `law`, batch norm 1 and 0, running mean 0 and variance 1.
    pub fn init(&self, law: Initialization, seed: u64, network: u64) -> (Vec<f32>, Vec<f32>) {
        init::init(&self.table, law, seed, network)
    }

    /// Features of images `x` `[n, h, w, 3]`. In training mode with `save`, also what the backward pass needs; with
    /// frozen batch norm nothing is saved, as only decoders have a tangent.
    ///
    /// # Errors
    /// [`Error::Shape`] where x has not three channels, or has one image in training mode (the image-pooling branch
    /// has one value an image).
    pub fn encoder_forward<B: Backend>(
        &self,
        b: &B,
        params: &B::Vector,
        norm: Norm<'_, B>,
        x: &B::Tensor,
        save: bool,
    ) -> Result<(B::Tensor, Option<EncoderSaved<B>>)> {
        let shape = B::shape(x);
        if matches!(norm, Norm::Train(_)) && shape.n < 2 {
            return Err(Error::shape(
                "encoder_forward",
                "at least two images in a training batch (batch norm of the image-pooling branch sees one value an image)",
                shape.to_string(),
            ));
        }
        let mut pass = Forward { b, params, norm, save };
        let BackboneOut { low, high, saved: backbone } = self.backbone.forward(&mut pass, x.clone())?;
        let (high, aspp) = self.aspp.forward(&mut pass, high)?;
        let (size, high_shape) = (B::shape(&low), B::shape(&high));
        let high = ops::interpolate(b, &high, (size.h, size.w))?;
        let (low, reduce) = self.reduce.forward(&mut pass, low, None)?;
        let features = ops::concat(b, &[&high, &low])?;
        let saved = match (backbone, aspp, reduce) {
            (Some(backbone), Some(aspp), Some(reduce)) => {
                Some(EncoderSaved { backbone, aspp, reduce, aspp_size: (high_shape.h, high_shape.w) })
            }
            _ => None,
        };
        Ok((features, saved))
    }

    /// Adds the gradients of the encoder's parameters to `grads`; the images' is not computed.
    ///
    /// # Errors
    /// [`Error::Shape`] where `dfeatures` is not the features' shape.
    pub fn encoder_backward<B: Backend>(
        &self,
        b: &B,
        params: &B::Vector,
        grads: &mut B::Vector,
        saved: EncoderSaved<B>,
        dfeatures: &B::Tensor,
    ) -> Result<()> {
        let EncoderSaved { mut backbone, aspp, reduce, aspp_size } = saved;
        let mut pass = Backward { b, params, grads };
        let dhigh = ops::slice_channels(b, dfeatures, 0, self.config.aspp)?;
        let dhigh = ops::interpolate_bwd(b, &dhigh, aspp_size)?;
        let dhigh = self.aspp.backward(&mut pass, aspp, dhigh, self.backbone.high_pass(&backbone))?;
        let dlow = self.backbone.backward_high(&mut pass, &mut backbone, dhigh)?;
        // Both ways from the stride-4 features meet here.
        let onto = Onto { add: Some(&dlow.dy), norm: self.backbone.low_pass(&backbone) };
        let dreduced = ops::slice_channels(b, dfeatures, self.config.aspp, self.config.low_level)?;
        let dlow = self.reduce.backward(&mut pass, reduce, Gradient::plain(dreduced), onto)?;
        self.backbone.backward_low(&mut pass, backbone, dlow)
    }

    /// Logits `[n, h, w, num_classes]` of features at their own size (stride 4 of the image). With `save`, also what the
    /// backward pass (training mode) or tangent and pullback (frozen batch norm) need.
    ///
    /// # Errors
    /// [`Error::Shape`] for features of another number of channels.
    pub fn decoder_forward<B: Backend>(
        &self,
        b: &B,
        params: &B::Vector,
        norm: Norm<'_, B>,
        features: &B::Tensor,
        save: bool,
    ) -> Result<(B::Tensor, Option<DecoderSaved<B>>)> {
        self.decoder.forward(&mut Forward { b, params, norm, save }, features.clone())
    }

    /// Backward of the decoder in training mode: returns dfeatures, adds the parameters' gradients to `grads`.
    ///
    /// # Errors
    /// [`Error::Shape`] where `saved` is of a frozen pass or `dlogits` has another shape.
    pub fn decoder_backward<B: Backend>(
        &self,
        b: &B,
        params: &B::Vector,
        grads: &mut B::Vector,
        saved: DecoderSaved<B>,
        dlogits: &B::Tensor,
    ) -> Result<B::Tensor> {
        self.decoder.backward(&mut Backward { b, params, grads }, saved, dlogits)
    }

    /// J t: the decoder's Jacobian at the saved pass, batch norm frozen, applied to a tangent `t` of the features.
    ///
    /// # Errors
    /// [`Error::Shape`] where `saved` is of a training pass or `t` has another shape.
    pub fn decoder_tangent<B: Backend>(
        &self,
        b: &B,
        net: &Network<B>,
        saved: &DecoderSaved<B>,
        t: &B::Tensor,
    ) -> Result<B::Tensor> {
        self.decoder.tangent(b, net, saved, t)
    }

    /// Jᵀ dlogits: the features' gradient at the saved pass, batch norm frozen; no parameter gradients.
    ///
    /// # Errors
    /// [`Error::Shape`] where `saved` is of a training pass or `dlogits` has another shape.
    pub fn decoder_pullback<B: Backend>(
        &self,
        b: &B,
        net: &Network<B>,
        saved: &DecoderSaved<B>,
        dlogits: &B::Tensor,
    ) -> Result<B::Tensor> {
        self.decoder.pullback(b, net, saved, dlogits)
    }

    /// Stride-4 logits of images `x` in evaluation mode.
    ///
    /// # Errors
    /// [`Error::Shape`] where x has not three channels.
    pub fn predict<B: Backend>(&self, b: &B, net: &Network<B>, x: &B::Tensor) -> Result<B::Tensor> {
        let (features, _) = self.encoder_forward(b, &net.params, Norm::Frozen(&net.stats), x, false)?;
        Ok(self.decoder_forward(b, &net.params, Norm::Frozen(&net.stats), &features, false)?.0)
    }
}
