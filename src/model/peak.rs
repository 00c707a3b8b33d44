//! The memory of a pass in evaluation mode, counted from the network's operations.

use super::Architecture;
use super::graph::Graph;
use crate::ops::{Activation, BatchNorm, Conv2d, MaxPool2d, Shape};
use std::cell::Cell;
use std::rc::Rc;

/// Number of values that are alive now, and the most so far.
#[derive(Default)]
struct Held {
    now: Cell<u64>,
    most: Cell<u64>,
}

/// A tensor, alive until its last copy is dropped.
struct Tensor {
    shape: Shape,
    held: Rc<Held>,
}

impl Drop for Tensor {
    fn drop(&mut self) {
        self.held.now.set(self.held.now.get().saturating_sub(self.shape.len() as u64));
    }
}

/// Counts while operations arrive.
#[derive(Default)]
struct Meter {
    held: Rc<Held>,
}

impl Meter {
    fn take(&mut self, shape: Shape) -> Rc<Tensor> {
        let now = self.held.now.get().saturating_add(shape.len() as u64);
        self.held.now.set(now);
        self.held.most.set(self.held.most.get().max(now));
        Rc::new(Tensor { shape, held: self.held.clone() })
    }
}

impl Graph for Meter {
    type Value = Rc<Tensor>;

    fn conv(&mut self, conv: &Conv2d, x: &Rc<Tensor>) -> Rc<Tensor> {
        self.take(conv.out_shape(x.shape))
    }

    fn batch_norm(&mut self, _: &BatchNorm, x: &Rc<Tensor>) -> Rc<Tensor> {
        self.take(x.shape)
    }

    // Devices compute this and the addition together with the batch norm before them.
    fn activation(&mut self, _: Activation, x: &Rc<Tensor>) -> Rc<Tensor> {
        x.clone()
    }

    fn add(&mut self, a: &Rc<Tensor>, _: &Rc<Tensor>) -> Rc<Tensor> {
        a.clone()
    }

    fn max_pool(&mut self, pool: &MaxPool2d, x: &Rc<Tensor>) -> Rc<Tensor> {
        self.take(pool.out_shape(x.shape))
    }

    fn mean(&mut self, x: &Rc<Tensor>) -> Rc<Tensor> {
        self.take(Shape::new(x.shape.n, 1, 1, x.shape.c))
    }

    fn interpolate(&mut self, x: &Rc<Tensor>, like: &Rc<Tensor>) -> Rc<Tensor> {
        self.take(like.shape.with_channels(x.shape.c))
    }

    fn concat(&mut self, parts: &[Rc<Tensor>]) -> Rc<Tensor> {
        let channels = parts.iter().map(|part| part.shape.c).sum();
        self.take(parts[0].shape.with_channels(channels))
    }
}

impl Architecture {
    /// Bytes of activations that a pass in evaluation mode over images `x` holds at most, images and logits
    /// included, in f32.
    pub fn inference_bytes(&self, x: Shape) -> u64 {
        let mut meter = Meter::default();
        let images = meter.take(x);
        drop(self.graph(&mut meter, &images));
        meter.held.most.get().saturating_mul(size_of::<f32>() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelConfig;

    #[test]
    fn memory_is_in_proportion_to_the_pixels_and_more_than_its_largest_layer() {
        let arch = Architecture::new(ModelConfig::resnet50(21)).unwrap();
        let at = |side: usize| arch.inference_bytes(Shape::new(1, side, side, 3));
        let ratio = at(1024) as f64 / at(512) as f64;
        assert!((3.9..4.1).contains(&ratio), "{ratio}");
        // The third convolution of the stem gives 128 channels at half the size, and batch norm as many
        // again.
        let stem = 4 * 2 * 128 * 256 * 256;
        assert!((stem..3 * stem).contains(&at(512)), "{}", at(512));
        assert_eq!(
            arch.inference_bytes(Shape::new(3, 64, 96, 3)),
            3 * arch.inference_bytes(Shape::new(1, 64, 96, 3))
        );
    }
}
