//! Gradient checks of whole passes: encoder, decoder, the decoder's tangent and pullback with frozen batch norm, and the
//! student's gradient of one training step with the T-VAT noise held fixed.

use super::{Claim, Device, Function, Problem, dot, normals, take, tensor};
use crate::backend::cpu::Tensor;
use crate::method::{
    Algorithm, Batch, Networks, StepArgs, SupervisedLoss, Tvat, TvatArgs, cut_mix, train_step as method_step,
};
use crate::model::{DeepLab, ModelConfig, Network, Norm};
use crate::ops::{self, Backend, ConfCe, Ensemble, IGNORE, Ohem, Shape};
use crate::rng::{Domain, Key, Stream};
use crate::{Error, Result};

/// The smallest network that has every kind of layer.
fn small() -> Result<DeepLab> {
    DeepLab::new(ModelConfig {
        blocks: [2, 1, 1, 1],
        stem_width: 4,
        planes: 2,
        aspp: 5,
        low_level: 3,
        num_classes: 4,
        dilations: [1, 2, 3],
        ..ModelConfig::tiny(4)
    })
}

/// Initial values with everything moved off its default: batch norm weights and biases, running statistics.
fn values(arch: &DeepLab, rng: &mut Stream) -> Network<Device> {
    let (params, stats) = arch.init(u64::from(rng.next_u32()), 0);
    let params = params.iter().map(|&v| f64::from(v) + 0.1 * f64::from(rng.normal())).collect();
    // Variances stay positive: they start at 1 and move by less than a half.
    let stats = stats.iter().map(|&v| f64::from(v) + f64::from(rng.range(-0.4, 0.4))).collect();
    Network { params, stats }
}

fn kept<T>(saved: Option<T>) -> Result<T> {
    saved.ok_or_else(|| Error::shape("gradcheck", "activations kept for the backward pass", "none"))
}

const IMAGES: Shape = Shape::new(3, 17, 21, 3);

/// The encoder's backward, with respect to its parameters.
pub(super) fn encoder(rng: &mut Stream) -> Result<Vec<Problem>> {
    let b = Device::new();
    let arch = small()?;
    let net = values(&arch, rng);
    let x = tensor(IMAGES, &normals(rng, IMAGES.len()));
    let shape = arch.feature_shape(IMAGES);
    let dy = normals(rng, shape.len());
    let (_, saved) = arch.encoder_forward(&b, &net.params, Norm::Train(&mut net.stats.clone()), &x, true)?;
    let mut grads = vec![0.0; arch.table.num_params];
    arch.encoder_backward(&b, &net.params, &mut grads, kept(saved)?, &tensor(shape, &dy))?;
    Ok(vec![Problem {
        case: format!("{} parameters, x {IMAGES}", grads.len()),
        point: net.params,
        value: Box::new(move |p| {
            let norm = Norm::Train(&mut net.stats.clone());
            Ok(dot(arch.encoder_forward(&b, &p.to_vec(), norm, &x, false)?.0.data(), &dy))
        }),
        claim: Claim::Gradient(grads),
    }])
}

/// The decoder's backward in training mode, with respect to features and parameters.
pub(super) fn decoder(rng: &mut Stream) -> Result<Vec<Problem>> {
    let b = Device::new();
    let arch = small()?;
    let net = values(&arch, rng);
    let (features, logits) = (arch.feature_shape(IMAGES), arch.logits_shape(IMAGES));
    let mut point = normals(rng, features.len());
    let x = tensor(features, &point);
    let dy = normals(rng, logits.len());
    let (_, saved) = arch.decoder_forward(&b, &net.params, Norm::Train(&mut net.stats.clone()), &x, true)?;
    let mut grads = vec![0.0; arch.table.num_params];
    let dx = arch.decoder_backward(&b, &net.params, &mut grads, kept(saved)?, &tensor(logits, &dy))?;
    point.extend(&net.params);
    Ok(vec![Problem {
        case: format!("features {features} and {} parameters", grads.len()),
        point,
        value: Box::new(move |mut p| {
            let x = take(&mut p, features);
            let norm = Norm::Train(&mut net.stats.clone());
            Ok(dot(arch.decoder_forward(&b, &p.to_vec(), norm, &x, false)?.0.data(), &dy))
        }),
        claim: Claim::Gradient([dx.data(), &grads].concat()),
    }])
}

/// A decoder with frozen batch norm at drawn features: the function ⟨dy, logits⟩ and what it saved.
struct Frozen {
    arch: DeepLab,
    net: Network<Device>,
    features: Shape,
    logits: Shape,
    point: Vec<f64>,
    dy: Vec<f64>,
}

impl Frozen {
    fn new(rng: &mut Stream) -> Result<Frozen> {
        let arch = small()?;
        let net = values(&arch, rng);
        let (features, logits) = (arch.feature_shape(IMAGES), arch.logits_shape(IMAGES));
        let (point, dy) = (normals(rng, features.len()), normals(rng, logits.len()));
        Ok(Frozen { arch, net, features, logits, point, dy })
    }

