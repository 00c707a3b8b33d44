//! DeepLabv3+ (Chen et al., 2018) as PS-MT uses it: encoder (backbone, ASPP, reduced stride-4 features) and decoder.
//! This is the model's interface to the method; it knows values only as flat vectors that are passed in.

use super::aspp::{Aspp, AsppSaved};
use super::decoder::{Decoder, DecoderMasks, DecoderSaved};
use super::graph::Graph;
use super::layers::{
    Backward, ConvBn, ConvBnSaved, Cost, Forward, Gradient, Norm, Onto, Output, Pass, TrainPass,
};
use super::network::Network;
use super::resnet::{Backbone, BackboneSaved};
use super::table::{Builder, NormArgs, ParamTable};
use super::{Initialization, ModelConfig, init};
use crate::ops::{self, Backend, RELU, Shape};
use crate::{Error, Result};

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

    /// Features of images `x` `[n, h, w, 3]`, without what a backward pass would need.
    ///
    /// # Errors
    /// [`Error::Shape`] where x has not three channels, or has one image in training mode (the image-pooling branch
    /// has one value for each image).
    pub fn encoder<B: Backend>(
        &self,
        b: &B,
        params: &B::Vector,
        norm: Norm<'_, B>,
        x: &B::Tensor,
    ) -> Result<B::Tensor> {
        if matches!(norm, Norm::Train(_)) {
            several::<B>(x)?;
        }
        Ok(self.encode(&mut Forward { b, params, norm }, x)?.0)
    }

    /// The same in training mode, which moves `stats`, with what the backward pass needs.
    ///
    /// # Errors
    /// As [`DeepLab::encoder`].
    pub fn encoder_train<B: Backend>(
        &self,
        b: &B,
        params: &B::Vector,
        stats: &mut B::Vector,
        x: &B::Tensor,
    ) -> Result<(B::Tensor, EncoderSaved<B>)> {
        several::<B>(x)?;
        self.encode(&mut TrainPass { b, params, stats }, x)
    }

    fn encode<B: Backend, P: Pass<B>>(&self, pass: &mut P, x: &B::Tensor) -> Output<B, P, EncoderSaved<B>> {
        let ([low, high], backbone) = self.backbone.forward(pass, x.clone())?;
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

    /// Logits `[n, h, w, num_classes]` of features at their own size (stride 4 of the image), without what a backward pass would need.
    ///
    /// # Errors
    /// [`Error::Shape`] for features of another number of channels.
    pub fn decoder<B: Backend>(
        &self,
        b: &B,
        params: &B::Vector,
        norm: Norm<'_, B>,
        features: &B::Tensor,
    ) -> Result<B::Tensor> {
        Ok(self.decoder.forward(&mut Forward { b, params, norm }, features.clone())?.0)
    }

    /// The same in training mode, which moves `stats`, with what the backward pass needs.
    ///
    /// # Errors
    /// As [`DeepLab::decoder`].
    pub fn decoder_train<B: Backend>(
        &self,
        b: &B,
        params: &B::Vector,
        stats: &mut B::Vector,
        features: &B::Tensor,
    ) -> Result<(B::Tensor, DecoderSaved<B>)> {
        self.decoder.forward(&mut TrainPass { b, params, stats }, features.clone())
    }

    /// The same with frozen batch norm, with what tangent and pullback need.
    ///
    /// # Errors
    /// As [`DeepLab::decoder`].
    pub fn decoder_masks<B: Backend>(
        &self,
        b: &B,
        net: &Network<B>,
        features: &B::Tensor,
    ) -> Result<(B::Tensor, DecoderMasks<B>)> {
        self.decoder.masks(b, net, features.clone())
    }

    /// Backward of the decoder in training mode: returns dfeatures, adds the parameters' gradients to `grads`.
    ///
    /// # Errors
    /// [`Error::Shape`] where `dlogits` has another shape.
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

    /// J t: the decoder's Jacobian at the pass of `masks`, batch norm frozen, applied to a tangent `t` of the features.
    ///
    /// # Errors
    /// [`Error::Shape`] where `t` has another shape.
    pub fn decoder_tangent<B: Backend>(
        &self,
        b: &B,
        net: &Network<B>,
        masks: &DecoderMasks<B>,
        t: &B::Tensor,
    ) -> Result<B::Tensor> {
        self.decoder.tangent(b, net, masks, t)
    }

    /// Jᵀ dlogits: the features' gradient at the pass of `masks`, batch norm frozen; no parameter gradients.
    ///
    /// # Errors
    /// [`Error::Shape`] where `dlogits` has another shape.
    pub fn decoder_pullback<B: Backend>(
        &self,
        b: &B,
        net: &Network<B>,
        masks: &DecoderMasks<B>,
        dlogits: &B::Tensor,
    ) -> Result<B::Tensor> {
        self.decoder.pullback(b, net, masks, dlogits)
    }

    /// Stride-4 logits of images `x` in evaluation mode.
    ///
    /// # Errors
    /// [`Error::Shape`] where x has not three channels.
    pub fn predict<B: Backend>(&self, b: &B, net: &Network<B>, x: &B::Tensor) -> Result<B::Tensor> {
        let features = self.encoder(b, &net.params, Norm::Frozen(&net.stats), x)?;
        self.decoder(b, &net.params, Norm::Frozen(&net.stats), &features)
    }
}

/// In training mode the batch norm of the image-pooling branch sees one value for each image.
fn several<B: Backend>(x: &B::Tensor) -> Result<()> {
    let shape = B::shape(x);
    if shape.n >= 2 {
        return Ok(());
    }
    let expected = "at least two images in a training batch (batch norm of the image-pooling branch sees one value an image)";
    Err(Error::shape("encoder_forward", expected, shape.to_string()))
}
