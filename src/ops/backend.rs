//! What a device is: its memory ([`Device`]), and all families of ops ([`Backend`]).

use super::batch_norm::BatchNormOps;
use super::conf_ce::ConfCeOps;
use super::confusion_matrix::ConfusionMatrixOps;
use super::conv2d::Conv2dOps;
use super::cross_entropy::CrossEntropyOps;
use super::cut_mix::CutMixOps;
use super::elementwise::ElementwiseOps;
use super::ensemble_pseudo_label::EnsembleOps;
use super::interpolate::InterpolateOps;
use super::memory::MemoryPlan;
use super::mse_consistency::MseConsistencyOps;
use super::optimizer::OptimizerOps;
use super::photometric::PhotometricOps;
use super::pool::PoolOps;
use super::spec::Shape;
use super::tvat::TvatOps;

/// A device with its memory. Tensors are handles to device memory that is written once, by the op that makes
/// them; clones are cheap and share that memory.
pub trait Device: Send + Sync + Sized + 'static {
    /// An NHWC activation.
    type Tensor: Clone + Send + Sync;
    /// A flat array: parameters, gradients, momenta, running statistics.
    type Vector: Clone + Send + Sync;
    /// Bytes: labels `[n, h, w]` with c = 1, or 8-bit images, NHWC.
    type Labels: Clone + Send + Sync;
    /// A single number on the device.
    type Scalar: Clone + Send + Sync;
    /// Integer counts on the device.
    type Counts: Clone + Send + Sync;
    /// Moments of an output's channels that a convolution computes for the batch norm after it.
    type Moments: Clone + Send + Sync;
    /// Gradient sums that a data gradient computes for the backward pass of the batch norm whose output it
    /// reaches.
    type Sums: Clone + Send + Sync;
    /// Name of the device, as `--device` takes it.
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
    /// Searches `x` for values that are not finite, without waiting for the device. `watch`, one count,
    /// becomes the maximum of itself and [`watch_key`](super::watch_key)`(place, i)` over the elements i
    /// found; it is 0 while none was found.
    fn watch_tensor(&self, watch: &mut Self::Counts, x: &Self::Tensor, place: u32);
    /// As [`Device::watch_tensor`], for a vector.
    fn watch_vector(&self, watch: &mut Self::Counts, v: &Self::Vector, place: u32);
    /// Waits until all work given to the device is done.
    fn synchronize(&self);
    /// The first fault of the device since the last call. Ops return no errors, as devices report faults
    /// late, at the latest when results are read; what was computed or read after a fault is meaningless.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) for the fault.
    fn check(&self) -> crate::Result<()> {
        Ok(())
    }
    /// Bytes of memory that can still be allocated; `None` if that is not known.
    fn available_memory(&self) -> Option<u64>;
    /// Names what the memory that ops allocate from now on is for: [`MemoryUse::what`](super::MemoryUse) of a
    /// plan.
    fn phase(&self, _name: &'static str) {}
    /// Runs `work`, a step that allocates the same memory in the same order as other steps of its kind.
    fn step<R>(&self, _kind: &'static str, work: impl FnOnce() -> R) -> R {
        work()
    }
    /// Runs both and returns their results. They must be independent: within a step, a device may run them
    /// concurrently.
    fn join<R, S>(&self, first: impl FnOnce() -> R, second: impl FnOnce() -> S) -> (R, S) {
        (first(), second())
    }
    /// This device with the memory of its steps planned, and the plan; `None` for devices that plan nothing.
    /// `rehearse` is called with a device of the same kind that computes nothing (its results are zeros). It
    /// must do there what the run will do: allocate what is held throughout, then run each kind of
    /// [`Device::step`] twice, as the first may allocate what later ones keep.
    ///
    /// # Errors
    /// The errors of `rehearse`.
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
