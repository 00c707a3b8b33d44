//! What convolutions do in passing, by every kernel: moments for a batch norm and sums for its backward pass
//! next to those of its own passes; to the same bits as by two ops a data gradient added to another, and a
//! frozen batch norm or its derivative.

use super::{Inputs, device_with, tiles, values};
use crate::compare::{assert_same_bits, assert_within, largest};
use crate::cuda_common::{CHECKED, DTYPES, PLAIN};
use crate::layer_common::{Conv, NormOffsets, batch_norm, batch_norm_at};
use psmt_fast::backend::cuda::{Cuda, Dtype, Tensor};
use psmt_fast::ops::*;

const CASES: [Conv; 7] = [
    Conv::new(16, 24).kernel(3).on(2, 19, 17),
    Conv::new(64, 136).on(1, 33, 12),
    Conv::new(32, 48).kernel(3).stride(2).on(2, 15, 13),
    Conv::new(128, 64).groups(2).kernel(3).dilation(2).on(2, 9, 11),
    Conv::new(5, 7).kernel(3).on(1, 7, 9),
    // A first convolution, whose segments end with rows of y or before.
    Conv::new(3, 72).kernel(3).stride(2).on(1, 4, 256),
    Conv::new(3, 72).kernel(3).stride(2).on(1, 4, 200),
];

#[test]
fn moments_sums_and_added_gradients() {
    let acts = [RELU, Activation::LeakyRelu(0.1), Activation::Identity];
    for dtype in DTYPES {
        for (i, case) in CASES.map(|case| case.at(8)).into_iter().enumerate() {
            let inputs = Inputs::new(case, dtype);
            for (j, &tile) in tiles(dtype).iter().enumerate() {
                let options = if i == 0 { CHECKED } else { PLAIN };
                let Some(d) = device_with(tile, dtype, options) else { return };
                let what = format!("{dtype:?}, {case}, {tile:?}");
                let layer = Layer { d: &d, dtype, inputs: &inputs, what };
                layer.gathers_moments();
                layer.goes_through_frozen_norms(acts[(i + j) % 3]);
                layer.adds_gradients();
                layer.sums_gradients(Way { residual: false, added: false });
                layer.sums_gradients(Way { residual: true, added: true });
                d.check().unwrap();
            }
        }
    }
}

/// A convolution on a device.
struct Layer<'a> {
    d: &'a Cuda,
    dtype: Dtype,
    inputs: &'a Inputs,
    /// Device and convolution, for failures.
    what: String,
}

/// What the backward pass of a batch norm passes on its way.
#[derive(Clone, Copy, Debug)]
struct Way {
    /// A residual was added to its output.
    residual: bool,
    /// Another gradient is added to the convolution's.
    added: bool,
}

