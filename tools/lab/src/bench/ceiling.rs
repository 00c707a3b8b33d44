//! What the device can do at best, measured the same way as what is compared with it.

use super::layer::{DIRECTIONS, Layer};
use super::measure::Sampling;
use super::timed::time_call;
use crate::cases::conv2d::pointwise;
use crate::cases::{Add, Call};
use psmt_fast::Result;
use psmt_fast::ops::{Backend, Shape};

/// Bytes per second, read and written, of the fastest sample of a sum x + alpha y over `len` activations of
/// `value` bytes, which reads two and writes one: nothing but memory limits it, so it stands for a copy.
///
/// # Errors
/// Faults of the device.
pub fn copy_rate<B: Backend>(b: &B, len: usize, value: usize, sampling: Sampling) -> Result<f64> {
    let x = Shape::new(1, 1, len.div_ceil(64), 64);
    let call: Call = Add { x, y: x }.into();
    let timing = time_call(b, &call, sampling, 1)?;
    Ok(call.least_bytes(value) as f64 / (1e-3 * timing.min()))
}

/// Operations per second of the fastest sample of a product of square matrices, a 1x1 convolution of `side`
/// channels over as many positions; the fastest of its three directions.
///
/// # Errors
/// Faults of the device.
pub fn product_rate<B: Backend>(b: &B, side: usize, sampling: Sampling) -> Result<f64> {
    let conv = pointwise(side);
    let layer = Layer { conv, x: Shape::new(1, side / 32, 32, side), counts: [0; 3] };
    let mut best = 0f64;
    for direction in 0..DIRECTIONS.len() {
        let timing = time_call(b, &layer.call(direction), sampling, 1)?;
        best = best.max(conv.flops(layer.x) as f64 / (1e-3 * timing.min()));
    }
    Ok(best)
}
