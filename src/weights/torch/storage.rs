//! Storages and the strided views that tensors are of them.

use crate::weights::tensor::Element;

/// A contiguous array of elements in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Name in the file.
    pub key: String,
    /// Type of the elements; `None` for an unknown class, whose element size is unknown too.
    pub element: Option<Element>,
    /// Number of elements.
    pub len: usize,
}

/// A tensor as a strided view of a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Index of the storage in the heap.
    pub storage: usize,
    /// Element of the storage at which the tensor begins.
    pub offset: usize,
    pub shape: Vec<usize>,
    /// Elements from neighbour to neighbour along each axis.
    pub strides: Vec<usize>,
}

impl View {
    /// Number of elements; `None` on overflow.
    pub fn len(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
    }

    /// The first element of the storage after all of the view's; 0 for an empty view, `None` on overflow.
    pub fn end(&self) -> Option<usize> {
        if self.len()? == 0 {
            return Some(0);
        }
        let mut steps = self.shape.iter().zip(&self.strides);
        steps
            .try_fold(self.offset, |at, (&d, &stride)| at.checked_add((d - 1).checked_mul(stride)?))?
            .checked_add(1)
    }

    /// Whether elements are contiguous in the storage, in row-major order.
    fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&d, &stride)| {
            let fits = d == 1 || stride == expected;
            expected *= d;
            fits
        })
    }

    /// The view's elements from those of its storage, row-major. The view must have been checked to end
    /// inside.
    pub fn gather(&self, element: Element, storage: &[u8]) -> Vec<f32> {
        let (len, bytes) = (self.len().unwrap_or(0), element.bytes());
        if len == 0 {
            return Vec::new();
        }
        if self.is_contiguous() {
            return element.to_f32(&storage[self.offset * bytes..(self.offset + len) * bytes]);
        }
        let end = self.end().unwrap_or(0);
        let values = element.to_f32(&storage[..end * bytes]);
        let mut out = Vec::with_capacity(len);
        let mut index = vec![0; self.shape.len()];
        let mut at = self.offset;
        for _ in 0..len {
            out.push(values[at]);
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                at += self.strides[axis];
                if index[axis] < self.shape[axis] {
                    break;
                }
                at -= self.strides[axis] * self.shape[axis];
                index[axis] = 0;
            }
        }
        out
    }
}