impl Layer<'_> {
    /// Asserts that two tensors have the same bits, which are not all 0.
    fn assert_same(&self, part: &str, got: &Tensor, want: &Tensor) {
        let (got, want) = (self.d.download(got), self.d.download(want));
        let what = format!("{}: {part}", self.what);
        assert_same_bits(&what, &got, &want);
        assert!(got.iter().any(|v| *v != 0.0), "{what} is zero");
    }

    fn gathers_moments(&self) {
        let Layer { d, inputs, what, .. } = self;
        let conv = &inputs.conv;
        let channels = conv.out_channels;
        let bn = BatchNorm { momentum: 0.3, ..batch_norm(channels) };
        let affine = d.upload_vector(&values(2 * channels, 7, Dtype::F32));
        let (x, params) = (d.upload(inputs.shape, &inputs.x), d.upload_vector(&inputs.params));
        let FpropOut { y: z, moments } =
            conv2d_fprop(*d, &Fprop::new(&x, &params, conv).with(OutputEnd::Moments)).unwrap();
        let plain = conv2d_fprop(*d, &Fprop::new(&x, &params, conv)).unwrap().y;
        self.assert_same("values", &z, &plain);
        let short = inputs.shape.c == 3 && d.download(&z).len() % (128 * 72) != 0;
        assert!(moments.is_some() || short, "{what}: no moments");
        let train = |moments| {
            let mut stats = d.zeros(2 * channels);
            let norm = BatchNormTrain {
                x: &z,
                params: &affine,
                stats: &mut stats,
                bn: &bn,
                act: RELU,
                residual: None,
                moments,
            };
            let (y, saved) = batch_norm_train(*d, norm).unwrap();
            [d.download_vector(&saved.moments), d.download_vector(&stats), d.download(&y)]
        };
        let parts = ["saved moments", "running statistics", "y"];
        for ((part, got), want) in parts.into_iter().zip(train(moments.as_ref())).zip(train(None)) {
            // The same sum may round to one of two neighbours.
            let rounding = if part == "y" { 1.0 / 128.0 } else { 1e-5 };
            let allowed = |i: usize| rounding * f64::from(want[i].abs()) + 1e-5;
            assert_within(&format!("{what}: {part}"), &got, &want, allowed);
        }
    }

    fn goes_through_frozen_norms(&self, act: Activation) {
        let Layer { d, inputs, .. } = *self;
        let (conv, shape, out) = (&inputs.conv, inputs.shape, inputs.conv.out_shape(inputs.shape));
        let begin = inputs.params.len();
        let most = conv.in_channels.max(conv.out_channels);
        let norm = |channels: usize| {
            let at =
                NormOffsets { weight: begin, bias: begin + most, running_mean: 1, running_var: 1 + most };
            BatchNorm { momentum: 0.3, eps: 1e-3, ..batch_norm_at(channels, at) }
        };
        let params = d.upload_vector(&[&inputs.params[..], &values(2 * most, 5, Dtype::F32)].concat());
        let variances = values(most, 7, Dtype::F32).into_iter().map(|v| v + 1.5);
        let stats: Vec<f32> = values(1 + most, 6, Dtype::F32).into_iter().chain(variances).collect();
        let stats = d.upload_vector(&stats);
        let (x, dy) = (d.upload(shape, &inputs.x), d.upload(out, &inputs.dy));
        let other = d.upload(out, &values(out.len(), 13, Dtype::F32));
        let clean = d.upload(shape, &values(shape.len(), 14, Dtype::F32));
        let (of_output, of_input) = (norm(out.c), norm(shape.c));
        let frozen = |bn| FrozenNorm { stats: &stats, bn, act };
        let fprop = |end| conv2d_fprop(d, &Fprop::new(&x, &params, conv).with(end)).unwrap().y;
        let tangent = |t: &Tensor, y: &Tensor, bn| {
            batch_norm_tangent(d, &BatchNormTangent { t, y, params: &params, norm: frozen(bn) }).unwrap()
        };

        let z = fprop(OutputEnd::Plain);
        for residual in [None, Some(&other)] {
            let got = fprop(OutputEnd::Norm(frozen(&of_output), residual));
            let norm = BatchNormEval { x: &z, params: &params, norm: frozen(&of_output), residual };
            self.assert_same("y after a frozen batch norm", &got, &batch_norm_eval(d, &norm).unwrap());
        }
        let got = fprop(OutputEnd::Tangent(frozen(&of_output), &other));
        self.assert_same("tangent", &got, &tangent(&z, &other, &of_output));
        let onto = Onto::Frozen(frozen(&of_input), &clean);
        let got = conv2d_dgrad(d, &Dgrad { dy: &dy, params: &params, conv, onto }).unwrap().dx;
        let dx = conv2d_dgrad(d, &Dgrad::new(&dy, &params, conv, shape)).unwrap().dx;
        let want = tangent(&dx, &clean, &of_input);
        self.assert_same("data gradient through a frozen batch norm", &got, &want);
    }

    fn adds_gradients(&self) {
        let Layer { d, inputs, .. } = *self;
        let (conv, shape) = (&inputs.conv, inputs.shape);
        let (dy, params) = (d.upload(conv.out_shape(shape), &inputs.dy), d.upload_vector(&inputs.params));
        let to = d.upload(shape, &inputs.x);
        let onto = Onto::Add(&to);
        let got = conv2d_dgrad(d, &Dgrad { dy: &dy, params: &params, conv, onto }).unwrap().dx;
        let dx = conv2d_dgrad(d, &Dgrad::new(&dy, &params, conv, shape)).unwrap().dx;
        self.assert_same("added gradient", &got, &add(d, &dx, &to, 1.0).unwrap());
    }

    /// The backward pass of a batch norm whose output the convolution reads, with the sums that the data
    /// gradient left and with its own.
    fn sums_gradients(&self, way: Way) {
        let Layer { d, dtype, inputs, .. } = *self;
        let what = format!("{}, {way:?}", self.what);
        // Its parameters follow the convolution's.
        let (conv, shape, begin, c) = (&inputs.conv, inputs.shape, inputs.params.len(), inputs.shape.c);
        let at = NormOffsets { weight: begin, bias: begin + c, running_mean: 0, running_var: c };
        let bn = BatchNorm { momentum: 0.3, ..batch_norm_at(c, at) };
        let act = Activation::LeakyRelu(0.1);
        let affine = values(2 * c, 5, Dtype::F32);
        let params = d.upload_vector(&[&inputs.params[..], &affine].concat());
        let x = d.upload(shape, &values(shape.len(), 11, dtype));
        let other = d.upload(shape, &values(shape.len(), 13, dtype));
        let norm = BatchNormTrain {
            x: &x,
            params: &params,
            stats: &mut d.zeros(2 * c),
            bn: &bn,
            act,
            residual: way.residual.then_some(&other),
            moments: None,
        };
        let (y, saved) = batch_norm_train(d, norm).unwrap();
        let norm = NormPass { x: &x, y: &y, saved: &saved, bn: &bn, act, residual: way.residual };

        let dy = d.upload(conv.out_shape(shape), &inputs.dy);
        let dgrad = |onto| conv2d_dgrad(d, &Dgrad { dy: &dy, params: &params, conv, onto }).unwrap();
        let to = way.added.then_some(&other);
        let DgradOut { dx: dz, sums } = dgrad(Onto::Norm(norm, to));
        let plain = dgrad(to.map_or(Onto::Input(shape), Onto::Add)).dx;
        assert_same_bits(&format!("{what}: gradient"), &d.download(&dz), &d.download(&plain));
        // Rows that are no whole chunks are summed in a pass of their own.
        assert_eq!(sums.is_some(), c % 8 == 0, "{what}: sums");

        let backward = |sums| {
            let mut grads = d.zeros(begin + 2 * c);
            let norm = BatchNormTrainBwd { dy: &dz, norm, params: &params, grads: &mut grads, sums };
            let (dx, dresidual) = batch_norm_train_bwd(d, norm).unwrap();
            (d.download_vector(&grads), d.download(&dx), dresidual.map(|t| d.download(&t)))
        };
        let (got_grads, got_dx, got_residual) = backward(sums.as_ref());
        let (grads, dx, residual) = backward(None);
        let close = |part: &str, got: &[f32], want: &[f32], rounding: f64| {
            let scale = largest(want);
            assert!(scale > 0.0, "{what}: no {part}");
            let allowed = |i: usize| rounding * f64::from(want[i].abs()) + 1e-5 * scale;
            assert_within(&format!("{what}: {part}"), got, want, allowed);
        };
        close("parameters", &got_grads, &grads, 1e-5);
        close("dx", &got_dx, &dx, if dtype == Dtype::Bf16 { 1.0 / 128.0 } else { 1e-5 });
        if let (Some(got), Some(want)) = (got_residual, residual) {
            close("residual", &got, &want, 0.0);
        }
    }
}
