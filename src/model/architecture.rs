//! A segmentation network without its values: an encoder from images to features and a decoder from features
//! to logits. The interface of the model to whatever trains, evaluates or exports it; which layers there are
//! is decided here alone.

use super::deeplab::{DeepLabDecoder, DeepLabEncoder};
use super::graph::Graph;
use super::layers::{Backward, Cost, Forward, Norm, TrainPass};
use super::network::Network;
use super::stacking::Stacking;
use super::table::{Builder, ParamTable};
use super::traits::{Decoder, Encoder};
use super::{Initialization, ModelConfig, init};
use crate::ops::{Backend, Shape};
use crate::{Error, Result};
use std::sync::Arc;

/// The layers of a network with their places in the flat vectors, no values.
#[derive(Clone, Debug)]
pub struct Architecture {
    /// Sizes.
    pub config: ModelConfig,
    /// Names and places of all parameters and running statistics.
    pub table: ParamTable,
    encoder: AnyEncoder,
    pub(super) decoder: AnyDecoder,
}

/// The encoders that there are.
#[derive(Clone, Debug)]
enum AnyEncoder {
    DeepLab(Arc<DeepLabEncoder>),
}

/// The decoders that there are.
#[derive(Clone, Debug)]
pub(super) enum AnyDecoder {
    DeepLab(Arc<DeepLabDecoder>),
}

/// What an encoder keeps of a training pass, for [`EncoderSaved::backward`].
pub struct EncoderSaved<B: Backend>(SavedEncoder<B>);

enum SavedEncoder<B: Backend> {
    DeepLab(Arc<DeepLabEncoder>, <DeepLabEncoder as Encoder>::Saved<B>),
}

/// What a decoder keeps of a training pass, for [`DecoderSaved::backward`].
pub struct DecoderSaved<B: Backend>(SavedDecoder<B>);

enum SavedDecoder<B: Backend> {
    DeepLab(Arc<DeepLabDecoder>, <DeepLabDecoder as Decoder>::Saved<B>),
}

/// What a decoder keeps of a pass with frozen batch norm: the signs of its activations, at which
/// [`DecoderMasks::tangent`] and [`DecoderMasks::pullback`] are taken.
pub struct DecoderMasks<B: Backend>(MasksOf<B>);

enum MasksOf<B: Backend> {
    DeepLab(Arc<DeepLabDecoder>, <DeepLabDecoder as Decoder>::Masks<B>),
}

impl AnyEncoder {
    fn cost(&self, x: Shape, cost: &mut Cost) -> Shape {
        match self {
            AnyEncoder::DeepLab(encoder) => encoder.cost(x, cost),
        }
    }

    fn min_train_batch(&self) -> usize {
        match self {
            AnyEncoder::DeepLab(_) => DeepLabEncoder::MIN_TRAIN_BATCH,
        }
    }
}

impl AnyDecoder {
    fn cost(&self, x: Shape, cost: &mut Cost) -> Shape {
        match self {
            AnyDecoder::DeepLab(decoder) => decoder.cost(x, cost),
        }
    }

    pub fn forward<B: Backend>(&self, pass: &mut Forward<'_, B>, features: &B::Tensor) -> Result<B::Tensor> {
        match self {
            AnyDecoder::DeepLab(decoder) => Ok(decoder.forward(pass, features.clone())?.0),
        }
    }

    pub fn masks<B: Backend>(
        &self,
        b: &B,
        net: &Network<B>,
        features: &B::Tensor,
    ) -> Result<(B::Tensor, DecoderMasks<B>)> {
        match self {
            AnyDecoder::DeepLab(decoder) => {
                let (logits, masks) = decoder.masks(b, net, features.clone())?;
                Ok((logits, DecoderMasks(MasksOf::DeepLab(decoder.clone(), masks))))
            }
        }
    }

    pub fn stack(&self, stacking: &mut Stacking) -> AnyDecoder {
        match self {
            AnyDecoder::DeepLab(decoder) => AnyDecoder::DeepLab(Arc::new(decoder.stack(stacking))),
        }
    }
}

