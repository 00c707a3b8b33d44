//! The [`Backend`] trait: what a device must be able to do. Implementations assume input that the functions of this
//! module's siblings have validated.

use super::memory::MemoryPlan;
use super::*;

/// What a loss returns: its value and its gradient with respect to the low-resolution logits.
pub struct LossGrad<B: Device> {
    /// Value, on the device until [`Backend::read_scalar`].
    pub loss: B::Scalar,
    /// Gradient with respect to the logits, times the `grad_scale` that was asked for.
    pub dlogits: B::Tensor,
}

/// What a loss over labelled pixels returns.
pub struct LabelLoss<B: Device> {
    /// Value, on the device until [`Backend::read_scalar`].
    pub loss: B::Scalar,
    /// Gradient with respect to the logits, times the `grad_scale` that was asked for.
    pub dlogits: B::Tensor,
    /// Counts `[classes, classes]` over all labelled pixels: row = label, column = largest logit, of equal ones the first.
    pub confusion: B::Counts,
}

/// Hard labels and their confidences, one a pixel.
pub struct PseudoLabel<B: Device> {
    /// Arg max class.
    pub label: B::Labels,
    /// Its probability, `[n, h, w, 1]`.
    pub confidence: B::Tensor,
}

/// What [`Backend::conf_ce`] returns.
pub struct ConfCeOut<B: Device> {
    /// Mean over passed pixels of confidence times cross entropy (0 if none passed).
    pub positive: B::Scalar,
    /// Mean over selected (pixel, class) pairs of -log(1 - p) (0 if negative learning is off).
    pub negative: B::Scalar,
    /// Mean squared student probability over (pixel, class); 0 unless `square_weight` > 0.
    pub square: B::Scalar,
    /// Number of pixels that reached the threshold.
    pub passed: B::Scalar,
    /// Confidences in [`HISTOGRAM_BINS`] equal bins over [0, 1], 1 in the last.
    pub histogram: B::Counts,
    /// Counts `[classes, classes]` over passed pixels: row = pseudo label, column = the student's largest logit.
    pub confusion: B::Counts,
    /// Gradient of positive + negative + square_weight * square with respect to the student's logits.
    pub dstudent: B::Tensor,
}

/// What training-mode batch norm keeps for its backward pass.
#[derive(Clone)]
pub struct BatchNormSaved<B: Device> {
    /// Mean of each channel, then 1 / sqrt(var + eps) of each channel.
    pub moments: B::Vector,
}

/// A teacher that follows a student, as [`Backend::sgd_ema`] moves it.
pub struct Teacher<'a, B: Device> {
    /// Its parameters.
    pub params: &'a mut B::Vector,
    /// Its running statistics.
    pub stats: &'a mut B::Vector,
    /// The student's running statistics.
    pub student_stats: &'a B::Vector,
    /// The share of itself that it keeps.
    pub keep: f64,
}

/// A batch norm's training pass as a gradient finds it on its way back.
pub struct NormPass<'a, B: Device> {
    /// Its input.
    pub x: &'a B::Tensor,
    /// Its output.
    pub y: &'a B::Tensor,
    /// What it kept.
    pub saved: &'a BatchNormSaved<B>,
    /// The layer.
    pub bn: &'a BatchNorm,
    /// Its activation.
    pub act: Activation,
    /// Whether a residual was added before the activation.
    pub residual: bool,
}

/// A batch norm with running statistics, which stay as they are, behind a convolution.
pub struct FrozenNorm<'a, B: Device> {
    /// The running statistics.
    pub stats: &'a B::Vector,
    /// The layer.
    pub bn: &'a BatchNorm,
    /// Its activation.
    pub act: Activation,
}

impl<B: Device> Clone for NormPass<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Device> Copy for NormPass<'_, B> {}

impl<B: Device> Clone for FrozenNorm<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Device> Copy for FrozenNorm<'_, B> {}

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
    /// then each kind of [`Backend::step`] twice, as the first may make what stays. `None` where nothing is planned.
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
