//! Layers, optimiser and counts of the CUDA device, run by the emulator, against the CPU device in double precision: one
//! body an op for both devices and both activation types. Shapes are single positions, primes, channel counts that no
//! vector divides, and enough positions for several parts.

use crate::cuda_common::{Run, agree};
use psmt_fast::backend::cpu::Cpu;
use psmt_fast::ops::*;

const SHAPES: &[Shape] = &[
    Shape::new(1, 1, 1, 1),
    Shape::new(2, 1, 1, 64),
    Shape::new(1, 7, 5, 3),
    Shape::new(2, 13, 11, 21),
    Shape::new(2, 7, 5, 130),
    Shape::new(3, 6, 5, 64),
    Shape::new(1, 31, 37, 8),
];

fn elementwise<B: Backend>(b: &B, run: &mut Run) {
    for &shape in SHAPES {
        let (x, y) = (run.tensor(b, shape), run.tensor(b, shape));
        let one = run.tensor(b, Shape::new(shape.n, 1, 1, shape.c));
        run.put(b, "leaky_relu", &b.leaky_relu(&x, 0.01));
        run.put(b, "leaky_relu_bwd", &b.leaky_relu_bwd(&y, &x, 0.2));
        run.put(b, "add", &b.add(&x, &y, -0.7));
        run.put(b, "broadcast add", &b.add(&x, &one, 0.3));
    }
}

#[test]
fn elementwise_ops_agree() {
    // Two roundings of sums of two values.
    agree(elementwise, elementwise, 2e-7);
}

fn channels<B: Backend>(b: &B, run: &mut Run) {
    for widths in [&[1, 3][..], &[64, 21], &[8, 64, 16], &[130], &[5, 8, 3]] {
        let parts: Vec<_> = widths.iter().map(|&c| run.tensor(b, Shape::new(2, 5, 3, c))).collect();
        let whole = b.concat(&parts.iter().collect::<Vec<_>>());
        run.put(b, "concat", &whole);
        let mut offset = 0;
        for &c in widths {
            run.put(b, "slice_channels", &b.slice_channels(&whole, offset, c));
            offset += c;
        }
    }
}

#[test]
fn channel_ranges_agree() {
    agree(channels, channels, 0.0);
}

fn sums<B: Backend>(b: &B, run: &mut Run) {
    for &shape in SHAPES {
        let x = run.tensor(b, shape);
        run.put(b, "sum_positions", &b.sum_positions(&x));
        for size in [(1, 1), (3, 2), (6, 6)] {
            run.put(b, "adaptive_avg_pool2d", &b.adaptive_avg_pool2d(&x, size));
            let dy = run.tensor(b, Shape { h: size.0, w: size.1, ..shape });
            run.put(b, "adaptive_avg_pool2d_bwd", &b.adaptive_avg_pool2d_bwd(&dy, (shape.h, shape.w)));
        }
    }
}

#[test]
fn sums_and_average_pooling_agree() {
    // Sums of up to 1147 values, in rows of up to 36: a few roundings of the sum of magnitudes, which is up to 20 times
    // the sum.
    agree(sums, sums, 1e-5);
}

fn max_pool<B: Backend>(b: &B, run: &mut Run) {
    for &shape in SHAPES {
        for (kernel, stride, padding) in [(3, 2, 1), (2, 2, 0), (1, 1, 0), (5, 1, 2), (2, 3, 1)] {
            let spec = MaxPool2d { kernel, stride, padding };
            if spec.out_shape(shape).is_empty() {
                continue;
            }
            // Coarse values, so that windows hold their maximum several times.
            let data = run.values(shape.len()).iter().map(|v| (v * 4.0).round()).collect();
            let x = run.upload(b, shape, data);
            run.put(b, "max_pool2d", &b.max_pool2d(&x, &spec));
            let dy = run.tensor(b, spec.out_shape(shape));
            run.put(b, "max_pool2d_bwd", &b.max_pool2d_bwd(&dy, &x, &spec));
        }
    }
}

#[test]
fn max_pooling_agrees() {
    // Sums of the gradients of up to 25 windows.
    agree(max_pool, max_pool, 1e-6);
}

