//! Element-wise ops, and ops that only copy or sum channels.

use super::parallel;
use super::{Cpu, Real, Tensor};
use crate::ops::{ElementwiseOps, Shape};

impl<T: Real> ElementwiseOps for Cpu<T> {
    fn leaky_relu(&self, x: &Tensor<T>, slope: f64) -> Tensor<T> {
        self.leaky_relu_bwd(x, x, slope)
    }
    fn leaky_relu_bwd(&self, dy: &Tensor<T>, x: &Tensor<T>, slope: f64) -> Tensor<T> {
        let slope = T::from_f64(slope);
        Tensor::overwrite(x.shape(), |out| {
            parallel::rows(out, 1, |at, out| {
                let (dy, x) = (&dy.data()[at..][..out.len()], &x.data()[at..][..out.len()]);
                for ((o, &dy), &x) in out.iter_mut().zip(dy).zip(x) {
                    *o = if x > T::ZERO { dy } else { dy * slope };
                }
            });
        })
    }
    fn concat(&self, parts: &[&Tensor<T>]) -> Tensor<T> {
        let c = parts.iter().map(|p| p.shape().c).sum();
        let shape = parts.first().map_or(Shape::new(0, 0, 0, 0), |p| p.shape().with_channels(c));
        Tensor::overwrite(shape, |y| {
            parallel::rows(y, c, |row, y| {
                for (k, y) in y.chunks_exact_mut(c).enumerate() {
                    let mut from = 0;
                    for part in parts {
                        let width = part.shape().c;
                        y[from..][..width].copy_from_slice(&part.data()[(row + k) * width..][..width]);
                        from += width;
                    }
                }
            });
        })
    }
    fn slice_channels(&self, x: &Tensor<T>, offset: usize, len: usize) -> Tensor<T> {
        let c = x.shape().c;
        Tensor::overwrite(x.shape().with_channels(len), |y| {
            parallel::rows(y, len, |row, y| {
                for (k, y) in y.chunks_exact_mut(len).enumerate() {
                    y.copy_from_slice(&x.data()[(row + k) * c + offset..][..len]);
                }
            });
        })
    }
    fn add(&self, x: &Tensor<T>, y: &Tensor<T>, alpha: f64) -> Tensor<T> {
        let (shape, alpha) = (x.shape(), T::from_f64(alpha));
        let line = |out: &mut [T], x: &[T], y: &[T]| {
            for ((o, &x), &y) in out.iter_mut().zip(x).zip(y) {
                *o = alpha.mul_add(y, x);
            }
        };
        Tensor::overwrite(shape, |out| {
            if y.shape() == shape {
                parallel::rows(out, 1, |at, out| {
                    line(out, &x.data()[at..][..out.len()], &y.data()[at..][..out.len()]);
                });
            } else {
                let (c, image) = (shape.c, shape.h * shape.w);
                parallel::rows(out, c, |row, out| {
                    for (k, out) in out.chunks_exact_mut(c).enumerate() {
                        line(out, &x.data()[(row + k) * c..][..c], &y.data()[(row + k) / image * c..][..c]);
                    }
                });
            }
        })
    }
    fn sum_positions(&self, x: &Tensor<T>) -> Tensor<T> {
        let shape = x.shape();
        let (c, image) = (shape.c, shape.h * shape.w);
        Tensor::overwrite(Shape::new(shape.n, 1, 1, c), |out| {
            let out = parallel::Disjoint::new(out);
            parallel::tasks(shape.n, x.data().len(), |n| {
                // SAFETY: each image's sums belong to one task.
                let out = unsafe { out.part(n * c..(n + 1) * c) };
                let mut total = vec![0f64; c];
                let mut sum = vec![T::ZERO; c];
                for rows in x.data()[n * image * c..][..image * c].chunks(64 * c) {
                    sum.fill(T::ZERO);
                    for row in rows.chunks_exact(c) {
                        sum.iter_mut().zip(row).for_each(|(s, &v)| *s += v);
                    }
                    total.iter_mut().zip(&sum).for_each(|(t, s)| *t += s.to_f64());
                }
                out.iter_mut().zip(&total).for_each(|(o, &t)| *o = T::from_f64(t));
            });
        })
    }
}
