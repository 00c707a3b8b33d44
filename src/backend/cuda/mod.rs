//! The CUDA device: one launch plan per op over the kernels in `kernels/`, run through a [`Driver`]: a GPU's,
//! or the emulator's. Activations are f32 or bf16, everything else (parameters, gradients, statistics,
//! confidences) f32.
//!
//! Reductions have a fixed order and no float is added atomically, so results repeat bit by bit. One file per
//! op; this file has the memory. Must not know networks.

mod arena;
mod batch_norm;
pub mod branches;
mod channels;
mod conf_ce;
mod confusion_matrix;
mod conv2d;
mod cross_entropy;
mod cut_mix;
mod device_ptr;
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

use crate::ops::{Device, MemoryPlan, Shape};
use crate::{Error, Result};
use arena::{Arena, Recorder};
use branches::Branch;
use conv2d::ForcedTile;
pub use conv2d::{Direction, Tile, TileUses, modelled_tiles};
use driver::{Args, DevicePtr, Driver, Kernel, Launch};
pub use memory::{Buffer, Counts, Dtype, Labels, Moments, Scalar, Sums, Tensor, Vector};
use std::sync::{Arc, Mutex, PoisonError};

/// Memory that a plan leaves for what is not in buffers: code of kernels, graphs, and gaps between blocks of
/// several sizes.
const RESERVE: (&str, u64) = ("reserve (code, graphs, gaps)", 256 << 20);

/// A device that runs CUDA kernels.
#[derive(Clone)]
pub struct Cuda {
    driver: Arc<dyn Driver>,
    dtype: Dtype,
    /// The first fault. Ops return no errors, as a GPU reports them late; after a fault nothing more is
    /// launched.
    fault: Arc<Mutex<Option<Error>>>,
    /// The tile of convolutions, where it fits, instead of the one that the model finds fastest.
    tile: Option<ForcedTile>,
}

/// A device that computes nothing, for tests.
#[cfg(test)]
pub(crate) fn noting(dtype: Dtype) -> Cuda {
    Cuda::new(Arc::new(Recorder::new("noting".into(), true)), dtype)
}

impl Cuda {
    /// A device over `driver` with activations of type `dtype`.
    pub fn new(driver: Arc<dyn Driver>, dtype: Dtype) -> Cuda {
        Cuda { driver, dtype, fault: Arc::default(), tile: None }
    }

    /// The same with `tile` forced for all convolutions that it fits.
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

impl Device for Cuda {
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
        let recorder = Arc::new(Recorder::new(self.driver.name(), self.driver.has_wgmma()));
        let twin = Cuda::new(recorder.clone(), self.dtype);
        // With counts of its own, as rehearsed launches do not run.
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
}

/// Rounds to nearest even.
fn to_bf16(data: &[f32]) -> Vec<u16> {
    data.iter().map(|&v| half::bf16::from_f32(v).to_bits()).collect()
}
