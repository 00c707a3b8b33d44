//! What a device is: its memory ([`Device`]), and all families of ops ([`Backend`]).

use super::memory::MemoryPlan;
use super::*;

/// A device with its memory. Tensors are handles to device memory that is written once, by the op that makes it; cloning is cheap
/// and shares.
pub trait Device: Send + Sync + Sized + 'static {
    /// An NHWC activation.
    type Tensor: Clone + Send + Sync;
    /// A flat array: parameters, gradients, momenta, running statistics.
    type Vector: Clone + Send + Sync;
    /// Bytes: labels `[n, h, w]` with c = 1, or the channels of 8-bit images.
    type Labels: Clone + Send + Sync;
    /// A number on the device.
    type Scalar: Clone + Send + Sync;
    /// Integer counts on the device.
    type Counts: Clone + Send + Sync;
    /// What a convolution leaves of its output's channels for the batch norm that follows.
    type Moments: Clone + Send + Sync;
    /// What a data gradient leaves for the backward pass of the batch norm that it arrives at.
    type Sums: Clone + Send + Sync;
    /// Name as on the command line.
    fn name(&self) -> String;
    /// Shape of an activation.
    fn shape(x: &Self::Tensor) -> Shape;
    /// Shape of labels, with c = 1, or of 8-bit images.
    fn labels_shape(x: &Self::Labels) -> Shape;
    /// Length of a vector.
    fn vector_len(v: &Self::Vector) -> usize;
    /// Copies `data` (NHWC) to the device.
    fn upload(&self, shape: Shape, data: &[f32]) -> Self::Tensor;
    /// Copies an activation to the host, NHWC.
    fn download(&self, x: &Self::Tensor) -> Vec<f32>;
    /// Copies labels `[n, h, w]` (`shape.c` is 1) or 8-bit images, NHWC, to the device.
    fn upload_labels(&self, shape: Shape, data: &[u8]) -> Self::Labels;
    /// Copies labels or 8-bit images to the host.
    fn download_labels(&self, x: &Self::Labels) -> Vec<u8>;
    /// A vector of zeros.
    fn zeros(&self, len: usize) -> Self::Vector;
    /// Copies a flat array to the device.
    fn upload_vector(&self, data: &[f32]) -> Self::Vector;
    /// Copies a flat array to the host.
    fn download_vector(&self, v: &Self::Vector) -> Vec<f32>;
    /// Sets every element to zero.
    fn clear(&self, v: &mut Self::Vector);
    /// Waits for the number and copies it to the host.
    fn read_scalar(&self, s: &Self::Scalar) -> f64;
    /// Waits for the counts and copies them to the host.
    fn read_counts(&self, c: &Self::Counts) -> Vec<u64>;
    /// Counts of zero.
    fn zero_counts(&self, len: usize) -> Self::Counts;
    /// Looks for values of `x` that are not finite without waiting for the device: `watch`, one count, keeps the largest of
    /// [`watch_key`](super::watch_key) over all that were ever found, and 0 while there is none.
    fn watch_tensor(&self, watch: &mut Self::Counts, x: &Self::Tensor, place: u32);
    /// The same for a vector.
    fn watch_vector(&self, watch: &mut Self::Counts, v: &Self::Vector, place: u32);
    /// Waits for all work.
    fn synchronize(&self);
    /// The first fault of the device since the last call. Ops return no errors, as devices report faults late, at the
    /// latest when results are read; what was computed or read after a fault is meaningless.
    ///
    /// # Errors
    /// The fault.
    fn check(&self) -> crate::Result<()> {
        Ok(())
    }
    /// Bytes of memory that can still be taken, if that is known.
    fn available_memory(&self) -> Option<u64>;
    /// Says what the memory that ops take from now on is for, in the words of a [`MemoryPlan`].
    fn phase(&self, _name: &'static str) {}
    /// Runs `work`, a step that takes the same memory in the same order as others of its kind.
    fn step<R>(&self, _kind: &'static str, work: impl FnOnce() -> R) -> R {
        work()
    }
    /// Does both; neither needs what the other does. Within a step a device may do them at the same time.
    fn join<R, S>(&self, first: impl FnOnce() -> R, second: impl FnOnce() -> S) -> (R, S) {
        (first(), second())
    }
    /// This device with the memory of its steps planned, and the plan. `rehearse` is called with a device of the same kind
    /// that computes nothing (its results are zeros) and does there what the run will do: makes what is held throughout,
    /// then each kind of [`Device::step`] twice, as the first may make what stays. `None` where nothing is planned.
    ///
    /// # Errors
    /// Those of `rehearse`.
    fn planned(
        &self,
        _rehearse: impl FnOnce(&Self) -> crate::Result<()>,
    ) -> crate::Result<Option<(Self, MemoryPlan)>> {
        Ok(None)
    }
}

/// A device that implements every op, family by family.
pub trait Backend:
    Device
    + PhotometricOps
    + Conv2dOps
    + BatchNormOps
    + ElementwiseOps
    + PoolOps
    + InterpolateOps
    + CrossEntropyOps
    + EnsembleOps
    + ConfCeOps
    + MseConsistencyOps
    + CutMixOps
    + ConfusionMatrixOps
    + TvatOps
    + OptimizerOps
{
}

impl<B> Backend for B where
    B: Device
        + PhotometricOps
        + Conv2dOps
        + BatchNormOps
        + ElementwiseOps
        + PoolOps
        + InterpolateOps
        + CrossEntropyOps
        + EnsembleOps
        + ConfCeOps
        + MseConsistencyOps
        + CutMixOps
        + ConfusionMatrixOps
        + TvatOps
        + OptimizerOps
{
}