fn interpolate<B: Backend>(b: &B, run: &mut Run) {
    for &shape in SHAPES {
        for size in [(1, 1), (7, 5), (29, 17), (3, 40)] {
            let x = run.tensor(b, shape);
            run.put(b, "interpolate", &b.interpolate(&x, size));
            let dy = run.tensor(b, Shape { h: size.0, w: size.1, ..shape });
            run.put(b, "interpolate_bwd", &b.interpolate_bwd(&dy, (shape.h, shape.w)));
        }
    }
}

#[test]
fn interpolation_agrees() {
    // Weights of one rounding; the largest sum, of 493 gradients into one position, cancels to a twentieth.
    agree(interpolate, interpolate, 1e-5);
}

fn spec(channels: usize) -> BatchNorm {
    // Apart and unaligned, as in a flat vector of parameters.
    let span = |offset| Span { offset, len: channels };
    BatchNorm {
        weight: span(1),
        bias: span(2 * channels + 3),
        running_mean: span(3),
        running_var: span(channels + 5),
        channels,
        momentum: 0.1,
        eps: 1e-5,
    }
}

/// Parameters, and statistics with variances from 0.5 to 1.5.
fn batch_norm_vectors<B: Backend>(b: &B, run: &mut Run, bn: &BatchNorm) -> (B::Vector, B::Vector) {
    let params = run.vector(b, 3 * bn.channels + 4);
    let mut stats = run.values(2 * bn.channels + 5);
    stats[bn.running_var.range()].iter_mut().for_each(|v| *v = 1.0 + 0.5 * *v);
    (params, b.upload_vector(&stats))
}

const ACTIVATIONS: [Activation; 3] = [Activation::Identity, RELU, Activation::LeakyRelu(0.01)];

/// Gradients, zero where the output is so near to zero that devices may see it on either side.
fn away_from_zero(dy: &[f32], y: &[f32]) -> Vec<f32> {
    dy.iter().zip(y).map(|(&dy, &y)| if y.abs() < 0.02 { 0.0 } else { dy }).collect()
}

fn batch_norm_train<B: Backend>(b: &B, run: &mut Run) {
    for (i, &shape) in SHAPES.iter().filter(|s| s.positions() > 2).enumerate() {
        let (bn, act, residual) = (spec(shape.c), ACTIVATIONS[i % 3], i % 2 == 0);
        let (params, mut stats) = batch_norm_vectors(b, run, &bn);
        let x = run.tensor(b, shape);
        let r = run.tensor(b, shape);
        let (y, saved) = b.batch_norm_train(BatchNormTrain {
            x: &x,
            params: &params,
            stats: &mut stats,
            bn: &bn,
            act,
            residual: residual.then_some(&r),
            moments: None,
        });
        run.put(b, "batch_norm_train", &y);
        run.put_vector(b, "moments", &saved.moments);
        run.put_vector(b, "running statistics", &stats);
        // With a residual the output says where the activation bent: one of its own, as the signs of a computed one could differ
        // where it is almost 0. Without one the input may say it.
        let (mut dy, mut y) = (run.tensor(b, shape), y);
        if residual {
            y = run.tensor(b, shape);
        } else {
            let cpu = Cpu::<f64>::new();
            let (x, params) =
                (cpu.upload(shape, &b.download(&x)), cpu.upload_vector(&b.download_vector(&params)));
            let (clear, _) = cpu.batch_norm_train(BatchNormTrain {
                x: &x,
                params: &params,
                stats: &mut cpu.zeros(9 * shape.c),
                bn: &bn,
                act,
                residual: None,
                moments: None,
            });
            dy = b.upload(shape, &away_from_zero(&b.download(&dy), &cpu.download(&clear)));
        }
        let mut grads = run.vector(b, 3 * shape.c + 4);
        let (dx, dres) = b.batch_norm_train_bwd(BatchNormTrainBwd {
            dy: &dy,
            norm: NormPass { x: &x, y: &y, saved: &saved, bn: &bn, act, residual },
            params: &params,
            grads: &mut grads,
            sums: None,
        });
        run.put(b, "batch_norm_train_bwd", &dx);
        run.put_vector(b, "gradients", &grads);
        assert_eq!(dres.is_some(), residual);
        if let Some(dres) = dres {
            run.put(b, "residual's gradient", &dres);
        }
    }
}

