//! Pooling and interpolation of the CPU device against plain loops.

use crate::loss_common::Case;
use crate::plain::{CASES, Cpu64, close, dot, each_close, one_close, randn, tensor, up, values};
use psmt_fast::backend::cpu::Tensor;
use psmt_fast::ops::*;

/// Image, row, column and channel of element `i`.
fn place(shape: Shape, i: usize) -> [usize; 4] {
    let Shape { h, w, c, .. } = shape;
    [i / (h * w * c), i / (w * c) % h, i / c % w, i % c]
}

#[test]
fn max_pooling_agrees_with_plain_loops() {
    let b = Cpu64::new();
    let stem = MaxPool2d { kernel: 3, stride: 2, padding: 1 };
    for (shape, spec) in [
        (Shape::new(2, 16, 16, 8), stem),
        (Shape::new(1, 17, 23, 5), stem),
        (Shape::new(1, 1, 1, 1), stem),
        (Shape::new(1, 40, 38, 40), MaxPool2d { kernel: 2, stride: 2, padding: 0 }),
        (Shape::new(2, 9, 11, 3), MaxPool2d { kernel: 3, stride: 1, padding: 1 }),
    ] {
        // Few distinct values, so that ties are many.
        let x = Tensor::new(shape, values::<f64>(shape.len(), 6).iter().map(|v| (v * 3.0).round()).collect());
        let o = spec.out_shape(shape);
        let dy = tensor::<f64>(o, 7);
        let (mut y, mut dx) = (vec![f64::MIN; o.len()], vec![0.0; shape.len()]);
        for (i, y) in y.iter_mut().enumerate() {
            let [n, oy, ox, c] = place(o, i);
            let mut at = 0;
            for k in 0..spec.kernel * spec.kernel {
                let iy = (oy * spec.stride + k / spec.kernel).wrapping_sub(spec.padding);
                let ix = (ox * spec.stride + k % spec.kernel).wrapping_sub(spec.padding);
                if iy < shape.h && ix < shape.w {
                    let here = ((n * shape.h + iy) * shape.w + ix) * shape.c + c;
                    if x.data()[here] > *y {
                        (*y, at) = (x.data()[here], here);
                    }
                }
            }
            dx[at] += dy.data()[i];
        }
        let what = |op: &str| format!("{op} of {shape}, {spec:?}");
        close(&what("max_pool2d"), b.max_pool2d(&x, &spec).data(), &y, 0.0);
        close(&what("max_pool2d_bwd"), b.max_pool2d_bwd(&dy, &x, &spec).data(), &dx, 1e-14);
    }
}

#[test]
fn average_pooling_agrees_with_plain_loops() {
    let b = Cpu64::new();
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
            let [n, oy, ox, c] = place(o, i);
            let ys = oy * shape.h / o.h..((oy + 1) * shape.h).div_ceil(o.h);
            let xs = ox * shape.w / o.w..((ox + 1) * shape.w).div_ceil(o.w);
            let scale = 1.0 / (ys.len() * xs.len()) as f64;
            for (iy, ix) in ys.flat_map(|iy| xs.clone().map(move |ix| (iy, ix))) {
                let at = ((n * shape.h + iy) * shape.w + ix) * shape.c + c;
                *y += x.data()[at] * scale;
                dx[at] += dy.data()[i] * scale;
            }
        }
        let what = |op: &str| format!("{op} of {shape} to {size:?}");
        close(&what("adaptive_avg_pool2d"), b.adaptive_avg_pool2d(&x, size).data(), &y, 1e-14);
        let got = b.adaptive_avg_pool2d_bwd(&dy, (shape.h, shape.w));
        close(&what("adaptive_avg_pool2d_bwd"), got.data(), &dx, 1e-14);
    }
}

#[test]
fn interpolation_matches_its_definition_and_its_transpose() {
    let b = Cpu64::new();
    for (seed, case) in (0..).zip(CASES) {
        let Case { logits: shape, size } = case;
        let x = randn(shape, 1.0, seed);
        let y = b.interpolate(&x, size);
        each_close(&format!("interpolate {case}"), y.data(), up(&x, size).data(), 1e-13);
        let dy = randn(y.shape(), 1.0, 100 + seed);
        let dx = b.interpolate_bwd(&dy, (shape.h, shape.w));
        assert_eq!(dx.shape(), shape);
        one_close(&format!("adjoint of {case}"), dot(&dx, &x), dot(&dy, &y), 1e-12);
    }
}