impl<B: Backend> EncoderSaved<B> {
    /// Adds the gradients of the encoder's parameters to `grads`; the images' is not computed.
    ///
    /// # Errors
    /// [`Error::Shape`] where `dfeatures` is not the features' shape.
    pub fn backward(
        self,
        b: &B,
        params: &B::Vector,
        grads: &mut B::Vector,
        dfeatures: &B::Tensor,
    ) -> Result<()> {
        let mut pass = Backward { b, params, grads };
        match self.0 {
            SavedEncoder::DeepLab(encoder, saved) => encoder.backward(&mut pass, saved, dfeatures),
        }
    }
}

impl<B: Backend> DecoderSaved<B> {
    /// Adds the gradients of the decoder's parameters to `grads`; returns the features'.
    ///
    /// # Errors
    /// [`Error::Shape`] where `dlogits` has another shape.
    pub fn backward(
        self,
        b: &B,
        params: &B::Vector,
        grads: &mut B::Vector,
        dlogits: &B::Tensor,
    ) -> Result<B::Tensor> {
        let mut pass = Backward { b, params, grads };
        match self.0 {
            SavedDecoder::DeepLab(decoder, saved) => decoder.backward(&mut pass, saved, dlogits),
        }
    }
}

impl<B: Backend> DecoderMasks<B> {
    /// J t: the decoder's Jacobian with frozen batch norm, applied to a tangent `t` of the features. `net` is
    /// the network of the pass.
    ///
    /// # Errors
    /// [`Error::Shape`] where `t` has another shape than the features.
    pub fn tangent(&self, b: &B, net: &Network<B>, t: &B::Tensor) -> Result<B::Tensor> {
        match &self.0 {
            MasksOf::DeepLab(decoder, masks) => decoder.tangent(b, net, masks, t),
        }
    }

    /// Jᵀ dlogits: the features' gradient with frozen batch norm; no parameter gradients. `net` is the
    /// network of the pass.
    ///
    /// # Errors
    /// [`Error::Shape`] where `dlogits` has another shape than the logits.
    pub fn pullback(&self, b: &B, net: &Network<B>, dlogits: &B::Tensor) -> Result<B::Tensor> {
        match &self.0 {
            MasksOf::DeepLab(decoder, masks) => decoder.pullback(b, net, masks, dlogits),
        }
    }
}

impl Architecture {
    /// The architecture of a configuration.
    ///
    /// # Errors
    /// [`Error::Config`] for sizes that [`ModelConfig::validate`] rejects.
    pub fn new(config: ModelConfig) -> Result<Architecture> {
        config.validate()?;
        let num_decayed = Architecture::build(config.clone(), 0).table.num_decayed;
        Ok(Architecture::build(config, num_decayed))
    }

    fn build(config: ModelConfig, num_decayed: usize) -> Architecture {
        let mut build = Builder::new(num_decayed);
        let encoder = AnyEncoder::DeepLab(Arc::new(DeepLabEncoder::new(&mut build, &config)));
        let decoder = AnyDecoder::DeepLab(Arc::new(DeepLabDecoder::new(&mut build, &config)));
        Architecture { table: build.finish(), config, encoder, decoder }
    }

    /// Adds the cost of a pass over images `x`; returns the shapes of features and logits.
    fn cost(&self, x: Shape, cost: &mut Cost) -> (Shape, Shape) {
        let features = self.encoder.cost(x, cost);
        (features, self.decoder.cost(features, cost))
    }

    /// Shape of the encoder's features for images `x`.
    pub fn feature_shape(&self, x: Shape) -> Shape {
        self.cost(x, &mut Cost::default()).0
    }

    /// Shape of the decoder's logits for images `x`: num_classes channels, rows and columns at the decoder's
    /// stride.
    pub fn logits_shape(&self, x: Shape) -> Shape {
        self.cost(x, &mut Cost::default()).1
    }

    /// Bytes of activations that one training pass over images `x` keeps for its backward pass, in f32. The
    /// backward pass itself holds the gradients of a few of the largest layers at the same time.
    pub fn activation_bytes(&self, x: Shape) -> u64 {
        let mut cost = Cost::default();
        self.cost(x, &mut cost);
        cost.saved * size_of::<f32>() as u64
    }

    /// Floating-point operations (multiply-adds times two) of the convolutions of one forward pass over
    /// images `x`; a backward pass takes about twice as many.
    pub fn flops(&self, x: Shape) -> u64 {
        let mut cost = Cost::default();
        self.cost(x, &mut cost);
        cost.flops
    }