#[test]
fn batch_norm_in_training_agrees() {
    // Means and variances of up to 1147 values, sums of as many gradients.
    agree(batch_norm_train, batch_norm_train, 1e-5);
}

fn batch_norm_eval<B: Backend>(b: &B, run: &mut Run) {
    for (i, &shape) in SHAPES.iter().enumerate() {
        let (bn, act) = (spec(shape.c), ACTIVATIONS[i % 3]);
        let (params, stats) = batch_norm_vectors(b, run, &bn);
        let (x, r) = (run.tensor(b, shape), run.tensor(b, shape));
        let residual = (i % 2 == 0).then_some(&r);
        run.put(
            b,
            "batch_norm_eval",
            &b.batch_norm_eval(&BatchNormEval {
                x: &x,
                params: &params,
                norm: FrozenNorm { stats: &stats, bn: &bn, act },
                residual,
            }),
        );
        let (dy, y) = (run.tensor(b, shape), run.tensor(b, shape));
        run.put(
            b,
            "batch_norm_tangent",
            &b.batch_norm_tangent(&BatchNormTangent {
                t: &dy,
                y: &y,
                params: &params,
                norm: FrozenNorm { stats: &stats, bn: &bn, act },
            }),
        );
        let cpu = Cpu::<f64>::new();
        let host = |v: &B::Vector| cpu.upload_vector(&b.download_vector(v));
        let clear = cpu.batch_norm_eval(&BatchNormEval {
            x: &cpu.upload(shape, &b.download(&x)),
            params: &host(&params),
            norm: FrozenNorm { stats: &host(&stats), bn: &bn, act },
            residual: None,
        });
        let dy = b.upload(shape, &away_from_zero(&b.download(&dy), &cpu.download(&clear)));
        let y = b.batch_norm_eval(&BatchNormEval {
            x: &x,
            params: &params,
            norm: FrozenNorm { stats: &stats, bn: &bn, act },
            residual: None,
        });
        let mut grads = run.vector(b, 3 * shape.c + 4);
        let dx = b.batch_norm_eval_bwd(BatchNormEvalBwd {
            dy: &dy,
            x: &x,
            y: &y,
            params: &params,
            grads: &mut grads,
            norm: FrozenNorm { stats: &stats, bn: &bn, act },
        });
        run.put(b, "batch_norm_eval_bwd", &dx);
        run.put_vector(b, "gradients", &grads);
    }
}

#[test]
fn frozen_batch_norm_agrees() {
    agree(batch_norm_eval, batch_norm_eval, 1e-5);
}

fn far_from_zero<B: Backend>(b: &B, run: &mut Run) {
    // More parts than hold positions, some of them empty; means up to 10000 standard deviations from zero.
    let shape = Shape::new(1, 6733, 1, 130);
    let bn = spec(shape.c);
    let (params, mut stats) = batch_norm_vectors(b, run, &bn);
    let data: Vec<f32> = run
        .values(shape.len())
        .iter()
        .enumerate()
        .map(|(i, v)| 100.0 * ((i % shape.c) as f32 - 64.0) + v)
        .collect();
    let x = run.upload(b, shape, data);
    let (_, saved) = b.batch_norm_train(BatchNormTrain {
        x: &x,
        params: &params,
        stats: &mut stats,
        bn: &bn,
        act: RELU,
        residual: None,
        moments: None,
    });
    let moments = b.download_vector(&saved.moments);
    // Apart, as they differ in size.
    run.put_vector(b, "means", &b.upload_vector(&moments[..shape.c]));
    run.put_vector(b, "1 / standard deviation", &b.upload_vector(&moments[shape.c..]));
}

#[test]
fn moments_far_from_zero_agree() {
    agree(far_from_zero, far_from_zero, 2e-6);
}

