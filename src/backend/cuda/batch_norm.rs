//! Launch plans of kernels/batch_norm.cu.

use super::channels::{Rows, THREADS};
use super::driver::{Args, DevicePtr, Launch};
use super::memory::{Buffer, Moments, Sums, Tensor, Vector, args};
use super::{Cuda, memory};
use crate::ops::{
    Activation, BatchNorm, BatchNormEval, BatchNormEvalBwd, BatchNormOps, BatchNormSaved, BatchNormTangent,
    BatchNormTrain, BatchNormTrainBwd, FrozenNorm, NormPass, Shape,
};
use std::sync::Arc;

impl BatchNormOps for Cuda {
    fn batch_norm_train(&self, op: BatchNormTrain<'_, Cuda>) -> (Tensor, BatchNormSaved<Cuda>) {
        let BatchNormTrain { x, params, stats, bn, act, residual, moments: moments_of_x } = op;
        let moments = self.vector(2 * bn.channels);
        let parts = moments_of_x.cloned().unwrap_or_else(|| moments_of_parts(self, x));
        let running = [bn.running_mean, bn.running_var].map(|span| stats.at(span.offset));
        let (positions, c) = (x.shape.positions() as u32, x.shape.c as u32);
        let (len, (launch, lanes)) = (parts.len as u32, combine(parts.parts, c));
        let args = args![
            moments,
            running[0],
            running[1],
            parts.buffer,
            len,
            lanes,
            positions,
            c,
            bn.momentum,
            bn.eps
        ];
        self.launch(FILE, "batch_norm_moments", launch, args);
        let y = normalise(self, x, Norm::batch(&moments, params, bn), act, residual);
        (y, BatchNormSaved { moments })
    }

    fn batch_norm_eval(&self, op: &BatchNormEval<'_, Cuda>) -> Tensor {
        let FrozenNorm { stats, bn, act } = op.norm;
        normalise(self, op.x, Norm::frozen(stats, op.params, bn), act, op.residual)
    }

    fn batch_norm_train_bwd(&self, op: BatchNormTrainBwd<'_, Cuda>) -> (Tensor, Option<Tensor>) {
        let BatchNormTrainBwd { dy, norm: NormPass { x, y, saved, bn, act, residual }, params, grads, sums } =
            op;
        let dx = self.tensor_of(x.dtype, x.shape);
        let dres = residual.then(|| self.tensor_of(x.dtype, x.shape));
        let norm = Norm::batch(&saved.moments, params, bn);
        let pass = Pass::new(x);
        if !wants_sums(x.shape) {
            let (dweight, dbias) = (grads.at(bn.weight.offset), grads.at(bn.bias.offset));
            let (slope, weight) = (slope(act), norm.weight);
            let args =
                args![dx, dres, dweight, dbias, dy, x, y, weight, slope, bn.eps, pass.positions, pass.c];
            let blocks = bn.channels.div_ceil(THREADS as usize);
            self.launch_typed(FILE, "batch_norm_bwd_few", x.dtype, Launch::new(blocks, THREADS), args);
            return (dx, dres);
        }
        let coeffs = self.buffer(4 * 2 * bn.channels);
        // Without a residual the sign of the activation follows from the input, and the output is not read.
        let y = residual.then_some(y);
        let sums = sums.cloned().unwrap_or_else(|| sums_of_parts(self, (dy, x, y), norm, act, None));
        gradients(self, &sums, x.shape, norm, grads, bn, Some(&coeffs));
        let args =
            args![dx, dres, dy, x, y, coeffs, norm, slope(act), pass.rows.lanes, pass.positions, pass.c];
        self.launch_typed(FILE, "batch_norm_bwd", x.dtype, pass.launch(), args);
        (dx, dres)
    }

    /// In one pass, as the sign of the activation follows from the input.
    fn batch_norm_eval_bwd(&self, op: BatchNormEvalBwd<'_, Cuda>) -> Tensor {
        let BatchNormEvalBwd { dy, x, params, grads, norm: FrozenNorm { stats, bn, act }, .. } = op;
        let dx = self.tensor_of(x.dtype, x.shape);
        let norm = Norm::frozen(stats, params, bn);
        let sums = sums_of_parts(self, (dy, x, None), norm, act, Some(&dx));
        gradients(self, &sums, x.shape, norm, grads, bn, None);
        dx
    }

    fn batch_norm_tangent(&self, op: &BatchNormTangent<'_, Cuda>) -> Tensor {
        let BatchNormTangent { t, y, params, norm: FrozenNorm { stats, bn, act } } = *op;
        let out = self.tensor_of(t.dtype, t.shape);
        let pass = Pass::new(t);
        let norm = Norm::frozen(stats, params, bn);
        let args = args![out, t, y, norm, slope(act), pass.rows.lanes, pass.positions, pass.c];
        self.launch_typed(FILE, "batch_norm_tangent", t.dtype, pass.launch(), args);
        out
    }
}

const FILE: &str = "batch_norm";

/// Channels per block of the kernels that combine parts; fewer where there are many parts, so that more
/// threads share them.
const COMBINE_LANES: usize = 8;
const MANY_PARTS: usize = 512;
const FEW_LANES: usize = 2;
/// Up to this many values per channel the backward pass is computed in double from the input: with two, its
/// result is the difference of terms 1e5 times larger.
const FEW: usize = 32;

