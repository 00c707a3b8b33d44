//! What an architecture consists of: an encoder from images to features and a decoder from features to
//! logits. Both are lists of layers with their places in a network's flat vectors, without values.

use super::graph::Graph;
use super::layers::{Backward, Cost, Output, Pass};
use super::network::Network;
use super::stacking::Stacking;
use crate::Result;
use crate::ops::{Backend, Shape};

/// Images `[n, h, w, 3]` to features.
pub(super) trait Encoder {
    /// What a training pass keeps for its backward pass.
    type Saved<B: Backend>;

    /// Images that a training batch needs at least: 2 where a batch norm sees one value per image.
    const MIN_TRAIN_BATCH: usize;

    /// Adds the cost of a pass over images `x`; returns the features' shape.
    fn cost(&self, x: Shape, cost: &mut Cost) -> Shape;

    /// Writes the operations of evaluation mode on `images` into `g`; returns the features.
    fn graph<G: Graph>(&self, g: &mut G, images: &G::Value) -> G::Value;

    fn forward<B: Backend, P: Pass<B>>(&self, pass: &mut P, x: B::Tensor) -> Output<B, P, Self::Saved<B>>;

    /// Adds the parameters' gradients; the images' is not computed.
    fn backward<B: Backend>(
        &self,
        pass: &mut Backward<'_, B>,
        saved: Self::Saved<B>,
        dfeatures: &B::Tensor,
    ) -> Result<()>;
}

/// Features to logits. T-VAT iterates it with frozen batch norm: tangents forward and cotangents back at the
/// pass of its masks.
pub(super) trait Decoder: Sized {
    /// What a training pass keeps for its backward pass.
    type Saved<B: Backend>;
    /// What a pass with frozen batch norm keeps for tangent and pullback.
    type Masks<B: Backend>;

    /// Adds the cost of a pass over features `x`; returns the logits' shape.
    fn cost(&self, x: Shape, cost: &mut Cost) -> Shape;

    /// Writes the operations of evaluation mode on features `x` into `g`; returns the logits.
    fn graph<G: Graph>(&self, g: &mut G, x: &G::Value) -> G::Value;

    fn forward<B: Backend, P: Pass<B>>(&self, pass: &mut P, x: B::Tensor) -> Output<B, P, Self::Saved<B>>;

    /// Adds the parameters' gradients; returns the features'.
    fn backward<B: Backend>(
        &self,
        pass: &mut Backward<'_, B>,
        saved: Self::Saved<B>,
        dlogits: &B::Tensor,
    ) -> Result<B::Tensor>;

    /// Logits with frozen batch norm.
    fn masks<B: Backend>(&self, b: &B, net: &Network<B>, x: B::Tensor)
    -> Result<(B::Tensor, Self::Masks<B>)>;

    /// J t: the Jacobian at the pass of `masks`, applied to a tangent of the features.
    fn tangent<B: Backend>(
        &self,
        b: &B,
        net: &Network<B>,
        masks: &Self::Masks<B>,
        t: &B::Tensor,
    ) -> Result<B::Tensor>;

    /// Jᵀ dlogits at the pass of `masks`; no parameter gradients.
    fn pullback<B: Backend>(
        &self,
        b: &B,
        net: &Network<B>,
        masks: &Self::Masks<B>,
        dlogits: &B::Tensor,
    ) -> Result<B::Tensor>;

    /// Several of these decoders over the same features as one, whose parts `stacking` places.
    fn stack(&self, stacking: &mut Stacking) -> Self;
}
