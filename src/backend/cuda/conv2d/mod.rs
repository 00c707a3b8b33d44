//! 2-D convolution: launches of kernels/conv2d.cu (forward and data gradient) and kernels/conv2d_wgrad.cu
//! (gradients of weight and bias), of kernels/conv2d_wgmma.cu, which has all three by TMA and WGMMA, and of
//! kernels/conv2d_stem.cu for three input channels. `gemm` and `stem` make the plans of `plan` from the tiles
//! of `tile`; `tma` has the tensor maps, `epilogue` what is fused to finished tiles, `weight` the bf16
//! weights. Must not know networks.

mod epilogue;
mod gemm;
mod plan;
mod stem;
#[cfg(test)]
mod tests;
mod tile;
mod tma;
mod weight;

use super::driver::{Args, DevicePtr};
use super::memory::{Buffer, Dtype, Moments, Sums, Tensor, Vector, args};
use super::tensor_map::{TensorMap, TensorMapSpec};
use super::{Cuda, batch_norm};
use crate::Result;
use crate::ops::{
    BatchNormEval, BatchNormOps, BatchNormTangent, Conv2d, Conv2dOps, Dgrad, DgradOut, ElementwiseOps, Fprop,
    FpropOut, Onto, OutputEnd, Shape, Span,
};
use epilogue::{DgradEpilogue, FpropEpilogue};
pub use plan::Direction;
use plan::Plan;
use std::sync::Arc;
pub(super) use tile::ForcedTile;
use tile::Kernels;
pub use tile::{Tile, TileUses};

impl Conv2dOps for Cuda {
    fn conv2d_fprop(&self, op: &Fprop<'_, Cuda>) -> FpropOut<Cuda> {
        let &Fprop { x, params, conv, .. } = op;
        let y = self.tensor_of(x.dtype, conv.out_shape(x.shape));
        let Some(plan) = self.plan(gemm::plan(Direction::Fprop, conv, x.shape, self.kernels(x.dtype))) else {
            return FpropOut { y, moments: None };
        };
        let weight = weight::Weight::new(self, params, conv, x.dtype);
        let bias = conv.bias.map(|bias| offset(params.buffer.ptr(), 4 * bias.offset));
        let part = plan.moments_part(y.shape).filter(|_| matches!(op.end, OutputEnd::Moments));
        let moments = part.map(|len| {
            let parts = y.shape.positions().div_ceil(len);
            Moments { buffer: Arc::new(self.buffer(8 * parts * 2 * y.shape.c)), len, parts }
        });
        let fused = plan.fuses_norm(conv, x.dtype);
        let end = match &moments {
            Some(moments) => FpropEpilogue::moments(moments),
            None if fused => FpropEpilogue::new(&op.end, params),
            None => FpropEpilogue::default(),
        };
        if plan.tile == Tile::Stem {
            let to = moments.as_ref().map(|m| m.buffer.ptr());
            launch(self, "fprop", conv, x.dtype, &plan, args![y, x, weight.ptr, bias, to, plan.sizes]);
        } else if !plan.tile.is_wgmma() {
            launch(self, "fprop", conv, x.dtype, &plan, args![y, x, weight.ptr, bias, end, plan.sizes]);
        } else if let Some([a, b]) = self.tensor_maps(tma::fprop(place(x), weight.ptr, conv, plan.tile)) {
            launch(self, "fprop", conv, x.dtype, &plan, args![y, a, b, bias, end, plan.sizes]);
        }
        let y = match op.end {
            OutputEnd::Norm(norm, residual) if !fused => {
                self.batch_norm_eval(&BatchNormEval { x: &y, params, norm, residual })
            }
            OutputEnd::Tangent(norm, clean) if !fused => {
                self.batch_norm_tangent(&BatchNormTangent { t: &y, y: clean, params, norm })
            }
            _ => y,
        };
        FpropOut { y, moments }
    }

    fn conv2d_dgrad(&self, op: &Dgrad<'_, Cuda>) -> DgradOut<Cuda> {
        let (&Dgrad { dy, params, conv, .. }, x_shape) = (op, op.x_shape());
        let dx = self.tensor_of(dy.dtype, x_shape);
        let Some(plan) = self.plan(gemm::plan(Direction::Dgrad, conv, x_shape, self.kernels(dy.dtype)))
        else {
            return DgradOut { dx, sums: None };
        };
        let weight = weight::Weight::new(self, params, conv, dy.dtype);
        // Rows that are not whole chunks get their epilogue as ops of their own.
        let fused = plan.fuses_dgrad_epilogue();
        let gathers = fused && matches!(op.onto, Onto::Norm(..)) && batch_norm::wants_sums(x_shape);
        let sums = gathers.then(|| {
            let parts = plan.dgrad_parts();
            Sums { buffer: Arc::new(self.buffer(4 * parts * 2 * x_shape.c)), parts }
        });
        let end = match fused {
            true => DgradEpilogue::new(&op.onto, sums.as_ref(), params),
            false => DgradEpilogue::default(),
        };
        if !plan.tile.is_wgmma() {
            launch(self, "dgrad", conv, dy.dtype, &plan, args![dx, dy, weight.ptr, end, plan.sizes]);
        } else if let Some([a, b]) = self.tensor_maps(tma::dgrad(place(dy), weight.ptr, conv, plan.tile)) {
            launch(self, "dgrad", conv, dy.dtype, &plan, args![dx, a, b, end, plan.sizes]);
        }
        let dx = match op.onto {
            Onto::Add(to) | Onto::Norm(_, Some(to)) if !fused => self.add(&dx, to, 1.0),
            Onto::Frozen(norm, y) if !fused => {
                self.batch_norm_tangent(&BatchNormTangent { t: &dx, y, params, norm })
            }
            _ => dx,
        };
        DgradOut { dx, sums }
    }