    fn value(&self) -> Function {
        let (arch, net, features, dy) = (self.arch.clone(), self.net.clone(), self.features, self.dy.clone());
        Box::new(move |p| {
            let norm = Norm::Frozen(&net.stats);
            let (y, _) =
                arch.decoder_forward(&Device::new(), &net.params, norm, &tensor(features, p), false)?;
            Ok(dot(y.data(), &dy))
        })
    }
}

/// Jᵀ dlogits.
pub(super) fn decoder_pullback(rng: &mut Stream) -> Result<Vec<Problem>> {
    let b = Device::new();
    let f = Frozen::new(rng)?;
    let x = tensor(f.features, &f.point);
    let (_, saved) = f.arch.decoder_forward(&b, &f.net.params, Norm::Frozen(&f.net.stats), &x, true)?;
    let dx = f.arch.decoder_pullback(&b, &f.net, &kept(saved)?, &tensor(f.logits, &f.dy))?;
    Ok(vec![Problem {
        case: format!("features {}", f.features),
        value: f.value(),
        point: f.point,
        claim: Claim::Gradient(dx.data().to_vec()),
    }])
}

/// J t.
pub(super) fn decoder_tangent(rng: &mut Stream) -> Result<Vec<Problem>> {
    let b = Device::new();
    let f = Frozen::new(rng)?;
    let x = tensor(f.features, &f.point);
    let (_, saved) = f.arch.decoder_forward(&b, &f.net.params, Norm::Frozen(&f.net.stats), &x, true)?;
    let saved = kept(saved)?;
    Ok(vec![Problem {
        case: format!("features {}", f.features),
        value: f.value(),
        point: f.point.clone(),
        claim: Claim::Tangent(Box::new(move |t| {
            Ok(dot(f.arch.decoder_tangent(&b, &f.net, &saved, &tensor(f.features, t))?.data(), &f.dy))
        })),
    }])
}

/// Jᵀ dlogits and J t of two networks' decoders side by side; the function sums over both, one by one.
pub(super) fn decoders(rng: &mut Stream) -> Result<Vec<Problem>> {
    let b = Device::new();
    let arch = small()?;
    let nets = [values(&arch, rng), values(&arch, rng)];
    let (features, logits) = (arch.feature_shape(IMAGES), arch.logits_shape(IMAGES));
    let (point, dy) = (normals(rng, features.len()), normals(rng, 2 * logits.len()));
    let wide = logits.with_channels(2 * logits.c);
    let pair = arch.decoders(&b, &[&nets[0], &nets[1]])?;
    let saved = kept(pair.forward(&b, &tensor(features, &point), true)?.1)?;
    let dx = pair.pullback(&b, &saved, &tensor(wide, &dy))?;
    let function = || -> Function {
        let (arch, nets, dy) = (arch.clone(), nets.clone(), dy.clone());
        Box::new(move |p| {
            let mut sum = 0.0;
            for (i, net) in nets.iter().enumerate() {
                let x = tensor(features, p);
                let (y, _) =
                    arch.decoder_forward(&Device::new(), &net.params, Norm::Frozen(&net.stats), &x, false)?;
                let part = dy.chunks_exact(logits.c).skip(i).step_by(2).flatten();
                sum += y.data().iter().zip(part).map(|(y, dy)| y * dy).sum::<f64>();
            }
            Ok(sum)
        })
    };
    let case = |what: &str| format!("{what}, features {features}");
    let pullback = Problem {
        case: case("pullback"),
        value: function(),
        point: point.clone(),
        claim: Claim::Gradient(dx.data().to_vec()),
    };
    let value = function();
    let tangent = move |t: &[f64]| -> Result<f64> {
        let pair = arch.decoders(&b, &[&nets[0], &nets[1]])?;
        Ok(dot(pair.tangent(&b, &saved, &tensor(features, t))?.data(), &dy))
    };
    let tangent = Problem { case: case("tangent"), value, point, claim: Claim::Tangent(Box::new(tangent)) };
    Ok(vec![pullback, tangent])
}

/// The student's gradient of a whole step. The function is the two losses written out over forward passes alone, with
/// the noise that the step found and the teachers' targets as constants.
pub(super) fn train_step(rng: &mut Stream) -> Result<Vec<Problem>> {
    let plain = ConfCe { threshold: 0.3, negative_threshold: 0.0, square_weight: 0.0, weighted: true };
    let negative = ConfCe { negative_threshold: 0.2, square_weight: 0.5, ..plain };
    let ohem = SupervisedLoss::Ohem(Ohem { threshold: 0.3, min_kept: 50 });
    let mut problems = Vec::new();
    for (algorithm, active_teacher, conf_ce, supervised_loss, kind) in [
        (Algorithm::PsMt, 1, plain, SupervisedLoss::CrossEntropy, Tvat::Exact),
        (Algorithm::PsMt, 2, negative, ohem, Tvat::FiniteDifference),
        (Algorithm::OneTeacher, 1, plain, SupervisedLoss::CrossEntropy, Tvat::StudentVat),
        (Algorithm::MeanTeacher, 1, plain, SupervisedLoss::CrossEntropy, Tvat::Uniform),
    ] {
        let args = StepArgs {
            lr: 0.05,
            momentum: 0.9,
            weight_decay: 1e-4,
            ema_decay: 0.99,
            unsup_weight: 1.5,
            conf_ce,
            ensemble: Ensemble { topk: 2, gamma: 0.5 },
            tvat: TvatArgs { kind, eps: 2.0, xi: 0.1, iterations: 1 },
            active_teacher,
            supervised_loss,
            algorithm,
            keep_noise: true,
        };
        problems.push(step(rng, args)?);
    }
    Ok(problems)
}

