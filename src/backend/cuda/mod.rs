//! The CUDA device: one launch plan an op over the kernels in `kernels/`, run through a [`Driver`]: a GPU's, or the
//! emulator's. Activations are f32 or bf16, everything else (parameters, gradients, statistics, confidences) f32.
//!
//! Reductions have a fixed order and no float is added atomically, so results repeat bit by bit. One file an op; this file
//! only ties them to [`Backend`]. Knows no networks.

mod arena;
mod batch_norm;
pub mod branches;
mod channels;
mod conf_ce;
mod confusion_matrix;
mod conv2d;
mod cross_entropy;
mod cut_mix;
pub mod driver;
mod elementwise;
mod ensemble_pseudo_label;
mod finite;
pub mod gpu;
mod interpolate;
mod loss;
mod memory;
mod mse_consistency;
mod optimizer;
mod photometric;
mod pool;
pub mod recording;
pub mod tensor_map;
mod tvat;

use crate::ops::*;
use crate::rng::Key;
use crate::{Error, Result};
use arena::{Arena, Recorder};
use branches::Branch;
use conv2d::{Behind, ForcedTile};
pub use conv2d::{Direction, Tile, TileUses, modelled_tiles};
use driver::{Args, DevicePtr, Driver, Kernel, Launch};
use memory::args;
pub use memory::{Buffer, Counts, Dtype, Labels, Moments, Scalar, Sums, Tensor, Vector};
use std::sync::{Arc, Mutex, PoisonError};

/// What a plan leaves free for what no buffer is: code of kernels, graphs, and gaps between blocks of several sizes.
const RESERVE: (&str, u64) = ("reserve (code, graphs, gaps)", 256 << 20);

/// A device that runs CUDA kernels.
#[derive(Clone)]
pub struct Cuda {
    driver: Arc<dyn Driver>,
    dtype: Dtype,
    /// The first fault. Ops return no errors, as a GPU reports them late; after a fault nothing is launched any more.
    fault: Arc<Mutex<Option<Error>>>,
    /// The tile of convolutions, where it fits, instead of the one that the model finds fastest.
    tile: Option<ForcedTile>,
}

/// A device that notes what it is asked for and computes nothing.
#[cfg(test)]
pub(crate) fn noting(dtype: Dtype) -> Cuda {
    Cuda::new(Arc::new(Recorder::new("noting".into(), true)), dtype)
}

impl Cuda {
    /// The device behind `driver` with activations of type `dtype`.
    pub fn new(driver: Arc<dyn Driver>, dtype: Dtype) -> Cuda {
        Cuda { driver, dtype, fault: Arc::default(), tile: None }
    }

    /// The same with one tile for all convolutions that it fits.
    pub fn with_tile(self, tile: Tile) -> Cuda {
        Cuda { tile: Some(ForcedTile::new(tile)), ..self }
    }

    /// Launches of convolutions since [`Cuda::with_tile`], on this device and its clones; none without it.
    pub fn tile_uses(&self) -> TileUses {
        self.tile.as_ref().map_or_else(TileUses::default, ForcedTile::uses)
    }

    /// Keeps the first error.
    fn note<T: Default>(&self, result: Result<T>) -> T {
        result.unwrap_or_else(|e| {
            self.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
            T::default()
        })
    }

