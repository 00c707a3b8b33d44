//! The [`Backend`] trait: what a device must be able to do. Implementations assume input that the functions of this
//! module's siblings have validated.

use super::memory::MemoryPlan;
use super::photometric::{Images, Normalize, Pixels, Strong};
use super::spec::*;
use crate::rng::Key;

/// What a loss returns: its value and its gradient with respect to the low-resolution logits.
pub struct LossGrad<B: Backend> {
    /// Value, on the device until [`Backend::read_scalar`].
    pub loss: B::Scalar,
    /// Gradient with respect to the logits, times the `grad_scale` that was asked for.
    pub dlogits: B::Tensor,
}

/// What a loss over labelled pixels returns.
pub struct LabelLoss<B: Backend> {
    /// Value, on the device until [`Backend::read_scalar`].
    pub loss: B::Scalar,
    /// Gradient with respect to the logits, times the `grad_scale` that was asked for.
    pub dlogits: B::Tensor,
    /// Counts `[classes, classes]` over all labelled pixels: row = label, column = largest logit, of equal ones the first.
    pub confusion: B::Counts,
}

/// Hard labels and their confidences, one a pixel.
pub struct PseudoLabel<B: Backend> {
    /// Arg max class.
    pub label: B::Labels,
    /// Its probability, `[n, h, w, 1]`.
    pub confidence: B::Tensor,
}

/// What [`Backend::conf_ce`] returns.
pub struct ConfCeOut<B: Backend> {
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
pub struct BatchNormSaved<B: Backend> {
    /// Mean of each channel, then 1 / sqrt(var + eps) of each channel.
    pub moments: B::Vector,
}

/// A teacher that follows a student, as [`Backend::sgd_ema`] moves it.
pub struct Teacher<'a, B: Backend> {
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
pub struct NormPass<'a, B: Backend> {
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
pub struct FrozenNorm<'a, B: Backend> {
    /// The running statistics.
    pub stats: &'a B::Vector,
    /// The layer.
    pub bn: &'a BatchNorm,
    /// Its activation.
    pub act: Activation,
}

impl<B: Backend> Clone for NormPass<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for NormPass<'_, B> {}

