//! The CPU device: rayon over images, rows or channels, generic over f32 (training) and f64 (gradient
//! checks).
//!
//! Work is cut by problem size, never by the number of threads, and every reduction has a fixed order, so
//! results do not depend on the number of threads. One file per family of ops; together they make the device
//! a [`Backend`](crate::ops::Backend).

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

pub use memory::{Labels, Tensor};
pub use real::Real;

use crate::host::available_memory;
use crate::ops::{Device, Shape};
use std::marker::PhantomData;

/// The CPU device, whose tensors and vectors have elements of type `T`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu<T>(PhantomData<T>);

impl<T: Real> Cpu<T> {
    /// The device. Its ops run on the threads of rayon's current pool.
    pub fn new() -> Cpu<T> {
        Cpu(PhantomData)
    }
}

impl<T: Real> Device for Cpu<T> {
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
        Labels { shape, data: data.to_vec().into() }
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
        available_memory()
    }
}
