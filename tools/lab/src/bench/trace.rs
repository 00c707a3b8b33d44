//! A device that computes nothing and notes every call with its sizes. Knows ops, not what calls them.

use super::call::Call;
use psmt_fast::ops::*;
use psmt_fast::rng::Key;
use std::sync::{Mutex, PoisonError};

/// A call and how often it occurs.
#[derive(Clone, Debug, PartialEq)]
pub struct Counted {
    /// The call.
    pub call: Call,
    /// Its number.
    pub count: usize,
}

/// The device. Tensors are their shapes, vectors their lengths.
#[derive(Default)]
pub struct Trace {
    calls: Mutex<Vec<Counted>>,
}

impl Trace {
    /// What was called, in the order of first calls.
    pub fn calls(self) -> Vec<Counted> {
        self.calls.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, call: Call) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        match calls.iter_mut().find(|c| c.call == call) {
            Some(counted) => counted.count += 1,
            None => calls.push(Counted { call, count: 1 }),
        }
    }
}

/// The convolution with its parameters at the start of a vector. Kernels read weights in chunks: where they begin, up to
/// the largest chunk, stays.
fn alone(conv: &Conv2d) -> Conv2d {
    let weight = Span { offset: conv.weight.offset % 16, ..conv.weight };
    let bias = conv.bias.map(|bias| Span { offset: weight.range().end, ..bias });
    Conv2d { weight, bias, ..*conv }
}

/// The same of a batch norm.
fn norm_alone(bn: &BatchNorm) -> BatchNorm {
    let at = |place: usize| Span { offset: place * bn.channels, len: bn.channels };
    BatchNorm { weight: at(0), bias: at(1), running_mean: at(0), running_var: at(1), ..*bn }
}

impl Device for Trace {
    type Tensor = Shape;
    type Vector = usize;
    type Labels = Shape;
    type Scalar = ();
    type Counts = usize;
    type Moments = ();
    type Sums = ();
    fn name(&self) -> String {
        "trace".into()
    }
    fn shape(x: &Shape) -> Shape {
        *x
    }
    fn labels_shape(x: &Shape) -> Shape {
        *x
    }
    fn vector_len(v: &usize) -> usize {
        *v
    }
    fn upload(&self, shape: Shape, _: &[f32]) -> Shape {
        shape
    }
    fn download(&self, x: &Shape) -> Vec<f32> {
        vec![0.0; x.len()]
    }
    fn upload_labels(&self, shape: Shape, _: &[u8]) -> Shape {
        shape
    }
    fn download_labels(&self, x: &Shape) -> Vec<u8> {
        vec![0; x.len()]
    }
    fn zeros(&self, len: usize) -> usize {
        len
    }
    fn upload_vector(&self, data: &[f32]) -> usize {
        data.len()
    }
    fn download_vector(&self, v: &usize) -> Vec<f32> {
        vec![0.0; *v]
    }
    fn clear(&self, v: &mut usize) {
        self.note(Call::Clear { len: *v });
    }
    fn read_scalar(&self, (): &()) -> f64 {
        0.0
    }
    fn read_counts(&self, c: &usize) -> Vec<u64> {
        vec![0; *c]
    }
    fn zero_counts(&self, len: usize) -> usize {
        len
    }
    fn watch_tensor(&self, _: &mut usize, x: &Shape, _: u32) {
        self.note(Call::WatchTensor { x: *x });
    }
    fn watch_vector(&self, _: &mut usize, v: &usize, _: u32) {
        self.note(Call::WatchVector { len: *v });
    }
    fn synchronize(&self) {}
    fn available_memory(&self) -> Option<u64> {
        None
    }
}

/// The same images and channels at another size.
fn sized(x: &Shape, size: Size) -> Shape {
    Shape::new(x.n, size.0, size.1, x.c)
}

impl PhotometricOps for Trace {
    fn normalize_bytes(&self, images: &Images<Trace>, _: &Normalize) -> Shape {
        self.note(Call::NormalizeBytes { x: images.bytes });
        images.bytes
    }
    fn photometric(&self, pixels: Pixels<'_, Trace>, strong: &[Strong], _: &Normalize) -> Shape {
        self.note(Call::Photometric { x: pixels.shape(), strong: strong.to_vec() });
        pixels.shape()
    }
}