/// A layer's parameters and statistics, `Norm` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Norm {
    weight: DevicePtr,
    bias: DevicePtr,
    mean: DevicePtr,
    var_or_inv: DevicePtr,
    eps: f32,
    frozen: u32,
}

impl Norm {
    /// With the moments of a batch, `[2, c]`: means, then 1 / sqrt(var + eps).
    pub(super) fn batch(moments: &Vector, params: &Vector, bn: &BatchNorm) -> Norm {
        Norm {
            weight: params.at(bn.weight.offset),
            bias: params.at(bn.bias.offset),
            mean: moments.at(0),
            var_or_inv: moments.at(bn.channels),
            eps: bn.eps as f32,
            frozen: 0,
        }
    }

    /// With the running statistics.
    pub(super) fn frozen(stats: &Vector, params: &Vector, bn: &BatchNorm) -> Norm {
        Norm {
            weight: params.at(bn.weight.offset),
            bias: params.at(bn.bias.offset),
            mean: stats.at(bn.running_mean.offset),
            var_or_inv: stats.at(bn.running_var.offset),
            eps: bn.eps as f32,
            frozen: 1,
        }
    }
}

impl memory::Arg for Norm {
    fn push_to(&self, args: &mut Args) {
        args.push(*self);
    }
}

/// Geometry of a pass over an activation: blocks for each slab of channels and part of the positions.
struct Pass {
    rows: Rows,
    parts: usize,
    positions: u32,
    c: u32,
}

impl Pass {
    fn new(x: &Tensor) -> Pass {
        let rows = Rows::new(x.dtype, x.shape.c);
        let positions = x.shape.positions();
        Pass { rows, parts: rows.parts(positions, 1), positions: positions as u32, c: x.shape.c as u32 }
    }

    fn launch(&self) -> Launch {
        Launch::grid3([self.rows.slabs, self.parts, 1], THREADS)
    }
}

/// Launch of a kernel that combines `parts` parts of `c` channels, and its channels per block.
fn combine(parts: usize, c: u32) -> (Launch, u32) {
    let lanes = if parts > MANY_PARTS { FEW_LANES } else { COMBINE_LANES };
    (Launch::new((c as usize).div_ceil(lanes), THREADS), lanes as u32)
}

/// Slope below zero of an activation; 1 for the identity.
pub(super) fn slope(act: Activation) -> f32 {
    match act {
        Activation::Identity => 1.0,
        Activation::LeakyRelu(slope) => slope as f32,
    }
}

/// act of the normalised `x`, in one pass.
fn normalise(d: &Cuda, x: &Tensor, norm: Norm, act: Activation, residual: Option<&Tensor>) -> Tensor {
    let y = d.tensor_of(x.dtype, x.shape);
    let pass = Pass::new(x);
    let args = args![y, x, residual, norm, slope(act), pass.rows.lanes, pass.positions, pass.c];
    d.launch_typed(FILE, "batch_norm_fwd", x.dtype, pass.launch(), args);
    y
}

/// Moments of parts of `x`.
fn moments_of_parts(d: &Cuda, x: &Tensor) -> Moments {
    let pass = Pass::new(x);
    let buffer = Arc::new(d.buffer(8 * pass.parts * 2 * x.shape.c));
    let args = args![buffer, x, pass.rows.lanes, pass.positions, pass.c];
    d.launch_typed(FILE, "batch_norm_moments_parts", x.dtype, pass.launch(), args);
    Moments { buffer, len: x.shape.positions().div_ceil(pass.parts), parts: pass.parts }
}

/// Sums of parts of dy and x. Writes dx of frozen statistics where `dx` is given.
fn sums_of_parts(
    d: &Cuda,
    (dy, x, y): (&Tensor, &Tensor, Option<&Tensor>),
    norm: Norm,
    act: Activation,
    dx: Option<&Tensor>,
) -> Sums {
    let pass = Pass::new(x);
    let buffer = Arc::new(d.buffer(4 * pass.parts * 2 * x.shape.c));
    let args = args![buffer, dx, dy, x, y, norm, slope(act), pass.rows.lanes, pass.positions, pass.c];
    d.launch_typed(FILE, "batch_norm_sums", x.dtype, pass.launch(), args);
    Sums { buffer, parts: pass.parts }
}

/// Adds the gradients of weight and bias to `grads`; writes the coefficients of the data gradient with a
/// batch's statistics to `coeffs`.
fn gradients(
    d: &Cuda,
    sums: &Sums,
    x: Shape,
    norm: Norm,
    grads: &mut Vector,
    bn: &BatchNorm,
    coeffs: Option<&Buffer>,
) {
    let (dweight, dbias) = (grads.at(bn.weight.offset), grads.at(bn.bias.offset));
    let (positions, c) = (x.positions() as u32, x.c as u32);
    let (launch, lanes) = combine(sums.parts, c);
    let args = args![dweight, dbias, coeffs, sums.buffer, norm, sums.parts as u32, lanes, positions, c];
    d.launch(FILE, "batch_norm_gradients", launch, args);
}

/// Whether the backward pass over an activation of shape `x` takes sums, and not the kernel for few
/// positions.
pub(super) fn wants_sums(x: Shape) -> bool {
    x.positions() > FEW
}
