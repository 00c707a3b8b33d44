//! Launch plans of kernels/tvat.cu.

use super::Cuda;
use super::driver::Launch;
use super::loss::{FieldSum, LOG2_E, Plan, Term};
use super::memory::{Tensor, args, plain_arg};
use crate::ops::{Shape, Size, TvatOps};
use crate::rng::Key;
use bytemuck::{Pod, Zeroable};

impl TvatOps for Cuda {
    fn uniform_noise(&self, shape: Shape, key: Key) -> Tensor {
        uniform_noise(self, shape, key)
    }
    fn normalize(&self, d: &Tensor, scale: f64) -> Tensor {
        normalize(self, None, d, scale)
    }
    fn add_normalized(&self, x: &Tensor, d: &Tensor, scale: f64) -> Tensor {
        normalize(self, Some(x), d, scale)
    }
    fn tvat_cotangent(&self, logits: &Tensor, tangents: &Tensor, decoders: usize, size: Size) -> Tensor {
        let k = decoders as f64;
        fused_pair(self, "tvat_cotangent", (logits, LOG2_E / k), (tangents, 1.0 / k), decoders, size, 1.0 / k)
    }
    fn kl_gradient(&self, clean: &Tensor, perturbed: &Tensor, decoders: usize, size: Size) -> Tensor {
        kl_gradient(self, clean, perturbed, decoders, size)
    }
}

const FILE: &str = "tvat";

/// Elements that a block sums, and most blocks per image.
const PER_BLOCK: usize = 1 << 14;
const MAX_BLOCKS: usize = 256;

/// `PhiloxKey` of kernels/common/philox.cuh.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct PhiloxKey([u32; 5]);
plain_arg!(PhiloxKey);

/// Uniform noise in [-0.5, 0.5): element i (NHWC) is `key.uniform(i) - 0.5`.
pub(super) fn uniform_noise(d: &Cuda, shape: Shape, key: Key) -> Tensor {
    let y = d.tensor(shape);
    let args = args![y, PhiloxKey(key.words()), shape.len() as u64];
    d.launch_typed(FILE, "uniform_noise", y.dtype, Launch::linear(shape.len().div_ceil(4)), args);
    y
}

/// scale * x / (‖x‖ + 1e-8), the norm over each image, added to `base` where there is one.
pub(super) fn normalize(d: &Cuda, base: Option<&Tensor>, x: &Tensor, scale: f64) -> Tensor {
    let y = d.tensor_of(x.dtype, x.shape);
    let image_len = x.shape.len() / x.shape.n.max(1);
    let blocks = image_len.div_ceil(PER_BLOCK).clamp(1, MAX_BLOCKS);
    let launch = Launch::grid3([blocks, x.shape.n, 1], 256);
    let squares = d.buffer(8 * blocks * x.shape.n);
    d.launch_typed(FILE, "normalize_squares", x.dtype, launch, args![squares, x, image_len as u64]);
    let args = args![y, base, x, squares, blocks as i32, scale, image_len as u64];
    d.launch_typed(FILE, "normalize", x.dtype, launch, args);
    y
}

/// upᵀ(q - p) / (n k) with p, q the softmax of the mean upsampled clean and perturbed logits, n images, k
/// decoders.
pub(super) fn kl_gradient(
    d: &Cuda,
    clean: &Tensor,
    perturbed: &Tensor,
    decoders: usize,
    size: Size,
) -> Tensor {
    let k = decoders as f64;
    let scale = 1.0 / (clean.shape.n as f64 * k);
    fused_pair(d, "kl_gradient", (clean, LOG2_E / k), (perturbed, LOG2_E / k), decoders, size, scale)
}

/// Launches fused loss `name` over the sums of all decoders' channels of two tensors, each with its factor;
/// the scaled result is repeated for every decoder.
fn fused_pair(
    d: &Cuda,
    name: &str,
    x: (&Tensor, f64),
    y: (&Tensor, f64),
    decoders: usize,
    size: Size,
    scale: f64,
) -> Tensor {
    let (shape, dtype) = (x.0.shape, x.0.dtype);
    let plan = Plan::new(shape.with_channels(shape.c / decoders), size, 2).repeated(decoders);
    let workspace = plan.workspace(d, 1);
    let field = |(x, factor): (&Tensor, f64)| FieldSum::new(x, decoders, factor);
    d.launch_typed(FILE, name, dtype, plan.loss(), args![workspace.parts, field(x), field(y), plan.upsample]);
    plan.finish(d, &workspace, dtype, &[Term::new(None, None, scale, 1.0)], None)
}
