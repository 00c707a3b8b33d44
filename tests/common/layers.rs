//! Layers of tests: a convolution or a batch norm is written in words, not as a row of numbers.
#![allow(dead_code)] // each test program uses a part

use psmt_fast::ops::{BatchNorm, Conv2d, Shape, Span};
use std::fmt::{Display, Formatter};

/// A convolution with the shape of its input.
#[derive(Clone, Copy)]
pub struct Conv {
    n: usize,
    h: usize,
    w: usize,
    in_channels: usize,
    out_channels: usize,
    kernel: usize,
    stride: usize,
    padding: Option<usize>,
    dilation: usize,
    groups: usize,
    bias: bool,
    offset: usize,
}

/// Elements between the weight and the bias, so that the bias begins at no aligned element.
const BIAS_GAP: usize = 3;

impl Conv {
    /// A 1x1 convolution of one position with stride 1, one group and no bias, whose weight begins the
    /// parameters.
    pub const fn new(in_channels: usize, out_channels: usize) -> Conv {
        Conv {
            n: 1,
            h: 1,
            w: 1,
            in_channels,
            out_channels,
            kernel: 1,
            stride: 1,
            padding: None,
            dilation: 1,
            groups: 1,
            bias: false,
            offset: 0,
        }
    }

    /// The size of its input.
    pub const fn on(self, n: usize, h: usize, w: usize) -> Conv {
        Conv { n, h, w, ..self }
    }

    pub const fn kernel(self, kernel: usize) -> Conv {
        Conv { kernel, ..self }
    }

    pub const fn stride(self, stride: usize) -> Conv {
        Conv { stride, ..self }
    }

    /// Padding other than the one that keeps the size at stride 1.
    pub const fn padding(self, padding: usize) -> Conv {
        Conv { padding: Some(padding), ..self }
    }

    pub const fn dilation(self, dilation: usize) -> Conv {
        Conv { dilation, ..self }
    }

    pub const fn groups(self, groups: usize) -> Conv {
        Conv { groups, ..self }
    }

    pub const fn bias(self) -> Conv {
        Conv { bias: true, ..self }
    }

    /// The weight begins at this element of the parameters.
    pub const fn at(self, offset: usize) -> Conv {
        Conv { offset, ..self }
    }

    /// The shape of its input.
    pub fn input(&self) -> Shape {
        Shape::new(self.n, self.h, self.w, self.in_channels)
    }

    /// The shape of its output.
    pub fn output(&self) -> Shape {
        self.spec().out_shape(self.input())
    }

    /// The layer as ops take it.
    pub fn spec(&self) -> Conv2d {
        let Conv { in_channels, out_channels, kernel, stride, dilation, groups, .. } = *self;
        let padding = self.padding.unwrap_or(dilation * (kernel / 2));
        let len = out_channels * kernel * kernel * in_channels / groups;
        let weight = Span { offset: self.offset, len };
        let bias = Span { offset: self.offset + len + BIAS_GAP, len: out_channels };
        let bias = self.bias.then_some(bias);
        Conv2d { weight, bias, in_channels, out_channels, groups, kernel, stride, padding, dilation }
    }

    /// Number of parameters up to its last one.
    pub fn num_params(&self) -> usize {
        let Conv2d { weight, bias, .. } = self.spec();
        bias.unwrap_or(weight).range().end
    }
}

impl Display for Conv {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Conv { in_channels, out_channels, kernel, stride, dilation, groups, .. } = self;
        write!(
            f,
            "{kernel}x{kernel} convolution of {in_channels} to {out_channels} channels, stride {stride}, "
        )?;
        write!(f, "padding {}, dilation {dilation}, {groups} groups, ", self.spec().padding)?;
        write!(
            f,
            "{} bias, weight at {}, on {}",
            if self.bias { "with" } else { "no" },
            self.offset,
            self.input()
        )
    }
}

/// Where the parts of a batch norm begin: the first two among the parameters, the others among the running
/// statistics.
pub struct NormOffsets {
    pub weight: usize,
    pub bias: usize,
    pub running_mean: usize,
    pub running_var: usize,
}

/// A batch norm of momentum 0.1 and eps 1e-5.
pub fn batch_norm_at(channels: usize, at: NormOffsets) -> BatchNorm {
    let span = |offset| Span { offset, len: channels };
    BatchNorm {
        weight: span(at.weight),
        bias: span(at.bias),
        running_mean: span(at.running_mean),
        running_var: span(at.running_var),
        channels,
        momentum: 0.1,
        eps: 1e-5,
    }
}

/// A batch norm whose parts fill the parameters and the statistics.
pub fn batch_norm(channels: usize) -> BatchNorm {
    batch_norm_at(channels, NormOffsets { weight: 0, bias: channels, running_mean: 0, running_var: channels })
}