    fn faulted(&self) -> bool {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Memory of unspecified content; null after a fault.
    fn buffer(&self, bytes: usize) -> Buffer {
        let ptr =
            if self.faulted() || bytes == 0 { DevicePtr(0) } else { self.note(self.driver.alloc(bytes)) };
        Buffer::new(self.driver.clone(), ptr, bytes)
    }

    /// A buffer with a copy of `data`.
    fn upload_buffer<T: bytemuck::Pod>(&self, data: &[T]) -> Buffer {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        let buffer = self.buffer(bytes.len());
        if !self.faulted() && !bytes.is_empty() {
            self.note(self.driver.upload(buffer.ptr(), bytes));
        }
        buffer
    }

    /// The values of a buffer; zeros after a fault.
    fn download_buffer<T: bytemuck::Pod>(&self, buffer: &Buffer, len: usize) -> Vec<T> {
        let mut data = vec![T::zeroed(); len];
        if !self.faulted() && len > 0 {
            self.note(self.driver.download(buffer.ptr(), bytemuck::cast_slice_mut(&mut data)));
        }
        data
    }

    fn clear_buffer(&self, buffer: &Buffer) {
        if !self.faulted() && buffer.bytes() > 0 {
            self.note(self.driver.clear(buffer.ptr(), buffer.bytes()));
        }
    }

    /// An activation of the device's type, to be written.
    fn tensor(&self, shape: Shape) -> Tensor {
        self.tensor_of(self.dtype, shape)
    }

    /// An activation of a given type, to be written.
    fn tensor_of(&self, dtype: Dtype, shape: Shape) -> Tensor {
        Tensor { shape, dtype, buffer: Arc::new(self.buffer(shape.len() * dtype.size())) }
    }

    /// Labels `[n, h, w]`, to be written.
    fn labels(&self, shape: Shape) -> Labels {
        let shape = shape.with_channels(1);
        Labels { shape, buffer: Arc::new(self.buffer(shape.len())) }
    }

    /// A vector, to be written.
    fn vector(&self, len: usize) -> Vector {
        Vector::new(len, self.buffer(4 * len))
    }

    /// A double, to be written.
    fn scalar(&self) -> Scalar {
        Scalar(Arc::new(self.buffer(8)))
    }

    /// Counts of zero.
    fn counts(&self, len: usize) -> Counts {
        let buffer = self.buffer(8 * len);
        self.clear_buffer(&buffer);
        Counts { len, buffer: Arc::new(buffer) }
    }

    /// Runs kernel `name` of `kernels/<file>.cu`; does nothing after a fault or where there are no blocks.
    fn launch(&self, file: &'static str, name: &str, launch: Launch, args: Args) {
        if self.faulted() || launch.grid.contains(&0) {
            return;
        }
        self.note(self.driver.launch(&Kernel { file, name: name.into() }, launch, &args));
    }

    /// Runs the variant of kernel `name` for activations of `dtype`: `<name>_f32` or `<name>_bf16`.
    fn launch_typed(&self, file: &'static str, name: &str, dtype: Dtype, launch: Launch, args: Args) {
        self.launch(file, &format!("{name}_{}", dtype.suffix()), launch, args);
    }
}

impl Backend for Cuda {
    type Tensor = Tensor;
    type Vector = Vector;
    type Labels = Labels;
    type Scalar = Scalar;
    type Counts = Counts;
    type Moments = Moments;
    type Sums = Sums;

    fn name(&self) -> String {
        self.driver.name()
    }

    fn shape(x: &Tensor) -> Shape {
        x.shape
    }
    fn labels_shape(x: &Labels) -> Shape {
        x.shape
    }
    fn vector_len(v: &Vector) -> usize {
        v.len
    }
    fn upload(&self, shape: Shape, data: &[f32]) -> Tensor {
        let buffer = match self.dtype {
            Dtype::F32 => self.upload_buffer(data),
            Dtype::Bf16 => self.upload_buffer(&to_bf16(data)),
        };
        Tensor { shape, dtype: self.dtype, buffer: Arc::new(buffer) }
    }
    fn download(&self, x: &Tensor) -> Vec<f32> {
        match x.dtype {
            Dtype::F32 => self.download_buffer(&x.buffer, x.shape.len()),
            Dtype::Bf16 => {
                let bits: Vec<u16> = self.download_buffer(&x.buffer, x.shape.len());
                bits.iter().map(|&v| half::bf16::from_bits(v).to_f32()).collect()
            }
        }
    }
    fn upload_labels(&self, shape: Shape, data: &[u8]) -> Labels {
        Labels { shape, buffer: Arc::new(self.upload_buffer(data)) }
    }
    fn download_labels(&self, x: &Labels) -> Vec<u8> {
        self.download_buffer(&x.buffer, x.shape.len())
    }
    fn zeros(&self, len: usize) -> Vector {
        let v = self.vector(len);
        self.clear_buffer(&v.buffer);
        v
    }
    fn upload_vector(&self, data: &[f32]) -> Vector {
        Vector::new(data.len(), self.upload_buffer(data))
    }
    fn download_vector(&self, v: &Vector) -> Vec<f32> {
        self.download_buffer(&v.buffer, v.len)
    }
    fn clear(&self, v: &mut Vector) {
        self.clear_buffer(&v.buffer);
        // Zero is zero bits in both types.
        if let Some(half) = v.half() {
            self.clear_buffer(&half);
        }
    }
    fn read_scalar(&self, s: &Scalar) -> f64 {
        self.download_buffer(&s.0, 1)[0]
    }
    fn read_counts(&self, c: &Counts) -> Vec<u64> {
        self.download_buffer(&c.buffer, c.len)
    }
    fn zero_counts(&self, len: usize) -> Counts {
        self.counts(len)
    }
    fn watch_tensor(&self, watch: &mut Counts, x: &Tensor, place: u32) {
        finite::watch(self, watch, x.dtype, &x.buffer, x.shape.len(), place)
    }
    fn watch_vector(&self, watch: &mut Counts, v: &Vector, place: u32) {
        finite::watch(self, watch, Dtype::F32, &v.buffer, v.len, place)
    }
    fn synchronize(&self) {
        if !self.faulted() {
            self.note(self.driver.synchronize());
        }
    }
    fn check(&self) -> Result<()> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }

