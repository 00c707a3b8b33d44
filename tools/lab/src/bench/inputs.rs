//! Drawn inputs of one call, and running it. Knows every op by its arguments.

use super::call::Call;
use super::coarse;
use psmt_fast::Result;
use psmt_fast::ops::{self, *};
use psmt_fast::rng::{Domain, Key};

/// What a call reads and updates, in the order of the op's arguments.
pub struct Inputs<B: Backend> {
    /// Activations.
    pub tensors: Vec<B::Tensor>,
    /// Parameters, gradients, momenta, statistics.
    pub vectors: Vec<B::Vector>,
    /// Label maps.
    pub labels: Vec<B::Labels>,
    saved: Option<BatchNormSaved<B>>,
    /// Where the device gathers them.
    moments: Option<B::Moments>,
    sums: Option<B::Sums>,
    pseudo: Option<PseudoLabel<B>>,
    watch: Option<B::Counts>,
    /// Counts through which noise is drawn.
    key: Key,
}

/// What a call makes; what it updates stays in its inputs.
pub struct Outputs<B: Backend> {
    /// Activations and gradients of activations.
    pub tensors: Vec<B::Tensor>,
    /// Label maps.
    pub labels: Vec<B::Labels>,
    /// Losses.
    pub scalars: Vec<B::Scalar>,
    /// Histograms and confusion matrices.
    pub counts: Vec<B::Counts>,
}

/// A slope that is neither of a ReLU nor of the identity.
const SLOPE: f64 = 0.01;
/// Half the width of the interval that logits are drawn from: some classes are sure, some not.
const LOGITS: f64 = 8.0;