/// A device with its memory and its implementation of every op.
///
/// Tensors are handles to device memory that is written once, by the op that makes it; cloning is cheap and shares.
pub trait Backend: Send + Sync + Sized + 'static {
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

    // ---- memory and transfers
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

    // ---- images
    /// (byte / 255 - mean) / std, 0 outside the part that is shown.
    fn normalize_bytes(&self, images: &Images<Self>, normalize: &Normalize) -> Self::Tensor;
    /// Each image with its colours changed by its [`Strong`], then (value - mean) / std. Outside the part that is shown
    /// colours are the mean to begin with.
    fn photometric(&self, pixels: Pixels<'_, Self>, strong: &[Strong], normalize: &Normalize)
    -> Self::Tensor;

    // ---- layers
    /// y = x * weight + bias.
    fn conv2d_fprop(&self, x: &Self::Tensor, params: &Self::Vector, conv: &Conv2d) -> Self::Tensor;
    /// Gradient with respect to the input of shape `x_shape`.
    fn conv2d_dgrad(
        &self,
        dy: &Self::Tensor,
        params: &Self::Vector,
        conv: &Conv2d,
        x_shape: Shape,
    ) -> Self::Tensor;
    /// [`Backend::conv2d_fprop`], and where the device gathers them on the way, moments of the output for
    /// [`Backend::batch_norm_train_moments`].
    fn conv2d_fprop_moments(
        &self,
        x: &Self::Tensor,
        params: &Self::Vector,
        conv: &Conv2d,
    ) -> (Self::Tensor, Option<Self::Moments>) {
        (self.conv2d_fprop(x, params, conv), None)
    }
    /// [`Backend::conv2d_dgrad`] with the shape of `to`, plus `to`.
    fn conv2d_dgrad_add(
        &self,
        dy: &Self::Tensor,
        params: &Self::Vector,
        conv: &Conv2d,
        to: &Self::Tensor,
    ) -> Self::Tensor {
        self.add(&self.conv2d_dgrad(dy, params, conv, Self::shape(to)), to, 1.0)
    }
    /// [`Backend::conv2d_dgrad`] with the shape of the output of `norm`, plus `add`, and where the device gathers them on the way,
    /// sums for [`Backend::batch_norm_train_bwd_sums`].
    fn conv2d_dgrad_sums(
        &self,
        dy: &Self::Tensor,
        params: &Self::Vector,
        conv: &Conv2d,
        add: Option<&Self::Tensor>,
        norm: &NormPass<'_, Self>,
    ) -> (Self::Tensor, Option<Self::Sums>) {
        let dx = match add {
            Some(to) => self.conv2d_dgrad_add(dy, params, conv, to),
            None => self.conv2d_dgrad(dy, params, conv, Self::shape(norm.x)),
        };
        (dx, None)
    }
    /// [`Backend::batch_norm_eval`] of [`Backend::conv2d_fprop`].
    fn conv2d_fprop_norm(
        &self,
        x: &Self::Tensor,
        params: &Self::Vector,
        conv: &Conv2d,
        norm: &FrozenNorm<'_, Self>,
        residual: Option<&Self::Tensor>,
    ) -> Self::Tensor {
        let z = self.conv2d_fprop(x, params, conv);
        self.batch_norm_eval(&z, params, norm.stats, norm.bn, norm.act, residual)
    }
    /// [`Backend::batch_norm_tangent`] of [`Backend::conv2d_fprop`]: `t` is the tangent of the convolution's input, `y` the
    /// output of `norm` behind it at the clean pass.
    fn conv2d_fprop_tangent(
        &self,
        t: &Self::Tensor,
        y: &Self::Tensor,
        params: &Self::Vector,
        conv: &Conv2d,
        norm: &FrozenNorm<'_, Self>,
    ) -> Self::Tensor {
        let t = self.conv2d_fprop(t, params, conv);
        self.batch_norm_tangent(&t, y, params, norm.stats, norm.bn, norm.act)
    }
    /// [`Backend::batch_norm_tangent`] of [`Backend::conv2d_dgrad`]: the convolution's input is `y`, the output of `norm`.
    fn conv2d_dgrad_tangent(
        &self,
        dy: &Self::Tensor,
        y: &Self::Tensor,
        params: &Self::Vector,
        conv: &Conv2d,
        norm: &FrozenNorm<'_, Self>,
    ) -> Self::Tensor {
        let d = self.conv2d_dgrad(dy, params, conv, Self::shape(y));
        self.batch_norm_tangent(&d, y, params, norm.stats, norm.bn, norm.act)
    }
    /// Adds the gradients of weight and bias to `grads`.
    fn conv2d_wgrad(&self, x: &Self::Tensor, dy: &Self::Tensor, grads: &mut Self::Vector, conv: &Conv2d);

    /// y = act(weight (x - mean) / sqrt(var + eps) + bias + residual) with the batch's moments; moves the running
    /// statistics.
    fn batch_norm_train(
        &self,
        x: &Self::Tensor,
        params: &Self::Vector,
        stats: &mut Self::Vector,
        bn: &BatchNorm,
        act: Activation,
        residual: Option<&Self::Tensor>,
    ) -> (Self::Tensor, BatchNormSaved<Self>);
    /// [`Backend::batch_norm_train`] of a convolution's output with the moments that it left.
    fn batch_norm_train_moments(
        &self,
        x: &Self::Tensor,
        _moments: &Self::Moments,
        params: &Self::Vector,
        stats: &mut Self::Vector,
        bn: &BatchNorm,
        act: Activation,
        residual: Option<&Self::Tensor>,
    ) -> (Self::Tensor, BatchNormSaved<Self>) {
        self.batch_norm_train(x, params, stats, bn, act, residual)
    }
    /// [`Backend::batch_norm_train`] with the running statistics, which stay as they are.
    fn batch_norm_eval(
        &self,
        x: &Self::Tensor,
        params: &Self::Vector,
        stats: &Self::Vector,
        bn: &BatchNorm,
        act: Activation,
        residual: Option<&Self::Tensor>,
    ) -> Self::Tensor;
    /// Backward of [`Backend::batch_norm_train`]: `x` its input, `y` its output. Returns dx, and the gradient of the
    /// residual where `residual` says there was one; adds to `grads`.
    fn batch_norm_train_bwd(
        &self,
        dy: &Self::Tensor,
        x: &Self::Tensor,
        y: &Self::Tensor,
        saved: &BatchNormSaved<Self>,
        params: &Self::Vector,
        grads: &mut Self::Vector,
        bn: &BatchNorm,
        act: Activation,
        residual: bool,
    ) -> (Self::Tensor, Option<Self::Tensor>);
    /// [`Backend::batch_norm_train_bwd`] from a data gradient with the sums that it left.
    fn batch_norm_train_bwd_sums(
        &self,
        dy: &Self::Tensor,
        _sums: &Self::Sums,
        norm: &NormPass<'_, Self>,
        params: &Self::Vector,
        grads: &mut Self::Vector,
    ) -> (Self::Tensor, Option<Self::Tensor>) {
        let NormPass { x, y, saved, bn, act, residual } = *norm;
        self.batch_norm_train_bwd(dy, x, y, saved, params, grads, bn, act, residual)
    }
    /// Backward of [`Backend::batch_norm_eval`] without residual; adds to `grads`.
    fn batch_norm_eval_bwd(
        &self,
        dy: &Self::Tensor,
        x: &Self::Tensor,
        y: &Self::Tensor,
        params: &Self::Vector,
        stats: &Self::Vector,
        grads: &mut Self::Vector,
        bn: &BatchNorm,
        act: Activation,
    ) -> Self::Tensor;
    /// t * act'(y) * weight / sqrt(running_var + eps): the Jacobian of [`Backend::batch_norm_eval`] applied to `t`. It
    /// is diagonal, so the same op is the tangent and the data gradient. `y` is the clean pass's output.
    fn batch_norm_tangent(
        &self,
        t: &Self::Tensor,
        y: &Self::Tensor,
        params: &Self::Vector,
        stats: &Self::Vector,
        bn: &BatchNorm,
        act: Activation,
    ) -> Self::Tensor;

    /// y = x for x > 0, slope x elsewhere.
    fn leaky_relu(&self, x: &Self::Tensor, slope: f64) -> Self::Tensor;
    /// dx from dy and the input (or the output: the signs agree).
    fn leaky_relu_bwd(&self, dy: &Self::Tensor, x: &Self::Tensor, slope: f64) -> Self::Tensor;
    /// Max pooling.
    fn max_pool2d(&self, x: &Self::Tensor, pool: &MaxPool2d) -> Self::Tensor;
    /// dx; the window's first maximum in row order takes the gradient.
    fn max_pool2d_bwd(&self, dy: &Self::Tensor, x: &Self::Tensor, pool: &MaxPool2d) -> Self::Tensor;
    /// Mean over adaptive bins: bin i of `size` covers floor(i len / size) to ceil((i + 1) len / size).
    fn adaptive_avg_pool2d(&self, x: &Self::Tensor, size: Size) -> Self::Tensor;
    /// Gradient with respect to the input of `x_size`.
    fn adaptive_avg_pool2d_bwd(&self, dy: &Self::Tensor, x_size: Size) -> Self::Tensor;
    /// Bilinear, align_corners.
    fn interpolate(&self, x: &Self::Tensor, size: Size) -> Self::Tensor;
    /// Gradient with respect to the input of `x_size` (the transposed resampling).
    fn interpolate_bwd(&self, dy: &Self::Tensor, x_size: Size) -> Self::Tensor;
    /// Channels of all parts, one after another.
    fn concat(&self, parts: &[&Self::Tensor]) -> Self::Tensor;
    /// The part of `len` channels that begins at `offset` (backward of concat).
    fn slice_channels(&self, x: &Self::Tensor, offset: usize, len: usize) -> Self::Tensor;
    /// x + alpha y; where y has one position an image it is added at every position of that image.
    fn add(&self, x: &Self::Tensor, y: &Self::Tensor, alpha: f64) -> Self::Tensor;
    /// Sum over the positions of each image: `[n, 1, 1, c]` (backward of the broadcast in [`Backend::add`]).
    fn sum_positions(&self, x: &Self::Tensor) -> Self::Tensor;

    // ---- losses: low-resolution logits, interpolated to `size` inside
    /// Mean cross entropy over pixels that are not [`IGNORE`]; 0 with zero gradient where there is none.
    fn cross_entropy(&self, logits: &Self::Tensor, target: &Self::Labels, grad_scale: f64)
    -> LabelLoss<Self>;
    /// Cross entropy over the hardest pixels.
    fn ohem_cross_entropy(
        &self,
        logits: &Self::Tensor,
        target: &Self::Labels,
        ohem: &Ohem,
        grad_scale: f64,
    ) -> LabelLoss<Self>;
    /// Label and confidence a pixel of the ensemble's softmax at `size`.
    fn ensemble_pseudo_label(
        &self,
        core: &Self::Tensor,
        assist: &Self::Tensor,
        size: Size,
        ensemble: &Ensemble,
    ) -> PseudoLabel<Self>;
    /// Confidence-weighted cross entropy of the student against pseudo labels read through `mix`. `core` and `assist`
    /// (the logits that made `pseudo`) are read only with negative learning.
    fn conf_ce(
        &self,
        student: &Self::Tensor,
        pseudo: &PseudoLabel<Self>,
        core: &Self::Tensor,
        assist: &Self::Tensor,
        ensemble: &Ensemble,
        mix: &Mix,
        conf_ce: &ConfCe,
        grad_scale: f64,
    ) -> ConfCeOut<Self>;
    /// Mean over (pixel, class) of (softmax(student) - softmax(ensemble))², the mean teacher's consistency (Tarvainen
    /// and Valpola, 2017), target read through `mix`.
    fn mse_consistency(
        &self,
        student: &Self::Tensor,
        core: &Self::Tensor,
        assist: &Self::Tensor,
        size: Size,
        ensemble: &Ensemble,
        mix: &Mix,
        grad_scale: f64,
    ) -> LossGrad<Self>;
    /// Images after CutMix.
    fn cut_mix(&self, x: &Self::Tensor, mix: &Mix) -> Self::Tensor;
    /// Counts `[num_classes, num_classes]`, row = target, column = prediction; ignored targets do not count, nor, with
    /// `above`, pixels whose confidence is below its threshold (compared in the type that [`Backend::conf_ce`] compares in).
    fn confusion_matrix(
        &self,
        pred: &Self::Labels,
        target: &Self::Labels,
        num_classes: usize,
        above: Option<(&Self::Tensor, f64)>,
    ) -> Self::Counts;

    // ---- T-VAT
    /// Uniform noise in [-0.5, 0.5): element i (NHWC) is `key.uniform(i) - 0.5`.
    fn uniform_noise(&self, shape: Shape, key: Key) -> Self::Tensor;
    /// scale * d / (‖d‖ + 1e-8), norm over each image.
    fn normalize(&self, d: &Self::Tensor, scale: f64) -> Self::Tensor;
    /// x + [`Backend::normalize`] of d.
    fn add_normalized(&self, x: &Self::Tensor, d: &Self::Tensor, scale: f64) -> Self::Tensor;
    /// Low-resolution cotangent of exact T-VAT, the same for each of k decoders, whose logits lie side by side:
    /// upᵀ(p t - p (p·t)) / k with p = softmax(mean of up(logits)), t = mean of up(tangents).
    fn tvat_cotangent(
        &self,
        logits: &Self::Tensor,
        tangents: &Self::Tensor,
        decoders: usize,
        size: Size,
    ) -> Self::Tensor;
    /// Low-resolution gradient of KL(softmax(clean) ‖ softmax(perturbed)) / n with respect to the perturbed logits of k
    /// decoders, which lie side by side: upᵀ(q - p) / (n k), p and q from the mean upsampled logits.
    fn kl_gradient(
        &self,
        clean: &Self::Tensor,
        perturbed: &Self::Tensor,
        decoders: usize,
        size: Size,
    ) -> Self::Tensor;

    // ---- optimiser
    /// One step of [`Sgd`] over flat vectors.
    fn sgd(&self, params: &mut Self::Vector, grads: &Self::Vector, momentum: &mut Self::Vector, sgd: &Sgd);
    /// [`Backend::sgd`], then teacher = keep teacher + (1 - keep) student, of parameters and of running statistics.
    fn sgd_ema(
        &self,
        params: &mut Self::Vector,
        grads: &Self::Vector,
        momentum: &mut Self::Vector,
        sgd: &Sgd,
        teacher: Teacher<'_, Self>,
    );
    /// `to[at..at + span.len] = from[span]` for each (span, at).
    fn copy_spans(&self, to: &mut Self::Vector, from: &Self::Vector, moves: &[(Span, usize)]);
}
