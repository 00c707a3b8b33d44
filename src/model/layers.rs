//! The layer that networks are made of: convolution, batch norm, residual and activation, with forward,
//! backward, tangent and pullback, and the passes that layers run in. Must not know how layers are connected.

use super::graph::Graph;
use super::network::Network;
use super::table::{Builder, NormArgs};
use crate::Result;
use crate::ops::{
    self, Activation, Backend, BatchNorm, BatchNormSaved, Conv2d, Device, Dgrad, DgradOut, Fprop, FpropOut,
    FrozenNorm, NormPass, OutputEnd, Shape,
};

/// Which statistics the batch norms of a pass use.
pub enum Norm<'a, B: Backend> {
    /// The batch's own; the running statistics here are moved towards them.
    Train(&'a mut B::Vector),
    /// The running statistics, which stay as they are.
    Frozen(&'a B::Vector),
}

/// A layer's output and what the pass keeps of it for the backward pass.
pub(super) type Output<B, P, Saved, Y = <B as Device>::Tensor> = Result<(Y, <P as Pass<B>>::Kept<Saved>)>;

/// A forward pass over a network's layers. What the backward pass needs of a layer is `Kept`: there in
/// training, nothing otherwise.
pub(super) trait Pass<B: Backend> {
    /// A value that the backward pass needs.
    type Kept<T>;

    fn b(&self) -> &B;
    fn params(&self) -> &B::Vector;

    /// y = act(batch_norm(x) + residual).
    fn batch_norm(
        &mut self,
        norm: (&BatchNorm, Activation),
        x: B::Tensor,
        residual: Option<&B::Tensor>,
    ) -> Output<B, Self, BnSaved<B>>;

    /// y = act(batch_norm(conv(x)) + residual); the batch norm takes the moments that the convolution
    /// gathered.
    fn conv_batch_norm(
        &mut self,
        layer: &ConvBn,
        x: B::Tensor,
        residual: Option<&B::Tensor>,
    ) -> Output<B, Self, ConvBnSaved<B>>;

    fn conv(&self, conv: &Conv2d, x: &B::Tensor) -> Result<B::Tensor> {
        Ok(ops::conv2d_fprop(self.b(), &Fprop::new(x, self.params(), conv))?.y)
    }

    /// Keeps the value of `value`, or drops it.
    fn keep<T>(value: impl FnOnce() -> T) -> Self::Kept<T>;
    fn zip<S, T>(first: Self::Kept<S>, second: Self::Kept<T>) -> Self::Kept<(S, T)>;
    fn map<S, T>(kept: Self::Kept<S>, f: impl FnOnce(S) -> T) -> Self::Kept<T>;
    fn all<T>(kept: Vec<Self::Kept<T>>) -> Self::Kept<Vec<T>>;
}

/// A pass in training mode for a backward pass: batch norms use the batch's statistics and move the running
/// ones towards them.
pub(super) struct TrainPass<'a, B: Backend> {
    pub b: &'a B,
    pub params: &'a B::Vector,
    pub stats: &'a mut B::Vector,
}

impl<B: Backend> TrainPass<'_, B> {
    fn train(
        &mut self,
        (bn, act): (&BatchNorm, Activation),
        (x, moments): (B::Tensor, Option<B::Moments>),
        residual: Option<&B::Tensor>,
    ) -> Result<(B::Tensor, BnSaved<B>)> {
        let (y, saved) = train(self.b, self.params, self.stats, (bn, act), (&x, moments), residual)?;
        let mask = if act == Activation::Identity { x.clone() } else { y.clone() };
        Ok((y, BnSaved { x, y: mask, moments: saved }))
    }
}

impl<B: Backend> Pass<B> for TrainPass<'_, B> {
    type Kept<T> = T;

    fn b(&self) -> &B {
        self.b
    }

    fn params(&self) -> &B::Vector {
        self.params
    }

    fn batch_norm(
        &mut self,
        norm: (&BatchNorm, Activation),
        x: B::Tensor,
        residual: Option<&B::Tensor>,
    ) -> Result<(B::Tensor, BnSaved<B>)> {
        self.train(norm, (x, None), residual)
    }

    fn conv_batch_norm(
        &mut self,
        layer: &ConvBn,
        x: B::Tensor,
        residual: Option<&B::Tensor>,
    ) -> Result<(B::Tensor, ConvBnSaved<B>)> {
        let fprop = Fprop::new(&x, self.params, &layer.conv).with(OutputEnd::Moments);
        let FpropOut { y: z, moments } = ops::conv2d_fprop(self.b, &fprop)?;
        let (y, bn) = self.train((&layer.bn, layer.act), (z, moments), residual)?;
        Ok((y, ConvBnSaved { x, bn }))
    }

    fn keep<T>(value: impl FnOnce() -> T) -> T {
        value()
    }

    fn zip<S, T>(first: S, second: T) -> (S, T) {
        (first, second)
    }

    fn map<S, T>(kept: S, f: impl FnOnce(S) -> T) -> T {
        f(kept)
    }

    fn all<T>(kept: Vec<T>) -> Vec<T> {
        kept
    }
}

