//! Tensors and labels on the CPU, shared and written once, and the recycling of their memory. Must not know
//! ops.
//!
//! Activations of one training step have the same sizes as those of the step before. Fresh pages cost a page
//! fault and zeroing each, so buffers return to a [`Pool`] and are reused with their old values. The pool
//! never makes the program larger: live and idle bytes together stay below the largest number of live bytes
//! so far.

use crate::ops::Shape;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers shorter than this are left to the allocator.
const SMALL: usize = 4096;

/// Element types whose buffers are recycled; the default is 0.
pub trait Pooled: Copy + Default + Send + Sync + 'static {
    /// The pool of this type.
    fn pool() -> &'static Mutex<Pool<Self>>;
}

macro_rules! pooled {
    ($t:ty) => {
        impl Pooled for $t {
            fn pool() -> &'static Mutex<Pool<Self>> {
                static POOL: Mutex<Pool<$t>> = Mutex::new(Pool::new());
                &POOL
            }
        }
    };
}

pooled!(f32);
pooled!(f64);

/// Idle buffers of one element type, reused for exactly their size.
#[derive(Debug, Default)]
pub struct Pool<T> {
    /// Oldest first.
    idle: VecDeque<Vec<T>>,
    /// Elements in `idle`.
    idle_len: usize,
    /// Elements in buffers that are in use.
    live_len: usize,
    /// Maximum of `live_len` so far.
    peak_len: usize,
}

impl<T> Pool<T> {
    const fn new() -> Pool<T> {
        Pool { idle: VecDeque::new(), idle_len: 0, live_len: 0, peak_len: 0 }
    }

    /// Counts `len` elements as live and returns the idle buffer of that size that was used last.
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

    /// Puts a buffer that `take` counted back among the idle ones.
    fn put(&mut self, data: Vec<T>) {
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

/// Memory from the pool of its type, which it returns to when dropped.
#[derive(Debug)]
pub struct Buffer<T: Pooled> {
    data: Vec<T>,
    pooled: bool,
}

impl<T: Pooled> Buffer<T> {
    /// `len` elements of unspecified value: zeros or what an earlier buffer held.
    pub fn stale(len: usize) -> Buffer<T> {
        if len < SMALL {
            return Buffer { data: vec![T::default(); len], pooled: false };
        }
        let found = T::pool().lock().unwrap_or_else(PoisonError::into_inner).take(len);
        // The allocator zeroes outside the lock.
        Buffer { data: found.unwrap_or_else(|| vec![T::default(); len]), pooled: true }
    }
}

impl<T: Pooled> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.pooled {
            T::pool().lock().unwrap_or_else(PoisonError::into_inner).put(std::mem::take(&mut self.data));
        }
    }
}

impl<T: Pooled> std::ops::Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.data
    }
}

impl<T: Pooled> std::ops::DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data
    }
}

/// Labels or 8-bit images on the CPU. Clones share the values.
#[derive(Clone, Debug)]
pub struct Labels {
    /// `[n, h, w]` with c = 1 for labels.
    pub shape: Shape,
    /// One class per pixel, row by row, or the bytes of NHWC images.
    pub data: Arc<Vec<u8>>,
}

/// An NHWC activation. Clones share the values.
#[derive(Clone, Debug)]
pub struct Tensor<T: Pooled> {
    shape: Shape,
    data: Arc<Buffer<T>>,
}

impl<T: Pooled> Tensor<T> {
    /// A tensor of `shape` with the values `data`, NHWC, as many as the shape has.
    pub fn new(shape: Shape, data: Vec<T>) -> Tensor<T> {
        debug_assert_eq!(shape.len(), data.len());
        Tensor { shape, data: Arc::new(Buffer { data, pooled: false }) }
    }

    /// A tensor whose elements `fill` writes, all of them; before, their values are unspecified.
    pub fn overwrite(shape: Shape, fill: impl FnOnce(&mut [T])) -> Tensor<T> {
        let mut data = Buffer::stale(shape.len());
        fill(&mut data);
        Tensor { shape, data: Arc::new(data) }
    }

    /// A tensor whose value `i` (NHWC order) is `f(i)`.
    pub fn from_fn(shape: Shape, f: impl Fn(usize) -> T) -> Tensor<T> {
        Tensor::overwrite(shape, |data| data.iter_mut().enumerate().for_each(|(i, v)| *v = f(i)))
    }

    /// The tensor's shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The tensor's values, NHWC.
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
        pool.put(vec![1.0; 20]);
        assert_eq!(pool.take(20).map(|v| v[0]), Some(1.0));
        pool.put(vec![2.0; 10]);
        pool.put(vec![2.0; 20]);
        assert_eq!((pool.live_len, pool.idle_len, pool.peak_len), (0, 30, 30));
        // 15 new elements push out the oldest idle ones.
        assert!(pool.take(15).is_none());
        assert!(pool.live_len + pool.idle_len <= 30);
        assert_eq!(pool.idle.len(), 0);
    }
}