impl<B: Backend> Inputs<B> {
    /// Inputs number `set` for `call`.
    ///
    /// # Errors
    /// Those of the ops that make inputs which only they can make.
    pub fn draw(b: &B, call: &Call, set: u64) -> Result<Inputs<B>> {
        let mut number = 64 * set + 100;
        let mut next = || {
            number += 1;
            number
        };
        let mut tensor = |shape: Shape| b.uniform_noise(shape, Key::new(0, Domain::Bench, next()));
        let mut inputs = Inputs {
            tensors: Vec::new(),
            vectors: Vec::new(),
            labels: Vec::new(),
            saved: None,
            moments: None,
            sums: None,
            pseudo: None,
            watch: None,
            key: Key::new(1, Domain::Bench, set),
        };
        let i = &mut inputs;
        let weights = |conv: &Conv2d| {
            let len = conv.bias.unwrap_or(conv.weight).range().end;
            b.upload_vector(&coarse(len, 64 * set + 1))
        };
        let vector = |len: usize, k: u64| b.upload_vector(&coarse(len, 64 * set + k));
        // Means around 0, variances around 1.
        let stats = |bn: &BatchNorm| {
            let mut values = coarse(2 * bn.channels, 64 * set + 2);
            values[bn.channels..].iter_mut().for_each(|v| *v += 1.0);
            b.upload_vector(&values)
        };
        let affine = |bn: &BatchNorm| {
            let mut values = coarse(2 * bn.channels, 64 * set + 3);
            values[..bn.channels].iter_mut().for_each(|v| *v += 1.0);
            b.upload_vector(&values)
        };
        // Of a convolution and the batch norm before it, which lies behind it.
        let weights_and_affine = |conv: &Conv2d, bn: &BatchNorm| {
            let mut values = coarse(bn.bias.range().end, 64 * set + 4);
            values[conv.weight.range().end..].iter_mut().for_each(|v| *v *= 0.5);
            values[bn.weight.range()].iter_mut().for_each(|v| *v += 1.0);
            b.upload_vector(&values)
        };
        let labels = |n: usize, size: &Size, classes: usize, k: u64| {
            let mut rng = Key::new(0, Domain::Bench, 64 * set + k).stream();
            let shape = Shape::new(n, size.0, size.1, 1);
            // One pixel in ten is ignored.
            let label = |_| if rng.below(10) == 0 { IGNORE } else { rng.below(classes) as u8 };
            b.upload_labels(shape, &(0..shape.len()).map(label).collect::<Vec<u8>>())
        };
        match call {
            Call::Fprop { conv, x } => {
                (i.tensors, i.vectors) = (vec![tensor(*x)], vec![weights(conv)]);
            }
            Call::Dgrad { conv, x } => {
                (i.tensors, i.vectors) = (vec![tensor(conv.out_shape(*x))], vec![weights(conv)]);
            }
            Call::DgradAdd { conv, x } => {
                (i.tensors, i.vectors) = (vec![tensor(conv.out_shape(*x)), tensor(*x)], vec![weights(conv)]);
            }
            Call::DgradSums { conv, bn, x, act, residual, .. } => {
                let (dy, to, x) = (tensor(conv.out_shape(*x)), tensor(*x), tensor(*x));
                let (bn, mut moved) = (behind(conv, bn), stats(bn));
                let params = weights_and_affine(conv, &bn);
                let other = residual.then(|| tensor(B::shape(&x)));
                let (y, saved) = train(b, &x, &params, (&bn, *act), &mut moved, other.as_ref())?;
                (i.tensors, i.vectors, i.saved) = (vec![dy, to, x, y], vec![params], Some(saved));
            }
            Call::FpropNorm { conv, bn, x, residual, .. } => {
                i.tensors = vec![tensor(*x)];
                if *residual {
                    i.tensors.push(tensor(conv.out_shape(*x)));
                }
                i.vectors = vec![weights_and_affine(conv, &behind(conv, bn)), stats(bn)];
            }
            // The batch norm's output of some input is where the activation bends.
            Call::FpropTangent { conv, bn, x, act } => {
                let (t, before) = (tensor(*x), tensor(conv.out_shape(*x)));
                let (bn, stats) = (behind(conv, bn), stats(bn));
                let params = weights_and_affine(conv, &bn);
                let y = ops::batch_norm_eval(
                    b,
                    &ops::BatchNormEval {
                        x: &before,
                        params: &params,
                        norm: ops::FrozenNorm { stats: &stats, bn: &bn, act: *act },
                        residual: None,
                    },
                )?;
                (i.tensors, i.vectors) = (vec![t, y], vec![params, stats]);
            }
            Call::DgradTangent { conv, bn, x, act } => {
                let (dy, before) = (tensor(conv.out_shape(*x)), tensor(*x));
                let (bn, stats) = (behind(conv, bn), stats(bn));
                let params = weights_and_affine(conv, &bn);
                let y = ops::batch_norm_eval(
                    b,
                    &ops::BatchNormEval {
                        x: &before,
                        params: &params,
                        norm: ops::FrozenNorm { stats: &stats, bn: &bn, act: *act },
                        residual: None,
                    },
                )?;
                (i.tensors, i.vectors) = (vec![dy, y], vec![params, stats]);
            }
            Call::Wgrad { conv, x } => {
                let len = conv.bias.unwrap_or(conv.weight).range().end;
                i.tensors = vec![tensor(*x), tensor(conv.out_shape(*x))];
                i.vectors = vec![b.zeros(len)];
            }
            Call::BatchNormTrain { bn, x, residual, .. } | Call::BatchNormEval { bn, x, residual, .. } => {
                i.tensors = vec![tensor(*x)];
                if *residual {
                    i.tensors.push(tensor(*x));
                }
                i.vectors = vec![affine(bn), stats(bn)];
            }
            // As a convolution leaves it.
            Call::BatchNormTrainMoments { bn, x, residual, .. } => {
                let conv = pointwise(x.c);
                let ops::FpropOut { y, moments } = ops::conv2d_fprop(
                    b,
                    &ops::Fprop::new(&tensor(*x), &weights(&conv), &conv).with(ops::OutputEnd::Moments),
                )?;
                i.tensors = vec![y];
                if *residual {
                    i.tensors.push(tensor(*x));
                }
                (i.vectors, i.moments) = (vec![affine(bn), stats(bn)], moments);
            }
            Call::BatchNormTrainBwd { bn, x, act, residual } => {
                let (dy, x) = (tensor(*x), tensor(*x));
                let (params, mut moved) = (affine(bn), stats(bn));
                let other = residual.then(|| tensor(B::shape(&x)));
                let (y, saved) = train(b, &x, &params, (bn, *act), &mut moved, other.as_ref())?;
                i.tensors = vec![dy, x, y];
                i.vectors = vec![params, b.zeros(2 * bn.channels)];
                i.saved = Some(saved);
            }
            // As a convolution leaves it.
            Call::BatchNormTrainBwdSums { bn, x, act, residual } => {
                let (dy, x, mut moved) = (tensor(*x), tensor(*x), stats(bn));
                let conv = pointwise(bn.channels);
                let bn = &behind(&conv, bn);
                let params = weights_and_affine(&conv, bn);
                let other = residual.then(|| tensor(B::shape(&x)));
                let (y, saved) = train(b, &x, &params, (bn, *act), &mut moved, other.as_ref())?;
                let norm = NormPass { x: &x, y: &y, saved: &saved, bn, act: *act, residual: *residual };
                let ops::DgradOut { dx: dy, sums } = ops::conv2d_dgrad(
                    b,
                    &ops::Dgrad { dy: &dy, params: &params, conv: &conv, onto: ops::Onto::Norm(norm, None) },
                )?;
                i.vectors = vec![params, b.zeros(bn.bias.range().end)];
                (i.tensors, i.saved, i.sums) = (vec![dy, x, y], Some(saved), sums);
            }
            Call::BatchNormEvalBwd { bn, x, act } | Call::BatchNormTangent { bn, x, act } => {
                let (dy, x) = (tensor(*x), tensor(*x));
                let (params, stats) = (affine(bn), stats(bn));
                let y = ops::batch_norm_eval(
                    b,
                    &ops::BatchNormEval {
                        x: &x,
                        params: &params,
                        norm: ops::FrozenNorm { stats: &stats, bn, act: *act },
                        residual: None,
                    },
                )?;
                i.tensors = vec![dy, x, y];
                i.vectors = vec![params, stats, b.zeros(2 * bn.channels)];
            }
            Call::LeakyRelu { x }
            | Call::MaxPool2d { x, .. }
            | Call::AdaptiveAvgPool2d { x, .. }
            | Call::AdaptiveAvgPool2dBwd { dy: x, .. }
            | Call::Interpolate { x, .. }
            | Call::InterpolateBwd { dy: x, .. }
            | Call::SliceChannels { x, .. }
            | Call::SumPositions { x }
            | Call::CutMix { x, .. }
            | Call::Normalize { x } => i.tensors = vec![tensor(*x)],
            Call::LeakyReluBwd { x } | Call::AddNormalized { x } => i.tensors = vec![tensor(*x), tensor(*x)],
            Call::MaxPool2dBwd { x, pool } => i.tensors = vec![tensor(pool.out_shape(*x)), tensor(*x)],
            Call::Concat { parts } => i.tensors = parts.iter().map(|p| tensor(*p)).collect(),
            Call::Add { x, y } => i.tensors = vec![tensor(*x), tensor(*y)],
            Call::CrossEntropy { logits, size } | Call::OhemCrossEntropy { logits, size, .. } => {
                i.tensors = vec![wide(b, tensor(*logits))?];
                i.labels = vec![labels(logits.n, size, logits.c, 4)];
            }
            Call::EnsemblePseudoLabel { logits, .. }
            | Call::TvatCotangent { logits, .. }
            | Call::KlGradient { logits, .. } => {
                i.tensors = vec![wide(b, tensor(*logits))?, wide(b, tensor(*logits))?];
            }
            Call::ConfCe { logits, size, ensemble, .. } => {
                for _ in 0..3 {
                    i.tensors.push(wide(b, tensor(*logits))?);
                }
                i.pseudo = Some(ops::ensemble_pseudo_label(
                    b,
                    &ops::TeacherLogits { core: &i.tensors[1], assist: &i.tensors[2], ensemble },
                    *size,
                )?);
            }
            Call::MseConsistency { logits, .. } => {
                for _ in 0..3 {
                    i.tensors.push(wide(b, tensor(*logits))?);
                }
            }
            Call::ConfusionMatrix { x, classes, above } => {
                let size = (x.h, x.w);
                i.labels = vec![labels(x.n, &size, *classes, 4), labels(x.n, &size, *classes, 5)];
                if above.is_some() {
                    // Confidences of random logits at stride 4, as in training.
                    let logits = Shape::new(x.n, x.h.div_ceil(4), x.w.div_ceil(4), *classes);
                    let (core, assist) = (wide(b, tensor(logits))?, wide(b, tensor(logits))?);
                    let ensemble = Ensemble { topk: 2, gamma: 0.5 };
                    i.pseudo = Some(ops::ensemble_pseudo_label(
                        b,
                        &ops::TeacherLogits { core: &core, assist: &assist, ensemble: &ensemble },
                        size,
                    )?);
                }
            }
            Call::NormalizeBytes { x } | Call::Photometric { x, .. } => {
                let mut rng = Key::new(0, Domain::Bench, 64 * set + 4).stream();
                let bytes: Vec<u8> = (0..x.len()).map(|_| rng.next_u32() as u8).collect();
                i.labels = vec![b.upload_labels(*x, &bytes)];
            }
            Call::UniformNoise { .. } => {}
            Call::Sgd { len, .. } => {
                i.vectors = vec![read_by_conv(b, vector(*len, 4))?, vector(*len, 5), vector(*len, 6)];
            }
            Call::SgdEma { len, stats, .. } => {
                i.vectors = vec![
                    read_by_conv(b, vector(*len, 4))?,
                    vector(*len, 5),
                    vector(*len, 6),
                    read_by_conv(b, vector(*len, 7))?,
                    vector(*stats, 8),
                    vector(*stats, 9),
                ];
            }
            Call::CopySpans { to, from, .. } => i.vectors = vec![vector(*to, 4), vector(*from, 5)],
            Call::Clear { len } => i.vectors = vec![vector(*len, 4)],
            // One value in the middle is there to be found.
            Call::WatchTensor { x } => {
                let mut values = coarse(x.len(), 64 * set + 4);
                values[x.len() / 2] = f32::INFINITY;
                i.tensors = vec![b.upload(*x, &values)];
                i.watch = Some(b.zero_counts(1));
            }
            Call::WatchVector { len } => {
                let mut values = coarse(*len, 64 * set + 4);
                values[len / 2] = f32::NAN;
                i.vectors = vec![b.upload_vector(&values)];
                i.watch = Some(b.zero_counts(1));
            }
        }
        Ok(inputs)
    }

