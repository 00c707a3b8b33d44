//! Batch norms of the CUDA device, run by the emulator, against the CPU device in double precision.

use crate::cuda_common::{Run, agree};
use crate::layer_common::{NormOffsets, batch_norm_at};
use crate::layers::SHAPES;
use psmt_fast::backend::cpu::Cpu;
use psmt_fast::ops::*;

fn spec(channels: usize) -> BatchNorm {
    // Apart and unaligned, as in a flat vector of parameters.
    let at = NormOffsets { weight: 1, bias: 2 * channels + 3, running_mean: 3, running_var: channels + 5 };
    batch_norm_at(channels, at)
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
        // With a residual the backward pass takes the activation's side from the output: a drawn one, as the
        // signs of a computed one could differ where it is almost 0. Without a residual it may take it from
        // the input.
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
