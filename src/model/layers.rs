//! The layer that networks are made of: convolution, batch norm, residual and activation, with forward, backward,
//! tangent and pullback. Knows ops, not how layers are connected.

use super::deeplab::Network;
use super::table::{Builder, NormArgs};
use crate::Result;
use crate::ops::{self, Activation, Backend, BatchNorm, BatchNormSaved, Conv2d, Shape};

/// Which statistics the batch norms of a pass use.
pub enum Norm<'a, B: Backend> {
    /// The batch's own; the running statistics here are moved towards them.
    Train(&'a mut B::Vector),
    /// The running statistics, which stay as they are.
    Frozen(&'a B::Vector),
}

/// What a pass over a network costs, summed while walking its layers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    /// Floating-point operations of the convolutions of a forward pass.
    pub flops: u64,
    /// Values that training keeps for the backward pass.
    pub saved: u64,
}

impl Cost {
    /// Counts a convolution over `x` and returns its output's shape.
    pub fn conv(&mut self, conv: &Conv2d, x: Shape) -> Shape {
        self.flops += conv.flops(x);
        conv.out_shape(x)
    }

    /// Counts `copies` kept tensors of shape `x`.
    pub fn keep(&mut self, copies: usize, x: Shape) {
        self.saved += (copies * x.len()) as u64;
    }
}

/// y = act(batch_norm(conv(x)) + residual).
#[derive(Clone, Debug)]
pub(super) struct ConvBn {
    pub conv: Conv2d,
    pub bn: BatchNorm,
    pub act: Activation,
}

/// What a convolution with batch norm keeps of a training pass.
pub struct ConvBnSaved<B: Backend> {
    /// Input of the convolution.
    x: B::Tensor,
    /// Output of the convolution.
    z: B::Tensor,
    /// Output of the layer, for the activation's mask; none where the activation is the identity.
    y: Option<B::Tensor>,
    /// Moments of z.
    moments: BatchNormSaved<B>,
}

impl ConvBn {
    /// Convolution `conv_name` followed by batch norm `bn_name`.
    pub fn new(
        build: &mut Builder,
        (conv_name, bn_name): (String, String),
        channels: (usize, usize),
        (kernel, stride, dilation): (usize, usize, usize),
        norm: NormArgs,
        act: Activation,
    ) -> ConvBn {
        let conv = build.conv(&conv_name, channels, kernel, stride, dilation);
        ConvBn { conv, bn: build.batch_norm(&bn_name, channels.1, norm), act }
    }

    /// Adds the layer's cost for input shape `x`; returns its output's shape.
    pub fn cost(&self, x: Shape, cost: &mut Cost) -> Shape {
        let y = cost.conv(&self.conv, x);
        cost.keep(if self.act == Activation::Identity { 1 } else { 2 }, y);
        y
    }

    /// Forward. Something is saved only if `save` is set and the batch norm is in training mode.
    pub fn forward<B: Backend>(
        &self,
        b: &B,
        params: &B::Vector,
        norm: &mut Norm<'_, B>,
        x: B::Tensor,
        residual: Option<B::Tensor>,
        save: bool,
    ) -> Result<(B::Tensor, Option<ConvBnSaved<B>>)> {
        let z = ops::conv2d_fprop(b, &x, params, &self.conv)?;
        let x = save.then_some(x);
        match norm {
            Norm::Train(stats) => {
                let (y, moments) =
                    ops::batch_norm_train(b, &z, params, stats, &self.bn, self.act, residual.as_ref())?;
                let mask = (self.act != Activation::Identity).then(|| y.clone());
                Ok((y, x.map(|x| ConvBnSaved { x, z, y: mask, moments })))
            }
            Norm::Frozen(stats) => {
                let y = ops::batch_norm_eval(b, &z, params, stats, &self.bn, self.act, residual.as_ref())?;
                Ok((y, None))
            }
        }
    }

    /// Backward. Returns dx and, where there was a residual, its gradient; adds the parameters' to `grads`.
    pub fn backward<B: Backend>(
        &self,
        b: &B,
        params: &B::Vector,
        grads: &mut B::Vector,
        saved: ConvBnSaved<B>,
        dy: B::Tensor,
        residual: bool,
    ) -> Result<(B::Tensor, Option<B::Tensor>)> {
        let (x_shape, dz, dresidual) = self.backward_to_conv(b, params, grads, saved, dy, residual)?;
        Ok((ops::conv2d_dgrad(b, &dz, params, &self.conv, x_shape)?, dresidual))
    }

    /// Backward without the input's gradient, for the first layer; without residual.
    pub fn backward_params<B: Backend>(
        &self,
        b: &B,
        params: &B::Vector,
        grads: &mut B::Vector,
        saved: ConvBnSaved<B>,
        dy: B::Tensor,
    ) -> Result<()> {
        self.backward_to_conv(b, params, grads, saved, dy, false).map(|_| ())
    }

    /// All but the convolution's data gradient: (shape of x, dz, dresidual). Frees everything saved.
    fn backward_to_conv<B: Backend>(
        &self,
        b: &B,
        params: &B::Vector,
        grads: &mut B::Vector,
        saved: ConvBnSaved<B>,
        dy: B::Tensor,
        residual: bool,
    ) -> Result<(Shape, B::Tensor, Option<B::Tensor>)> {
        let ConvBnSaved { x, z, y, moments } = saved;
        let mask = y.as_ref().unwrap_or(&z); // not read without an activation
        let (dz, dresidual) = ops::batch_norm_train_bwd(
            b, &dy, &z, mask, &moments, params, grads, &self.bn, self.act, residual,
        )?;
        drop((dy, y, z));
        ops::conv2d_wgrad(b, &x, &dz, grads, &self.conv)?;
        Ok((B::shape(&x), dz, dresidual))
    }

    /// Jacobian times `t` with frozen batch norm, without residual; `y` is the clean pass's output.
    pub fn tangent<B: Backend>(
        &self,
        b: &B,
        net: &Network<B>,
        y: &B::Tensor,
        t: &B::Tensor,
    ) -> Result<B::Tensor> {
        let t = ops::conv2d_fprop(b, t, &net.params, &self.conv)?;
        ops::batch_norm_tangent(b, &t, y, &net.params, &net.stats, &self.bn, self.act)
    }

    /// Transposed Jacobian times `dy` with frozen batch norm, without residual; `y` is the clean pass's output.
    pub fn pullback<B: Backend>(
        &self,
        b: &B,
        net: &Network<B>,
        y: &B::Tensor,
        dy: &B::Tensor,
        x_shape: Shape,
    ) -> Result<B::Tensor> {
        let dz = ops::batch_norm_tangent(b, dy, y, &net.params, &net.stats, &self.bn, self.act)?;
        ops::conv2d_dgrad(b, &dz, &net.params, &self.conv, x_shape)
    }
}
