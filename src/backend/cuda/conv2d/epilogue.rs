//! The fused epilogues of convolution kernels: the structs of kernels/common/conv2d_epilogue.cuh.

use crate::backend::cuda::driver::DevicePtr;
use crate::backend::cuda::memory::{Moments, Sums, Tensor, Vector, plain_arg};
use crate::backend::cuda::{Cuda, batch_norm};
use crate::ops::{FrozenNorm, Onto, OutputEnd};

/// `FpropEpilogue` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct FpropEpilogue {
    moments: DevicePtr,
    residual: DevicePtr,
    y: DevicePtr,
    norm: batch_norm::Norm,
    slope: f32,
    form: u32,
}

plain_arg!(FpropEpilogue);

const NORMALISED: u32 = 1;
const TANGENT: u32 = 2;

impl FpropEpilogue {
    /// Writes moments, and the output as it is.
    pub(super) fn moments(moments: &Moments) -> FpropEpilogue {
        FpropEpilogue { moments: moments.buffer.ptr(), ..FpropEpilogue::default() }
    }

    /// What an op asks for, except moments.
    pub(super) fn new(end: &OutputEnd<'_, Cuda>, params: &Vector) -> FpropEpilogue {
        let with = |norm: &FrozenNorm<'_, Cuda>| FpropEpilogue {
            norm: batch_norm::Norm::frozen(norm.stats, params, norm.bn),
            slope: batch_norm::slope(norm.act),
            ..FpropEpilogue::default()
        };
        match end {
            OutputEnd::Plain | OutputEnd::Moments => FpropEpilogue::default(),
            OutputEnd::Norm(norm, residual) => {
                let residual = residual.map_or(DevicePtr(0), |r| r.buffer.ptr());
                FpropEpilogue { residual, form: NORMALISED, ..with(norm) }
            }
            OutputEnd::Tangent(norm, y) => FpropEpilogue { y: y.buffer.ptr(), form: TANGENT, ..with(norm) },
        }
    }
}

/// `DgradEpilogue` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct DgradEpilogue {
    add: DevicePtr,
    sums: DevicePtr,
    x: DevicePtr,
    y: DevicePtr,
    norm: batch_norm::Norm,
    slope: f32,
    tangent: u32,
}

plain_arg!(DgradEpilogue);

impl DgradEpilogue {
    /// What an op asks to be done with its gradient; reduces `sums` where they are given.
    pub(super) fn new(onto: &Onto<'_, Cuda>, sums: Option<&Sums>, params: &Vector) -> DgradEpilogue {
        let plain = DgradEpilogue::default();
        let adding =
            |to: Option<&Tensor>| DgradEpilogue { add: to.map_or(DevicePtr(0), |t| t.buffer.ptr()), ..plain };
        match onto {
            Onto::Input(_) => plain,
            Onto::Add(to) => adding(Some(to)),
            Onto::Norm(norm, add) => {
                let (end, Some(sums)) = (adding(*add), sums) else { return adding(*add) };
                DgradEpilogue {
                    sums: sums.buffer.ptr(),
                    x: norm.x.buffer.ptr(),
                    // Without a residual the sign of the activation follows from the input.
                    y: if norm.residual { norm.y.buffer.ptr() } else { DevicePtr(0) },
                    norm: batch_norm::Norm::batch(&norm.saved.moments, params, norm.bn),
                    slope: batch_norm::slope(norm.act),
                    ..end
                }
            }
            Onto::Frozen(norm, y) => DgradEpilogue {
                y: y.buffer.ptr(),
                norm: batch_norm::Norm::frozen(norm.stats, params, norm.bn),
                slope: batch_norm::slope(norm.act),
                tangent: 1,
                ..plain
            },
        }
    }
}