impl Conv2dOps for Trace {
    fn conv2d_fprop(&self, op: &Fprop<'_, Trace>) -> FpropOut<Trace> {
        let (x, conv) = (*op.x, alone(op.conv));
        self.note(match &op.end {
            OutputEnd::Plain | OutputEnd::Moments => Call::Fprop { conv, x },
            OutputEnd::Norm(norm, residual) => {
                let residual = residual.is_some();
                Call::FpropNorm { conv, bn: norm_alone(norm.bn), x, act: norm.act, residual }
            }
            OutputEnd::Tangent(norm, _) => {
                Call::FpropTangent { conv, bn: norm_alone(norm.bn), x, act: norm.act }
            }
        });
        FpropOut { y: conv.out_shape(x), moments: matches!(op.end, OutputEnd::Moments).then_some(()) }
    }
    fn conv2d_dgrad(&self, op: &Dgrad<'_, Trace>) -> DgradOut<Trace> {
        let (x, conv) = (op.x_shape(), alone(op.conv));
        self.note(match &op.onto {
            Onto::Input(_) => Call::Dgrad { conv, x },
            Onto::Add(_) => Call::DgradAdd { conv, x },
            Onto::Norm(NormPass { bn, act, residual, .. }, add) => {
                let (bn, add) = (norm_alone(bn), add.is_some());
                Call::DgradSums { conv, bn, x, act: *act, residual: *residual, add }
            }
            Onto::Frozen(norm, _) => Call::DgradTangent { conv, bn: norm_alone(norm.bn), x, act: norm.act },
        });
        DgradOut { dx: x, sums: matches!(op.onto, Onto::Norm(..)).then_some(()) }
    }
    fn conv2d_wgrad(&self, x: &Shape, _: &Shape, _: &mut usize, conv: &Conv2d) {
        self.note(Call::Wgrad { conv: alone(conv), x: *x });
    }
}

impl BatchNormOps for Trace {
    fn batch_norm_train(&self, op: BatchNormTrain<'_, Trace>) -> (Shape, BatchNormSaved<Trace>) {
        let BatchNormTrain { x: &x, bn, act, residual, moments, .. } = op;
        let (alone, residual) = (norm_alone(bn), residual.is_some());
        self.note(match moments {
            Some(()) => Call::BatchNormTrainMoments { bn: alone, x, act, residual },
            None => Call::BatchNormTrain { bn: alone, x, act, residual },
        });
        (x, BatchNormSaved { moments: 2 * bn.channels })
    }
    fn batch_norm_eval(&self, op: &BatchNormEval<'_, Trace>) -> Shape {
        let (x, act, residual) = (*op.x, op.norm.act, op.residual.is_some());
        self.note(Call::BatchNormEval { bn: norm_alone(op.norm.bn), x, act, residual });
        x
    }
    fn batch_norm_train_bwd(&self, op: BatchNormTrainBwd<'_, Trace>) -> (Shape, Option<Shape>) {
        let NormPass { x: &x, bn, act, residual, .. } = op.norm;
        let bn = norm_alone(bn);
        self.note(match op.sums {
            Some(()) => Call::BatchNormTrainBwdSums { bn, x, act, residual },
            None => Call::BatchNormTrainBwd { bn, x, act, residual },
        });
        (*op.dy, residual.then_some(*op.dy))
    }
    fn batch_norm_eval_bwd(&self, op: BatchNormEvalBwd<'_, Trace>) -> Shape {
        let FrozenNorm { bn, act, .. } = op.norm;
        self.note(Call::BatchNormEvalBwd { bn: norm_alone(bn), x: *op.x, act });
        *op.dy
    }
    fn batch_norm_tangent(&self, op: &BatchNormTangent<'_, Trace>) -> Shape {
        self.note(Call::BatchNormTangent { bn: norm_alone(op.norm.bn), x: *op.t, act: op.norm.act });
        *op.t
    }
}

impl ElementwiseOps for Trace {
    fn leaky_relu(&self, x: &Shape, _: f64) -> Shape {
        self.note(Call::LeakyRelu { x: *x });
        *x
    }
    fn leaky_relu_bwd(&self, dy: &Shape, _: &Shape, _: f64) -> Shape {
        self.note(Call::LeakyReluBwd { x: *dy });
        *dy
    }
    fn concat(&self, parts: &[&Shape]) -> Shape {
        let parts: Vec<Shape> = parts.iter().map(|p| **p).collect();
        let y = parts[0].with_channels(parts.iter().map(|p| p.c).sum());
        self.note(Call::Concat { parts });
        y
    }
    fn slice_channels(&self, x: &Shape, offset: usize, len: usize) -> Shape {
        self.note(Call::SliceChannels { x: *x, offset, len });
        x.with_channels(len)
    }
    fn add(&self, x: &Shape, y: &Shape, _: f64) -> Shape {
        self.note(Call::Add { x: *x, y: *y });
        *x
    }
    fn sum_positions(&self, x: &Shape) -> Shape {
        self.note(Call::SumPositions { x: *x });
        sized(x, (1, 1))
    }
}

impl PoolOps for Trace {
    fn max_pool2d(&self, x: &Shape, pool: &MaxPool2d) -> Shape {
        self.note(Call::MaxPool2d { x: *x, pool: *pool });
        pool.out_shape(*x)
    }
    fn max_pool2d_bwd(&self, _: &Shape, x: &Shape, pool: &MaxPool2d) -> Shape {
        self.note(Call::MaxPool2dBwd { x: *x, pool: *pool });
        *x
    }
    fn adaptive_avg_pool2d(&self, x: &Shape, size: Size) -> Shape {
        self.note(Call::AdaptiveAvgPool2d { x: *x, size });
        sized(x, size)
    }
    fn adaptive_avg_pool2d_bwd(&self, dy: &Shape, size: Size) -> Shape {
        self.note(Call::AdaptiveAvgPool2dBwd { dy: *dy, size });
        sized(dy, size)
    }
}

