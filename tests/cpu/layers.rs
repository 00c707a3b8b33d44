//! Layers of the CPU device against plain loops, finite differences and, where the files are there, PyTorch's results.

use psmt_fast::backend::cpu::{Cpu, Real, Tensor};
use psmt_fast::ops::*;
use psmt_fast::rng::{Domain, Key};

/// n, h, w, in, out, kernel, stride, padding, dilation, bias
type Geometry = (usize, usize, usize, usize, usize, usize, usize, usize, usize, bool);

/// All geometries of the fixtures, single positions, odd sizes, and what takes a path of its own.
const CONVS: &[Geometry] = &[
    (2, 33, 41, 3, 16, 3, 2, 1, 1, false),
    (2, 17, 19, 16, 24, 1, 1, 0, 1, true),
    (1, 21, 18, 24, 40, 3, 1, 6, 6, false),
    (2, 9, 9, 40, 32, 3, 1, 18, 18, false),
    (1, 16, 16, 64, 64, 3, 1, 1, 1, false),
    (2, 15, 13, 32, 48, 1, 2, 0, 1, false),
    (1, 38, 30, 3, 8, 7, 2, 3, 1, false),
    (2, 7, 5, 21, 13, 3, 1, 1, 1, true),
    (1, 1, 1, 1, 1, 1, 1, 0, 1, true),
    (1, 1, 1, 5, 7, 3, 1, 1, 1, false),
    (3, 8, 8, 67, 19, 3, 1, 4, 4, false),
    (1, 12, 10, 300, 17, 3, 2, 1, 1, true),
    (2, 11, 13, 8, 4, 3, 2, 1, 1, false),
    (1, 5, 6, 270, 100, 1, 1, 0, 1, false),
    (2, 8, 8, 130, 205, 3, 1, 2, 2, false),
    // Wide enough for Winograd, with partial tiles and panels; the last has three spans of tiles.
    (2, 18, 23, 40, 72, 3, 1, 1, 1, true),
    (1, 101, 96, 32, 32, 3, 1, 1, 1, false),
];

/// Geometries and their groups: each path, groups of odd widths, one channel a group.
const GROUPED: &[(Geometry, usize)] = &[
    ((2, 17, 19, 16, 24, 1, 1, 0, 1, true), 2),
    ((2, 15, 13, 33, 48, 1, 2, 0, 1, false), 3),
    ((1, 21, 18, 24, 40, 3, 1, 6, 6, false), 2),
    ((2, 9, 9, 160, 96, 3, 1, 18, 18, true), 2),
    ((2, 9, 11, 10, 6, 3, 2, 1, 1, true), 2),
    ((1, 8, 7, 5, 10, 3, 1, 1, 1, true), 5),
    ((1, 12, 10, 1400, 14, 3, 1, 2, 2, false), 2),
    // Winograd.
    ((2, 18, 23, 80, 144, 3, 1, 1, 1, true), 2),
];

fn values<T: Real>(len: usize, seed: u64) -> Vec<T> {
    let key = Key::new(seed, Domain::Bench, 0);
    (0..len).map(|i| T::from_f32(key.uniform(i as u64) * 2.0 - 1.0)).collect()
}

fn tensor<T: Real>(shape: Shape, seed: u64) -> Tensor<T> {
    Tensor::new(shape, values(shape.len(), seed))
}

/// Largest difference over the largest reference value; names the worst element when it is over `tolerance`.
fn close<T: Real>(what: &str, got: &[T], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let scale = want.iter().fold(1e-30, |m: f64, v| m.max(v.abs()));
    let error = |i: usize| (got[i].to_f64() - want[i]).abs() / scale;
    assert!(got.iter().all(|v| v.to_f64().is_finite()), "{what}: not finite");
    if let Some(worst) = (0..got.len()).max_by(|&a, &b| error(a).total_cmp(&error(b))) {
        assert!(
            error(worst) <= tolerance,
            "{what}: element {worst} is {} not {} ({:e} of the largest)",
            got[worst],
            want[worst],
            error(worst)
        );
    }
}

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

/// `conv` with its parameters from element 3 on.
fn placed(conv: Conv2d, bias: bool) -> Conv2d {
    let len = conv.out_channels * conv.kernel * conv.kernel * conv.in_channels / conv.groups;
    let bias = bias.then_some(Span { offset: 3 + len, len: conv.out_channels });
    Conv2d { weight: Span { offset: 3, len }, bias, ..conv }
}