/// A pass without a backward pass; what later layers do not read is freed at once.
pub(super) struct Forward<'a, B: Backend> {
    pub b: &'a B,
    pub params: &'a B::Vector,
    pub norm: Norm<'a, B>,
}

impl<B: Backend> Pass<B> for Forward<'_, B> {
    type Kept<T> = ();

    fn b(&self) -> &B {
        self.b
    }

    fn params(&self) -> &B::Vector {
        self.params
    }

    fn batch_norm(
        &mut self,
        (bn, act): (&BatchNorm, Activation),
        x: B::Tensor,
        residual: Option<&B::Tensor>,
    ) -> Result<(B::Tensor, ())> {
        let (b, params) = (self.b, self.params);
        let y = match &mut self.norm {
            Norm::Train(stats) => train(b, params, stats, (bn, act), (&x, None), residual)?.0,
            Norm::Frozen(stats) => {
                let norm = FrozenNorm { stats: *stats, bn, act };
                ops::batch_norm_eval(b, &ops::BatchNormEval { x: &x, params, norm, residual })?
            }
        };
        Ok((y, ()))
    }

    fn conv_batch_norm(
        &mut self,
        layer: &ConvBn,
        x: B::Tensor,
        residual: Option<&B::Tensor>,
    ) -> Result<(B::Tensor, ())> {
        let (b, params, norm) = (self.b, self.params, (&layer.bn, layer.act));
        let fprop = Fprop::new(&x, params, &layer.conv);
        let y = match &mut self.norm {
            Norm::Train(stats) => {
                let FpropOut { y: z, moments } = ops::conv2d_fprop(b, &fprop.with(OutputEnd::Moments))?;
                // Nothing keeps the input: its memory serves the output.
                drop(x);
                train(b, params, stats, norm, (&z, moments), residual)?.0
            }
            Norm::Frozen(stats) => {
                let norm = FrozenNorm { stats: *stats, bn: norm.0, act: norm.1 };
                ops::conv2d_fprop(b, &fprop.with(OutputEnd::Norm(norm, residual)))?.y
            }
        };
        Ok((y, ()))
    }

    fn keep<T>(_: impl FnOnce() -> T) {}
    fn zip<S, T>((): (), (): ()) {}
    fn map<S, T>((): (), _: impl FnOnce(S) -> T) {}
    fn all<T>(_: Vec<()>) {}
}

/// Training-mode batch norm of x, with x's moments where a convolution gathered them.
fn train<B: Backend>(
    b: &B,
    params: &B::Vector,
    stats: &mut B::Vector,
    (bn, act): (&BatchNorm, Activation),
    (x, moments): (&B::Tensor, Option<B::Moments>),
    residual: Option<&B::Tensor>,
) -> Result<(B::Tensor, BatchNormSaved<B>)> {
    let moments = moments.as_ref();
    ops::batch_norm_train(b, ops::BatchNormTrain { x, params, stats, bn, act, residual, moments })
}

/// A backward pass over a network's layers; the parameters' gradients are added to `grads`.
pub(super) struct Backward<'a, B: Backend> {
    pub b: &'a B,
    pub params: &'a B::Vector,
    pub grads: &'a mut B::Vector,
}

/// A gradient of a layer's output, with the sums that the convolution before it gathered for this layer's
/// batch norm.
pub(super) struct Gradient<B: Backend> {
    pub dy: B::Tensor,
    sums: Option<B::Sums>,
}

impl<B: Backend> Gradient<B> {
    /// A gradient without such sums.
    pub fn plain(dy: B::Tensor) -> Gradient<B> {
        Gradient { dy, sums: None }
    }
}

/// What a convolution's data gradient is combined with before it is written.
pub(super) struct Onto<'a, B: Backend> {
    /// Another gradient of the same tensor, which is added.
    pub add: Option<&'a B::Tensor>,
    /// The batch norm whose output the tensor is, if the sum is then its whole gradient: its backward sums
    /// are gathered.
    pub norm: Option<NormPass<'a, B>>,
}

impl<'a, B: Backend> Onto<'a, B> {
    /// The gradient alone, of something else than a batch norm's output.
    pub fn nothing() -> Onto<'a, B> {
        Onto { add: None, norm: None }
    }

    /// The gradient alone, of the output of `norm`.
    pub fn norm(norm: NormPass<'a, B>) -> Onto<'a, B> {
        Onto { add: None, norm: Some(norm) }
    }
}