    fn available_memory(&self) -> Option<u64> {
        self.driver.available_memory()
    }
    fn phase(&self, name: &'static str) {
        self.driver.phase(name);
    }
    fn step<R>(&self, kind: &'static str, work: impl FnOnce() -> R) -> R {
        self.driver.begin_step(kind);
        let result = work();
        self.note(self.driver.end_step());
        result
    }
    fn join<R, S>(&self, first: impl FnOnce() -> R, second: impl FnOnce() -> S) -> (R, S) {
        self.driver.branch(Branch::Fork);
        let first = first();
        self.driver.branch(Branch::Next);
        let second = second();
        self.driver.branch(Branch::Join);
        (first, second)
    }
    fn planned(&self, rehearse: impl FnOnce(&Cuda) -> Result<()>) -> Result<Option<(Cuda, MemoryPlan)>> {
        let recorder = Arc::new(Recorder::new(self.driver.name(), self.driver.has_warpgroup_products()));
        let twin = Cuda::new(recorder.clone(), self.dtype);
        // With counts of its own: what is rehearsed does not run.
        let twin = self.tile.iter().fold(twin, |twin, forced| twin.with_tile(forced.tile));
        rehearse(&twin)?;
        twin.check()?;
        let (scripts, mut plan) = recorder.plan();
        plan.hold(RESERVE.0, RESERVE.1);
        let mut device = self.clone();
        if self.driver.allows_arena() {
            device.driver = Arc::new(Arena::new(self.driver.clone(), scripts));
        }
        Ok(Some((device, plan)))
    }

