//! What a case is: one op with its sizes and settings as plain data, the inputs that are drawn for it, and
//! the results of running it. The cases themselves are in `crate::cases`.

use super::coarse;
use psmt_fast::Result;
use psmt_fast::ops::{self, Backend, IGNORE, Shape, Size};
use psmt_fast::rng::{Domain, Key};
use std::collections::VecDeque;

/// One op with sizes and settings as a step calls it. Parameters are given by where they begin in a vector of
/// the op's own, so that calls of equal sizes are equal.
pub(crate) trait Case {
    /// What is known without running it.
    fn facts(&self) -> Facts;

    /// Draws inputs, and returns what runs the op on them.
    ///
    /// # Errors
    /// Errors of the ops that make inputs.
    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>>;
}

/// Name, sizes and cost of a case.
pub(crate) struct Facts {
    /// The op, and the option of it that is a kernel of its own.
    pub name: &'static str,
    /// Sizes and settings in a few words.
    pub sizes: String,
    /// Multiply-adds times two of a convolution.
    pub flops: Option<u64>,
    values: usize,
    bytes: usize,
    params: usize,
}

impl Facts {
    pub fn new(name: &'static str, sizes: String) -> Facts {
        Facts { name, sizes, flops: None, values: 0, bytes: 0, params: 0 }
    }

    pub fn flops(self, flops: u64) -> Facts {
        Facts { flops: Some(flops), ..self }
    }

    /// Values in the type of activations that are read or written.
    pub fn values(self, values: usize) -> Facts {
        Facts { values, ..self }
    }

    /// Bytes of everything else.
    pub fn bytes(self, bytes: usize) -> Facts {
        Facts { bytes, ..self }
    }

    /// Parameters that are written: a 16-bit device writes the copy for its convolutions with them.
    pub fn params(self, params: usize) -> Facts {
        Facts { params, ..self }
    }

    /// Bytes that the op must move at least, with `value` bytes per activation: every input is read once,
    /// every result is written once, and what is updated is both. Where nothing can be written before all was
    /// read, and activations are larger than caches, the input counts twice. What a device moves besides
    /// (partial sums, indices of maxima) does not count, so a share of the copy's rate below one is either
    /// such traffic or waiting.
    pub fn least_bytes(&self, value: usize) -> u64 {
        let copies = if value == 2 { 2 * self.params } else { 0 };
        (self.values * value + self.bytes + copies) as u64
    }
}

/// Runs an op on inputs that were drawn for it.
pub(crate) type Work<B> = Box<dyn FnMut(&B, &mut Outputs<B>) -> Result<()>>;

/// [`Work`] of a closure.
pub(crate) fn work<B: Backend>(
    run: impl FnMut(&B, &mut Outputs<B>) -> Result<()> + 'static,
) -> Result<Work<B>> {
    Ok(Box::new(run))
}

/// [`Work`] of an op with one result.
pub(crate) fn result<B: Backend>(
    name: &'static str,
    mut run: impl FnMut(&B) -> Result<B::Tensor> + 'static,
) -> Result<Work<B>> {
    work(move |b, out| {
        out.tensor(name, run(b)?);
        Ok(())
    })
}