impl InterpolateOps for Trace {
    fn interpolate(&self, x: &Shape, size: Size) -> Shape {
        self.note(Call::Interpolate { x: *x, size });
        sized(x, size)
    }
    fn interpolate_bwd(&self, dy: &Shape, size: Size) -> Shape {
        self.note(Call::InterpolateBwd { dy: *dy, size });
        sized(dy, size)
    }
}

impl CrossEntropyOps for Trace {
    fn cross_entropy(&self, logits: &Shape, target: &Shape, _: f64) -> LabelLoss<Trace> {
        self.note(Call::CrossEntropy { logits: *logits, size: (target.h, target.w) });
        LabelLoss { loss: (), dlogits: *logits, confusion: logits.c * logits.c }
    }
    fn ohem_cross_entropy(&self, logits: &Shape, target: &Shape, ohem: &Ohem, _: f64) -> LabelLoss<Trace> {
        self.note(Call::OhemCrossEntropy { logits: *logits, size: (target.h, target.w), ohem: *ohem });
        LabelLoss { loss: (), dlogits: *logits, confusion: logits.c * logits.c }
    }
}

impl EnsembleOps for Trace {
    fn ensemble_pseudo_label(&self, teachers: &TeacherLogits<'_, Trace>, size: Size) -> PseudoLabel<Trace> {
        let (logits, ensemble) = (*teachers.core, *teachers.ensemble);
        self.note(Call::EnsemblePseudoLabel { logits, size, ensemble });
        let pixels = sized(&logits.with_channels(1), size);
        PseudoLabel { label: pixels, confidence: pixels }
    }
}

impl ConfCeOps for Trace {
    fn conf_ce(&self, op: &ConfCeArgs<'_, Trace>) -> ConfCeOut<Trace> {
        let (logits, size) = (*op.student, (op.pseudo.label.h, op.pseudo.label.w));
        let (ensemble, mix, conf_ce) = (*op.teachers.ensemble, op.mix.clone(), *op.spec);
        self.note(Call::ConfCe { logits, size, ensemble, mix, conf_ce });
        ConfCeOut {
            positive: (),
            negative: (),
            square: (),
            passed: (),
            histogram: HISTOGRAM_BINS,
            confusion: logits.c * logits.c,
            dstudent: logits,
        }
    }
}

impl MseConsistencyOps for Trace {
    fn mse_consistency(&self, op: &MseConsistencyArgs<'_, Trace>) -> LossGrad<Trace> {
        let (logits, ensemble) = (*op.student, *op.teachers.ensemble);
        self.note(Call::MseConsistency { logits, size: op.size, ensemble, mix: op.mix.clone() });
        LossGrad { loss: (), dlogits: logits }
    }
}

impl CutMixOps for Trace {
    fn cut_mix(&self, x: &Shape, mix: &Mix) -> Shape {
        self.note(Call::CutMix { x: *x, mix: mix.clone() });
        *x
    }
}

impl ConfusionMatrixOps for Trace {
    fn confusion_matrix(
        &self,
        pred: &Shape,
        _: &Shape,
        classes: usize,
        above: Option<(&Shape, f64)>,
    ) -> usize {
        self.note(Call::ConfusionMatrix { x: *pred, classes, above: above.map(|(_, threshold)| threshold) });
        classes * classes
    }
}

impl TvatOps for Trace {
    fn uniform_noise(&self, shape: Shape, _: Key) -> Shape {
        self.note(Call::UniformNoise { x: shape });
        shape
    }
    fn normalize(&self, d: &Shape, _: f64) -> Shape {
        self.note(Call::Normalize { x: *d });
        *d
    }
    fn add_normalized(&self, x: &Shape, _: &Shape, _: f64) -> Shape {
        self.note(Call::AddNormalized { x: *x });
        *x
    }
    fn tvat_cotangent(&self, logits: &Shape, _: &Shape, decoders: usize, size: Size) -> Shape {
        self.note(Call::TvatCotangent { logits: *logits, decoders, size });
        *logits
    }
    fn kl_gradient(&self, clean: &Shape, _: &Shape, decoders: usize, size: Size) -> Shape {
        self.note(Call::KlGradient { logits: *clean, decoders, size });
        *clean
    }
}

impl OptimizerOps for Trace {
    fn sgd(&self, op: SgdStep<'_, Trace>) {
        let (len, sgd) = (*op.params, *op.spec);
        self.note(match op.teacher {
            Some(teacher) => Call::SgdEma { len, stats: *teacher.stats, sgd },
            None => Call::Sgd { len, sgd },
        });
    }
    fn copy_spans(&self, to: &mut usize, from: &usize, moves: &[(Span, usize)]) {
        self.note(Call::CopySpans { to: *to, from: *from, moves: moves.to_vec() });
    }
}