/// A 3x3 convolution that keeps the size, without parameters yet.
fn three_by_three(in_channels: usize, out_channels: usize) -> Conv2d {
    let weight = Span { offset: 0, len: 0 };
    Conv2d {
        weight,
        bias: None,
        in_channels,
        out_channels,
        groups: 1,
        kernel: 3,
        stride: 1,
        padding: 1,
        dilation: 1,
    }
}

fn convolutions<T: Real>(tolerance: f64) {
    let b = Cpu::<T>::new();
    let cases = CONVS.iter().map(|&geometry| (geometry, 1)).chain(GROUPED.iter().copied());
    for ((n, h, w, cin, cout, kernel, stride, padding, dilation, bias), groups) in cases {
        let conv =
            placed(Conv2d { groups, kernel, stride, padding, dilation, ..three_by_three(cin, cout) }, bias);
        let x = tensor::<T>(Shape::new(n, h, w, cin), 1);
        let params = values::<T>(3 + conv.weight.len + cout, 2);
        let dy = tensor::<T>(conv.out_shape(x.shape()), 3);
        let [y, dx, dw] = plain(&x, dy.data(), &params, &conv);
        let what = |op: &str| format!("{op} of {conv:?} on {}", x.shape());
        close(&what("fprop"), b.conv2d_fprop(&Fprop::new(&x, &params, &conv)).y.data(), &y, tolerance);
        close(
            &what("dgrad"),
            b.conv2d_dgrad(&Dgrad::new(&dy, &params, &conv, x.shape())).dx.data(),
            &dx,
            tolerance,
        );
        let mut grads = vec![T::ONE; params.len()];
        b.conv2d_wgrad(&x, &dy, &mut grads, &conv);
        let dw: Vec<f64> = dw.iter().map(|v| v + 1.0).collect();
        close(&what("wgrad"), &grads[conv.weight.range()], &dw, tolerance);
        let mut outside: Vec<f64> = vec![1.0; 3];
        close(&what("elements before the weight"), &grads[..3], &outside, 0.0);
        outside = vec![1.0; cout];
        if bias {
            for (i, v) in dy.data().iter().enumerate() {
                outside[i % cout] += v.to_f64();
            }
        }
        close(&what("bias gradient"), &grads[3 + conv.weight.len..], &outside, tolerance);
    }
}