#[test]
fn batch_norm_of_two_values_keeps_its_gradient() {
    // The gradient is what is left of terms 1e5 times larger, in the CPU's f32 too, so both compute in f64.
    fn body<B: Backend>(b: &B, run: &mut Run) {
        let shape = Shape::new(2, 1, 1, 21);
        let bn = spec(shape.c);
        let (params, mut stats) = batch_norm_vectors(b, run, &bn);
        let (x, dy) = (run.tensor(b, shape), run.tensor(b, shape));
        let (y, saved) = b.batch_norm_train(BatchNormTrain {
            x: &x,
            params: &params,
            stats: &mut stats,
            bn: &bn,
            act: Activation::Identity,
            residual: None,
            moments: None,
        });
        let mut grads = b.zeros(3 * shape.c + 4);
        let act = Activation::Identity;
        let (dx, _) = b.batch_norm_train_bwd(BatchNormTrainBwd {
            dy: &dy,
            norm: NormPass { x: &x, y: &y, saved: &saved, bn: &bn, act, residual: true },
            params: &params,
            grads: &mut grads,
            sums: None,
        });
        run.put(b, "batch_norm_train_bwd", &dx);
        run.put_vector(b, "gradients", &grads);
    }
    agree(body, body, 1e-6);
}

fn cut_mix<B: Backend>(b: &B, run: &mut Run) {
    let mix = Mix {
        boxes: vec![
            vec![[0, 0, 13, 11], [2, 3, 9, 8], [4, 4, 4, 9]],
            vec![[1, 1, 3, 11], [5, 0, 13, 4], [0, 0, 1, 1]],
        ],
        perm: vec![vec![1, 2, 0], vec![2, 0, 1]],
    };
    for c in [1, 3, 8, 21] {
        let x = run.tensor(b, Shape::new(3, 13, 11, c));
        run.put(b, "cut_mix", &b.cut_mix(&x, &mix));
        run.put(b, "cut_mix of no rounds", &b.cut_mix(&x, &Mix::default()));
    }
}

#[test]
fn cut_mix_agrees() {
    agree(cut_mix, cut_mix, 0.0);
}

fn optimizer<B: Backend>(b: &B, run: &mut Run) {
    for (len, num_decayed) in [(1, 0), (3, 3), (1003, 517)] {
        let (mut params, grads, mut momentum) = (run.vector(b, len), run.vector(b, len), run.vector(b, len));
        let spec = Sgd { lr: 0.01, momentum: 0.9, weight_decay: 0.1, num_decayed };
        b.sgd(SgdStep {
            params: &mut params,
            grads: &grads,
            momentum: &mut momentum,
            spec: &spec,
            teacher: None,
        });
        run.put_vector(b, "params", &params);
        run.put_vector(b, "momentum", &momentum);
        let (mut teacher, mut stats, student_stats) =
            (run.vector(b, len), run.vector(b, len + 6), run.vector(b, len + 6));
        let follower =
            Teacher { params: &mut teacher, stats: &mut stats, student_stats: &student_stats, keep: 0.9 };
        b.sgd(SgdStep {
            params: &mut params,
            grads: &grads,
            momentum: &mut momentum,
            spec: &spec,
            teacher: Some(follower),
        });
        run.put_vector(b, "params of both", &params);
        run.put_vector(b, "momentum of both", &momentum);
        run.put_vector(b, "teacher", &teacher);
        run.put_vector(b, "teacher's statistics", &stats);
    }
}

#[test]
fn updates_agree() {
    // A few roundings an element.
    agree(optimizer, optimizer, 3e-7);
}

fn confusion_matrix<B: Backend>(b: &B, run: &mut Run) {
    for (num_classes, n, h, w) in [(1, 1, 1, 1), (3, 2, 7, 5), (21, 2, 37, 41), (255, 1, 29, 31)] {
        let shape = Shape::new(n, h, w, 1);
        let mut labels = |scale: f32| -> Vec<u8> {
            // Some beyond the classes, 255 among them.
            run.values(shape.len()).iter().map(|v| ((v + 1.0) * scale) as u8).collect()
        };
        let scale = (num_classes as f32 * 0.6).min(128.0);
        let (pred, target) = (labels(scale), labels(scale));
        let (pred, target) = (b.upload_labels(shape, &pred), b.upload_labels(shape, &target));
        let counts = b.read_counts(&b.confusion_matrix(&pred, &target, num_classes, None));
        let counts = counts.iter().map(|&v| v as f32).collect();
        run.results.push((format!("counts of {num_classes} classes"), 0.0, counts));
    }
}

#[test]
fn confusion_matrices_agree() {
    agree(confusion_matrix, confusion_matrix, 0.0);
}