    fn normalize_bytes(&self, images: &Images<Self>, normalize: &Normalize) -> Tensor {
        photometric::normalize_bytes(self, images, normalize)
    }
    fn photometric(&self, pixels: Pixels<'_, Self>, strong: &[Strong], normalize: &Normalize) -> Tensor {
        photometric::photometric(self, pixels, strong, normalize)
    }
    fn conv2d_fprop(&self, x: &Tensor, params: &Vector, conv: &Conv2d) -> Tensor {
        conv2d::fprop(self, x, params, conv, &Behind::Nothing).0
    }
    fn conv2d_fprop_moments(&self, x: &Tensor, params: &Vector, conv: &Conv2d) -> (Tensor, Option<Moments>) {
        conv2d::fprop(self, x, params, conv, &Behind::Moments)
    }
    fn conv2d_fprop_norm(
        &self,
        x: &Tensor,
        params: &Vector,
        conv: &Conv2d,
        norm: &FrozenNorm<'_, Cuda>,
        residual: Option<&Tensor>,
    ) -> Tensor {
        conv2d::fprop(self, x, params, conv, &Behind::Norm(norm, residual)).0
    }
    fn conv2d_fprop_tangent(
        &self,
        t: &Tensor,
        y: &Tensor,
        params: &Vector,
        conv: &Conv2d,
        norm: &FrozenNorm<'_, Cuda>,
    ) -> Tensor {
        conv2d::fprop(self, t, params, conv, &Behind::Tangent(norm, y)).0
    }
    fn conv2d_dgrad(&self, dy: &Tensor, params: &Vector, conv: &Conv2d, x_shape: Shape) -> Tensor {
        conv2d::dgrad(self, dy, params, conv, x_shape, None, None).0
    }
    fn conv2d_dgrad_add(&self, dy: &Tensor, params: &Vector, conv: &Conv2d, to: &Tensor) -> Tensor {
        conv2d::dgrad(self, dy, params, conv, to.shape, Some(to), None).0
    }
    fn conv2d_dgrad_sums(
        &self,
        dy: &Tensor,
        params: &Vector,
        conv: &Conv2d,
        add: Option<&Tensor>,
        norm: &NormPass<'_, Cuda>,
    ) -> (Tensor, Option<Sums>) {
        conv2d::dgrad(self, dy, params, conv, norm.x.shape, add, Some(norm))
    }
    fn conv2d_dgrad_tangent(
        &self,
        dy: &Tensor,
        y: &Tensor,
        params: &Vector,
        conv: &Conv2d,
        norm: &FrozenNorm<'_, Cuda>,
    ) -> Tensor {
        conv2d::dgrad_tangent(self, dy, y, params, conv, norm)
    }
    fn conv2d_wgrad(&self, x: &Tensor, dy: &Tensor, grads: &mut Vector, conv: &Conv2d) {
        conv2d::wgrad(self, x, dy, grads, conv)
    }
    fn batch_norm_train(
        &self,
        x: &Tensor,
        params: &Vector,
        stats: &mut Vector,
        bn: &BatchNorm,
        act: Activation,
        residual: Option<&Tensor>,
    ) -> (Tensor, BatchNormSaved<Self>) {
        let (y, moments) = batch_norm::train(self, x, None, params, stats, bn, act, residual);
        (y, BatchNormSaved { moments })
    }
    fn batch_norm_train_moments(
        &self,
        x: &Tensor,
        moments: &Moments,
        params: &Vector,
        stats: &mut Vector,
        bn: &BatchNorm,
        act: Activation,
        residual: Option<&Tensor>,
    ) -> (Tensor, BatchNormSaved<Self>) {
        let (y, moments) = batch_norm::train(self, x, Some(moments), params, stats, bn, act, residual);
        (y, BatchNormSaved { moments })
    }
    fn batch_norm_eval(
        &self,
        x: &Tensor,
        params: &Vector,
        stats: &Vector,
        bn: &BatchNorm,
        act: Activation,
        residual: Option<&Tensor>,
    ) -> Tensor {
        batch_norm::eval(self, x, params, stats, bn, act, residual)
    }
    fn batch_norm_train_bwd(
        &self,
        dy: &Tensor,
        x: &Tensor,
        y: &Tensor,
        saved: &BatchNormSaved<Self>,
        params: &Vector,
        grads: &mut Vector,
        bn: &BatchNorm,
        act: Activation,
        residual: bool,
    ) -> (Tensor, Option<Tensor>) {
        let norm = NormPass { x, y, saved, bn, act, residual };
        batch_norm::train_bwd(self, dy, None, &norm, params, grads)
    }
    fn batch_norm_train_bwd_sums(
        &self,
        dy: &Tensor,
        sums: &Sums,
        norm: &NormPass<'_, Cuda>,
        params: &Vector,
        grads: &mut Vector,
    ) -> (Tensor, Option<Tensor>) {
        batch_norm::train_bwd(self, dy, Some(sums), norm, params, grads)
    }
    fn batch_norm_eval_bwd(
        &self,
        dy: &Tensor,
        x: &Tensor,
        _y: &Tensor,
        params: &Vector,
        stats: &Vector,
        grads: &mut Vector,
        bn: &BatchNorm,
        act: Activation,
    ) -> Tensor {
        batch_norm::eval_bwd(self, dy, x, params, stats, grads, bn, act)
    }
    fn batch_norm_tangent(
        &self,
        t: &Tensor,
        y: &Tensor,
        params: &Vector,
        stats: &Vector,
        bn: &BatchNorm,
        act: Activation,
    ) -> Tensor {
        batch_norm::tangent(self, t, y, params, stats, bn, act)
    }
    fn leaky_relu(&self, x: &Tensor, slope: f64) -> Tensor {
        elementwise::leaky_relu(self, x, slope)
    }
    fn leaky_relu_bwd(&self, dy: &Tensor, x: &Tensor, slope: f64) -> Tensor {
        elementwise::leaky_relu_bwd(self, dy, x, slope)
    }
    fn max_pool2d(&self, x: &Tensor, spec: &MaxPool2d) -> Tensor {
        pool::max_pool2d(self, x, spec)
    }
    fn max_pool2d_bwd(&self, dy: &Tensor, x: &Tensor, spec: &MaxPool2d) -> Tensor {
        pool::max_pool2d_bwd(self, dy, x, spec)
    }
    fn adaptive_avg_pool2d(&self, x: &Tensor, size: Size) -> Tensor {
        pool::adaptive_avg_pool2d(self, x, size)
    }
    fn adaptive_avg_pool2d_bwd(&self, dy: &Tensor, x_size: Size) -> Tensor {
        pool::adaptive_avg_pool2d_bwd(self, dy, x_size)
    }
    fn interpolate(&self, x: &Tensor, size: Size) -> Tensor {
        interpolate::forward(self, x, size)
    }
    fn interpolate_bwd(&self, dy: &Tensor, x_size: Size) -> Tensor {
        interpolate::backward(self, dy, x_size)
    }
    fn concat(&self, parts: &[&Tensor]) -> Tensor {
        elementwise::concat(self, parts)
    }
    fn slice_channels(&self, x: &Tensor, offset: usize, len: usize) -> Tensor {
        elementwise::slice_channels(self, x, offset, len)
    }
    fn add(&self, x: &Tensor, y: &Tensor, alpha: f64) -> Tensor {
        elementwise::add(self, x, y, alpha)
    }
    fn sum_positions(&self, x: &Tensor) -> Tensor {
        elementwise::sum_positions(self, x)
    }

