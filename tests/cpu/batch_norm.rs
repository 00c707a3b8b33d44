//! Batch norms of the CPU device against finite differences and, far from zero, against sums in double
//! precision.

use crate::layer_common::batch_norm;
use crate::plain::{close, dot, tensor, values};
use psmt_fast::backend::cpu::{Cpu, Tensor};
use psmt_fast::ops::*;

/// Central differences of `f` in every element.
fn difference(v: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let at = |i: usize, d: f64| {
        let mut v = v.to_vec();
        v[i] += d;
        f(&v)
    };
    (0..v.len()).map(|i| (at(i, 1e-6) - at(i, -1e-6)) / 2e-6).collect()
}

#[derive(Clone, Copy, Debug)]
struct Pass {
    act: Activation,
    residual: bool,
    /// Whether the moments are the batch's.
    training: bool,
}

const TRAINING: Pass = Pass { act: RELU, residual: false, training: true };
const FROZEN: Pass = Pass { act: RELU, residual: false, training: false };
const LEAKY: Activation = Activation::LeakyRelu(0.01);

const PASSES: [Pass; 7] = [
    Pass { act: Activation::Identity, ..TRAINING },
    TRAINING,
    Pass { residual: true, ..TRAINING },
    Pass { act: LEAKY, residual: true, ..TRAINING },
    Pass { act: LEAKY, ..TRAINING },
    FROZEN,
    Pass { act: Activation::LeakyRelu(0.2), ..FROZEN },
];

#[test]
fn batch_norm_gradients_agree_with_finite_differences() {
    let b = Cpu::<f64>::new();
    for pass in PASSES {
        let Pass { act, residual: with_residual, training } = pass;
        // Nine values per channel take the path for few.
        let shapes = [Shape::new(2, 3, 7, 5), Shape::new(1, 3, 3, 4), Shape::new(1, 7, 5, 67)];
        for shape in shapes {
            let c = shape.c;
            let bn = batch_norm(c);
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
            let loss = |x: &[f64], r: &[f64], p: &[f64]| dot(&forward(x, r, p).0, &dy);
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
            let what = |part: &str| format!("{part} of {shape}, {pass:?}");
            assert_eq!(dr.is_some(), with_residual && training, "{}", what("a gradient of the residual"));
            close(&what("dx"), dx.data(), &difference(&x, |x| loss(x, &r, &params)), 1e-7);
            if let Some(dr) = dr {
                close(&what("dresidual"), dr.data(), &difference(&r, |r| loss(&x, r, &params)), 1e-7);
            }
            let want: Vec<f64> = difference(&params, |p| loss(&x, &r, p)).iter().map(|v| v + 1.0).collect();
            close(&what("dweight, dbias"), &grads, &want, 1e-7);
            if !training {
                let t = b.batch_norm_tangent(&BatchNormTangent {
                    t: &dy,
                    y: &y,
                    params: &params,
                    norm: FrozenNorm { stats: &stats, bn: &bn, act },
                });
                assert_eq!(t.data(), dx.data(), "{}", what("tangent"));
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
        let bn = BatchNorm { momentum: 1.0, ..batch_norm(c) };
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
