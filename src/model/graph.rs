//! What a network computes in evaluation mode, operation by operation, for export and for counting memory.
//! Must not know devices, values or file formats.

use crate::ops::{Activation, BatchNorm, Conv2d, MaxPool2d};

/// Receives a network's operations from [`Architecture::graph`](super::Architecture::graph) in the order of
/// computation. Specifications name their parameters and running statistics by their places in the network's
/// [`ParamTable`](super::ParamTable); every operation is that of the same name in [`crate::ops`].
pub trait Graph {
    /// Stands for a tensor: the images, or the result of an operation.
    type Value: Clone;

    /// Convolution.
    fn conv(&mut self, conv: &Conv2d, x: &Self::Value) -> Self::Value;

    /// Batch norm by running statistics.
    fn batch_norm(&mut self, bn: &BatchNorm, x: &Self::Value) -> Self::Value;

    /// Activation.
    fn activation(&mut self, act: Activation, x: &Self::Value) -> Self::Value;

    /// a + b, where b may have one position, which then counts for all of a's.
    fn add(&mut self, a: &Self::Value, b: &Self::Value) -> Self::Value;

    /// Max pooling.
    fn max_pool(&mut self, pool: &MaxPool2d, x: &Self::Value) -> Self::Value;

    /// Mean over all positions of an image.
    fn mean(&mut self, x: &Self::Value) -> Self::Value;

    /// Bilinear interpolation (align_corners) to the rows and columns of `like`.
    fn interpolate(&mut self, x: &Self::Value, like: &Self::Value) -> Self::Value;

    /// Channels of all parts one after another.
    fn concat(&mut self, parts: &[Self::Value]) -> Self::Value;
}
