//! Device memory with an owner: buffers, and the tensors, vectors and labels that ops work on. Must not know
//! kernels.

use super::driver::{Args, DevicePtr, Driver};
use super::tensor_map::TensorMap;
use crate::ops::Shape;
use std::sync::{Arc, Mutex, PoisonError};

/// Type of an activation's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// Upper half of a 32-bit float.
    Bf16,
}

impl Dtype {
    pub(super) fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::Bf16 => 2,
        }
    }

    /// Ending of the names of kernels for this type.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
        }
    }

    /// Values per load of runs of `len` values that begin at multiples of `len`: 16 bytes of them, or one
    /// (`with_width` in kernels/common/vector.cuh).
    pub(super) fn vector_width(self, len: usize) -> usize {
        let width = 16 / self.size();
        if len.is_multiple_of(width) { width } else { 1 }
    }
}

/// Device memory that is freed when dropped.
pub struct Buffer {
    driver: Arc<dyn Driver>,
    ptr: DevicePtr,
    bytes: usize,
}

impl Buffer {
    /// Takes ownership of memory that `driver` allocated.
    pub(super) fn new(driver: Arc<dyn Driver>, ptr: DevicePtr, bytes: usize) -> Buffer {
        Buffer { driver, ptr, bytes }
    }

    /// The address of its first byte; null after a fault and for zero bytes.
    pub fn ptr(&self) -> DevicePtr {
        self.ptr
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.driver.free(self.ptr, self.bytes);
    }
}

/// An NHWC activation. Clones share the values.
#[derive(Clone)]
pub struct Tensor {
    /// `[n, h, w, c]`.
    pub shape: Shape,
    /// Type of the values in memory.
    pub dtype: Dtype,
    pub(super) buffer: Arc<Buffer>,
}

/// Labels, one byte per pixel, or 8-bit images. Clones share the values.
#[derive(Clone)]
pub struct Labels {
    /// `[n, h, w]` with c = 1 for labels.
    pub shape: Shape,
    pub(super) buffer: Arc<Buffer>,
}

/// A double on the device.
#[derive(Clone)]
pub struct Scalar(pub(super) Arc<Buffer>);

/// 64-bit counts on the device.
#[derive(Clone)]
pub struct Counts {
    pub(super) len: usize,
    pub(super) buffer: Arc<Buffer>,
}

/// Mean and sum of squared deviations of each channel over parts of an activation's positions, `[parts, 2,
/// c]` doubles.
#[derive(Clone)]
pub struct Moments {
    pub(super) buffer: Arc<Buffer>,
    /// Positions of a part; the last may have fewer.
    pub(super) len: usize,
    pub(super) parts: usize,
}

/// Sums of a gradient g before an activation and of g (x - mean), each channel's over parts of the positions:
/// `[parts, 2, c]` floats.
#[derive(Clone)]
pub struct Sums {
    pub(super) buffer: Arc<Buffer>,
    pub(super) parts: usize,
}

/// A flat array of 32-bit floats. Clones are copies. In 16-bit mode convolutions read a bf16 copy of the
/// parameters, which is made when first asked for and from then on written by whatever writes the vector.
pub struct Vector {
    pub(super) len: usize,
    pub(super) buffer: Buffer,
    pub(super) half: Mutex<Option<Arc<Buffer>>>,
}

impl Vector {
    pub(super) fn new(len: usize, buffer: Buffer) -> Vector {
        Vector { len, buffer, half: Mutex::new(None) }
    }

    /// The address of element `offset`.
    pub(super) fn at(&self, offset: usize) -> DevicePtr {
        DevicePtr(self.buffer.ptr.0 + 4 * offset as u64)
    }

    /// The bf16 copy, if one was made.
    pub fn half(&self) -> Option<Arc<Buffer>> {
        self.half.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Clone for Vector {
    fn clone(&self) -> Vector {
        let driver = self.buffer.driver.clone();
        let bytes = self.buffer.bytes;
        // A fault leaves a null buffer; the device reports it at the next check.
        let ptr = driver.alloc(bytes).unwrap_or_default();
        let _ = driver.copy(self.buffer.ptr, ptr, bytes);
        Vector::new(self.len, Buffer::new(driver, ptr, bytes))
    }
}

/// Types that can be an argument of a kernel.
pub(super) trait Arg {
    fn push_to(&self, args: &mut Args);
}

/// Numbers, and structs that kernels take as they lie in memory.
macro_rules! plain_arg {
    ($($t:ty),*) => { $(impl $crate::backend::cuda::memory::Arg for $t {
        fn push_to(&self, args: &mut $crate::backend::cuda::driver::Args) {
            args.push(*self);
        }
    })* };
}
plain_arg!(u32, u64, i32, i64, f32, f64, DevicePtr, TensorMap);
pub(super) use plain_arg;

macro_rules! buffer_arg {
    ($($t:ty => $ptr:expr),*) => { $(impl Arg for $t {
        fn push_to(&self, args: &mut Args) {
            let ptr: fn(&$t) -> DevicePtr = $ptr;
            args.push(ptr(self));
        }
    })* };
}
buffer_arg!(
    Buffer => |b| b.ptr,
    Arc<Buffer> => |b| b.ptr,
    Tensor => |t| t.buffer.ptr,
    Labels => |l| l.buffer.ptr,
    Scalar => |s| s.0.ptr,
    Counts => |c| c.buffer.ptr,
    Vector => |v| v.buffer.ptr
);

impl<T: Arg> Arg for &T {
    fn push_to(&self, args: &mut Args) {
        (**self).push_to(args);
    }
}

/// `None` is a null pointer.
impl<T: Arg> Arg for Option<T> {
    fn push_to(&self, args: &mut Args) {
        match self {
            Some(v) => v.push_to(args),
            None => args.push(DevicePtr(0)),
        }
    }
}

/// Kernel arguments from values that implement [`Arg`].
macro_rules! args {
    ($($v:expr),* $(,)?) => {{
        let mut args = $crate::backend::cuda::driver::Args::default();
        $($crate::backend::cuda::memory::Arg::push_to(&$v, &mut args);)*
        args
    }};
}
pub(super) use args;