fn step(rng: &mut Stream, args: StepArgs) -> Result<Problem> {
    let b = Device::new();
    let arch = small()?;
    let size = (IMAGES.h, IMAGES.w);
    let images = |rng: &mut Stream| tensor(IMAGES, &normals(rng, IMAGES.len()));
    let y_shape = IMAGES.with_channels(1);
    let labels: Vec<u8> =
        (0..y_shape.len()).map(|_| if rng.chance(0.1) { IGNORE } else { rng.below(4) as u8 }).collect();
    let features = arch.feature_shape(IMAGES);
    let batch: Batch<Device> = Batch {
        x_l: images(rng),
        y_l: b.upload_labels(y_shape, &labels),
        x_u_weak: images(rng),
        x_u_strong: images(rng),
        mix: cut_mix::sample(cut_mix::CutMixForm::Voc, IMAGES.n, size, Key::new(1, Domain::CutMix, 0)),
        d_l: tensor(features, &normals(rng, features.len())),
        d_u: tensor(features, &normals(rng, features.len())),
    };
    let nets = Networks {
        student: values(&arch, rng),
        teacher1: values(&arch, rng),
        teacher2: values(&arch, rng),
        momentum: vec![0.0; arch.table.num_params],
        grads: vec![0.0; arch.table.num_params],
    };
    let mut stepped = nets.clone();
    let (r_l, r_u) = kept(method_step(&b, &arch, &mut stepped, &batch, &args)?.noise)?;

    let teacher = |net: &Network<Device>| forward(&arch, net, &net.params, &batch.x_u_weak, None);
    let (core, assist) = match (args.algorithm.num_teachers(), args.active_teacher) {
        (2, 1) => (teacher(&nets.teacher1)?, teacher(&nets.teacher2)?),
        (2, _) => (teacher(&nets.teacher2)?, teacher(&nets.teacher1)?),
        _ => (teacher(&nets.teacher1)?, teacher(&nets.teacher1)?),
    };
    let x_u = ops::cut_mix(&b, &batch.x_u_strong, &batch.mix)?;
    let student = nets.student.clone();
    let point = student.params.clone();
    let loss = move |params: &[f64]| -> Result<f64> {
        let params = params.to_vec();
        let logits = forward(&arch, &student, &params, &batch.x_l, Some(&r_l))?;
        let supervised = match &args.supervised_loss {
            SupervisedLoss::CrossEntropy => ops::cross_entropy(&b, &logits, &batch.y_l, 1.0)?,
            SupervisedLoss::Ohem(ohem) => ops::ohem_cross_entropy(&b, &logits, &batch.y_l, ohem, 1.0)?,
        };
        let logits = forward(&arch, &student, &params, &x_u, Some(&r_u))?;
        let (ensemble, mix) = (&args.ensemble, &batch.mix);
        let unsupervised = if args.algorithm == Algorithm::MeanTeacher {
            let out = ops::mse_consistency(&b, &logits, &core, &assist, size, ensemble, mix, 1.0)?;
            b.read_scalar(&out.loss)
        } else {
            let pseudo = ops::ensemble_pseudo_label(&b, &core, &assist, size, ensemble)?;
            let out = ops::conf_ce(&b, &logits, &pseudo, &core, &assist, ensemble, mix, &args.conf_ce, 1.0)?;
            b.read_scalar(&out.positive)
                + b.read_scalar(&out.negative)
                + args.conf_ce.square_weight * b.read_scalar(&out.square)
        };
        Ok(b.read_scalar(&supervised.loss) + args.unsup_weight * unsupervised)
    };
    Ok(Problem {
        case: format!(
            "{:?}, teacher {} active, {:?} noise, {:?}, negative {}",
            args.algorithm,
            args.active_teacher,
            args.tvat.kind,
            args.supervised_loss,
            args.conf_ce.negative_threshold
        ),
        point,
        value: Box::new(loss),
        claim: Claim::Gradient(stepped.grads),
    })
}

/// Stride-4 logits of a training-mode pass, `noise` added to the features.
fn forward(
    arch: &DeepLab,
    net: &Network<Device>,
    params: &Vec<f64>,
    x: &Tensor<f64>,
    noise: Option<&Tensor<f64>>,
) -> Result<Tensor<f64>> {
    let b = Device::new();
    let mut stats = net.stats.clone();
    let (mut features, _) = arch.encoder_forward(&b, params, Norm::Train(&mut stats), x, false)?;
    if let Some(r) = noise {
        features = ops::add(&b, &features, r, 1.0)?;
    }
    Ok(arch.decoder_forward(&b, params, Norm::Train(&mut stats), &features, false)?.0)
}
