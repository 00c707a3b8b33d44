//! Weights for convolution kernels: the parameters themselves, or their bf16 copy for bf16 activations.

use super::offset;
use crate::backend::cuda::Cuda;
use crate::backend::cuda::driver::{DevicePtr, Launch};
use crate::backend::cuda::memory::{Buffer, Dtype, Vector, args};
use crate::ops::Conv2d;
use std::sync::{Arc, PoisonError};

/// The weight of one convolution on the device.
pub(super) struct Weight {
    /// Address of the first value, of the activations' type.
    pub(super) ptr: DevicePtr,
    /// Keeps the copy alive that `ptr` points into.
    _half: Option<Arc<Buffer>>,
}

impl Weight {
    /// The weight of `conv` among `params` for activations of `dtype`.
    pub(super) fn new(d: &Cuda, params: &Vector, conv: &Conv2d, dtype: Dtype) -> Weight {
        let half = (dtype == Dtype::Bf16).then(|| d.half(params));
        let base = half.as_ref().map_or(params.buffer.ptr(), |half| half.ptr());
        Weight { ptr: offset(base, dtype.size() * conv.weight.offset), _half: half }
    }
}

impl Cuda {
    /// The bf16 copy of `params`, made on first use; ops that write a vector keep its copy up to date.
    pub fn half(&self, params: &Vector) -> Arc<Buffer> {
        let mut half = params.half.lock().unwrap_or_else(PoisonError::into_inner);
        half.get_or_insert_with(|| {
            let before = self.driver.phase("16-bit copies of parameters");
            let copy = Arc::new(self.buffer(2 * params.len));
            self.driver.phase(before);
            self.round_to_bf16(&copy, &params.buffer, params.len);
            copy
        })
        .clone()
    }

    /// to = from, `len` floats rounded to nearest even.
    fn round_to_bf16(&self, to: &Buffer, from: &Buffer, len: usize) {
        let launch = Launch::linear(len.div_ceil(8));
        self.launch("conv2d_weight", "round_to_bf16", launch, args![to, from, len as u64]);
    }
}
