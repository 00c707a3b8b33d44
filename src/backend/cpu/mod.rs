//! The CPU device: rayon over images, rows or channels, generic over f32 (training) and f64 (gradient checks).
//!
//! Work is cut by problem size, never by the number of threads, and every reduction has a fixed order, so results do
//! not depend on the number of threads. One file an op; this file only ties them to [`Backend`].

mod batch_norm;
mod channels;
mod conf_ce;
mod confusion_matrix;
mod conv2d;
mod cross_entropy;
mod cut_mix;
mod elementwise;
mod ensemble_pseudo_label;
mod finite;
mod gather;
mod gemm;
mod interpolate;
mod memory;
mod mse_consistency;
mod optimizer;
mod parallel;
mod photometric;
mod pool;
mod real;
mod softmax;
mod tvat;
mod upsample;
mod wgrad;
mod winograd;

use crate::ops::*;
use crate::rng::Key;
pub use memory::Tensor;
pub use real::Real;
use std::marker::PhantomData;

/// Labels or 8-bit images on the CPU.
#[derive(Clone, Debug)]
pub struct Labels {
    /// `[n, h, w]` with c = 1 for labels.
    pub shape: Shape,
    /// Class ids row by row, or bytes NHWC.
    pub data: std::sync::Arc<Vec<u8>>,
}

/// The CPU device computing in `T`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu<T>(PhantomData<T>);

impl<T: Real> Cpu<T> {
    /// The device; threads are those of rayon's current pool.
    pub fn new() -> Cpu<T> {
        Cpu(PhantomData)
    }
}

impl<T: Real> Backend for Cpu<T> {
    type Tensor = Tensor<T>;
    type Vector = Vec<T>;
    type Labels = Labels;
    type Scalar = f64;
    type Counts = Vec<u64>;
    type Moments = ();
    type Sums = ();

    fn name(&self) -> String {
        "cpu".into()
    }

    fn shape(x: &Tensor<T>) -> Shape {
        x.shape()
    }
    fn labels_shape(x: &Labels) -> Shape {
        x.shape
    }
    fn vector_len(v: &Vec<T>) -> usize {
        v.len()
    }
    fn upload(&self, shape: Shape, data: &[f32]) -> Tensor<T> {
        Tensor::from_fn(shape, |i| T::from_f32(data[i]))
    }
    fn download(&self, x: &Tensor<T>) -> Vec<f32> {
        x.data().iter().map(|v| v.to_f64() as f32).collect()
    }
    fn upload_labels(&self, shape: Shape, data: &[u8]) -> Labels {
        Labels { shape, data: std::sync::Arc::new(data.to_vec()) }
    }
    fn download_labels(&self, x: &Labels) -> Vec<u8> {
        x.data.to_vec()
    }
    fn zeros(&self, len: usize) -> Vec<T> {
        vec![T::ZERO; len]
    }
    fn upload_vector(&self, data: &[f32]) -> Vec<T> {
        data.iter().map(|&v| T::from_f32(v)).collect()
    }
    fn download_vector(&self, v: &Vec<T>) -> Vec<f32> {
        v.iter().map(|v| v.to_f64() as f32).collect()
    }
    fn clear(&self, v: &mut Vec<T>) {
        v.fill(T::ZERO);
    }
    fn read_scalar(&self, s: &f64) -> f64 {
        *s
    }
    fn read_counts(&self, c: &Vec<u64>) -> Vec<u64> {
        c.clone()
    }
    fn zero_counts(&self, len: usize) -> Vec<u64> {
        vec![0; len]
    }
    fn watch_tensor(&self, watch: &mut Vec<u64>, x: &Tensor<T>, place: u32) {
        finite::watch(watch, x.data(), place)
    }
    fn watch_vector(&self, watch: &mut Vec<u64>, v: &Vec<T>, place: u32) {
        finite::watch(watch, v, place)
    }
    fn synchronize(&self) {}
    fn available_memory(&self) -> Option<u64> {
        crate::host::available_memory()
    }
    fn value_bytes(&self) -> usize {
        size_of::<T>()
    }