    /// The same values on another device.
    pub fn on<C: Backend>(&self, from: &B, to: &C) -> Inputs<C> {
        let tensor = |x: &B::Tensor| to.upload(B::shape(x), &from.download(x));
        let vector = |v: &B::Vector| to.upload_vector(&from.download_vector(v));
        let labels = |x: &B::Labels| to.upload_labels(B::labels_shape(x), &from.download_labels(x));
        Inputs {
            tensors: self.tensors.iter().map(tensor).collect(),
            vectors: self.vectors.iter().map(vector).collect(),
            labels: self.labels.iter().map(labels).collect(),
            // The other device takes them from the values.
            moments: None,
            sums: None,
            saved: self.saved.as_ref().map(|s| BatchNormSaved { moments: vector(&s.moments) }),
            pseudo: self
                .pseudo
                .as_ref()
                .map(|p| PseudoLabel { label: labels(&p.label), confidence: tensor(&p.confidence) }),
            watch: self.watch.as_ref().map(|_| to.zero_counts(1)),
            key: self.key,
        }
    }

    /// The bytes as images, an eighth of each side padding.
    fn shown(&self, x: Shape) -> Images<B> {
        let shown = vec![[0, 0, x.h - x.h / 8, x.w - x.w / 8]; x.n];
        Images { bytes: self.labels[0].clone(), shown }
    }

