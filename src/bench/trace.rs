//! A device that computes nothing and notes every call with its sizes. What a training step asks for is found by running it
//! here. Knows ops, not what calls them.

use super::call::Call;
use super::stage::{self, Sizes};
use crate::Result;
use crate::method::{self, Algorithm, Batch, Networks, StepArgs, SupervisedLoss, Tvat};
use crate::model::Network;
use crate::ops::*;
use crate::rng::Key;
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

/// The distinct calls of one step of the method, in the order of their first, those that only another step makes at the end
/// with a count of 0: `others` are settings of such steps.
///
/// # Errors
/// Those of the steps.
pub fn step_calls(sizes: &Sizes, args: &StepArgs, others: &[StepArgs]) -> Result<Vec<Counted>> {
    let mut calls = one_step(sizes, args)?;
    for other in others {
        for Counted { call, .. } in one_step(sizes, other)? {
            if calls.iter().all(|c| c.call != call) {
                calls.push(Counted { call, count: 0 });
            }
        }
    }
    Ok(calls)
}

/// Every op at the sizes of a step of the method with feature noise `tvat`: its calls, with how often, then those of the
/// other losses, baselines and kinds of noise, and of ops outside of `train_step`, with 0.
///
/// # Errors
/// Those of the steps.
pub fn known_calls(sizes: &Sizes, tvat: Tvat) -> Result<Vec<Counted>> {
    let quiet = stage::step_args(Tvat::None);
    let images = sizes.images();
    let ohem = Ohem { threshold: 0.7, min_kept: images.positions().div_ceil(16) };
    let others = [
        stage::step_args(Tvat::Exact),
        stage::step_args(Tvat::FiniteDifference),
        StepArgs { supervised_loss: SupervisedLoss::Ohem(ohem), ..quiet },
        StepArgs {
            conf_ce: ConfCe { negative_threshold: 0.03, square_weight: 0.5, ..quiet.conf_ce },
            ..quiet
        },
        StepArgs { algorithm: Algorithm::MeanTeacher, ..quiet },
        StepArgs { algorithm: Algorithm::Supervised, ..quiet },
    ];
    let mut calls = step_calls(sizes, &stage::step_args(tvat), &others)?;
    let evaluated = calls.iter().find_map(|c| match c.call {
        Call::BatchNormEval { bn, x, act, .. } => Some(Call::BatchNormEvalBwd { bn, x, act }),
        _ => None,
    });
    let pooled = calls.iter().find_map(|c| match c.call {
        Call::AdaptiveAvgPool2d { x, size } => {
            Some(Call::AdaptiveAvgPool2dBwd { dy: sized(&x, size), size: (x.h, x.w) })
        }
        _ => None,
    });
    let features = sizes.arch.feature_shape(images);
    let outside = [
        Call::LeakyRelu { x: features },
        Call::LeakyReluBwd { x: features },
        Call::UniformNoise { x: features },
        Call::ConfusionMatrix { x: images.with_channels(1), classes: sizes.arch.config.num_classes },
        Call::NormalizeBytes { x: images },
        Call::Photometric { x: images, strong: stage::strong(sizes) },
        Call::WatchTensor { x: sizes.logits() },
        Call::WatchVector { len: sizes.arch.table.num_params },
    ];
    let outside = evaluated.into_iter().chain(pooled).chain(outside);
    calls.extend(outside.map(|call| Counted { call, count: 0 }));
    Ok(calls)
}

fn one_step(sizes: &Sizes, args: &StepArgs) -> Result<Vec<Counted>> {
    let trace = Trace::default();
    let table = &sizes.arch.table;
    let net = || Network { params: table.num_params, stats: table.num_stats };
    let mut nets = Networks {
        student: net(),
        teacher1: net(),
        teacher2: net(),
        momentum: table.num_params,
        grads: table.num_params,
    };
    let images = sizes.images();
    let features = sizes.arch.feature_shape(images);
    let batch: Batch<Trace> = Batch {
        x_l: images,
        y_l: images.with_channels(1),
        x_u_weak: images,
        x_u_strong: images,
        mix: stage::mix(sizes),
        d_l: features,
        d_u: features,
    };
    method::train_step(&trace, &sizes.arch, &mut nets, &batch, args)?;
    Ok(trace.calls.into_inner().unwrap_or_else(PoisonError::into_inner))
}

impl Trace {
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

impl Backend for Trace {
    type Tensor = Shape;
    type Vector = usize;
    type Labels = Shape;
    type Scalar = ();
    type Counts = usize;

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

