//! How ops divide work among rayon's threads: chunks cut by problem size, small problems on the calling
//! thread. Must not know what is computed.

use rayon::prelude::*;
use std::marker::PhantomData;
use std::ops::Range;

/// Elements of a chunk of an element-wise op.
const CHUNK: usize = 1 << 13;

/// Work of fewer elements than this is done on the calling thread: waking another costs as much.
const SERIAL: usize = 1 << 15;

/// Calls `f` with each number of `0..n`, in parallel where `work`, the number of elements touched, is large
/// enough.
pub fn tasks(n: usize, work: usize, f: impl Fn(usize) + Sync) {
    if n > 1 && work >= SERIAL {
        spread(n, &f);
    } else {
        (0..n).for_each(f);
    }
}

/// The parallel loop. It takes a `dyn Fn`, so that it is compiled once for all callers.
fn spread(n: usize, f: &(dyn Fn(usize) + Sync)) {
    (0..n).into_par_iter().with_max_len(1).for_each(f);
}

/// Cuts `y`, rows of `width` elements, into groups of consecutive rows and calls `f(first row, group)` for
/// each.
pub fn rows<T: Send>(y: &mut [T], width: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let (step, size, count) = groups(y.len(), width);
    let (len, y) = (y.len(), Disjoint::new(y));
    tasks(count, len, |i| {
        // SAFETY: each group belongs to one task.
        f(i * step, unsafe { y.part(i * size..((i + 1) * size).min(len)) });
    });
}

/// As [`rows`] with two outputs of the same size.
pub fn rows2<T: Send>(y: &mut [T], z: &mut [T], width: usize, f: impl Fn(usize, &mut [T], &mut [T]) + Sync) {
    let (step, size, count) = groups(y.len(), width);
    let (len, y, z) = (y.len(), Disjoint::new(y), Disjoint::new(z));
    tasks(count, len, |i| {
        let part = i * size..((i + 1) * size).min(len);
        // SAFETY: each group belongs to one task, in both outputs.
        f(i * step, unsafe { y.part(part.clone()) }, unsafe { z.part(part) });
    });
}

/// Rows per group, elements per group, and number of groups of `len` elements in rows of `width`.
fn groups(len: usize, width: usize) -> (usize, usize, usize) {
    let step = (CHUNK / width.max(1)).max(1);
    let size = step * width.max(1);
    (step, size, len.div_ceil(size))
}

/// A slice that several tasks write in parallel, each its own elements.
pub struct Disjoint<'a, T> {
    data: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: the pointer is only used through `part`, whose callers promise that no two parts overlap.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub fn new(data: &'a mut [T]) -> Disjoint<'a, T> {
        Disjoint { data: data.as_mut_ptr(), len: data.len(), borrow: PhantomData }
    }

    /// Pointer to the elements of `range`.
    ///
    /// # Panics
    /// If they are not all within the slice.
    #[inline(always)]
    pub fn pointer(&self, range: Range<usize>) -> *mut T {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: in bounds by the line above.
        unsafe { self.data.add(range.start) }
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// While the result lives, no other part that overlaps it may exist on any thread.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    pub unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        let len = range.end.wrapping_sub(range.start);
        // SAFETY: in bounds by `pointer`, exclusive by the caller's promise, valid for the borrow's life.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(range), len) }
    }
}