    fn cross_entropy(&self, logits: &Tensor, target: &Labels, grad_scale: f64) -> LabelLoss<Self> {
        cross_entropy::cross_entropy(self, logits, target, grad_scale)
    }
    fn ohem_cross_entropy(
        &self,
        logits: &Tensor,
        target: &Labels,
        ohem: &Ohem,
        grad_scale: f64,
    ) -> LabelLoss<Self> {
        cross_entropy::ohem_cross_entropy(self, logits, target, ohem, grad_scale)
    }
    fn ensemble_pseudo_label(
        &self,
        core: &Tensor,
        assist: &Tensor,
        size: Size,
        ensemble: &Ensemble,
    ) -> PseudoLabel<Self> {
        ensemble_pseudo_label::forward(self, core, assist, size, ensemble)
    }
    fn conf_ce(
        &self,
        student: &Tensor,
        pseudo: &PseudoLabel<Self>,
        core: &Tensor,
        assist: &Tensor,
        ensemble: &Ensemble,
        mix: &Mix,
        spec: &ConfCe,
        grad_scale: f64,
    ) -> ConfCeOut<Self> {
        conf_ce::forward_backward(self, student, pseudo, core, assist, ensemble, mix, spec, grad_scale)
    }
    fn mse_consistency(
        &self,
        student: &Tensor,
        core: &Tensor,
        assist: &Tensor,
        size: Size,
        ensemble: &Ensemble,
        mix: &Mix,
        grad_scale: f64,
    ) -> LossGrad<Self> {
        mse_consistency::forward_backward(self, student, core, assist, size, ensemble, mix, grad_scale)
    }
    fn cut_mix(&self, x: &Tensor, mix: &Mix) -> Tensor {
        cut_mix::forward(self, x, mix)
    }
    fn confusion_matrix(
        &self,
        pred: &Labels,
        target: &Labels,
        num_classes: usize,
        above: Option<(&Tensor, f64)>,
    ) -> Counts {
        confusion_matrix::count(self, pred, target, num_classes, above)
    }
    fn uniform_noise(&self, shape: Shape, key: Key) -> Tensor {
        tvat::uniform_noise(self, shape, key)
    }
    fn normalize(&self, d: &Tensor, scale: f64) -> Tensor {
        tvat::normalize(self, None, d, scale)
    }
    fn add_normalized(&self, x: &Tensor, d: &Tensor, scale: f64) -> Tensor {
        tvat::normalize(self, Some(x), d, scale)
    }
    fn tvat_cotangent(&self, logits: &Tensor, tangents: &Tensor, decoders: usize, size: Size) -> Tensor {
        tvat::cotangent(self, logits, tangents, decoders, size)
    }
    fn kl_gradient(&self, clean: &Tensor, perturbed: &Tensor, decoders: usize, size: Size) -> Tensor {
        tvat::kl_gradient(self, clean, perturbed, decoders, size)
    }
    fn sgd(&self, params: &mut Vector, grads: &Vector, momentum: &mut Vector, spec: &Sgd) {
        optimizer::sgd(self, params, grads, momentum, spec, None)
    }
    fn sgd_ema(
        &self,
        params: &mut Vector,
        grads: &Vector,
        momentum: &mut Vector,
        spec: &Sgd,
        teacher: Teacher<'_, Cuda>,
    ) {
        optimizer::sgd(self, params, grads, momentum, spec, Some(teacher))
    }
    fn copy_spans(&self, to: &mut Vector, from: &Vector, moves: &[(Span, usize)]) {
        optimizer::copy_spans(self, to, from, moves)
    }
}

/// Rounds to nearest even.
fn to_bf16(data: &[f32]) -> Vec<u16> {
    data.iter().map(|&v| half::bf16::from_f32(v).to_bits()).collect()
}