    /// Runs `call` on inputs that were drawn for it.
    ///
    /// # Errors
    /// Those of the op.
    pub fn run(&mut self, b: &B, call: &Call) -> Result<Outputs<B>> {
        let t = &self.tensors;
        // Vectors that the op updates come out of the list, as the others are read beside them.
        let mut v = std::mem::take(&mut self.vectors);
        let mut out = Outputs { tensors: vec![], labels: vec![], scalars: vec![], counts: vec![] };
        let o = &mut out;
        match call {
            Call::Fprop { conv, .. } => {
                o.tensors.push(ops::conv2d_fprop(b, &ops::Fprop::new(&t[0], &v[0], conv))?.y)
            }
            Call::Dgrad { conv, x } => {
                o.tensors.push(ops::conv2d_dgrad(b, &ops::Dgrad::new(&t[0], &v[0], conv, *x))?.dx)
            }
            Call::DgradAdd { conv, .. } => {
                o.tensors.push(
                    ops::conv2d_dgrad(
                        b,
                        &ops::Dgrad { dy: &t[0], params: &v[0], conv, onto: ops::Onto::Add(&t[1]) },
                    )?
                    .dx,
                );
            }
            Call::DgradSums { conv, bn, act, residual, add, .. } => {
                let (bn, saved) = (&behind(conv, bn), self.saved.as_ref().expect("drawn so"));
                let norm = NormPass { x: &t[2], y: &t[3], saved, bn, act: *act, residual: *residual };
                let add = add.then_some(&t[1]);
                o.tensors.push(
                    ops::conv2d_dgrad(
                        b,
                        &ops::Dgrad { dy: &t[0], params: &v[0], conv, onto: ops::Onto::Norm(norm, add) },
                    )?
                    .dx,
                );
            }
            Call::FpropNorm { conv, bn, act, .. } => {
                let norm = FrozenNorm { stats: &v[1], bn: &behind(conv, bn), act: *act };
                o.tensors.push(
                    ops::conv2d_fprop(
                        b,
                        &ops::Fprop::new(&t[0], &v[0], conv).with(ops::OutputEnd::Norm(norm, t.get(1))),
                    )?
                    .y,
                );
            }
            Call::FpropTangent { conv, bn, act, .. } => {
                let norm = FrozenNorm { stats: &v[1], bn: &behind(conv, bn), act: *act };
                o.tensors.push(
                    ops::conv2d_fprop(
                        b,
                        &ops::Fprop::new(&t[0], &v[0], conv).with(ops::OutputEnd::Tangent(norm, &t[1])),
                    )?
                    .y,
                );
            }
            Call::DgradTangent { conv, bn, act, .. } => {
                let norm = FrozenNorm { stats: &v[1], bn: &behind(conv, bn), act: *act };
                o.tensors.push(
                    ops::conv2d_dgrad(
                        b,
                        &ops::Dgrad { dy: &t[0], params: &v[0], conv, onto: ops::Onto::Frozen(norm, &t[1]) },
                    )?
                    .dx,
                );
            }
            Call::Wgrad { conv, .. } => ops::conv2d_wgrad(b, &t[0], &t[1], &mut v[0], conv)?,
            Call::BatchNormTrain { bn, act, .. } => {
                let [params, stats] = &mut v[..] else { unreachable!("drawn so") };
                let (y, _) = ops::batch_norm_train(
                    b,
                    ops::BatchNormTrain {
                        x: &t[0],
                        params,
                        stats,
                        bn,
                        act: *act,
                        residual: t.get(1),
                        moments: None,
                    },
                )?;
                o.tensors.push(y);
            }
            Call::BatchNormTrainMoments { bn, act, .. } => {
                let [params, stats] = &mut v[..] else { unreachable!("drawn so") };
                let moments = self.moments.as_ref();
                let (y, _) = ops::batch_norm_train(
                    b,
                    ops::BatchNormTrain {
                        x: &t[0],
                        params,
                        stats,
                        bn,
                        act: *act,
                        residual: t.get(1),
                        moments,
                    },
                )?;
                o.tensors.push(y);
            }
            Call::BatchNormEval { bn, act, .. } => {
                o.tensors.push(ops::batch_norm_eval(
                    b,
                    &ops::BatchNormEval {
                        x: &t[0],
                        params: &v[0],
                        norm: ops::FrozenNorm { stats: &v[1], bn, act: *act },
                        residual: t.get(1),
                    },
                )?);
            }
            Call::BatchNormTrainBwd { bn, act, residual, .. } => {
                let [params, grads] = &mut v[..] else { unreachable!("drawn so") };
                let saved = self.saved.as_ref().expect("drawn so");
                let (dx, dres) = ops::batch_norm_train_bwd(
                    b,
                    ops::BatchNormTrainBwd {
                        dy: &t[0],
                        norm: ops::NormPass { x: &t[1], y: &t[2], saved, bn, act: *act, residual: *residual },
                        params,
                        grads,
                        sums: None,
                    },
                )?;
                o.tensors.push(dx);
                o.tensors.extend(dres);
            }
            Call::BatchNormTrainBwdSums { bn, act, residual, .. } => {
                let [params, grads] = &mut v[..] else { unreachable!("drawn so") };
                let (bn, saved) =
                    (&behind(&pointwise(bn.channels), bn), self.saved.as_ref().expect("drawn so"));
                let norm = NormPass { x: &t[1], y: &t[2], saved, bn, act: *act, residual: *residual };
                let sums = self.sums.as_ref();
                let (dx, dres) = ops::batch_norm_train_bwd(
                    b,
                    ops::BatchNormTrainBwd { dy: &t[0], norm, params, grads, sums },
                )?;
                o.tensors.push(dx);
                o.tensors.extend(dres);
            }
            Call::BatchNormEvalBwd { bn, act, .. } => {
                let [params, stats, grads] = &mut v[..] else { unreachable!("drawn so") };
                let dx = ops::batch_norm_eval_bwd(
                    b,
                    ops::BatchNormEvalBwd {
                        dy: &t[0],
                        x: &t[1],
                        y: &t[2],
                        params,
                        grads,
                        norm: ops::FrozenNorm { stats, bn, act: *act },
                    },
                )?;
                o.tensors.push(dx);
            }
            Call::BatchNormTangent { bn, act, .. } => {
                o.tensors.push(ops::batch_norm_tangent(
                    b,
                    &ops::BatchNormTangent {
                        t: &t[0],
                        y: &t[2],
                        params: &v[0],
                        norm: ops::FrozenNorm { stats: &v[1], bn, act: *act },
                    },
                )?);
            }
            Call::LeakyRelu { .. } => o.tensors.push(ops::leaky_relu(b, &t[0], SLOPE)?),
            Call::LeakyReluBwd { .. } => o.tensors.push(ops::leaky_relu_bwd(b, &t[0], &t[1], SLOPE)?),
            Call::MaxPool2d { pool, .. } => o.tensors.push(ops::max_pool2d(b, &t[0], pool)?),
            Call::MaxPool2dBwd { pool, .. } => o.tensors.push(ops::max_pool2d_bwd(b, &t[0], &t[1], pool)?),
            Call::AdaptiveAvgPool2d { size, .. } => {
                o.tensors.push(ops::adaptive_avg_pool2d(b, &t[0], *size)?)
            }
            Call::AdaptiveAvgPool2dBwd { size, .. } => {
                o.tensors.push(ops::adaptive_avg_pool2d_bwd(b, &t[0], *size)?);
            }
            Call::Interpolate { size, .. } => o.tensors.push(ops::interpolate(b, &t[0], *size)?),
            Call::InterpolateBwd { size, .. } => o.tensors.push(ops::interpolate_bwd(b, &t[0], *size)?),
            Call::Concat { .. } => o.tensors.push(ops::concat(b, &t.iter().collect::<Vec<_>>())?),
            Call::SliceChannels { offset, len, .. } => {
                o.tensors.push(ops::slice_channels(b, &t[0], *offset, *len)?);
            }
            Call::Add { .. } => o.tensors.push(ops::add(b, &t[0], &t[1], 0.5)?),
            Call::SumPositions { .. } => o.tensors.push(ops::sum_positions(b, &t[0])?),
            Call::CrossEntropy { .. } => label_loss(o, ops::cross_entropy(b, &t[0], &self.labels[0], 1.0)?),
            Call::OhemCrossEntropy { ohem, .. } => {
                label_loss(o, ops::ohem_cross_entropy(b, &t[0], &self.labels[0], ohem, 1.0)?);
            }
            Call::EnsemblePseudoLabel { size, ensemble, .. } => {
                let pseudo = ops::ensemble_pseudo_label(
                    b,
                    &ops::TeacherLogits { core: &t[0], assist: &t[1], ensemble },
                    *size,
                )?;
                o.labels.push(pseudo.label);
                o.tensors.push(pseudo.confidence);
            }
            Call::ConfCe { ensemble, mix, conf_ce, .. } => {
                let pseudo = self.pseudo.as_ref().expect("drawn so");
                let c = ops::conf_ce(
                    b,
                    &ops::ConfCeArgs {
                        student: &t[0],
                        pseudo,
                        teachers: ops::TeacherLogits { core: &t[1], assist: &t[2], ensemble },
                        mix,
                        spec: conf_ce,
                        grad_scale: 1.0,
                    },
                )?;
                o.tensors.push(c.dstudent);
                o.scalars.extend([c.positive, c.negative, c.square, c.passed]);
                o.counts.extend([c.histogram, c.confusion]);
            }
            Call::MseConsistency { size, ensemble, mix, .. } => {
                let l = ops::mse_consistency(
                    b,
                    &ops::MseConsistencyArgs {
                        student: &t[0],
                        teachers: ops::TeacherLogits { core: &t[1], assist: &t[2], ensemble },
                        size: *size,
                        mix,
                        grad_scale: 1.0,
                    },
                )?;
                o.tensors.push(l.dlogits);
                o.scalars.push(l.loss);
            }
            Call::CutMix { mix, .. } => o.tensors.push(ops::cut_mix(b, &t[0], mix)?),
            Call::ConfusionMatrix { classes, above, .. } => {
                let above = above.zip(self.pseudo.as_ref()).map(|(t, pseudo)| (&pseudo.confidence, t));
                let (pred, target) = (&self.labels[0], &self.labels[1]);
                o.counts.push(ops::confusion_matrix(b, pred, target, *classes, above)?);
            }
            Call::UniformNoise { x } => o.tensors.push(ops::uniform_noise(b, *x, self.key)?),
            Call::Normalize { .. } => o.tensors.push(ops::normalize(b, &t[0], 2.0)?),
            Call::AddNormalized { .. } => o.tensors.push(ops::add_normalized(b, &t[0], &t[1], 2.0)?),
            Call::NormalizeBytes { x } => {
                let images = self.shown(*x);
                o.tensors.push(ops::normalize_bytes(b, &images, &Normalize::default())?);
            }
            Call::Photometric { x, strong } => {
                let images = self.shown(*x);
                let pixels = Pixels::Bytes(&images);
                o.tensors.push(ops::photometric(b, pixels, strong, &Normalize::default())?);
            }
            Call::TvatCotangent { decoders, size, .. } => {
                o.tensors.push(ops::tvat_cotangent(b, &t[0], &t[1], *decoders, *size)?);
            }
            Call::KlGradient { decoders, size, .. } => {
                o.tensors.push(ops::kl_gradient(b, &t[0], &t[1], *decoders, *size)?);
            }
            Call::Sgd { sgd, .. } => {
                let [params, grads, momentum] = &mut v[..] else { unreachable!("drawn so") };
                ops::sgd(b, ops::SgdStep { params, grads, momentum, spec: sgd, teacher: None })?;
            }
            Call::SgdEma { sgd, .. } => {
                let [params, grads, momentum, teacher, stats, student_stats] = &mut v[..] else {
                    unreachable!("drawn so")
                };
                let teacher = Teacher { params: teacher, stats, student_stats, keep: 0.99 };
                ops::sgd(b, ops::SgdStep { params, grads, momentum, spec: sgd, teacher: Some(teacher) })?;
            }
            Call::CopySpans { moves, .. } => {
                let [to, from] = &mut v[..] else { unreachable!("drawn so") };
                ops::copy_spans(b, to, from, moves)?;
            }
            Call::Clear { .. } => b.clear(&mut v[0]),
            Call::WatchTensor { .. } => {
                b.watch_tensor(self.watch.as_mut().expect("drawn so"), &t[0], 0);
                o.counts.extend(self.watch.clone());
            }
            Call::WatchVector { .. } => {
                b.watch_vector(self.watch.as_mut().expect("drawn so"), &v[0], 0);
                o.counts.extend(self.watch.clone());
            }
        }
        self.vectors = v;
        Ok(out)
    }
}

