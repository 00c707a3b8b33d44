//! Activations on the CPU, shared and written once, and the recycling of their memory. Knows nothing of ops.
//!
//! Activations of one training step have the same sizes as those of the step before. Fresh pages cost a fault and a
//! zeroing each, so buffers go back to a [`Pool`] and come out of it again with their old values. The pool never makes
//! the program larger: live and idle bytes together stay below the largest number of live bytes so far.

use super::Real;
use crate::ops::Shape;
use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

/// Buffers shorter than this are left to the allocator.
const SMALL: usize = 4096;

/// Idle buffers of one element type, exact sizes.
#[derive(Debug, Default)]
pub struct Pool<T> {
    /// Oldest first.
    idle: VecDeque<Vec<T>>,
    /// Elements in `idle`.
    idle_len: usize,
    /// Elements in buffers that are out.
    live_len: usize,
    /// The most that `live_len` has been.
    peak_len: usize,
}

impl<T: Real> Pool<T> {
    /// An empty pool.
    pub const fn new() -> Pool<T> {
        Pool { idle: VecDeque::new(), idle_len: 0, live_len: 0, peak_len: 0 }
    }

    /// Counts `len` elements as live and gives an idle buffer of that size, the one that was used last.
    fn take(&mut self, len: usize) -> Option<Vec<T>> {
        let found = self.idle.iter().rposition(|v| v.len() == len).and_then(|i| self.idle.remove(i));
        self.live_len += len;
        self.peak_len = self.peak_len.max(self.live_len);
        if found.is_some() {
            self.idle_len -= len;
        } else {
            self.trim();
        }
        found
    }

    /// Takes back a buffer that `take` counted.
    fn give(&mut self, data: Vec<T>) {
        self.live_len -= data.len();
        self.idle_len += data.len();
        self.idle.push_back(data);
        self.trim();
    }

    /// Frees the buffers that have been idle longest until nothing exceeds the peak.
    fn trim(&mut self) {
        while self.live_len + self.idle_len > self.peak_len
            && let Some(v) = self.idle.pop_front()
        {
            self.idle_len -= v.len();
        }
    }
}

/// Memory that comes from the pool of its type and goes back there.
#[derive(Debug)]
pub struct Buffer<T: Real> {
    data: Vec<T>,
    pooled: bool,
}

impl<T: Real> Buffer<T> {
    /// `len` elements of unspecified value: zeros or what an earlier buffer held.
    pub fn stale(len: usize) -> Buffer<T> {
        if len < SMALL {
            return Buffer { data: vec![T::ZERO; len], pooled: false };
        }
        let found = T::pool().lock().unwrap_or_else(PoisonError::into_inner).take(len);
        // The allocator zeroes outside the lock.
        Buffer { data: found.unwrap_or_else(|| vec![T::ZERO; len]), pooled: true }
    }
}

impl<T: Real> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.pooled {
            T::pool().lock().unwrap_or_else(PoisonError::into_inner).give(std::mem::take(&mut self.data));
        }
    }
}

impl<T: Real> std::ops::Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.data
    }
}

impl<T: Real> std::ops::DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data
    }
}

/// An NHWC activation. Clones share the values.
#[derive(Clone, Debug)]
pub struct Tensor<T: Real> {
    shape: Shape,
    data: Arc<Buffer<T>>,
}

impl<T: Real> Tensor<T> {
    /// Takes `data` as the values of `shape`.
    pub fn new(shape: Shape, data: Vec<T>) -> Tensor<T> {
        debug_assert_eq!(shape.len(), data.len());
        Tensor { shape, data: Arc::new(Buffer { data, pooled: false }) }
    }

    /// A tensor of zeros that `fill` then writes.
    pub fn build(shape: Shape, fill: impl FnOnce(&mut [T])) -> Tensor<T> {
        Tensor::overwrite(shape, |data| {
            data.fill(T::ZERO);
            fill(data);
        })
    }

    /// A tensor every element of which `fill` writes; what it finds there is unspecified.
    pub fn overwrite(shape: Shape, fill: impl FnOnce(&mut [T])) -> Tensor<T> {
        let mut data = Buffer::stale(shape.len());
        fill(&mut data);
        Tensor { shape, data: Arc::new(data) }
    }

    /// Value `i` (NHWC order) is `f(i)`.
    pub fn from_fn(shape: Shape, f: impl Fn(usize) -> T) -> Tensor<T> {
        Tensor::overwrite(shape, |data| data.iter_mut().enumerate().for_each(|(i, v)| *v = f(i)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_gives_back_exact_sizes_and_never_exceeds_the_peak() {
        let mut pool = Pool::<f32>::new();
        assert!(pool.take(10).is_none());
        assert!(pool.take(20).is_none());
        pool.give(vec![1.0; 20]);
        assert_eq!(pool.take(20).map(|v| v[0]), Some(1.0));
        pool.give(vec![2.0; 10]);
        pool.give(vec![2.0; 20]);
        assert_eq!((pool.live_len, pool.idle_len, pool.peak_len), (0, 30, 30));
        // 15 new elements push out the oldest idle ones.
        assert!(pool.take(15).is_none());
        assert!(pool.live_len + pool.idle_len <= 30);
        assert_eq!(pool.idle.len(), 0);
    }

    #[test]
    fn built_tensors_are_zero_even_in_recycled_memory() {
        let shape = Shape::new(1, 64, 64, 3);
        drop(Tensor::<f32>::from_fn(shape, |_| 7.0));
        assert!(Tensor::<f32>::build(shape, |_| ()).data().iter().all(|&v| v == 0.0));
    }
}
