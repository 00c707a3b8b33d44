//! Encoding of tensor maps by the CUDA driver.

use super::{Gpu, probe};
use crate::Result;
use crate::backend::cuda::tensor_map::{TensorMap, TensorMapSpec};
use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute};

/// The compute capability that runs kernels for sm_90a: no other does, older or newer.
const CAPABILITY: (i32, i32) = (9, 0);
const TARGET: &str = "90a";

/// Whether the program has kernels with TMA and WGMMA for this card.
pub(super) fn has_wgmma(device: sys::CUdevice) -> bool {
    let ask = |attribute| {
        // SAFETY: `device` was given by the driver.
        unsafe { cudarc::driver::result::device::get_attribute(device, attribute) }.unwrap_or(0)
    };
    let major = ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
    let minor = ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
    (major, minor) == CAPABILITY && super::targets().contains(&TARGET)
}

impl Gpu {
    /// See [`super::Driver::tensor_map`].
    pub(super) fn encode(&self, spec: &TensorMapSpec) -> Result<TensorMap> {
        if let Some(fault) = spec.fault() {
            return Err(self.error(fault));
        }
        // Aligned as the call wants it.
        let mut map = TensorMap([0; 16]);
        let to: *mut sys::CUtensorMap = (&raw mut map).cast();
        let base = spec.base.0 as *mut std::ffi::c_void;
        let dtype = sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
        let interleave = sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE;
        let swizzle = sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B;
        let promotion = sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B;
        let fill = sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
        let (dims, strides) = (spec.dims.as_ptr(), spec.strides.as_ptr());
        let steps = [1, spec.step[0].max(1), spec.step[1].max(1), 1];
        // SAFETY: all arrays have as many elements as `rank` asks for, at most four, and live through the
        // call, which reads nothing at `base`.
        let made = unsafe {
            if spec.im2col == 1 {
                sys::cuTensorMapEncodeIm2col(
                    to,
                    dtype,
                    spec.rank,
                    base,
                    dims,
                    strides,
                    spec.lower.as_ptr(),
                    spec.upper.as_ptr(),
                    spec.extent[0],
                    spec.extent[1],
                    steps.as_ptr(),
                    interleave,
                    swizzle,
                    promotion,
                    fill,
                )
            } else {
                sys::cuTensorMapEncodeTiled(
                    to,
                    dtype,
                    spec.rank,
                    base,
                    dims,
                    strides,
                    spec.extent.as_ptr(),
                    [1; 4].as_ptr(),
                    interleave,
                    swizzle,
                    promotion,
                    fill,
                )
            }
        };
        let failed = |e| self.error(format!("making a tensor map of {spec:?}: {}", probe::describe(e)));
        made.result().map_err(failed)?;
        Ok(map)
    }
}
