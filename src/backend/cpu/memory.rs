//! Activations on the CPU: shared, written once.

use super::Real;
use crate::ops::Shape;
use std::sync::Arc;

/// An NHWC activation. Clones share the values.
#[derive(Clone, Debug)]
pub struct Tensor<T> {
    shape: Shape,
    data: Arc<Vec<T>>,
}

impl<T: Real> Tensor<T> {
    /// Takes `data` as the values of `shape`.
    pub fn new(shape: Shape, data: Vec<T>) -> Tensor<T> {
        debug_assert_eq!(shape.len(), data.len());
        Tensor { shape, data: Arc::new(data) }
    }

    /// A tensor of zeros that `fill` then writes.
    pub fn build(shape: Shape, fill: impl FnOnce(&mut [T])) -> Tensor<T> {
        let mut data = vec![T::ZERO; shape.len()];
        fill(&mut data);
        Tensor::new(shape, data)
    }

    /// Value `i` (NHWC order) is `f(i)`.
    pub fn from_fn(shape: Shape, f: impl Fn(usize) -> T) -> Tensor<T> {
        Tensor::new(shape, (0..shape.len()).map(f).collect())
    }

    /// Its shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Its values, NHWC.
    pub fn data(&self) -> &[T] {
        &self.data
    }
}