impl<B: Backend> Backward<'_, B> {
    /// dx of a convolution over `x`, combined with `onto`.
    pub fn conv(
        &mut self,
        conv: &Conv2d,
        x: &B::Tensor,
        dy: &B::Tensor,
        onto: Onto<'_, B>,
    ) -> Result<Gradient<B>> {
        ops::conv2d_wgrad(self.b, x, dy, self.grads, conv)?;
        let (b, params) = (self.b, self.params);
        let onto = match (onto.norm, onto.add) {
            (Some(norm), add) => ops::Onto::Norm(norm, add),
            (None, Some(to)) => ops::Onto::Add(to),
            (None, None) => ops::Onto::Input(B::shape(x)),
        };
        let DgradOut { dx: dy, sums } = ops::conv2d_dgrad(b, &Dgrad { dy, params, conv, onto })?;
        Ok(Gradient { dy, sums })
    }

    /// dx and, where there was a residual, its gradient. Frees `saved`.
    pub fn batch_norm(
        &mut self,
        bn: &BatchNorm,
        act: Activation,
        saved: BnSaved<B>,
        dy: Gradient<B>,
        residual: bool,
    ) -> Result<(B::Tensor, Option<B::Tensor>)> {
        let (Gradient { dy, sums }, norm) = (dy, saved.pass(bn, act, residual));
        ops::batch_norm_train_bwd(
            self.b,
            ops::BatchNormTrainBwd {
                dy: &dy,
                norm,
                params: self.params,
                grads: self.grads,
                sums: sums.as_ref(),
            },
        )
    }
}

/// What a batch norm keeps of a training pass.
pub struct BnSaved<B: Backend> {
    pub(super) x: B::Tensor,
    /// Its output, for the activation's mask; without an activation nothing reads it, and this is the input.
    pub(super) y: B::Tensor,
    moments: BatchNormSaved<B>,
}

impl<B: Backend> BnSaved<B> {
    /// The forward pass as the ops of its backward pass take it.
    pub(super) fn pass<'a>(&'a self, bn: &'a BatchNorm, act: Activation, residual: bool) -> NormPass<'a, B> {
        NormPass { x: &self.x, y: &self.y, saved: &self.moments, bn, act, residual }
    }
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
    bn: BnSaved<B>,
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

    /// Writes the layer's operations on `x` into `g`.
    pub fn graph<G: Graph>(&self, g: &mut G, x: &G::Value, residual: Option<&G::Value>) -> G::Value {
        let mut y = g.conv(&self.conv, x);
        y = g.batch_norm(&self.bn, &y);
        if let Some(residual) = residual {
            y = g.add(&y, residual);
        }
        g.activation(self.act, &y)
    }

    pub fn forward<B: Backend, P: Pass<B>>(
        &self,
        pass: &mut P,
        x: B::Tensor,
        residual: Option<B::Tensor>,
    ) -> Output<B, P, ConvBnSaved<B>> {
        pass.conv_batch_norm(self, x, residual.as_ref())
    }

    /// The batch norm's forward pass as the ops of its backward pass take it.
    pub fn pass<'a, B: Backend>(&'a self, saved: &'a ConvBnSaved<B>, residual: bool) -> NormPass<'a, B> {
        saved.bn.pass(&self.bn, self.act, residual)
    }

    /// dx of a layer without residual.
    pub fn backward<B: Backend>(
        &self,
        pass: &mut Backward<'_, B>,
        saved: ConvBnSaved<B>,
        dy: Gradient<B>,
        onto: Onto<'_, B>,
    ) -> Result<Gradient<B>> {
        let (dz, _) = pass.batch_norm(&self.bn, self.act, saved.bn, dy, false)?;
        pass.conv(&self.conv, &saved.x, &dz, onto)
    }

    /// dx and the residual's gradient.
    pub fn backward_residual<B: Backend>(
        &self,
        pass: &mut Backward<'_, B>,
        saved: ConvBnSaved<B>,
        dy: Gradient<B>,
        onto: Onto<'_, B>,
    ) -> Result<(Gradient<B>, Option<B::Tensor>)> {
        let (dz, dresidual) = pass.batch_norm(&self.bn, self.act, saved.bn, dy, true)?;
        Ok((pass.conv(&self.conv, &saved.x, &dz, onto)?, dresidual))
    }

    /// Backward without the input's gradient, for the first layer.
    pub fn backward_params<B: Backend>(
        &self,
        pass: &mut Backward<'_, B>,
        saved: ConvBnSaved<B>,
        dy: Gradient<B>,
    ) -> Result<()> {
        let (dz, _) = pass.batch_norm(&self.bn, self.act, saved.bn, dy, false)?;
        ops::conv2d_wgrad(pass.b, &saved.x, &dz, pass.grads, &self.conv)
    }

    /// Jacobian times `t` with frozen batch norm, without residual; `y` is the clean pass's output.
    pub fn tangent<B: Backend>(
        &self,
        b: &B,
        net: &Network<B>,
        y: &B::Tensor,
        t: &B::Tensor,
    ) -> Result<B::Tensor> {
        let fprop = Fprop::new(t, &net.params, &self.conv);
        Ok(ops::conv2d_fprop(b, &fprop.with(OutputEnd::Tangent(self.frozen(net), y)))?.y)
    }

    /// The batch norm with the running statistics of `net`.
    pub fn frozen<'a, B: Backend>(&'a self, net: &'a Network<B>) -> FrozenNorm<'a, B> {
        FrozenNorm { stats: &net.stats, bn: &self.bn, act: self.act }
    }
}