    fn normalize_bytes(&self, images: &Images<Self>, normalize: &Normalize) -> Tensor<T> {
        photometric::normalize_bytes(images, normalize)
    }
    fn photometric(&self, pixels: Pixels<'_, Self>, strong: &[Strong], normalize: &Normalize) -> Tensor<T> {
        photometric::photometric(pixels, strong, normalize)
    }
    fn conv2d_fprop(&self, x: &Tensor<T>, params: &Vec<T>, conv: &Conv2d) -> Tensor<T> {
        conv2d::fprop(x, params, conv)
    }
    fn conv2d_dgrad(&self, dy: &Tensor<T>, params: &Vec<T>, conv: &Conv2d, x_shape: Shape) -> Tensor<T> {
        conv2d::dgrad(dy, params, conv, x_shape)
    }
    fn conv2d_wgrad(&self, x: &Tensor<T>, dy: &Tensor<T>, grads: &mut Vec<T>, conv: &Conv2d) {
        conv2d::wgrad(x, dy, grads, conv)
    }
    fn batch_norm_train(
        &self,
        x: &Tensor<T>,
        params: &Vec<T>,
        stats: &mut Vec<T>,
        bn: &BatchNorm,
        act: Activation,
        residual: Option<&Tensor<T>>,
    ) -> (Tensor<T>, BatchNormSaved<Self>) {
        let (y, moments) = batch_norm::train(x, params, stats, bn, act, residual);
        (y, BatchNormSaved { moments })
    }
    fn batch_norm_eval(
        &self,
        x: &Tensor<T>,
        params: &Vec<T>,
        stats: &Vec<T>,
        bn: &BatchNorm,
        act: Activation,
        residual: Option<&Tensor<T>>,
    ) -> Tensor<T> {
        batch_norm::eval(x, params, stats, bn, act, residual)
    }
    fn batch_norm_train_bwd(
        &self,
        dy: &Tensor<T>,
        x: &Tensor<T>,
        y: &Tensor<T>,
        saved: &BatchNormSaved<Self>,
        params: &Vec<T>,
        grads: &mut Vec<T>,
        bn: &BatchNorm,
        act: Activation,
        residual: bool,
    ) -> (Tensor<T>, Option<Tensor<T>>) {
        batch_norm::train_bwd(dy, x, y, &saved.moments, params, grads, bn, act, residual)
    }
    fn batch_norm_eval_bwd(
        &self,
        dy: &Tensor<T>,
        x: &Tensor<T>,
        y: &Tensor<T>,
        params: &Vec<T>,
        stats: &Vec<T>,
        grads: &mut Vec<T>,
        bn: &BatchNorm,
        act: Activation,
    ) -> Tensor<T> {
        batch_norm::eval_bwd(dy, x, y, params, stats, grads, bn, act)
    }
    fn batch_norm_tangent(
        &self,
        t: &Tensor<T>,
        y: &Tensor<T>,
        params: &Vec<T>,
        stats: &Vec<T>,
        bn: &BatchNorm,
        act: Activation,
    ) -> Tensor<T> {
        batch_norm::tangent(t, y, params, stats, bn, act)
    }
    fn leaky_relu(&self, x: &Tensor<T>, slope: f64) -> Tensor<T> {
        elementwise::leaky_relu(x, slope)
    }
    fn leaky_relu_bwd(&self, dy: &Tensor<T>, x: &Tensor<T>, slope: f64) -> Tensor<T> {
        elementwise::leaky_relu_bwd(dy, x, slope)
    }
    fn max_pool2d(&self, x: &Tensor<T>, spec: &MaxPool2d) -> Tensor<T> {
        pool::max_pool2d(x, spec)
    }
    fn max_pool2d_bwd(&self, dy: &Tensor<T>, x: &Tensor<T>, spec: &MaxPool2d) -> Tensor<T> {
        pool::max_pool2d_bwd(dy, x, spec)
    }
    fn adaptive_avg_pool2d(&self, x: &Tensor<T>, size: Size) -> Tensor<T> {
        pool::adaptive_avg_pool2d(x, size)
    }
    fn adaptive_avg_pool2d_bwd(&self, dy: &Tensor<T>, x_size: Size) -> Tensor<T> {
        pool::adaptive_avg_pool2d_bwd(dy, x_size)
    }
    fn interpolate(&self, x: &Tensor<T>, size: Size) -> Tensor<T> {
        interpolate::forward(x, size)
    }
    fn interpolate_bwd(&self, dy: &Tensor<T>, x_size: Size) -> Tensor<T> {
        interpolate::backward(dy, x_size)
    }
    fn concat(&self, parts: &[&Tensor<T>]) -> Tensor<T> {
        elementwise::concat(parts)
    }
    fn slice_channels(&self, x: &Tensor<T>, offset: usize, len: usize) -> Tensor<T> {
        elementwise::slice_channels(x, offset, len)
    }
    fn add(&self, x: &Tensor<T>, y: &Tensor<T>, alpha: f64) -> Tensor<T> {
        elementwise::add(x, y, alpha)
    }
    fn sum_positions(&self, x: &Tensor<T>) -> Tensor<T> {
        elementwise::sum_positions(x)
    }

