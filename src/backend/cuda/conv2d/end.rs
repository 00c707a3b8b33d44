//! What convolution kernels do with a finished tile beside writing it: the structs of kernels/common/conv2d_epilogue.cuh.

use super::*;

/// What a forward convolution is asked for beside its output.
pub enum Behind<'a> {
    /// Nothing.
    Nothing,
    /// Moments of the output, where the kernel can gather them.
    Moments,
    /// The output behind a batch norm with running statistics, with what is added before its activation.
    Norm(&'a FrozenNorm<'a, Cuda>, Option<&'a Tensor>),
    /// The output times the derivative of such a batch norm, whose output at the clean pass is given.
    Tangent(&'a FrozenNorm<'a, Cuda>, &'a Tensor),
}

/// `OutputEnd` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub struct OutputEnd {
    moments: DevicePtr,
    residual: DevicePtr,
    y: DevicePtr,
    norm: batch_norm::Norm,
    slope: f32,
    form: u32,
}

memory::plain_arg!(OutputEnd);

const NORMALISED: u32 = 1;
const TANGENT: u32 = 2;

impl OutputEnd {
    /// Leaves moments.
    pub fn moments(moments: &Moments) -> OutputEnd {
        OutputEnd { moments: moments.buffer.ptr(), ..OutputEnd::default() }
    }

    /// Does what lies behind the convolution, but for moments.
    pub fn new(behind: &Behind<'_>, params: &Vector) -> OutputEnd {
        let with = |norm: &FrozenNorm<'_, Cuda>| OutputEnd {
            norm: batch_norm::Norm::frozen(norm.stats, params, norm.bn),
            slope: batch_norm::slope(norm.act),
            ..OutputEnd::default()
        };
        match *behind {
            Behind::Nothing | Behind::Moments => OutputEnd::default(),
            Behind::Norm(norm, residual) => {
                let residual = residual.map_or(DevicePtr(0), |r| r.buffer.ptr());
                OutputEnd { residual, form: NORMALISED, ..with(norm) }
            }
            Behind::Tangent(norm, y) => OutputEnd { y: y.buffer.ptr(), form: TANGENT, ..with(norm) },
        }
    }
}

/// `GradientEnd` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub struct GradientEnd {
    add: DevicePtr,
    sums: DevicePtr,
    x: DevicePtr,
    y: DevicePtr,
    norm: batch_norm::Norm,
    slope: f32,
    tangent: u32,
}

memory::plain_arg!(GradientEnd);

impl GradientEnd {
    /// Adds, and sums up for the backward pass of a batch norm.
    pub fn new(
        add: Option<&Tensor>,
        sums: Option<(&Sums, &NormPass<'_, Cuda>)>,
        params: &Vector,
    ) -> GradientEnd {
        let end = GradientEnd { add: add.map_or(DevicePtr(0), |t| t.buffer.ptr()), ..GradientEnd::default() };
        let Some((sums, norm)) = sums else { return end };
        GradientEnd {
            sums: sums.buffer.ptr(),
            x: norm.x.buffer.ptr(),
            // Without a residual the input says where the activation bent.
            y: if norm.residual { norm.y.buffer.ptr() } else { DevicePtr(0) },
            norm: batch_norm::Norm::batch(&norm.saved.moments, params, norm.bn),
            slope: batch_norm::slope(norm.act),
            ..end
        }
    }

    /// Multiplies by the derivative of a batch norm with running statistics, whose output is `y`.
    pub fn tangent(norm: &FrozenNorm<'_, Cuda>, y: &Tensor, params: &Vector) -> GradientEnd {
        GradientEnd {
            y: y.buffer.ptr(),
            norm: batch_norm::Norm::frozen(norm.stats, params, norm.bn),
            slope: batch_norm::slope(norm.act),
            tangent: 1,
            ..GradientEnd::default()
        }
    }
}
