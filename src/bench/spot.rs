//! A convolution of any size beside its definition, at a few elements. Knows the definition only.

use super::call::Call;
use super::inputs::Inputs;
use crate::ops::*;
use crate::{Error, Result};

/// Elements that are compared.
const SPOTS: usize = 37;
/// A prime, so that elements lie in all channels, taps and images.
const STRIDE: usize = 7919;

/// Inputs of one direction on the host.
struct Host<'a> {
    conv: &'a Conv2d,
    x_shape: Shape,
    y_shape: Shape,
}

impl Host<'_> {
    /// Input row or column that tap `tap` of output row or column `out` reads.
    fn read(&self, out: usize, tap: usize, len: usize) -> Option<usize> {
        let c = self.conv;
        (out * c.stride + tap * c.dilation).checked_sub(c.padding).filter(|&v| v < len)
    }

    /// Position of x that tap `tap` of position `p` of y reads.
    fn join(&self, p: usize, tap: usize) -> Option<usize> {
        let (x, y, k) = (self.x_shape, self.y_shape, self.conv.kernel);
        let (n, row, column) = (p / (y.h * y.w), p / y.w % y.h, p % y.w);
        let (row, column) = (self.read(row, tap / k, x.h)?, self.read(column, tap % k, x.w)?);
        Some((n * x.h + row) * x.w + column)
    }

    /// Channels of x that output channel `out` reads.
    fn inputs(&self, out: usize) -> std::ops::Range<usize> {
        let c = self.conv;
        let (part, group) = (c.in_channels / c.groups, out / (c.out_channels / c.groups));
        group * part..(group + 1) * part
    }

    /// Place of the weight of tap `t` from input channel `c` to `out`.
    fn weight(&self, out: usize, t: usize, c: usize) -> usize {
        let (k, inputs) = (self.conv.kernel, self.inputs(out));
        self.conv.weight.offset + (out * k * k + t) * inputs.len() + c - inputs.start
    }

    fn taps(&self) -> usize {
        self.conv.kernel * self.conv.kernel
    }

    fn forward(&self, i: usize, x: &[f32], params: &[f32]) -> (f64, f64) {
        let (p, out) = (i / self.y_shape.c, i % self.y_shape.c);
        let bias = self.conv.bias.map_or(0.0, |bias| f64::from(params[bias.offset + out]));
        let mut sum = Sum(bias, bias.abs());
        for t in 0..self.taps() {
            let Some(q) = self.join(p, t) else { continue };
            for c in self.inputs(out) {
                sum.add(x[q * self.x_shape.c + c], params[self.weight(out, t, c)]);
            }
        }
        (sum.0, sum.1)
    }

    fn data_gradient(&self, i: usize, dy: &[f32], params: &[f32]) -> (f64, f64) {
        let (q, c) = (i / self.x_shape.c, i % self.x_shape.c);
        let pixels = self.y_shape.h * self.y_shape.w;
        let image = q / (self.x_shape.h * self.x_shape.w) * pixels;
        let mut sum = Sum(0.0, 0.0);
        for p in image..image + pixels {
            for t in (0..self.taps()).filter(|&t| self.join(p, t) == Some(q)) {
                for out in (0..self.y_shape.c).filter(|&out| self.inputs(out).contains(&c)) {
                    sum.add(dy[p * self.y_shape.c + out], params[self.weight(out, t, c)]);
                }
            }
        }
        (sum.0, sum.1)
    }

    fn weight_gradient(&self, i: usize, x: &[f32], dy: &[f32]) -> (f64, f64) {
        let inputs = self.conv.in_channels / self.conv.groups;
        let (out, t) = (i / (self.taps() * inputs), i / inputs % self.taps());
        let c = self.inputs(out).start + i % inputs;
        let mut sum = Sum(0.0, 0.0);
        for p in 0..self.y_shape.positions() {
            if let Some(q) = self.join(p, t) {
                sum.add(dy[p * self.y_shape.c + out], x[q * self.x_shape.c + c]);
            }
        }
        (sum.0, sum.1)
    }
}

/// A sum of products and that of their sizes.
struct Sum(f64, f64);

impl Sum {
    fn add(&mut self, a: f32, b: f32) {
        let term = f64::from(a) * f64::from(b);
        self.0 += term;
        self.1 += term.abs();
    }
}

/// Runs a convolution's call on drawn inputs and compares some elements with the definition: off by at most `sums` of the sum
/// of the terms' sizes and `rounding` of the value.
///
/// # Errors
/// [`Error::CheckFailed`] with the element and both values, and faults of the device.
pub fn spot<B: Backend>(b: &B, call: &Call, (sums, rounding): (f64, f64)) -> Result<()> {
    let (Call::Fprop { conv, x } | Call::Dgrad { conv, x } | Call::Wgrad { conv, x }) = call else {
        return Ok(());
    };
    let host = Host { conv, x_shape: *x, y_shape: conv.out_shape(*x) };
    let mut inputs = Inputs::draw(b, call, 0)?;
    let outputs = inputs.run(b, call)?;
    let read: Vec<Vec<f32>> = inputs.tensors.iter().map(|t| b.download(t)).collect();
    let params = b.download_vector(&inputs.vectors[0]);
    let made = outputs.tensors.first().map(|t| b.download(t));
    b.check()?;
    let got = made.as_deref().unwrap_or(&params[conv.weight.range()]);
    for k in 0..SPOTS {
        let i = k * STRIDE % got.len();
        let (want, size) = match call {
            Call::Fprop { .. } => host.forward(i, &read[0], &params),
            Call::Dgrad { .. } => host.data_gradient(i, &read[0], &params),
            _ => host.weight_gradient(i, &read[0], &read[1]),
        };
        let off = (f64::from(got[i]) - want).abs();
        let allowed = sums * size + rounding * want.abs() + 1e-30;
        if off > allowed || off.is_nan() {
            let what = format!("{} {}", call.name(), call.sizes());
            return Err(Error::CheckFailed(format!("{what}: element {i} is {}, not {want}", got[i])));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;

    fn conv(groups: usize, stride: usize, dilation: usize) -> Conv2d {
        let weight = Span { offset: 3, len: 8 * 9 * (4 / groups) };
        let bias = Some(Span { offset: weight.range().end, len: 8 });
        Conv2d {
            weight,
            bias,
            in_channels: 4,
            out_channels: 8,
            groups,
            kernel: 3,
            stride,
            padding: dilation,
            dilation,
        }
    }

    #[test]
    fn the_processor_agrees_with_the_definition() {
        let x = Shape::new(2, 7, 6, 4);
        for conv in [conv(1, 1, 1), conv(2, 2, 1), conv(1, 1, 2)] {
            for call in [Call::Fprop { conv, x }, Call::Dgrad { conv, x }, Call::Wgrad { conv, x }] {
                spot(&Cpu::<f32>::new(), &call, (1e-5, 0.0)).unwrap();
                // In single precision some element is not exact.
                let text = spot(&Cpu::<f32>::new(), &call, (0.0, 0.0)).unwrap_err().to_string();
                assert!(text.contains(call.name()), "{text}");
            }
        }
    }
}
