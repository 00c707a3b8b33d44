//! Shapes and the settings that ops take besides tensors: plain data, the same for every backend.

use crate::{Error, Result};

/// Label of pixels that no loss and no metric counts (PyTorch's `ignore_index`).
pub const IGNORE: u8 = 255;

/// Number of confidence bins that [`ConfCe`] counts.
pub const HISTOGRAM_BINS: usize = 10;

/// Guard of per-image normalisation, `d / (‖d‖ + 1e-8)` (Virtual adversarial training, as published for
/// PS-MT).
pub const NORM_EPS: f64 = 1e-8;

/// Shape of an activation, NHWC in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Number of images.
    pub n: usize,
    /// Number of rows.
    pub h: usize,
    /// Number of columns.
    pub w: usize,
    /// Number of channels.
    pub c: usize,
}

impl Shape {
    /// The shape `[n, h, w, c]`.
    pub const fn new(n: usize, h: usize, w: usize, c: usize) -> Shape {
        Shape { n, h, w, c }
    }

    /// Number of values.
    pub const fn len(&self) -> usize {
        self.n * self.h * self.w * self.c
    }

    /// Whether there are no values.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of positions (images times rows times columns).
    pub const fn positions(&self) -> usize {
        self.n * self.h * self.w
    }

    /// The same images, rows and columns with `c` channels.
    pub const fn with_channels(&self, c: usize) -> Shape {
        Shape { c, ..*self }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[n {}, h {}, w {}, c {}]", self.n, self.h, self.w, self.c)
    }
}

/// Rows and columns of an image.
pub type Size = (usize, usize);

/// A contiguous part of a flat vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First element.
    pub offset: usize,
    /// Number of elements.
    pub len: usize,
}

impl Span {
    /// The part as an index range.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len
    }
}

/// A square convolution. The weight is stored OHWI: `[out_channels, kernel, kernel, in_channels / groups]`.
///
/// With several groups (as PyTorch's `groups`) the g-th part of the output channels reads the g-th part of
/// the input channels only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// The weight's place in the parameter vector.
    pub weight: Span,
    /// The bias's place in the parameter vector, if there is a bias.
    pub bias: Option<Span>,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Number of groups; it divides both numbers of channels.
    pub groups: usize,
    /// Rows and columns of the kernel.
    pub kernel: usize,
    /// Input positions from output to output.
    pub stride: usize,
    /// Rows and columns of zeros on each side of the input.
    pub padding: usize,
    /// Input positions from tap to tap.
    pub dilation: usize,
}

impl Conv2d {
    /// Output length along an axis of input length `len` (0 where the kernel does not fit).
    pub fn out_len(&self, len: usize) -> usize {
        let reach = self.dilation * (self.kernel - 1) + 1;
        (len + 2 * self.padding).checked_sub(reach).map_or(0, |v| v / self.stride + 1)
    }

    /// Output shape for input shape `x`.
    pub fn out_shape(&self, x: Shape) -> Shape {
        Shape::new(x.n, self.out_len(x.h), self.out_len(x.w), self.out_channels)
    }

    /// Number of elements of the weight.
    pub fn weight_len(&self) -> usize {
        self.out_channels * self.kernel * self.kernel * (self.in_channels / self.groups)
    }

    /// Group `g` as a convolution with one group, over that group's channels.
    pub fn group(&self, g: usize) -> Conv2d {
        let part = |span: Span| {
            let len = span.len / self.groups;
            Span { offset: span.offset + g * len, len }
        };
        Conv2d {
            weight: part(self.weight),
            bias: self.bias.map(part),
            in_channels: self.in_channels / self.groups,
            out_channels: self.out_channels / self.groups,
            groups: 1,
            ..*self
        }
    }

    /// Floating-point operations of one pass over input shape `x`; a multiply-add counts as two.
    pub fn flops(&self, x: Shape) -> u64 {
        let taps = self.kernel * self.kernel;
        2 * self.out_shape(x).len() as u64 * (taps * (self.in_channels / self.groups)) as u64
    }
}

/// Batch normalisation over n, h, w (Ioffe and Szegedy, 2015), biased variance for y, unbiased for the
/// running variance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNorm {
    /// The scale's place in the parameter vector.
    pub weight: Span,
    /// The shift's place in the parameter vector.
    pub bias: Span,
    /// The running mean's place in the vector of running statistics.
    pub running_mean: Span,
    /// The running variance's place in the vector of running statistics.
    pub running_var: Span,
    /// Number of channels.
    pub channels: usize,
    /// Weight of the batch in the new running statistics, as PyTorch's `momentum`.
    pub momentum: f64,
    /// Constant added to the variance.
    pub eps: f64,
}