    /// Writes the operations of evaluation mode on normalised images into `g`; returns the logits. Computes
    /// the same as [`Architecture::predict`].
    pub fn graph<G: Graph>(&self, g: &mut G, images: &G::Value) -> G::Value {
        let features = match &self.encoder {
            AnyEncoder::DeepLab(encoder) => encoder.graph(g, images),
        };
        match &self.decoder {
            AnyDecoder::DeepLab(decoder) => decoder.graph(g, &features),
        }
    }

    /// Initial (parameters, running statistics) of network number `network`, a pure function of all three
    /// arguments: convolutions by `law`, batch norm 1 and 0, running mean 0 and variance 1.
    pub fn init(&self, law: Initialization, seed: u64, network: u64) -> (Vec<f32>, Vec<f32>) {
        init::init(&self.table, law, seed, network)
    }

    /// Features of images `x` `[n, h, w, 3]`, without what a backward pass would need.
    ///
    /// # Errors
    /// [`Error::Shape`] where x has not three channels, or in training mode fewer images than the encoder's
    /// batch norms need.
    pub fn encoder<B: Backend>(
        &self,
        b: &B,
        params: &B::Vector,
        norm: Norm<'_, B>,
        x: &B::Tensor,
    ) -> Result<B::Tensor> {
        if matches!(norm, Norm::Train(_)) {
            self.check_train_batch(B::shape(x))?;
        }
        match &self.encoder {
            AnyEncoder::DeepLab(encoder) => {
                Ok(encoder.forward(&mut Forward { b, params, norm }, x.clone())?.0)
            }
        }
    }

    /// The same in training mode, which moves `stats`, with what the backward pass needs.
    ///
    /// # Errors
    /// As [`Architecture::encoder`].
    pub fn encoder_train<B: Backend>(
        &self,
        b: &B,
        params: &B::Vector,
        stats: &mut B::Vector,
        x: &B::Tensor,
    ) -> Result<(B::Tensor, EncoderSaved<B>)> {
        self.check_train_batch(B::shape(x))?;
        match &self.encoder {
            AnyEncoder::DeepLab(encoder) => {
                let (y, saved) = encoder.forward(&mut TrainPass { b, params, stats }, x.clone())?;
                Ok((y, EncoderSaved(SavedEncoder::DeepLab(encoder.clone(), saved))))
            }
        }
    }

    fn check_train_batch(&self, x: Shape) -> Result<()> {
        let least = self.encoder.min_train_batch();
        if x.n >= least {
            return Ok(());
        }
        let expected =
            format!("at least {least} images in a training batch (a batch norm sees one value per image)");
        Err(Error::shape("encoder_forward", expected, x.to_string()))
    }

    /// Logits `[n, h, w, num_classes]` of features, without what a backward pass would need.
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
        self.decoder.forward(&mut Forward { b, params, norm }, features)
    }

    /// The same in training mode, which moves `stats`, with what the backward pass needs.
    ///
    /// # Errors
    /// As [`Architecture::decoder`].
    pub fn decoder_train<B: Backend>(
        &self,
        b: &B,
        params: &B::Vector,
        stats: &mut B::Vector,
        features: &B::Tensor,
    ) -> Result<(B::Tensor, DecoderSaved<B>)> {
        match &self.decoder {
            AnyDecoder::DeepLab(decoder) => {
                let (y, saved) = decoder.forward(&mut TrainPass { b, params, stats }, features.clone())?;
                Ok((y, DecoderSaved(SavedDecoder::DeepLab(decoder.clone(), saved))))
            }
        }
    }

    /// The same with frozen batch norm, with what tangent and pullback need.
    ///
    /// # Errors
    /// As [`Architecture::decoder`].
    pub fn decoder_masks<B: Backend>(
        &self,
        b: &B,
        net: &Network<B>,
        features: &B::Tensor,
    ) -> Result<(B::Tensor, DecoderMasks<B>)> {
        self.decoder.masks(b, net, features)
    }

    /// Logits of images `x` in evaluation mode.
    ///
    /// # Errors
    /// [`Error::Shape`] where x has not three channels.
    pub fn predict<B: Backend>(&self, b: &B, net: &Network<B>, x: &B::Tensor) -> Result<B::Tensor> {
        let features = self.encoder(b, &net.params, Norm::Frozen(&net.stats), x)?;
        self.decoder(b, &net.params, Norm::Frozen(&net.stats), &features)
    }
}
