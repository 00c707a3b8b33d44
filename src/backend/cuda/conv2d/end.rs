//! What convolution kernels do with a finished tile beside writing it: the structs of kernels/common/conv2d_epilogue.cuh.

use super::*;

/// `OutputEnd` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Output {
    moments: DevicePtr,
    residual: DevicePtr,
    y: DevicePtr,
    norm: batch_norm::Norm,
    slope: f32,
    form: u32,
}

memory::plain_arg!(Output);

const NORMALISED: u32 = 1;
const TANGENT: u32 = 2;

impl Output {
    /// Leaves moments.
    pub fn moments(moments: &Moments) -> Output {
        Output { moments: moments.buffer.ptr(), ..Output::default() }
    }

    /// What an op's end says, but for moments.
    pub fn new(end: &OutputEnd<'_, Cuda>, params: &Vector) -> Output {
        let with = |norm: &FrozenNorm<'_, Cuda>| Output {
            norm: batch_norm::Norm::frozen(norm.stats, params, norm.bn),
            slope: batch_norm::slope(norm.act),
            ..Output::default()
        };
        match end {
            OutputEnd::Plain | OutputEnd::Moments => Output::default(),
            OutputEnd::Norm(norm, residual) => {
                let residual = residual.map_or(DevicePtr(0), |r| r.buffer.ptr());
                Output { residual, form: NORMALISED, ..with(norm) }
            }
            OutputEnd::Tangent(norm, y) => Output { y: y.buffer.ptr(), form: TANGENT, ..with(norm) },
        }
    }
}

/// `GradientEnd` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Gradient {
    add: DevicePtr,
    sums: DevicePtr,
    x: DevicePtr,
    y: DevicePtr,
    norm: batch_norm::Norm,
    slope: f32,
    tangent: u32,
}

memory::plain_arg!(Gradient);

impl Gradient {
    /// What is done where an op's gradient arrives; `sums` are gathered where they are given.
    pub fn new(onto: &Onto<'_, Cuda>, sums: Option<&Sums>, params: &Vector) -> Gradient {
        let plain = Gradient::default();
        let adding =
            |to: Option<&Tensor>| Gradient { add: to.map_or(DevicePtr(0), |t| t.buffer.ptr()), ..plain };
        match onto {
            Onto::Input(_) => plain,
            Onto::Add(to) => adding(Some(to)),
            Onto::Norm(norm, add) => {
                let (end, Some(sums)) = (adding(*add), sums) else { return adding(*add) };
                Gradient {
                    sums: sums.buffer.ptr(),
                    x: norm.x.buffer.ptr(),
                    // Without a residual the input says where the activation bent.
                    y: if norm.residual { norm.y.buffer.ptr() } else { DevicePtr(0) },
                    norm: batch_norm::Norm::batch(&norm.saved.moments, params, norm.bn),
                    slope: batch_norm::slope(norm.act),
                    ..end
                }
            }
            Onto::Frozen(norm, y) => Gradient {
                y: y.buffer.ptr(),
                norm: batch_norm::Norm::frozen(norm.stats, params, norm.bn),
                slope: batch_norm::slope(norm.act),
                tangent: 1,
                ..plain
            },
        }
    }
}