/// Activation that follows a batch norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// y = x.
    Identity,
    /// y = x for x > 0, `slope` x elsewhere; slope 0 is ReLU.
    LeakyRelu(
        /// Slope for negative values.
        f64,
    ),
}

/// ReLU.
pub const RELU: Activation = Activation::LeakyRelu(0.0);

/// Max pooling over a square window, with padding by minus infinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPool2d {
    /// Rows and columns of the window.
    pub kernel: usize,
    /// Input positions from output to output.
    pub stride: usize,
    /// Rows and columns of padding on each side of the input.
    pub padding: usize,
}

impl MaxPool2d {
    /// Output shape for input shape `x`.
    pub fn out_shape(&self, x: Shape) -> Shape {
        let len =
            |v: usize| (v + 2 * self.padding).checked_sub(self.kernel).map_or(0, |v| v / self.stride + 1);
        Shape::new(x.n, len(x.h), len(x.w), x.c)
    }
}

/// The boxes of CutMix: `boxes[b][i]` is (y0, x0, y1, x1), half open. For b in order, this box of image i is
/// replaced by the same box of the unmixed image `perm[b][i]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mix {
    /// One box per round and image.
    pub boxes: Vec<Vec<[usize; 4]>>,
    /// One source image per round and image; several may have the same.
    pub perm: Vec<Vec<usize>>,
}

impl Mix {
    /// The image that pixel (y, x) of image `i` comes from.
    #[inline]
    pub fn source(&self, i: usize, y: usize, x: usize) -> usize {
        for (boxes, perm) in self.boxes.iter().zip(&self.perm).rev() {
            let [y0, x0, y1, x1] = boxes[i];
            if y >= y0 && y < y1 && x >= x0 && x < x1 {
                return perm[i];
            }
        }
        i
    }

    /// Checks the boxes and source images against `n` images of `size`.
    ///
    /// # Errors
    /// [`Error::Shape`] where there is not one box and source per image, a box leaves the image, or a source
    /// is not below n.
    pub fn validate(&self, n: usize, size: Size) -> Result<()> {
        let fail = |got: String| {
            Err(Error::shape("cut_mix", format!("boxes and perm for {n} images of {size:?}"), got))
        };
        if self.boxes.len() != self.perm.len() {
            return fail(format!("{} rounds of boxes, {} of perm", self.boxes.len(), self.perm.len()));
        }
        for (boxes, perm) in self.boxes.iter().zip(&self.perm) {
            if boxes.len() != n || perm.len() != n {
                return fail(format!("{} boxes, {} sources", boxes.len(), perm.len()));
            }
            if let Some(b) =
                boxes.iter().find(|b| b[0] > b[2] || b[1] > b[3] || b[2] > size.0 || b[3] > size.1)
            {
                return fail(format!("box {b:?}"));
            }
            if let Some(p) = perm.iter().find(|&&p| p >= n) {
                return fail(format!("source image {p}"));
            }
        }
        Ok(())
    }
}

/// How the two teachers' logits become a target (PS-MT, section 3.1): of the assisting teacher, which is not
/// updated in this epoch, only the `topk` largest classes of a pixel count; for the other classes the core
/// teacher's logit is used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ensemble {
    /// Classes of the assisting teacher that count per pixel, at least 1; all if not below the number of
    /// classes.
    pub topk: usize,
    /// Weight of the core teacher; that of the assisting teacher is 1 - gamma.
    pub gamma: f64,
}

/// Settings of the confidence-weighted cross entropy (PS-MT, equations 6 and 7, with optional negative
/// learning).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConfCe {
    /// Least confidence of a pixel whose pseudo label counts.
    pub threshold: f64,
    /// Negative learning takes the (pixel, class) pairs whose target probability is below this; 0 turns it
    /// off.
    pub negative_threshold: f64,
    /// Weight of the mean squared student probability in the gradient; 0.5 in the published negative
    /// learning.
    pub square_weight: f64,
    /// Pixels weighted by their confidence (true, the method) or equally (false, plain pseudo labels).
    pub weighted: bool,
}

/// Online hard example mining (Shrivastava et al., 2016).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ohem {
    /// Largest true-class probability of a pixel that is kept.
    pub threshold: f64,
    /// Least number of pixels that are kept, the hardest ones.
    pub min_kept: usize,
}

/// Stochastic gradient descent as PyTorch's `SGD`: v = momentum v + g, p -= lr v, g with weight decay on the
/// first `num_decayed` parameters (the convolution weights).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Learning rate of this step.
    pub lr: f64,
    /// Factor of the momentum buffer.
    pub momentum: f64,
    /// Factor of the decayed parameters that is added to their gradients.
    pub weight_decay: f64,
    /// Number of parameters with weight decay, from the first on.
    pub num_decayed: usize,
}
