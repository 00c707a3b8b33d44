//! Launch plans of kernels/tvat.cu.

use super::loss::{FieldSum, LOG2_E, Plan, Term, struct_arg};
use super::memory::Arg;
use super::*;
use bytemuck::{Pod, Zeroable};

const FILE: &str = "tvat";

/// Elements of an image a block adds up, and the most blocks an image.
const PER_BLOCK: usize = 1 << 14;
const MAX_BLOCKS: usize = 256;

/// `PhiloxKey` of kernels/common/philox.cuh.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct PhiloxKey([u32; 5]);
struct_arg!(PhiloxKey);

/// Uniform noise in [-0.5, 0.5): element i (NHWC) is `key.uniform(i) - 0.5`.
pub fn uniform_noise(d: &Cuda, shape: Shape, key: Key) -> Tensor {
    let y = d.tensor(shape);
    let args = args![y, PhiloxKey(key.words()), shape.len() as u64];
    d.launch_typed(FILE, "uniform_noise", y.dtype, Launch::linear(shape.len().div_ceil(4)), args);
    y
}

/// scale * x / (‖x‖ + 1e-8), the norm over each image.
pub fn normalize(d: &Cuda, x: &Tensor, scale: f64) -> Tensor {
    let y = d.tensor_of(x.dtype, x.shape);
    let image_len = x.shape.len() / x.shape.n.max(1);
    let blocks = image_len.div_ceil(PER_BLOCK).clamp(1, MAX_BLOCKS);
    let launch = Launch::grid3([blocks, x.shape.n, 1], 256);
    let squares = d.buffer(8 * blocks * x.shape.n);
    d.launch_typed(FILE, "normalize_squares", x.dtype, launch, args![squares, x, image_len as u64]);
    let args = args![y, x, squares, blocks as i32, scale, image_len as u64];
    d.launch_typed(FILE, "normalize", x.dtype, launch, args);
    y
}

/// upᵀ(p t - p (p·t)) / k with p = softmax(mean of up(logits)), t = mean of up(tangents), k the number of decoders.
pub fn cotangent(d: &Cuda, logits: &[&Tensor], tangents: &[&Tensor], size: Size) -> Tensor {
    let k = logits.len() as f64;
    fold_pair(d, "tvat_cotangent", (logits, LOG2_E / k), (tangents, 1.0 / k), size, 1.0 / k)
}

/// upᵀ(q - p) / (n k) with p, q the softmax of the mean upsampled clean and perturbed logits, n images, k decoders.
pub fn kl_gradient(d: &Cuda, clean: &[&Tensor], perturbed: &[&Tensor], size: Size) -> Tensor {
    let k = clean.len() as f64;
    let scale = 1.0 / (clean[0].shape.n as f64 * k);
    fold_pair(d, "kl_gradient", (clean, LOG2_E / k), (perturbed, LOG2_E / k), size, scale)
}

/// Runs kernel `name` over two sums of tensors, each with its factor, and scales the result.
fn fold_pair(
    d: &Cuda,
    name: &str,
    x: (&[&Tensor], f64),
    y: (&[&Tensor], f64),
    size: Size,
    scale: f64,
) -> Tensor {
    let first = x.0[0];
    let plan = Plan::new(first.shape, size, 2);
    let workspace = plan.workspace(d, 1);
    let ((x, _x_rest), (y, _y_rest)) = (field_sum(d, x.0, x.1), field_sum(d, y.0, y.1));
    d.launch_typed(FILE, name, first.dtype, plan.fold(), args![workspace.parts, x, y, plan.upsample]);
    plan.finish(d, &workspace, first.dtype, &[Term::new(None, None, scale, 1.0)], None)
}

/// factor * (sum of parts), with the tensor that holds the sum of all but the first two where there are more.
fn field_sum(d: &Cuda, parts: &[&Tensor], factor: f64) -> (FieldSum, Option<Tensor>) {
    match *parts {
        [x] => (FieldSum::new(x, x, 0.5 * factor), None),
        [x, y] => (FieldSum::new(x, y, factor), None),
        [x, y, ref others @ ..] => {
            let sum = others.iter().fold((*y).clone(), |sum, part| elementwise::add(d, &sum, part, 1.0));
            (FieldSum::new(x, &sum, factor), Some(sum))
        }
        [] => unreachable!("validated: at least one decoder"),
    }
}
