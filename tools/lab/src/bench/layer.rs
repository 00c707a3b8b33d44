//! The distinct convolutions among a step's calls.

use super::trace::Counted;
use crate::cases::conv2d::{End, Target};
use crate::cases::{Call, Dgrad, Fprop, Wgrad};
use psmt_fast::Result;
use psmt_fast::ops::{Backend, Conv2d, Shape};

/// Directions of a convolution, as the PyTorch benchmark names them.
pub const DIRECTIONS: [&str; 3] = ["conv_forward", "conv_dgrad", "conv_wgrad"];

/// A convolution over inputs of one shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// The convolution.
    pub conv: Conv2d,
    /// Shape of its input.
    pub x: Shape,
    /// Occurrences of each of [`DIRECTIONS`] in a step.
    pub counts: [usize; 3],
}

/// Every distinct convolution of `calls`, in their order.
pub fn layers(calls: &[Counted]) -> Vec<Layer> {
    let mut layers: Vec<Layer> = Vec::new();
    for Counted { call, count } in calls {
        let (direction, conv, x) = match call {
            Call::Fprop(Fprop { conv, x, .. }) => (0, conv, x),
            Call::Dgrad(Dgrad { conv, x, .. }) => (1, conv, x),
            Call::Wgrad(Wgrad { conv, x }) => (2, conv, x),
            _ => continue,
        };
        let known = layers.iter().position(|l| l.conv == *conv && l.x == *x);
        let at = known.unwrap_or_else(|| {
            layers.push(Layer { conv: *conv, x: *x, counts: [0; 3] });
            layers.len() - 1
        });
        layers[at].counts[direction] += count;
    }
    layers
}

impl Layer {
    /// The call of one of [`DIRECTIONS`].
    pub fn call(&self, direction: usize) -> Call {
        let (conv, x) = (self.conv, self.x);
        match direction {
            0 => Fprop { conv, x, end: End::Plain }.into(),
            1 => Dgrad { conv, x, target: Target::Input }.into(),
            _ => Wgrad { conv, x }.into(),
        }
    }

    /// Compares all directions with the definition at a few elements: off by at most `sums` of the sum of the
    /// terms' sizes and `rounding` of the value. Returns how many of each.
    ///
    /// # Errors
    /// [`psmt_fast::Error::CheckFailed`] with the element and both values, and faults of the device.
    pub fn check<B: Backend>(&self, b: &B, tolerance: (f64, f64)) -> Result<[usize; 3]> {
        let mut compared = [0; 3];
        for (direction, compared) in compared.iter_mut().enumerate() {
            *compared = super::spot::spot(b, &self.conv, self.x, direction, tolerance)?;
        }
        Ok(compared)
    }
}
