//! Layers, optimiser and counts of the CUDA device, run by the emulator, against the CPU device in double
//! precision: one body per op for both devices and both activation types. Shapes are single positions,
//! primes, channel counts that no vector divides, and enough positions for several parts.

use crate::cuda_common::{Run, agree};
use psmt_fast::ops::*;

pub const SHAPES: &[Shape] = &[
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
    // Sums of up to 1147 values, in rows of up to 36: a few roundings of the sum of magnitudes, which is up
    // to 20 times the sum.
    agree(sums, sums, 1e-5);
}

fn max_pool<B: Backend>(b: &B, run: &mut Run) {
    for &shape in SHAPES {
        for spec in [
            MaxPool2d { kernel: 3, stride: 2, padding: 1 },
            MaxPool2d { kernel: 2, stride: 2, padding: 0 },
            MaxPool2d { kernel: 1, stride: 1, padding: 0 },
            MaxPool2d { kernel: 5, stride: 1, padding: 2 },
            MaxPool2d { kernel: 2, stride: 3, padding: 1 },
        ] {
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
        let (params_out, momentum_out) = (&mut params, &mut momentum);
        b.sgd(SgdStep {
            params: params_out,
            grads: &grads,
            momentum: momentum_out,
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
    // A few roundings per element.
    agree(optimizer, optimizer, 3e-7);
}

fn confusion_matrix<B: Backend>(b: &B, run: &mut Run) {
    for (num_classes, shape) in [
        (1, Shape::new(1, 1, 1, 1)),
        (3, Shape::new(2, 7, 5, 1)),
        (21, Shape::new(2, 37, 41, 1)),
        (255, Shape::new(1, 29, 31, 1)),
    ] {
        let mut labels = |scale: f32| -> Vec<u8> {
            // Some beyond the classes, 255 among them.
            run.values(shape.len()).iter().map(|v| ((v + 1.0) * scale) as u8).collect()
        };
        let scale = (num_classes as f32 * 0.6).min(128.0);
        let (pred, target) = (labels(scale), labels(scale));
        let (pred, target) = (b.upload_labels(shape, &pred), b.upload_labels(shape, &target));
        let counts = b.read_counts(&b.confusion_matrix(&pred, &target, num_classes, None));
        let counts = counts.iter().map(|&v| v as f32).collect();
        run.put_exact(format!("counts of {num_classes} classes"), counts);
    }
}

#[test]
fn confusion_matrices_agree() {
    agree(confusion_matrix, confusion_matrix, 0.0);
}
