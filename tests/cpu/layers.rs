//! Convolutions and channel ops of the CPU device against plain loops.

use crate::layer_common::{Conv, batch_norm};
use crate::plain::{close, tensor, values};
use psmt_fast::backend::cpu::{Cpu, Real, Tensor};
use psmt_fast::ops::*;

/// All convolutions of the fixtures, single positions, odd sizes, and what takes a path of its own.
const CONVS: &[Conv] = &[
    Conv::new(3, 16).kernel(3).stride(2).on(2, 33, 41),
    Conv::new(16, 24).bias().on(2, 17, 19),
    Conv::new(24, 40).kernel(3).dilation(6).on(1, 21, 18),
    Conv::new(40, 32).kernel(3).dilation(18).on(2, 9, 9),
    Conv::new(64, 64).kernel(3).on(1, 16, 16),
    Conv::new(32, 48).stride(2).on(2, 15, 13),
    Conv::new(3, 8).kernel(7).stride(2).on(1, 38, 30),
    Conv::new(21, 13).kernel(3).bias().on(2, 7, 5),
    Conv::new(1, 1).bias().on(1, 1, 1),
    Conv::new(5, 7).kernel(3).on(1, 1, 1),
    Conv::new(67, 19).kernel(3).dilation(4).on(3, 8, 8),
    Conv::new(300, 17).kernel(3).stride(2).bias().on(1, 12, 10),
    Conv::new(8, 4).kernel(3).stride(2).on(2, 11, 13),
    Conv::new(270, 100).on(1, 5, 6),
    Conv::new(130, 205).kernel(3).dilation(2).on(2, 8, 8),
    // Wide enough for Winograd, with partial tiles and panels; the last has three spans of tiles.
    Conv::new(40, 72).kernel(3).bias().on(2, 18, 23),
    Conv::new(32, 32).kernel(3).on(1, 101, 96),
];

/// Several groups: each path, groups of odd widths, one channel per group.
const GROUPED: &[Conv] = &[
    Conv::new(16, 24).groups(2).bias().on(2, 17, 19),
    Conv::new(33, 48).groups(3).stride(2).on(2, 15, 13),
    Conv::new(24, 40).groups(2).kernel(3).dilation(6).on(1, 21, 18),
    Conv::new(160, 96).groups(2).kernel(3).dilation(18).bias().on(2, 9, 9),
    Conv::new(10, 6).groups(2).kernel(3).stride(2).bias().on(2, 9, 11),
    Conv::new(5, 10).groups(5).kernel(3).bias().on(1, 8, 7),
    Conv::new(1400, 14).groups(2).kernel(3).dilation(2).on(1, 12, 10),
    // Winograd.
    Conv::new(80, 144).groups(2).kernel(3).bias().on(2, 18, 23),
];

/// Elements of the parameters before a convolution's weight.
const BEFORE: usize = 3;

/// Output, data gradient, weight gradient of a convolution by plain loops.
fn plain<T: Real>(x: &Tensor<T>, dy: &[T], params: &[T], conv: &Conv2d) -> [Vec<f64>; 3] {
    let (s, o) = (x.shape(), conv.out_shape(x.shape()));
    let w = &params[conv.weight.range()];
    let (mut y, mut dx, mut dw) = (vec![0.0; o.len()], vec![0.0; s.len()], vec![0.0; w.len()]);
    for p in 0..o.positions() {
        let (n, oy, ox) = (p / (o.h * o.w), p / o.w % o.h, p % o.w);
        for k in 0..o.c {
            let at = p * o.c + k;
            // Channels of the group and their first.
            let c = s.c / conv.groups;
            let first = k / (o.c / conv.groups) * c;
            y[at] = conv.bias.map_or(0.0, |b| params[b.offset + k].to_f64());
            for tap in 0..conv.kernel * conv.kernel {
                let iy = (oy * conv.stride + tap / conv.kernel * conv.dilation).wrapping_sub(conv.padding);
                let ix = (ox * conv.stride + tap % conv.kernel * conv.dilation).wrapping_sub(conv.padding);
                if iy >= s.h || ix >= s.w {
                    continue;
                }
                let (from, wf) =
                    (((n * s.h + iy) * s.w + ix) * s.c + first, (k * conv.kernel * conv.kernel + tap) * c);
                for i in 0..c {
                    y[at] += x.data()[from + i].to_f64() * w[wf + i].to_f64();
                    dx[from + i] += dy[at].to_f64() * w[wf + i].to_f64();
                    dw[wf + i] += dy[at].to_f64() * x.data()[from + i].to_f64();
                }
            }
        }
    }
    [y, dx, dw]
}

