//! 2-D convolution: launches of kernels/conv2d.cu (forward and data gradient) and kernels/conv2d_wgrad.cu (gradients of
//! weight and bias). Geometry is in `plan`, the 16-bit weights in `weight`. Knows no networks.

mod plan;
mod weight;

use super::*;
use plan::Plan;

const FILE: &str = "conv2d";
const WGRAD_FILE: &str = "conv2d_wgrad";

impl Cuda {
    /// The launch, or none after noting what it exceeds.
    fn plan<P>(&self, plan: Result<P>) -> Option<P> {
        self.note(plan.map(Some))
    }

    /// How `conv` over inputs of shape `x` is launched, in words: forward, data gradient, weight gradient.
    ///
    /// # Errors
    /// [`Error::Shape`] for sizes that the kernels do not take.
    pub fn conv2d_plans(&self, conv: &Conv2d, x: Shape) -> Result<[String; 3]> {
        let dtype = self.dtype;
        let plans =
            [plan::fprop(conv, x, dtype)?, plan::dgrad(conv, x, dtype)?, plan::wgrad(conv, x, dtype)?];
        Ok(plans.map(|plan| plan.describe(dtype)))
    }
}

/// y = x * weight + bias, of shape [`Conv2d::out_shape`].
pub fn fprop(d: &Cuda, x: &Tensor, params: &Vector, conv: &Conv2d) -> Tensor {
    let y = d.tensor_of(x.dtype, conv.out_shape(x.shape));
    if let Some(plan) = d.plan(plan::fprop(conv, x.shape, x.dtype)) {
        let weight = weight::Weight::new(d, params, conv, x.dtype);
        let bias = conv.bias.map(|bias| offset(params.buffer.ptr(), 4 * bias.offset));
        launch(d, FILE, "conv2d_fprop", x.dtype, &plan, args![y, x, weight.ptr, bias, plan.sizes]);
    }
    y
}

/// dx of shape `x_shape` from dy.
pub fn dgrad(d: &Cuda, dy: &Tensor, params: &Vector, conv: &Conv2d, x_shape: Shape) -> Tensor {
    let dx = d.tensor_of(dy.dtype, x_shape);
    if let Some(plan) = d.plan(plan::dgrad(conv, x_shape, dy.dtype)) {
        let weight = weight::Weight::new(d, params, conv, dy.dtype);
        launch(d, FILE, "conv2d_dgrad", dy.dtype, &plan, args![dx, dy, weight.ptr, plan.sizes]);
    }
    dx
}

/// Adds dweight and, where there is a bias, dbias to `grads`.
pub fn wgrad(d: &Cuda, x: &Tensor, dy: &Tensor, grads: &mut Vector, conv: &Conv2d) {
    if let Some(plan) = d.plan(plan::wgrad(conv, x.shape, x.dtype)) {
        let partial = d.buffer(plan.workspace_bytes);
        launch(d, WGRAD_FILE, "conv2d_wgrad", x.dtype, &plan, args![partial, x, dy, plan.sizes]);
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

fn launch(d: &Cuda, file: &'static str, op: &str, dtype: Dtype, plan: &Plan, args: Args) {
    d.launch_typed(file, &format!("{op}_{}", plan.tile.name()), dtype, plan.launch, args);
}

/// The address `bytes` behind `ptr`.
fn offset(ptr: DevicePtr, bytes: usize) -> DevicePtr {
    DevicePtr(ptr.0 + bytes as u64)
}
