//! Launch plans of kernels/optimizer.cu.

use super::Cuda;
use super::driver::{DevicePtr, Launch};
use super::memory::{Vector, args, plain_arg};
use crate::ops::{OptimizerOps, SgdStep, Span};
use bytemuck::{Pod, Zeroable};

impl OptimizerOps for Cuda {
    fn sgd(&self, op: SgdStep<'_, Cuda>) {
        let SgdStep { params, grads, momentum, spec, teacher } = op;
        let (len, keep) = (params.len, teacher.as_ref().map_or(1.0, |t| t.keep));
        let mut args = args![params.buffer, momentum.buffer, params.half(), grads.buffer];
        args.push(copied(teacher.as_ref().map(|t| &*t.params)));
        args.push(teacher.as_ref().map_or(DevicePtr(0), |t| t.stats.buffer.ptr()));
        args.push(teacher.as_ref().map_or(DevicePtr(0), |t| t.student_stats.buffer.ptr()));
        args.push(len as u64);
        args.push(spec.num_decayed as u64);
        args.push(teacher.as_ref().map_or(0, |t| t.stats.len) as u64);
        args.push([-spec.lr, spec.momentum, spec.weight_decay, keep, 1.0 - keep].map(|v| v as f32));
        self.launch(FILE, "sgd", Launch::linear(len / WIDTH), args);
    }
    fn copy_spans(&self, to: &mut Vector, from: &Vector, moves: &[(Span, usize)]) {
        copy_spans(self, to, from, moves)
    }
}

const FILE: &str = "optimizer";

/// Values that a thread takes at a time.
const WIDTH: usize = 4;

/// `Copied` of the kernel: a flat vector with its bf16 copy, null for none.
fn copied(v: Option<&Vector>) -> [DevicePtr; 2] {
    let half = v.and_then(Vector::half).map_or(DevicePtr(0), |h| h.ptr());
    [v.map_or(DevicePtr(0), |v| v.buffer.ptr()), half]
}

/// Most parts that one launch copies.
const MAX_MOVES: usize = 8;

/// `Moves` of kernels/optimizer.cu.
#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct Moves {
    to: [u64; MAX_MOVES],
    from: [u64; MAX_MOVES],
    len: [u64; MAX_MOVES],
}
plain_arg!(Moves);

/// to[at..at + span.len] = from[span] for each (span, at).
pub(super) fn copy_spans(d: &Cuda, to: &mut Vector, from: &Vector, moves: &[(Span, usize)]) {
    for part in moves.chunks(MAX_MOVES) {
        let mut table = Moves::default();
        for (i, &(span, at)) in part.iter().enumerate() {
            (table.to[i], table.from[i], table.len[i]) = (at as u64, span.offset as u64, span.len as u64);
        }
        let longest = part.iter().map(|(span, _)| span.len).max().unwrap_or(0);
        let blocks = Launch::linear(longest).grid[0] as usize;
        let args = args![to.buffer, to.half(), from.buffer, table];
        d.launch(FILE, "copy_spans", Launch::grid3([blocks, part.len(), 1], 256), args);
    }
}