/// Results of one run, by name.
pub(crate) struct Outputs<B: Backend> {
    pub tensors: Vec<(&'static str, B::Tensor)>,
    pub labels: Vec<(&'static str, B::Labels)>,
    pub scalars: Vec<(&'static str, B::Scalar)>,
    pub counts: Vec<(&'static str, B::Counts)>,
    /// Values of the vectors that the op updated, unless it is only timed.
    pub updated: Vec<(&'static str, Vec<f32>)>,
    timed: bool,
}

impl<B: Backend> Outputs<B> {
    /// For a run whose results are checked.
    pub fn checked() -> Outputs<B> {
        Outputs {
            tensors: Vec::new(),
            labels: Vec::new(),
            scalars: Vec::new(),
            counts: Vec::new(),
            updated: Vec::new(),
            timed: false,
        }
    }

    /// For a run that is timed: vectors stay where they are.
    pub fn timed() -> Outputs<B> {
        Outputs { timed: true, ..Outputs::checked() }
    }

    pub fn tensor(&mut self, name: &'static str, x: B::Tensor) {
        self.tensors.push((name, x));
    }

    pub fn labels(&mut self, name: &'static str, x: B::Labels) {
        self.labels.push((name, x));
    }

    pub fn scalar(&mut self, name: &'static str, s: B::Scalar) {
        self.scalars.push((name, s));
    }

    pub fn counts(&mut self, name: &'static str, c: B::Counts) {
        self.counts.push((name, c));
    }

    /// A vector that the op has changed in place.
    pub fn updated(&mut self, b: &B, name: &'static str, v: &B::Vector) {
        if !self.timed {
            self.updated.push((name, b.download_vector(v)));
        }
    }
}

/// Half the width of the interval that logits are drawn from: some classes are sure, some not.
const LOGITS: f64 = 8.0;

/// Values of inputs that one device has drawn or computed, in order.
#[derive(Default)]
struct Values {
    floats: VecDeque<Vec<f32>>,
    bytes: VecDeque<Vec<u8>>,
}

/// Draws inputs on a device, or copies those that another device drew for the same case.
pub(crate) struct Draw<'a, B: Backend> {
    /// The device.
    pub b: &'a B,
    set: u64,
    num_tensors: u64,
    num_vectors: u64,
    /// Values of another device that take the place of those drawn here.
    given: Values,
    /// Values drawn here, where another device is to have them.
    kept: Option<Values>,
}

impl<'a, B: Backend> Draw<'a, B> {
    /// Inputs number `set`.
    pub fn new(b: &'a B, set: u64) -> Draw<'a, B> {
        Draw { b, set, num_tensors: 0, num_vectors: 0, given: Values::default(), kept: None }
    }

    /// The first inputs, whose values can be copied to another device.
    pub fn to_copy(b: &'a B) -> Draw<'a, B> {
        Draw { kept: Some(Values::default()), ..Draw::new(b, 0) }
    }

    /// The inputs that were drawn here, on another device.
    pub fn copy_to<C: Backend>(self, to: &C) -> Draw<'_, C> {
        Draw { given: self.kept.unwrap_or_default(), ..Draw::new(to, self.set) }
    }

    /// An input that an op made, with the values that it has on the device where inputs are drawn.
    pub fn same(&mut self, x: B::Tensor) -> B::Tensor {
        if let Some(kept) = &mut self.kept {
            kept.floats.push_back(self.b.download(&x));
        }
        let shape = B::shape(&x);
        self.given.floats.pop_front().map_or(x, |values| self.b.upload(shape, &values))
    }

    /// As [`Draw::same`], a vector.
    pub fn same_vector(&mut self, v: B::Vector) -> B::Vector {
        if let Some(kept) = &mut self.kept {
            kept.floats.push_back(self.b.download_vector(&v));
        }
        self.given.floats.pop_front().map_or(v, |values| self.b.upload_vector(&values))
    }

    /// As [`Draw::same`], labels.
    pub fn same_labels(&mut self, x: B::Labels) -> B::Labels {
        if let Some(kept) = &mut self.kept {
            kept.bytes.push_back(self.b.download_labels(&x));
        }
        let shape = B::labels_shape(&x);
        self.given.bytes.pop_front().map_or(x, |bytes| self.b.upload_labels(shape, &bytes))
    }

    /// Uniform values in [-0.5, 0.5).
    pub fn tensor(&mut self, shape: Shape) -> B::Tensor {
        self.num_tensors += 1;
        let number = 64 * self.set + 100 + self.num_tensors;
        let x = self.b.uniform_noise(shape, Key::new(0, Domain::Bench, number));
        self.same(x)
    }

    /// Uniform values in [-[`LOGITS`], [`LOGITS`]).
    pub fn logits(&mut self, shape: Shape) -> Result<B::Tensor> {
        let x = self.tensor(shape);
        let x = ops::add(self.b, &x, &x, 2.0 * LOGITS - 1.0)?;
        Ok(self.same(x))
    }

    fn next_number(&mut self) -> u64 {
        self.num_vectors += 1;
        64 * self.set + self.num_vectors
    }

    /// Values for a vector, as [`coarse`].
    pub fn coarse(&mut self, len: usize) -> Vec<f32> {
        coarse(len, self.next_number())
    }

    /// A vector of [`coarse`] values.
    pub fn vector(&mut self, len: usize) -> B::Vector {
        let values = self.coarse(len);
        self.b.upload_vector(&values)
    }

    /// Labels `[n, h, w]`, one in ten ignored.
    pub fn labels(&mut self, n: usize, size: Size, classes: usize) -> B::Labels {
        let mut rng = Key::new(0, Domain::Bench, self.next_number()).stream();
        let shape = Shape::new(n, size.0, size.1, 1);
        let label = |_| if rng.below(10) == 0 { IGNORE } else { rng.below(classes) as u8 };
        self.b.upload_labels(shape, &(0..shape.len()).map(label).collect::<Vec<u8>>())
    }

    /// 8-bit images.
    pub fn bytes(&mut self, shape: Shape) -> B::Labels {
        let mut rng = Key::new(0, Domain::Bench, self.next_number()).stream();
        let bytes: Vec<u8> = (0..shape.len()).map(|_| rng.next_u32() as u8).collect();
        self.b.upload_labels(shape, &bytes)
    }

    /// The key of drawn noise.
    pub fn key(&self) -> Key {
        Key::new(1, Domain::Bench, self.set)
    }
}

/// Bytes of an element of a vector, or of a confidence.
pub(crate) const WIDE: usize = 4;

/// Pixels of the images of `x` at another size.
pub(crate) fn pixels(x: &Shape, size: Size) -> usize {
    x.n * size.0 * size.1
}

/// The same images and channels at another size.
pub(crate) fn sized(x: &Shape, size: Size) -> Shape {
    Shape::new(x.n, size.0, size.1, x.c)
}

/// `n x h x w x c`.
pub(crate) fn dims(x: &Shape) -> String {
    format!("{}x{}x{}x{}", x.n, x.h, x.w, x.c)
}

/// A shape and the size that it is brought to.
pub(crate) fn dims_to(x: &Shape, size: Size) -> String {
    format!("{} to {}x{}", dims(x), size.0, size.1)
}