fn convolutions<T: Real>(tolerance: f64) {
    let b = Cpu::<T>::new();
    for case in CONVS.iter().chain(GROUPED).map(|case| case.at(BEFORE)) {
        let conv = case.spec();
        let x = tensor::<T>(case.input(), 1);
        let params = values::<T>(case.num_params(), 2);
        let dy = tensor::<T>(case.output(), 3);
        let [y, dx, dw] = plain(&x, dy.data(), &params, &conv);
        let what = |op: &str| format!("{op} of a {case}");
        close(&what("fprop"), b.conv2d_fprop(&Fprop::new(&x, &params, &conv)).y.data(), &y, tolerance);
        let got = b.conv2d_dgrad(&Dgrad::new(&dy, &params, &conv, x.shape())).dx;
        close(&what("dgrad"), got.data(), &dx, tolerance);
        // Gradients are added to ones; what is no parameter of the layer stays as it is.
        let mut grads = vec![T::ONE; params.len()];
        b.conv2d_wgrad(&x, &dy, &mut grads, &conv);
        let dw: Vec<f64> = dw.iter().map(|v| v + 1.0).collect();
        close(&what("wgrad"), &grads[conv.weight.range()], &dw, tolerance);
        if let Some(bias) = conv.bias {
            let mut dbias = vec![1.0; bias.len];
            dy.data().iter().enumerate().for_each(|(i, v)| dbias[i % bias.len] += v.to_f64());
            close(&what("bias gradient"), &grads[bias.range()], &dbias, tolerance);
        }
        let own = |i: usize| {
            conv.weight.range().contains(&i) || conv.bias.is_some_and(|bias| bias.range().contains(&i))
        };
        let others: Vec<T> = (0..grads.len()).filter(|&i| !own(i)).map(|i| grads[i]).collect();
        close(&what("gradients of other parameters"), &others, &vec![1.0; others.len()], 0.0);
    }
}

#[test]
fn convolutions_agree_with_plain_loops() {
    convolutions::<f64>(1e-13);
    convolutions::<f32>(1e-5);
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let case = Conv::new(40, 56).kernel(3).on(2, 33, 31);
    let conv = case.spec();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| {
            let b = Cpu::<f32>::new();
            let x = tensor::<f32>(case.input(), 1);
            let mut params = values::<f32>(case.num_params(), 2);
            let y = b.conv2d_fprop(&Fprop::new(&x, &params, &conv)).y;
            let dx = b.conv2d_dgrad(&Dgrad::new(&y, &params, &conv, x.shape())).dx;
            b.conv2d_wgrad(&x, &y, &mut params, &conv);
            let bn = batch_norm(56);
            let (z, saved) = b.batch_norm_train(BatchNormTrain {
                x: &y,
                params: &values(112, 4),
                stats: &mut vec![0.5; 112],
                bn: &bn,
                act: RELU,
                residual: None,
                moments: None,
            });
            let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            [bits(y.data()), bits(dx.data()), bits(&params), bits(z.data()), bits(&saved.moments)]
        })
    };
    assert!(run(1) == run(3), "one thread and three give other bits");
}

#[test]
fn channel_moves_and_sums_agree_with_plain_loops() {
    let b = Cpu::<f64>::new();
    for shape in [Shape::new(2, 3, 5, 7), Shape::new(2, 50, 41, 16)] {
        let (x, y) = (tensor::<f64>(shape, 1), tensor::<f64>(shape.with_channels(3), 2));
        let both = b.concat(&[&x, &y]);
        assert_eq!(both.shape().c, shape.c + 3);
        assert_eq!(both.data()[shape.c..shape.c + 3], y.data()[..3]);
        assert_eq!(b.slice_channels(&both, 0, shape.c).data(), x.data());
        assert_eq!(b.slice_channels(&both, shape.c, 3).data(), y.data());
        let sums = b.sum_positions(&x);
        let mut want = vec![0.0; shape.n * shape.c];
        for (i, v) in x.data().iter().enumerate() {
            want[i / (shape.h * shape.w * shape.c) * shape.c + i % shape.c] += v;
        }
        close("sum_positions", sums.data(), &want, 1e-13);
        let spread = b.add(&x, &sums, 0.5);
        let want: Vec<f64> = (0..shape.len())
            .map(|i| {
                x.data()[i] + 0.5 * sums.data()[i / (shape.h * shape.w * shape.c) * shape.c + i % shape.c]
            })
            .collect();
        close("add of one position", spread.data(), &want, 1e-14);
        let want: Vec<f64> = x.data().iter().map(|v| v - 2.0 * v).collect();
        close("add", b.add(&x, &x, -2.0).data(), &want, 1e-14);
        let want: Vec<f64> = x.data().iter().map(|&v| if v > 0.0 { v } else { 0.01 * v }).collect();
        close("leaky_relu", b.leaky_relu(&x, 0.01).data(), &want, 0.0);
        let want: Vec<f64> = x.data().iter().map(|&v| if v > 0.0 { 1.0 } else { 0.01 }).collect();
        let ones = Tensor::new(shape, vec![1.0; shape.len()]);
        close("leaky_relu_bwd", b.leaky_relu_bwd(&ones, &x, 0.01).data(), &want, 0.0);
    }
}