#[test]
fn convolutions_agree_with_plain_loops() {
    convolutions::<f64>(1e-13);
    convolutions::<f32>(1e-5);
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let conv = placed(three_by_three(40, 56), false);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| {
            let b = Cpu::<f32>::new();
            let x = tensor::<f32>(Shape::new(2, 33, 31, 40), 1);
            let mut params = values::<f32>(3 + conv.weight.len, 2);
            let y = b.conv2d_fprop(&Fprop::new(&x, &params, &conv)).y;
            let dx = b.conv2d_dgrad(&Dgrad::new(&y, &params, &conv, x.shape())).dx;
            b.conv2d_wgrad(&x, &y, &mut params, &conv);
            let bn = norm(56);
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
    assert!(run(1) == run(3));
}

fn norm(c: usize) -> BatchNorm {
    let part = |k: usize| Span { offset: k * c, len: c };
    BatchNorm {
        weight: part(0),
        bias: part(1),
        running_mean: part(0),
        running_var: part(1),
        channels: c,
        momentum: 0.1,
        eps: 1e-5,
    }
}

#[test]
fn batch_norm_gradients_agree_with_finite_differences() {
    let b = Cpu::<f64>::new();
    for (act, with_residual, training) in [
        (Activation::Identity, false, true),
        (RELU, false, true),
        (RELU, true, true),
        (Activation::LeakyRelu(0.01), true, true),
        (Activation::LeakyRelu(0.01), false, true),
        (RELU, false, false),
        (Activation::LeakyRelu(0.2), false, false),
    ] {
        // Nine values a channel take the path for few.
        let shapes = [Shape::new(2, 3, 7, 5), Shape::new(1, 3, 3, 4), Shape::new(1, 7, 5, 67)];
        for shape in shapes {
            let c = shape.c;
            let bn = norm(c);
            let (x, r, dy) = (values::<f64>(shape.len(), 1), values::<f64>(shape.len(), 2), tensor(shape, 3));
            let params: Vec<f64> = values::<f64>(2 * c, 4).iter().map(|v| v + 1.5).collect();
            let stats: Vec<f64> = values::<f64>(2 * c, 5).iter().map(|v| v + 1.5).collect();
            let forward = |x: &[f64], r: &[f64], params: &[f64]| {
                let (x, r) = (Tensor::new(shape, x.to_vec()), Tensor::new(shape, r.to_vec()));
                let r = with_residual.then_some(&r);
                if training {
                    let (y, saved) = b.batch_norm_train(BatchNormTrain {
                        x: &x,
                        params: &params.to_vec(),
                        stats: &mut stats.clone(),
                        bn: &bn,
                        act,
                        residual: r,
                        moments: None,
                    });
                    (y, Some(saved))
                } else {
                    (
                        b.batch_norm_eval(&BatchNormEval {
                            x: &x,
                            params: &params.to_vec(),
                            norm: FrozenNorm { stats: &stats, bn: &bn, act },
                            residual: r,
                        }),
                        None,
                    )
                }
            };
            let loss = |x: &[f64], r: &[f64], p: &[f64]| -> f64 {
                forward(x, r, p).0.data().iter().zip(dy.data()).map(|(a, b)| a * b).sum()
            };
            let (y, saved) = forward(&x, &r, &params);
            let (xt, mut grads) = (Tensor::new(shape, x.clone()), vec![1.0; 2 * c]);
            let (dx, dr) = match &saved {
                Some(saved) => b.batch_norm_train_bwd(BatchNormTrainBwd {
                    dy: &dy,
                    norm: NormPass { x: &xt, y: &y, saved, bn: &bn, act, residual: with_residual },
                    params: &params,
                    grads: &mut grads,
                    sums: None,
                }),
                None => (
                    b.batch_norm_eval_bwd(BatchNormEvalBwd {
                        dy: &dy,
                        x: &xt,
                        y: &y,
                        params: &params,
                        grads: &mut grads,
                        norm: FrozenNorm { stats: &stats, bn: &bn, act },
                    }),
                    None,
                ),
            };
            assert_eq!(dr.is_some(), with_residual && training);
            let difference = |v: &[f64], f: &dyn Fn(&[f64]) -> f64| -> Vec<f64> {
                (0..v.len())
                    .map(|i| {
                        let at = |d: f64| {
                            let mut v = v.to_vec();
                            v[i] += d;
                            f(&v)
                        };
                        (at(1e-6) - at(-1e-6)) / 2e-6
                    })
                    .collect()
            };
            close("dx", dx.data(), &difference(&x, &|x| loss(x, &r, &params)), 1e-7);
            if let Some(dr) = dr {
                close("dresidual", dr.data(), &difference(&r, &|r| loss(&x, r, &params)), 1e-7);
            }
            let want: Vec<f64> = difference(&params, &|p| loss(&x, &r, p)).iter().map(|v| v + 1.0).collect();
            close("dweight, dbias", &grads, &want, 1e-7);
            if !training {
                let t = b.batch_norm_tangent(&BatchNormTangent {
                    t: &dy,
                    y: &y,
                    params: &params,
                    norm: FrozenNorm { stats: &stats, bn: &bn, act },
                });
                assert_eq!(t.data(), dx.data());
            }
        }
    }
}

#[test]
fn batch_moments_stay_accurate_far_from_zero() {
    let b = Cpu::<f32>::new();
    for (shape, offset) in [(Shape::new(2, 190, 270, 3), 1000.0f32), (Shape::new(2, 1, 1, 37), 5.0)] {
        let (c, n) = (shape.c, shape.positions() as f64);
        let x: Vec<f32> = values::<f32>(shape.len(), 9).iter().map(|v| v * 3.0 + offset).collect();
        let mut stats = vec![0.0f32; 2 * c];
        let bn = BatchNorm { momentum: 1.0, ..norm(c) };
        let (_, saved) = b.batch_norm_train(BatchNormTrain {
            x: &Tensor::new(shape, x.clone()),
            params: &vec![1.0; 2 * c],
            stats: &mut stats,
            bn: &bn,
            act: Activation::Identity,
            residual: None,
            moments: None,
        });
        let column = |i: usize| x.iter().skip(i).step_by(c).map(|&v| f64::from(v));
        let mean: Vec<f64> = (0..c).map(|i| column(i).sum::<f64>() / n).collect();
        let var: Vec<f64> =
            (0..c).map(|i| column(i).map(|v| (v - mean[i]).powi(2)).sum::<f64>() / n).collect();
        let inv: Vec<f64> = var.iter().map(|v| 1.0 / (v + 1e-5).sqrt()).collect();
        close("mean", &saved.moments[..c], &mean, 1e-6);
        close("1 / std", &saved.moments[c..], &inv, 1e-5);
        close("running mean", &stats[..c], &mean, 1e-6);
        let unbiased: Vec<f64> = var.iter().map(|v| v * n / (n - 1.0)).collect();
        close("running var", &stats[c..], &unbiased, 1e-5);
    }
}

#[test]
fn pooling_agrees_with_plain_loops() {
    let b = Cpu::<f64>::new();
    for (shape, kernel, stride, padding) in [
        (Shape::new(2, 16, 16, 8), 3, 2, 1),
        (Shape::new(1, 17, 23, 5), 3, 2, 1),
        (Shape::new(1, 1, 1, 1), 3, 2, 1),
        (Shape::new(1, 40, 38, 40), 2, 2, 0),
        (Shape::new(2, 9, 11, 3), 3, 1, 1),
    ] {
        let spec = MaxPool2d { kernel, stride, padding };
        // Few distinct values, so that ties are many.
        let x = Tensor::new(shape, values::<f64>(shape.len(), 6).iter().map(|v| (v * 3.0).round()).collect());
        let o = spec.out_shape(shape);
        let dy = tensor::<f64>(o, 7);
        let (mut y, mut dx) = (vec![f64::MIN; o.len()], vec![0.0; shape.len()]);
        for (i, y) in y.iter_mut().enumerate() {
            let (n, oy, ox, c) = (i / (o.h * o.w * o.c), i / (o.w * o.c) % o.h, i / o.c % o.w, i % o.c);
            let mut at = 0;
            for k in 0..kernel * kernel {
                let iy = (oy * stride + k / kernel).wrapping_sub(padding);
                let ix = (ox * stride + k % kernel).wrapping_sub(padding);
                if iy < shape.h && ix < shape.w {
                    let here = ((n * shape.h + iy) * shape.w + ix) * shape.c + c;
                    if x.data()[here] > *y {
                        (*y, at) = (x.data()[here], here);
                    }
                }
            }
            dx[at] += dy.data()[i];
        }
        close("max_pool2d", b.max_pool2d(&x, &spec).data(), &y, 0.0);
        close("max_pool2d_bwd", b.max_pool2d_bwd(&dy, &x, &spec).data(), &dx, 1e-14);
    }
    for (shape, size) in [
        (Shape::new(2, 13, 17, 6), (1, 1)),
        (Shape::new(2, 13, 17, 6), (2, 2)),
        (Shape::new(1, 16, 11, 8), (6, 6)),
        (Shape::new(1, 4, 5, 3), (7, 9)),
        (Shape::new(2, 40, 36, 30), (3, 5)),
    ] {
        let (x, o) = (tensor::<f64>(shape, 8), Shape { h: size.0, w: size.1, ..shape });
        let dy = tensor::<f64>(o, 9);
        let (mut y, mut dx) = (vec![0.0; o.len()], vec![0.0; shape.len()]);
        for (i, y) in y.iter_mut().enumerate() {
            let (n, oy, ox, c) = (i / (o.h * o.w * o.c), i / (o.w * o.c) % o.h, i / o.c % o.w, i % o.c);
            let (ys, xs) = (
                oy * shape.h / o.h..((oy + 1) * shape.h).div_ceil(o.h),
                ox * shape.w / o.w..((ox + 1) * shape.w).div_ceil(o.w),
            );
            let scale = 1.0 / (ys.len() * xs.len()) as f64;
            for iy in ys {
                for ix in xs.clone() {
                    let at = ((n * shape.h + iy) * shape.w + ix) * shape.c + c;
                    *y += x.data()[at] * scale;
                    dx[at] += dy.data()[i] * scale;
                }
            }
        }
        close("adaptive_avg_pool2d", b.adaptive_avg_pool2d(&x, size).data(), &y, 1e-14);
        close(
            "adaptive_avg_pool2d_bwd",
            b.adaptive_avg_pool2d_bwd(&dy, (shape.h, shape.w)).data(),
            &dx,
            1e-14,
        );
    }
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