/// Output and saved moments of a batch norm in training over `x` alone, which moves `stats`.
fn train<B: Backend>(
    b: &B,
    x: &B::Tensor,
    params: &B::Vector,
    (bn, act): (&BatchNorm, Activation),
    stats: &mut B::Vector,
    residual: Option<&B::Tensor>,
) -> Result<(B::Tensor, BatchNormSaved<B>)> {
    ops::batch_norm_train(b, BatchNormTrain { x, params, stats, bn, act, residual, moments: None })
}

fn label_loss<B: Backend>(out: &mut Outputs<B>, loss: LabelLoss<B>) {
    out.tensors.push(loss.dlogits);
    out.scalars.push(loss.loss);
    out.counts.push(loss.confusion);
}

/// Values in [-0.5, 0.5) stretched to logits.
fn wide<B: Backend>(b: &B, x: B::Tensor) -> Result<B::Tensor> {
    ops::add(b, &x, &x, 2.0 * LOGITS - 1.0)
}

/// Parameters that a convolution has read, of which a 16-bit device therefore keeps a copy, as of a network's.
fn read_by_conv<B: Backend>(b: &B, params: B::Vector) -> Result<B::Vector> {
    let weight = Span { offset: 0, len: 1 };
    let conv = Conv2d {
        weight,
        bias: None,
        in_channels: 1,
        out_channels: 1,
        groups: 1,
        kernel: 1,
        stride: 1,
        padding: 0,
        dilation: 1,
    };
    let x = b.upload(Shape::new(1, 1, 1, 1), &[1.0]);
    ops::conv2d_fprop(b, &ops::Fprop::new(&x, &params, &conv))?;
    Ok(params)
}

/// A 1x1 convolution of as many channels to as many.
fn pointwise(channels: usize) -> Conv2d {
    Conv2d {
        weight: Span { offset: 0, len: channels * channels },
        bias: None,
        in_channels: channels,
        out_channels: channels,
        groups: 1,
        kernel: 1,
        stride: 1,
        padding: 0,
        dilation: 1,
    }
}

/// A batch norm whose parameters lie behind those of `conv`.
fn behind(conv: &Conv2d, bn: &BatchNorm) -> BatchNorm {
    let begin = conv.bias.unwrap_or(conv.weight).range().end;
    let at = |place: usize| Span { offset: begin + place * bn.channels, len: bn.channels };
    BatchNorm { weight: at(0), bias: at(1), ..*bn }
}
