//! Updates over flat vectors: gradient descent with the teacher's average, and copies of parts.

use super::conv2d::pointwise;
use crate::bench::Trace;
use crate::bench::case::{Case, Draw, Facts, WIDE, Work, work};
use psmt_fast::Result;
use psmt_fast::ops::{self, Backend, OptimizerOps, SgdStep, Shape, Span, Teacher};

impl OptimizerOps for Trace {
    fn sgd(&self, op: SgdStep<'_, Trace>) {
        let (len, spec) = (*op.params, *op.spec);
        match op.teacher {
            Some(teacher) => self.note(SgdEma { len, stats: *teacher.stats, spec }),
            None => self.note(Sgd { len, spec }),
        }
    }
    fn copy_spans(&self, to: &mut usize, from: &usize, moves: &[(Span, usize)]) {
        self.note(CopySpans { to: *to, from: *from, moves: moves.to_vec() });
    }
}

/// Parameters that a convolution has read, of which a 16-bit device therefore keeps a copy, as of a
/// network's.
fn network_params<B: Backend>(draw: &mut Draw<'_, B>, len: usize) -> Result<B::Vector> {
    let params = draw.vector(len);
    let x = draw.b.upload(Shape::new(1, 1, 1, 1), &[1.0]);
    ops::conv2d_fprop(draw.b, &ops::Fprop::new(&x, &params, &pointwise(1)))?;
    Ok(params)
}

/// Gradient descent.
#[derive(Clone, Debug, PartialEq)]
pub struct Sgd {
    pub len: usize,
    pub spec: ops::Sgd,
}

impl Case for Sgd {
    /// Parameters and momentum both ways, the gradient; the parameters' copy.
    fn facts(&self) -> Facts {
        Facts::new("sgd", self.len.to_string()).bytes(5 * WIDE * self.len).params(self.len)
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let Sgd { len, spec } = *self;
        let mut params = network_params(draw, len)?;
        let (grads, mut momentum) = (draw.vector(len), draw.vector(len));
        work(move |b, out| {
            let (params, momentum) = (&mut params, &mut momentum);
            ops::sgd(b, SgdStep { params, grads: &grads, momentum, spec: &spec, teacher: None })?;
            out.updated(b, "params", params);
            out.updated(b, "momentum", momentum);
            Ok(())
        })
    }
}

/// Gradient descent, then the teacher's average of `len` parameters and `stats` running statistics.
#[derive(Clone, Debug, PartialEq)]
pub struct SgdEma {
    pub len: usize,
    pub stats: usize,
    pub spec: ops::Sgd,
}

impl Case for SgdEma {
    /// As [`Sgd`]; the teacher both ways, and its copy; the statistics.
    fn facts(&self) -> Facts {
        Facts::new("sgd_ema", self.len.to_string())
            .bytes(WIDE * (7 * self.len + 3 * self.stats))
            .params(2 * self.len)
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let SgdEma { len, stats, spec } = *self;
        let mut params = network_params(draw, len)?;
        let (grads, mut momentum) = (draw.vector(len), draw.vector(len));
        let mut teacher = network_params(draw, len)?;
        let (mut teacher_stats, student_stats) = (draw.vector(stats), draw.vector(stats));
        work(move |b, out| {
            let (params, momentum) = (&mut params, &mut momentum);
            let ema = Teacher {
                params: &mut teacher,
                stats: &mut teacher_stats,
                student_stats: &student_stats,
                keep: 0.99,
            };
            ops::sgd(b, SgdStep { params, grads: &grads, momentum, spec: &spec, teacher: Some(ema) })?;
            out.updated(b, "params", params);
            out.updated(b, "momentum", momentum);
            out.updated(b, "teacher's params", &teacher);
            out.updated(b, "teacher's stats", &teacher_stats);
            Ok(())
        })
    }
}

/// Copies of parts of a vector to places of another.
#[derive(Clone, Debug, PartialEq)]
pub struct CopySpans {
    pub to: usize,
    pub from: usize,
    pub moves: Vec<(Span, usize)>,
}

impl Case for CopySpans {
    fn facts(&self) -> Facts {
        let copied = self.moves.iter().map(|(span, _)| span.len).sum::<usize>();
        Facts::new("copy_spans", format!("{copied} in {} spans", self.moves.len())).bytes(2 * WIDE * copied)
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let (mut to, from, moves) = (draw.vector(self.to), draw.vector(self.from), self.moves.clone());
        work(move |b, out| {
            ops::copy_spans(b, &mut to, &from, &moves)?;
            out.updated(b, "to", &to);
            Ok(())
        })
    }
}