    fn conv2d_wgrad(&self, x: &Tensor, dy: &Tensor, grads: &mut Vector, conv: &Conv2d) {
        wgrad(self, x, dy, grads, conv)
    }
}

const FILE: &str = "conv2d";
const WGRAD_FILE: &str = "conv2d_wgrad";
const WGMMA_FILE: &str = "conv2d_wgmma";
const STEM_FILE: &str = "conv2d_stem";

impl Cuda {
    /// The launch, or none after noting the error.
    fn plan<P>(&self, plan: Result<P>) -> Option<P> {
        self.note(plan.map(Some))
    }

    /// Whether the device has kernels of this tile for its type of activations.
    pub fn has_tile(&self, tile: Tile) -> bool {
        self.kernels(self.dtype).has(tile)
    }

    /// The launches of `conv` over inputs of shape `x` in words: forward, data gradient, weight gradient.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for sizes that the kernels do not take.
    pub fn conv2d_plans(&self, conv: &Conv2d, x: Shape) -> Result<[String; 3]> {
        let kernels = self.kernels(self.dtype);
        let describe = |direction| Ok(gemm::plan(direction, conv, x, kernels)?.describe(self.dtype));
        Ok([describe(Direction::Fprop)?, describe(Direction::Dgrad)?, describe(Direction::Wgrad)?])
    }

    /// The convolution kernels for activations of `dtype` that run here.
    fn kernels(&self, dtype: Dtype) -> Kernels {
        let only = self.tile.as_ref().map(|forced| forced.tile);
        Kernels { dtype, wgmma: self.driver.has_wgmma(), only }
    }

    /// The tensor maps, or none after noting the error.
    fn tensor_maps(&self, specs: [TensorMapSpec; 2]) -> Option<[TensorMap; 2]> {
        let [a, b] = specs.map(|spec| self.driver.tensor_map(&spec));
        self.note(a.and_then(|a| Ok(Some([a, b?]))))
    }
}

/// The tiles that a convolution of `dtype` over inputs of shape `x` can run in, on cards with or without
/// WGMMA, and the nanoseconds that the model expects of each on an H200: the fastest is taken.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that the kernels do not take.
pub fn modelled_tiles(
    direction: Direction,
    conv: &Conv2d,
    x: Shape,
    dtype: Dtype,
    wgmma: bool,
) -> Result<Vec<(Tile, f64)>> {
    Ok(gemm::Gemm::new(direction, conv, x, dtype)?.times(wgmma))
}

/// Adds dweight and, where there is a bias, dbias to `grads`.
fn wgrad(d: &Cuda, x: &Tensor, dy: &Tensor, grads: &mut Vector, conv: &Conv2d) {
    if let Some(plan) = d.plan(gemm::plan(Direction::Wgrad, conv, x.shape, d.kernels(x.dtype))) {
        let partial = d.buffer(plan.workspace_bytes);
        if !plan.tile.is_wgmma() {
            launch(d, "wgrad", conv, x.dtype, &plan, args![partial, x, dy, plan.sizes]);
        } else if let Some([a, b]) = d.tensor_maps(tma::wgrad(place(x), place(dy), conv)) {
            launch(d, "wgrad", conv, x.dtype, &plan, args![partial, a, b, plan.sizes]);
        }
        add_splits(d, grads, conv.weight, &partial, plan.splits);
    }
    if let Some(bias) = conv.bias {
        let plan = plan::dbias(dy.shape);
        let partial = d.buffer(plan.workspace_bytes);
        let (positions, channels) = (dy.shape.positions() as u32, dy.shape.c as u32);
        let args = args![partial, dy, positions, channels, plan.split_len];
        d.launch_typed(WGRAD_FILE, "conv2d_dbias", dy.dtype, plan.launch, args);
        add_splits(d, grads, bias, &partial, plan.splits);
    }
}

/// grads[span] += the sum of `splits` arrays of the span's length.
fn add_splits(d: &Cuda, grads: &mut Vector, span: Span, partial: &Buffer, splits: usize) {
    let plan = plan::add_splits(span.len, splits);
    let to = offset(grads.buffer.ptr(), 4 * span.offset);
    let args = args![to, partial, splits as u32, plan.lanes, span.len as u64];
    d.launch(WGRAD_FILE, "conv2d_add_splits_f32", plan.launch, args);
}

/// Launches the kernel of a direction and the plan's tile.
fn launch(d: &Cuda, direction: &str, conv: &Conv2d, dtype: Dtype, plan: &Plan, args: Args) {
    if let Some(forced) = &d.tile {
        forced.count(plan.tile);
    }
    let (file, name) = match plan.tile {
        Tile::Stem => (STEM_FILE, format!("conv2d_stem_{direction}{}", conv.kernel)),
        tile => {
            let own = if direction == "wgrad" { WGRAD_FILE } else { FILE };
            (if tile.is_wgmma() { WGMMA_FILE } else { own }, format!("conv2d_{direction}_{}", tile.name()))
        }
    };
    d.launch_typed(file, &name, dtype, plan.launch, args);
}

/// Address and shape of a tensor.
fn place(x: &Tensor) -> (DevicePtr, Shape) {
    (x.buffer.ptr(), x.shape)
}

/// The address `bytes` after `ptr`.
fn offset(ptr: DevicePtr, bytes: usize) -> DevicePtr {
    DevicePtr(ptr.0 + bytes as u64)
}
