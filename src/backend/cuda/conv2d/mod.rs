//! 2-D convolution: launches of kernels/conv2d.cu (forward and data gradient) and kernels/conv2d_wgrad.cu (gradients of
//! weight and bias), of kernels/conv2d_wgmma.cu, which has all three by products of warpgroups, and of conv2d_stem.cu for three
//! channels. Geometry is in `plan` and `stem`, what is multiplied and the choice of the tile in `product`, tiles in `tile`, tensor
//! maps in `bulk`, what is done to finished tiles in `end`, the 16-bit weights in `weight`. Knows no networks.

mod bulk;
mod end;
mod plan;
mod product;
mod stem;
mod tile;
mod weight;

use super::tensor_map::{TensorMap, TensorMapSpec};
use super::*;
pub use end::Behind;
use end::{GradientEnd, OutputEnd};
use plan::Plan;
pub use product::Direction;
use tile::Kernels;
pub use tile::{ForcedTile, Tile, TileUses};

impl Conv2dOps for Cuda {
    fn conv2d_fprop(&self, x: &Tensor, params: &Vector, conv: &Conv2d) -> Tensor {
        fprop(self, x, params, conv, &Behind::Nothing).0
    }
    fn conv2d_fprop_moments(&self, x: &Tensor, params: &Vector, conv: &Conv2d) -> (Tensor, Option<Moments>) {
        fprop(self, x, params, conv, &Behind::Moments)
    }
    fn conv2d_fprop_norm(
        &self,
        x: &Tensor,
        params: &Vector,
        conv: &Conv2d,
        norm: &FrozenNorm<'_, Cuda>,
        residual: Option<&Tensor>,
    ) -> Tensor {
        fprop(self, x, params, conv, &Behind::Norm(norm, residual)).0
    }
    fn conv2d_fprop_tangent(
        &self,
        t: &Tensor,
        y: &Tensor,
        params: &Vector,
        conv: &Conv2d,
        norm: &FrozenNorm<'_, Cuda>,
    ) -> Tensor {
        fprop(self, t, params, conv, &Behind::Tangent(norm, y)).0
    }
    fn conv2d_dgrad(&self, dy: &Tensor, params: &Vector, conv: &Conv2d, x_shape: Shape) -> Tensor {
        dgrad(self, dy, params, conv, x_shape, None, None).0
    }
    fn conv2d_dgrad_add(&self, dy: &Tensor, params: &Vector, conv: &Conv2d, to: &Tensor) -> Tensor {
        dgrad(self, dy, params, conv, to.shape, Some(to), None).0
    }
    fn conv2d_dgrad_sums(
        &self,
        dy: &Tensor,
        params: &Vector,
        conv: &Conv2d,
        add: Option<&Tensor>,
        norm: &NormPass<'_, Cuda>,
    ) -> (Tensor, Option<Sums>) {
        dgrad(self, dy, params, conv, norm.x.shape, add, Some(norm))
    }
    fn conv2d_dgrad_tangent(
        &self,
        dy: &Tensor,
        y: &Tensor,
        params: &Vector,
        conv: &Conv2d,
        norm: &FrozenNorm<'_, Cuda>,
    ) -> Tensor {
        dgrad_tangent(self, dy, y, params, conv, norm)
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
    /// The launch, or none after noting what it exceeds.
    fn plan<P>(&self, plan: Result<P>) -> Option<P> {
        self.note(plan.map(Some))
    }

    /// Whether the device has kernels of this tile for its type of activations.
    pub fn has_tile(&self, tile: Tile) -> bool {
        self.kernels(self.dtype).has(tile)
    }

    /// How `conv` over inputs of shape `x` is launched, in words: forward, data gradient, weight gradient.
    ///
    /// # Errors
    /// [`Error::Shape`] for sizes that the kernels do not take.
    pub fn conv2d_plans(&self, conv: &Conv2d, x: Shape) -> Result<[String; 3]> {
        let kernels = self.kernels(self.dtype);
        let plans =
            [plan::fprop(conv, x, kernels)?, plan::dgrad(conv, x, kernels)?, plan::wgrad(conv, x, kernels)?];
        Ok(plans.map(|plan| plan.describe(self.dtype)))
    }

    /// The convolution kernels for activations of `dtype` that run here.
    fn kernels(&self, dtype: Dtype) -> Kernels {
        let only = self.tile.as_ref().map(|forced| forced.tile);
        Kernels { dtype, warpgroups: self.driver.has_warpgroup_products(), only }
    }

    /// The tensor maps, or none after noting why not.
    fn tensor_maps(&self, specs: [TensorMapSpec; 2]) -> Option<[TensorMap; 2]> {
        let [a, b] = specs.map(|spec| self.driver.tensor_map(&spec));
        self.note(a.and_then(|a| Ok(Some([a, b?]))))
    }
}

/// The tiles that a convolution of `dtype` over inputs of shape `x` can run in, on cards with or without products of warpgroups,
/// and the nanoseconds that the model expects of each on an H200: the fastest is taken.
///
/// # Errors
/// [`Error::Shape`] for sizes that the kernels do not take.
pub fn modelled_tiles(
    direction: Direction,
    conv: &Conv2d,
    x: Shape,
    dtype: Dtype,
    warpgroups: bool,
) -> Result<Vec<(Tile, f64)>> {
    Ok(product::Product::new(direction, conv, x, dtype)?.times(warpgroups))
}

/// y = x * weight + bias, of shape [`Conv2d::out_shape`], and what is asked for `behind` it; moments where the kernel can gather
/// them.
pub fn fprop(
    d: &Cuda,
    x: &Tensor,
    params: &Vector,
    conv: &Conv2d,
    behind: &Behind<'_>,
) -> (Tensor, Option<Moments>) {
    let y = d.tensor_of(x.dtype, conv.out_shape(x.shape));
    let Some(plan) = d.plan(plan::fprop(conv, x.shape, d.kernels(x.dtype))) else { return (y, None) };
    let weight = weight::Weight::new(d, params, conv, x.dtype);
    let bias = conv.bias.map(|bias| offset(params.buffer.ptr(), 4 * bias.offset));
    let part = plan.moments_part(y.shape).filter(|_| matches!(behind, Behind::Moments));
    let moments = part.map(|len| {
        let parts = y.shape.positions().div_ceil(len);
        Moments { buffer: Arc::new(d.buffer(8 * parts * 2 * y.shape.c)), len, parts }
    });
    let within = plan.finishes_output(conv, x.dtype);
    let end = match &moments {
        Some(moments) => OutputEnd::moments(moments),
        None if within => OutputEnd::new(behind, params),
        None => OutputEnd::default(),
    };
    if plan.tile == Tile::Stem {
        let to = moments.as_ref().map(|m| m.buffer.ptr());
        launch(d, "fprop", conv, x.dtype, &plan, args![y, x, weight.ptr, bias, to, plan.sizes]);
    } else if !plan.tile.is_wgmma() {
        launch(d, "fprop", conv, x.dtype, &plan, args![y, x, weight.ptr, bias, end, plan.sizes]);
    } else if let Some([a, b]) = d.tensor_maps(bulk::fprop(place(x), weight.ptr, conv, plan.tile)) {
        launch(d, "fprop", conv, x.dtype, &plan, args![y, a, b, bias, end, plan.sizes]);
    }
    let y = match *behind {
        Behind::Norm(FrozenNorm { stats, bn, act }, residual) if !within => {
            batch_norm::eval(d, &y, params, stats, bn, *act, residual)
        }
        Behind::Tangent(FrozenNorm { stats, bn, act }, clean) if !within => {
            batch_norm::tangent(d, &y, clean, params, stats, bn, *act)
        }
        _ => y,
    };
    (y, moments)
}

/// dx of shape `x_shape` from dy, plus `add` where that is given; where it is the gradient of the output of `norm` and the kernel
/// can gather them, sums for its backward pass.
pub fn dgrad(
    d: &Cuda,
    dy: &Tensor,
    params: &Vector,
    conv: &Conv2d,
    x_shape: Shape,
    add: Option<&Tensor>,
    norm: Option<&NormPass<'_, Cuda>>,
) -> (Tensor, Option<Sums>) {
    let dx = d.tensor_of(dy.dtype, x_shape);
    let Some(plan) = d.plan(plan::dgrad(conv, x_shape, d.kernels(dy.dtype))) else { return (dx, None) };
    let weight = weight::Weight::new(d, params, conv, dy.dtype);
    // Rows that are no whole chunks are added, and summed, in passes of their own.
    let within = add.filter(|_| plan.finishes());
    let norm = norm.filter(|_| plan.finishes() && batch_norm::wants_sums(x_shape));
    let sums = norm.map(|_| {
        let parts = plan.dgrad_parts();
        Sums { buffer: Arc::new(d.buffer(4 * parts * 2 * x_shape.c)), parts }
    });
    let end = GradientEnd::new(within, sums.as_ref().zip(norm), params);
    launch_dgrad(d, &dx, dy, weight.ptr, conv, &plan, end);
    match add {
        Some(to) if within.is_none() => (elementwise::add(d, &dx, to, 1.0), None),
        _ => (dx, sums),
    }
}

/// dx as [`dgrad`], times the derivative of the batch norm `norm` with running statistics whose output `y` is the convolution's
/// input.
pub fn dgrad_tangent(
    d: &Cuda,
    dy: &Tensor,
    y: &Tensor,
    params: &Vector,
    conv: &Conv2d,
    norm: &FrozenNorm<'_, Cuda>,
) -> Tensor {
    let dx = d.tensor_of(dy.dtype, y.shape);
    let Some(plan) = d.plan(plan::dgrad(conv, y.shape, d.kernels(dy.dtype))) else { return dx };
    let weight = weight::Weight::new(d, params, conv, dy.dtype);
    if plan.finishes() {
        launch_dgrad(d, &dx, dy, weight.ptr, conv, &plan, GradientEnd::tangent(norm, y, params));
        return dx;
    }
    launch_dgrad(d, &dx, dy, weight.ptr, conv, &plan, GradientEnd::default());
    batch_norm::tangent(d, &dx, y, params, norm.stats, norm.bn, norm.act)
}

fn launch_dgrad(
    d: &Cuda,
    dx: &Tensor,
    dy: &Tensor,
    weight: DevicePtr,
    conv: &Conv2d,
    plan: &Plan,
    end: GradientEnd,
) {
    if !plan.tile.is_wgmma() {
        launch(d, "dgrad", conv, dy.dtype, plan, args![dx, dy, weight, end, plan.sizes]);
    } else if let Some([a, b]) = d.tensor_maps(bulk::dgrad(place(dy), weight, conv, plan.tile)) {
        launch(d, "dgrad", conv, dy.dtype, plan, args![dx, a, b, end, plan.sizes]);
    }
}

/// Adds dweight and, where there is a bias, dbias to `grads`.
pub fn wgrad(d: &Cuda, x: &Tensor, dy: &Tensor, grads: &mut Vector, conv: &Conv2d) {
    if let Some(plan) = d.plan(plan::wgrad(conv, x.shape, d.kernels(x.dtype))) {
        let partial = d.buffer(plan.workspace_bytes);
        if !plan.tile.is_wgmma() {
            launch(d, "wgrad", conv, x.dtype, &plan, args![partial, x, dy, plan.sizes]);
        } else if let Some([a, b]) = d.tensor_maps(bulk::wgrad(place(x), place(dy), conv)) {
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

/// Runs the kernel of a direction that has the plan's tile.
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

/// Where a tensor lies, and its shape.
fn place(x: &Tensor) -> (DevicePtr, Shape) {
    (x.buffer.ptr(), x.shape)
}

/// The address `bytes` behind `ptr`.
fn offset(ptr: DevicePtr, bytes: usize) -> DevicePtr {
    DevicePtr(ptr.0 + bytes as u64)
}
