//! Convolutions of the CUDA device, emulated, against the CPU in f64 (`values`), and what they do in passing
//! (`fused`).
//!
//! Inputs are rounded to the activations' type first. A result may differ by 1e-5 of the sum of its terms'
//! absolute values (sums in f32) and, where it is stored in 16 bits, by 2^-8 of itself.

mod fused;
mod values;

use crate::compare::assert_within;
use crate::cuda_common::{DTYPES, assert_no_fault, device, rounded};
use crate::draw;
use crate::layer_common::Conv;
use psmt_emulator::EmulatorOptions;
use psmt_fast::backend::cpu::Cpu;
use psmt_fast::backend::cuda::{Cuda, Dtype, Tile};
use psmt_fast::ops::*;

/// Every kernel that convolutions may run in; none for the model's choice. One that does not fit leaves it
/// the choice.
fn tiles(dtype: Dtype) -> &'static [Option<Tile>] {
    use Tile::*;
    const FLOATS: [Option<Tile>; 2] = [None, Some(Large)];
    const HALVES: [Option<Tile>; 7] = [
        Some(Small),
        Some(Large),
        Some(Any),
        Some(Wgmma64),
        Some(Wgmma128),
        Some(Wgmma256),
        Some(Wgmma256x2),
    ];
    if dtype == Dtype::Bf16 { &HALVES } else { &FLOATS }
}

/// A device whose convolutions run in the kernel of a tile; none where this build has no emulator.
fn device_with(tile: Option<Tile>, dtype: Dtype, options: EmulatorOptions) -> Option<Cuda> {
    Some(tile.into_iter().fold(device(dtype, options)?, Cuda::with_tile))
}

/// Values in [-1, 1) that `dtype` represents.
fn values(len: usize, seed: u64, dtype: Dtype) -> Vec<f32> {
    draw::uniform(len, seed).into_iter().map(|v| rounded(v, dtype)).collect()
}

/// A convolution with inputs of its three ops.
struct Inputs {
    conv: Conv2d,
    shape: Shape,
    x: Vec<f32>,
    dy: Vec<f32>,
    params: Vec<f32>,
    /// What the gradients of the parameters are added to.
    grads: Vec<f32>,
}

/// Results of a convolution's three ops.
struct Results {
    y: Vec<f32>,
    dx: Vec<f32>,
    grads: Vec<f32>,
}

impl Results {
    fn parts(&self) -> [(&'static str, &[f32]); 3] {
        [("y", &self.y), ("dx", &self.dx), ("grads", &self.grads)]
    }
}

impl Inputs {
    fn new(case: Conv, dtype: Dtype) -> Inputs {
        // Some parameters of other layers follow.
        let num_params = case.num_params() + 5;
        Inputs {
            conv: case.spec(),
            shape: case.input(),
            x: values(case.input().len(), 1, dtype),
            dy: values(case.output().len(), 2, dtype),
            params: values(num_params, 3, dtype),
            grads: values(num_params, 4, Dtype::F32),
        }
    }

    fn abs(&self) -> Inputs {
        let abs = |v: &[f32]| v.iter().map(|v| v.abs()).collect();
        let (x, dy, params, grads) = (abs(&self.x), abs(&self.dy), abs(&self.params), abs(&self.grads));
        Inputs { x, dy, params, grads, ..*self }
    }

    fn run<B: Backend>(&self, b: &B) -> Results {
        let conv = &self.conv;
        let (x, dy) = (b.upload(self.shape, &self.x), b.upload(conv.out_shape(self.shape), &self.dy));
        let params = b.upload_vector(&self.params);
        let mut grads = b.upload_vector(&self.grads);
        let y = conv2d_fprop(b, &Fprop::new(&x, &params, conv)).unwrap().y;
        let dx = conv2d_dgrad(b, &Dgrad::new(&dy, &params, conv, self.shape)).unwrap().dx;
        conv2d_wgrad(b, &x, &dy, &mut grads, conv).unwrap();
        let results = Results { y: b.download(&y), dx: b.download(&dx), grads: b.download_vector(&grads) };
        assert_no_fault(b, &format!("{conv:?} of {}", self.shape));
        results
    }
}

/// The device, by every kernel, and the CPU agree on a convolution.
fn agree_in(dtype: Dtype, case: Conv, options: EmulatorOptions) {
    let inputs = Inputs::new(case, dtype);
    let cpu = Cpu::<f64>::new();
    let (want, terms) = (inputs.run(&cpu), inputs.abs().run(&cpu));
    for &tile in tiles(dtype) {
        let Some(d) = device_with(tile, dtype, options) else { return };
        let got = inputs.run(&d);
        let parts = got.parts().into_iter().zip(want.parts()).zip(terms.parts());
        for (((part, got), (_, want)), (_, terms)) in parts {
            // Gradients of parameters are floats in either mode.
            let rounding = if dtype == Dtype::Bf16 && part != "grads" { 1.0 / 256.0 } else { 0.0 };
            let allowed = |i: usize| 1e-5 * f64::from(terms[i]) + rounding * f64::from(want[i].abs());
            assert_within(&format!("{part} in {dtype:?} of a {case}, {tile:?}"), got, want, allowed);
        }
    }
}

/// The same of several in both types, whose weights begin at `offset`.
fn agree(offset: usize, cases: &[Conv], options: EmulatorOptions) {
    for dtype in DTYPES {
        cases.iter().for_each(|case| agree_in(dtype, case.at(offset), options));
    }
}
