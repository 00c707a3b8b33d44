//! The mean teacher's consistency: squared distance of student and target probabilities, target read through
//! CutMix.

use super::ensemble_pseudo_label::MixedTarget;
use super::softmax::{Softmax, softmax_gradient};
use super::upsample::{Grid, Reader};
use super::{Cpu, Real};
use crate::ops::{LossGrad, MseConsistencyArgs, MseConsistencyOps, TeacherLogits};

impl<T: Real> MseConsistencyOps for Cpu<T> {
    fn mse_consistency(&self, op: &MseConsistencyArgs<'_, Self>) -> LossGrad<Self> {
        let &MseConsistencyArgs {
            student,
            teachers: TeacherLogits { core, assist, ensemble },
            size,
            mix,
            grad_scale,
        } = op;
        let grid = Grid::new(student.shape(), size);
        let count = (grid.low.n * size.0 * grid.row_len()) as f64;
        let factor = T::from_f64(2.0 * grad_scale / count);
        let init = || {
            let target = MixedTarget::new(&grid, core, assist, ensemble, mix);
            (Reader::new(&grid, student), target, Softmax::new(size.1), vec![T::ZERO; grid.row_len()], 0.0)
        };
        let (dlogits, bands) =
            grid.transpose_planes(1, init, |(student, target, softmax, p, loss), image, y, row| {
                student.row(image, y, p);
                softmax.probabilities(p);
                target.row(image, y, row);
                softmax.pixel.fill(T::ZERO);
                for (target, p) in row.chunks_exact_mut(size.1).zip(p.chunks_exact(size.1)) {
                    for ((v, &p), sum) in target.iter_mut().zip(p).zip(&mut softmax.pixel) {
                        let difference = p - *v;
                        *sum = difference.mul_add(difference, *sum);
                        *v = factor * difference;
                    }
                }
                *loss += softmax.pixel.iter().map(|v| v.to_f64()).sum::<f64>();
                softmax_gradient(row, p, &mut softmax.pixel);
            });
        let loss = bands.iter().map(|band| band.4).sum::<f64>() / count;
        LossGrad { loss, dlogits }
    }
}