    fn normalize_bytes(&self, images: &Images<Trace>, _: &Normalize) -> Shape {
        self.note(Call::NormalizeBytes { x: images.bytes });
        images.bytes
    }
    fn photometric(&self, pixels: Pixels<'_, Trace>, strong: &[Strong], _: &Normalize) -> Shape {
        self.note(Call::Photometric { x: pixels.shape(), strong: strong.to_vec() });
        pixels.shape()
    }

    fn conv2d_fprop(&self, x: &Shape, _: &usize, conv: &Conv2d) -> Shape {
        self.note(Call::Fprop { conv: alone(conv), x: *x });
        conv.out_shape(*x)
    }
    fn conv2d_dgrad(&self, _: &Shape, _: &usize, conv: &Conv2d, x: Shape) -> Shape {
        self.note(Call::Dgrad { conv: alone(conv), x });
        x
    }
    fn conv2d_wgrad(&self, x: &Shape, _: &Shape, _: &mut usize, conv: &Conv2d) {
        self.note(Call::Wgrad { conv: alone(conv), x: *x });
    }
    fn batch_norm_train(
        &self,
        x: &Shape,
        _: &usize,
        _: &mut usize,
        bn: &BatchNorm,
        act: Activation,
        residual: Option<&Shape>,
    ) -> (Shape, BatchNormSaved<Trace>) {
        self.note(Call::BatchNormTrain { bn: norm_alone(bn), x: *x, act, residual: residual.is_some() });
        (*x, BatchNormSaved { moments: 2 * bn.channels })
    }
    fn batch_norm_eval(
        &self,
        x: &Shape,
        _: &usize,
        _: &usize,
        bn: &BatchNorm,
        act: Activation,
        residual: Option<&Shape>,
    ) -> Shape {
        self.note(Call::BatchNormEval { bn: norm_alone(bn), x: *x, act, residual: residual.is_some() });
        *x
    }
    fn batch_norm_train_bwd(
        &self,
        dy: &Shape,
        x: &Shape,
        _: &Shape,
        _: &BatchNormSaved<Trace>,
        _: &usize,
        _: &mut usize,
        bn: &BatchNorm,
        act: Activation,
        residual: bool,
    ) -> (Shape, Option<Shape>) {
        self.note(Call::BatchNormTrainBwd { bn: norm_alone(bn), x: *x, act, residual });
        (*dy, residual.then_some(*dy))
    }
    fn batch_norm_eval_bwd(
        &self,
        dy: &Shape,
        x: &Shape,
        _: &Shape,
        _: &usize,
        _: &usize,
        _: &mut usize,
        bn: &BatchNorm,
        act: Activation,
    ) -> Shape {
        self.note(Call::BatchNormEvalBwd { bn: norm_alone(bn), x: *x, act });
        *dy
    }
    fn batch_norm_tangent(
        &self,
        t: &Shape,
        _: &Shape,
        _: &usize,
        _: &usize,
        bn: &BatchNorm,
        act: Activation,
    ) -> Shape {
        self.note(Call::BatchNormTangent { bn: norm_alone(bn), x: *t, act });
        *t
    }
    fn leaky_relu(&self, x: &Shape, _: f64) -> Shape {
        self.note(Call::LeakyRelu { x: *x });
        *x
    }
    fn leaky_relu_bwd(&self, dy: &Shape, _: &Shape, _: f64) -> Shape {
        self.note(Call::LeakyReluBwd { x: *dy });
        *dy
    }
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
    fn interpolate(&self, x: &Shape, size: Size) -> Shape {
        self.note(Call::Interpolate { x: *x, size });
        sized(x, size)
    }
    fn interpolate_bwd(&self, dy: &Shape, size: Size) -> Shape {
        self.note(Call::InterpolateBwd { dy: *dy, size });
        sized(dy, size)
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

    fn cross_entropy(&self, logits: &Shape, target: &Shape, _: f64) -> LabelLoss<Trace> {
        self.note(Call::CrossEntropy { logits: *logits, size: (target.h, target.w) });
        LabelLoss { loss: (), dlogits: *logits, confusion: logits.c * logits.c }
    }
    fn ohem_cross_entropy(&self, logits: &Shape, target: &Shape, ohem: &Ohem, _: f64) -> LabelLoss<Trace> {
        self.note(Call::OhemCrossEntropy { logits: *logits, size: (target.h, target.w), ohem: *ohem });
        LabelLoss { loss: (), dlogits: *logits, confusion: logits.c * logits.c }
    }
    fn ensemble_pseudo_label(
        &self,
        core: &Shape,
        _: &Shape,
        size: Size,
        ensemble: &Ensemble,
    ) -> PseudoLabel<Trace> {
        self.note(Call::EnsemblePseudoLabel { logits: *core, size, ensemble: *ensemble });
        let pixels = sized(&core.with_channels(1), size);
        PseudoLabel { label: pixels, confidence: pixels }
    }
    fn conf_ce(
        &self,
        student: &Shape,
        pseudo: &PseudoLabel<Trace>,
        _: &Shape,
        _: &Shape,
        ensemble: &Ensemble,
        mix: &Mix,
        conf_ce: &ConfCe,
        _: f64,
    ) -> ConfCeOut<Trace> {
        let (logits, size) = (*student, (pseudo.label.h, pseudo.label.w));
        let (ensemble, mix, conf_ce) = (*ensemble, mix.clone(), *conf_ce);
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
    fn mse_consistency(
        &self,
        student: &Shape,
        _: &Shape,
        _: &Shape,
        size: Size,
        ensemble: &Ensemble,
        mix: &Mix,
        _: f64,
    ) -> LossGrad<Trace> {
        self.note(Call::MseConsistency { logits: *student, size, ensemble: *ensemble, mix: mix.clone() });
        LossGrad { loss: (), dlogits: *student }
    }
    fn cut_mix(&self, x: &Shape, mix: &Mix) -> Shape {
        self.note(Call::CutMix { x: *x, mix: mix.clone() });
        *x
    }
    fn confusion_matrix(&self, pred: &Shape, _: &Shape, classes: usize) -> usize {
        self.note(Call::ConfusionMatrix { x: *pred, classes });
        classes * classes
    }
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
    fn sgd(&self, params: &mut usize, _: &usize, _: &mut usize, sgd: &Sgd) {
        self.note(Call::Sgd { len: *params, sgd: *sgd });
    }
    fn sgd_ema(&self, params: &mut usize, _: &usize, _: &mut usize, sgd: &Sgd, _: &mut usize, _: f64) {
        self.note(Call::SgdEma { len: *params, sgd: *sgd });
    }
    fn ema(&self, teacher: &mut usize, _: &usize, _: f64) {
        self.note(Call::Ema { len: *teacher });
    }
    fn copy_spans(&self, to: &mut usize, from: &usize, moves: &[(Span, usize)]) {
        self.note(Call::CopySpans { to: *to, from: *from, moves: moves.to_vec() });
    }
}

/// The same images and channels at another size.
fn sized(x: &Shape, size: Size) -> Shape {
    Shape::new(x.n, size.0, size.1, x.c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelConfig;

    #[test]
    fn a_steps_convolutions_are_those_of_its_passes() {
        let sizes = Sizes::new(ModelConfig::tiny(5), 33, 2).unwrap();
        let calls = step_calls(&sizes, &stage::step_args(Tvat::None), &[]).unwrap();
        let flops = |name: &str| -> u64 {
            let of = calls.iter().filter(|c| c.call.name() == name);
            of.map(|c| c.count as u64 * c.call.flops().unwrap_or(0)).sum()
        };
        // Two teachers, and the student twice; only the student goes back.
        let pass = sizes.arch.flops(sizes.images());
        assert_eq!(flops("conv2d_fprop"), 4 * pass);
        assert_eq!(flops("conv2d_wgrad"), 2 * pass);
        // The image's gradient is not computed.
        let stem = calls.iter().find(|c| matches!(c.call, Call::Wgrad { x, .. } if x.c == 3)).unwrap();
        assert_eq!(flops("conv2d_dgrad"), 2 * (pass - stem.call.flops().unwrap()));
        assert_eq!(stem.count, 2);
    }

    #[test]
    fn other_steps_add_what_they_alone_call() {
        let sizes = Sizes::new(ModelConfig::tiny(5), 33, 2).unwrap();
        let (exact, finite) = (stage::step_args(Tvat::Exact), stage::step_args(Tvat::FiniteDifference));
        let calls = step_calls(&sizes, &exact, &[finite]).unwrap();
        let count =
            |name: &str| calls.iter().filter(|c| c.call.name() == name).map(|c| c.count).sum::<usize>();
        let known = |name: &str| calls.iter().any(|c| c.call.name() == name);
        assert_eq!((count("tvat_cotangent"), count("kl_gradient")), (2, 0));
        assert!(known("kl_gradient") && count("sgd_ema") == 1);
    }
}
