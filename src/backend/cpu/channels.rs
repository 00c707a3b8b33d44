//! Strided views of one group's channels of an activation, to read and to write: what one of a convolution's
//! groups works on. Must not know what is computed.

use super::parallel::Disjoint;
use super::{Real, Tensor};
use crate::ops::Shape;

/// A group's channels of an activation: value c of position p is `data[p * step + c]`.
#[derive(Clone, Copy)]
pub struct Channels<'a, T> {
    /// The activation from the group's first channel of the first position on.
    pub data: &'a [T],
    /// The activation's shape with the group's number of channels.
    pub shape: Shape,
    /// Channels of the whole activation.
    pub step: usize,
}

impl<'a, T: Real> Channels<'a, T> {
    /// Part `g` of `groups` of the channels of `x`.
    pub fn group(x: &'a Tensor<T>, g: usize, groups: usize) -> Channels<'a, T> {
        let step = x.shape().c;
        let c = step / groups;
        Channels { data: &x.data()[g * c..], shape: x.shape().with_channels(c), step }
    }
}

/// A group's channels of an activation that several tasks write in parallel.
pub struct Target<'a, T> {
    /// The whole activation.
    pub out: Disjoint<'a, T>,
    /// The activation's shape with the group's number of channels.
    pub shape: Shape,
    /// Channels of the whole activation.
    pub step: usize,
    first: usize,
}

impl<'a, T: Real> Target<'a, T> {
    /// Part `g` of `groups` of the channels of `out`, an activation of `shape`.
    pub fn group(out: &'a mut [T], shape: Shape, g: usize, groups: usize) -> Target<'a, T> {
        let c = shape.c / groups;
        Target { out: Disjoint::new(out), shape: shape.with_channels(c), step: shape.c, first: g * c }
    }

    /// Index in `out` of the group's channel `c` at a position.
    #[inline(always)]
    pub fn at(&self, position: usize, c: usize) -> usize {
        position * self.step + self.first + c
    }
}