    fn cross_entropy(&self, logits: &Tensor<T>, target: &Labels, grad_scale: f64) -> LabelLoss<Self> {
        cross_entropy::cross_entropy(logits, target, grad_scale)
    }
    fn ohem_cross_entropy(
        &self,
        logits: &Tensor<T>,
        target: &Labels,
        ohem: &Ohem,
        grad_scale: f64,
    ) -> LabelLoss<Self> {
        cross_entropy::ohem_cross_entropy(logits, target, ohem, grad_scale)
    }
    fn ensemble_pseudo_label(
        &self,
        core: &Tensor<T>,
        assist: &Tensor<T>,
        size: Size,
        ensemble: &Ensemble,
    ) -> PseudoLabel<Self> {
        ensemble_pseudo_label::forward(core, assist, size, ensemble)
    }
    fn conf_ce(
        &self,
        student: &Tensor<T>,
        pseudo: &PseudoLabel<Self>,
        core: &Tensor<T>,
        assist: &Tensor<T>,
        ensemble: &Ensemble,
        mix: &Mix,
        spec: &ConfCe,
        grad_scale: f64,
    ) -> ConfCeOut<Self> {
        conf_ce::forward_backward(student, pseudo, core, assist, ensemble, mix, spec, grad_scale)
    }
    fn mse_consistency(
        &self,
        student: &Tensor<T>,
        core: &Tensor<T>,
        assist: &Tensor<T>,
        size: Size,
        ensemble: &Ensemble,
        mix: &Mix,
        grad_scale: f64,
    ) -> LossGrad<Self> {
        mse_consistency::forward_backward(student, core, assist, size, ensemble, mix, grad_scale)
    }
    fn cut_mix(&self, x: &Tensor<T>, mix: &Mix) -> Tensor<T> {
        cut_mix::forward(x, mix)
    }
    fn confusion_matrix(
        &self,
        pred: &Labels,
        target: &Labels,
        num_classes: usize,
        above: Option<(&Tensor<T>, f64)>,
    ) -> Vec<u64> {
        confusion_matrix::count(pred, target, num_classes, above)
    }
    fn uniform_noise(&self, shape: Shape, key: Key) -> Tensor<T> {
        tvat::uniform_noise(shape, key)
    }
    fn normalize(&self, d: &Tensor<T>, scale: f64) -> Tensor<T> {
        tvat::normalize(d, scale)
    }
    fn add_normalized(&self, x: &Tensor<T>, d: &Tensor<T>, scale: f64) -> Tensor<T> {
        tvat::add_normalized(x, d, scale)
    }
    fn tvat_cotangent(
        &self,
        logits: &Tensor<T>,
        tangents: &Tensor<T>,
        decoders: usize,
        size: Size,
    ) -> Tensor<T> {
        tvat::cotangent(logits, tangents, decoders, size)
    }
    fn kl_gradient(
        &self,
        clean: &Tensor<T>,
        perturbed: &Tensor<T>,
        decoders: usize,
        size: Size,
    ) -> Tensor<T> {
        tvat::kl_gradient(clean, perturbed, decoders, size)
    }
    fn sgd(&self, params: &mut Vec<T>, grads: &Vec<T>, momentum: &mut Vec<T>, spec: &Sgd) {
        optimizer::sgd(params, grads, momentum, spec)
    }
    fn sgd_ema(
        &self,
        params: &mut Vec<T>,
        grads: &Vec<T>,
        momentum: &mut Vec<T>,
        spec: &Sgd,
        teacher: Teacher<'_, Self>,
    ) {
        optimizer::sgd(params, grads, momentum, spec);
        optimizer::ema(teacher.params, params, teacher.keep);
        optimizer::ema(teacher.stats, teacher.student_stats, teacher.keep);
    }
    fn copy_spans(&self, to: &mut Vec<T>, from: &Vec<T>, moves: &[(Span, usize)]) {
        optimizer::copy_spans(to, from, moves)
    }
}
