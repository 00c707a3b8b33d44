//! T-VAT's parts of the CPU device, its noise among them, against plain loops and finite differences in f64.

use crate::plain::{CASES, Cpu64, check_gradient, each_close, randn, softmax_pixels, up};
use psmt_fast::backend::cpu::Tensor;
use psmt_fast::ops::*;
use psmt_fast::rng::{Domain, Key};

#[test]
fn tvat_cotangents() {
    let b = Cpu64::new();
    for (k, case) in CASES.into_iter().enumerate() {
        let (shape, size) = (case.logits, case.size);
        let [z1, z2, t1, t2] = [1, 2, 3, 4].map(|s| randn(shape, 1.5, 10 * s + k as u64));
        let mean =
            |a: &Tensor<f64>, b: &Tensor<f64>| Tensor::from_fn(shape, |i| 0.5 * (a.data()[i] + b.data()[i]));
        let p = softmax_pixels(&up(&mean(&z1, &z2), size));
        let t = up(&mean(&t1, &t2), size);
        let mut full = Vec::new();
        for (p, t) in p.iter().zip(t.data().chunks(shape.c)) {
            let dot: f64 = p.iter().zip(t).map(|(p, t)| p * t).sum();
            full.extend(p.iter().zip(t).map(|(p, t)| 0.5 * p * (t - dot)));
        }
        let want = b.interpolate_bwd(&Tensor::new(t.shape(), full), (shape.h, shape.w));
        let (z, t) = (b.concat(&[&z1, &z2]), b.concat(&[&t1, &t2]));
        let got = b.tvat_cotangent(&z, &t, 2, size);
        each_close(&format!("cotangent of {case}"), got.data(), b.concat(&[&want, &want]).data(), 1e-12);

        let kl = |perturbed: &Tensor<f64>| {
            let q = softmax_pixels(&up(&mean(perturbed, &t2), size));
            let pairs = p.iter().flatten().zip(q.iter().flatten());
            pairs.map(|(p, q)| p * (p / q).ln()).sum::<f64>() / shape.n as f64
        };
        let got = b.kl_gradient(&z, &t, 2, size);
        check_gradient(&format!("KL of {case}"), &t1, &b.slice_channels(&got, 0, shape.c), kl);
        let halves = [0, shape.c].map(|from| b.slice_channels(&got, from, shape.c));
        assert_eq!(halves[0].data(), halves[1].data(), "{case}: each decoder has the same gradient");
    }
}

#[test]
fn noise_and_normalisation() {
    let (b, key) = (Cpu64::new(), Key::new(3, Domain::NoiseLabeled, 5));
    let d = b.uniform_noise(Shape::new(2, 7, 11, 303), key);
    assert!(d.data().iter().enumerate().all(|(i, &v)| v == f64::from(key.uniform(i as u64)) - 0.5));
    let r = b.normalize(&d, 2.0);
    let sum = b.add_normalized(&d, &d, 2.0);
    assert!(sum.data().iter().zip(d.data()).zip(r.data()).all(|((s, d), r)| *s == d + r));
    for (r, d) in r.data().chunks(7 * 11 * 303).zip(d.data().chunks(7 * 11 * 303)) {
        let norm = d.iter().map(|v| v * v).sum::<f64>().sqrt();
        let want: Vec<f64> = d.iter().map(|v| 2.0 * v / (norm + NORM_EPS)).collect();
        each_close("normalize", r, &want, 1e-13);
    }
    let zero = Tensor::new(Shape::new(1, 2, 2, 1), vec![0.0; 4]);
    assert!(b.normalize(&zero, 2.0).data().iter().all(|&v| v == 0.0));
}
