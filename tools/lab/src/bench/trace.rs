//! A device that computes nothing and notes every call with its sizes. Here is its memory; each file of
//! `crate::cases` notes its ops. Must not know what calls them.

use crate::cases::{Call, Clear, WatchTensor, WatchVector};
use psmt_fast::ops::{Device, Shape};
use std::sync::{Mutex, PoisonError};

/// A call and its count.
#[derive(Clone, Debug, PartialEq)]
pub struct Counted {
    /// The call.
    pub call: Call,
    /// How often it occurs.
    pub count: usize,
}

/// The device. Tensors are their shapes, vectors their lengths.
#[derive(Default)]
pub struct Trace {
    calls: Mutex<Vec<Counted>>,
}

impl Trace {
    /// The distinct calls, in the order of the first of each.
    pub fn calls(self) -> Vec<Counted> {
        self.calls.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn note(&self, call: impl Into<Call>) {
        let call = call.into();
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        match calls.iter_mut().find(|c| c.call == call) {
            Some(counted) => counted.count += 1,
            None => calls.push(Counted { call, count: 1 }),
        }
    }
}

impl Device for Trace {
    type Tensor = Shape;
    type Vector = usize;
    type Labels = Shape;
    type Scalar = ();
    type Counts = usize;
    type Moments = ();
    type Sums = ();
    fn name(&self) -> String {
        "trace".into()
    }
    fn shape(x: &Shape) -> Shape {
        *x
    }
    fn labels_shape(x: &Shape) -> Shape {
        *x
    }
    fn vector_len(v: &usize) -> usize {
        *v
    }
    fn upload(&self, shape: Shape, _: &[f32]) -> Shape {
        shape
    }
    fn download(&self, x: &Shape) -> Vec<f32> {
        vec![0.0; x.len()]
    }
    fn upload_labels(&self, shape: Shape, _: &[u8]) -> Shape {
        shape
    }
    fn download_labels(&self, x: &Shape) -> Vec<u8> {
        vec![0; x.len()]
    }
    fn zeros(&self, len: usize) -> usize {
        len
    }
    fn upload_vector(&self, data: &[f32]) -> usize {
        data.len()
    }
    fn download_vector(&self, v: &usize) -> Vec<f32> {
        vec![0.0; *v]
    }
    fn clear(&self, v: &mut usize) {
        self.note(Clear { len: *v });
    }
    fn read_scalar(&self, (): &()) -> f64 {
        0.0
    }
    fn read_counts(&self, c: &usize) -> Vec<u64> {
        vec![0; *c]
    }
    fn zero_counts(&self, len: usize) -> usize {
        len
    }
    fn watch_tensor(&self, _: &mut usize, x: &Shape, _: u32) {
        self.note(WatchTensor { x: *x });
    }
    fn watch_vector(&self, _: &mut usize, v: &usize, _: u32) {
        self.note(WatchVector { len: *v });
    }
    fn synchronize(&self) {}
    fn available_memory(&self) -> Option<u64> {
        None
    }
}
