//! Gradient checks of whole passes: encoder, decoder, the decoder's tangent and pullback with frozen batch
//! norm, and the student's gradient of one training step with the T-VAT noise held fixed.

use super::{Check, Claim, Claimant, Exact, Function, Problem, dot, normals, take, tensor, upload};
use psmt_fast::backend::cpu::Tensor;
use psmt_fast::method::{
    Algorithm, Batch, Networks, StepArgs, SupervisedLoss, Tvat, TvatArgs, Unlabeled, cut_mix,
    train_step as method_step,
};
use psmt_fast::model::{Architecture, DecoderMasks, Initialization, ModelConfig, Network, Norm, Stem};
use psmt_fast::ops::{self, Backend, ConfCe, Device, Ensemble, IGNORE, Ohem, Shape};
use psmt_fast::rng::{Domain, Key, Stream};
use psmt_fast::{Error, Result};

pub(super) fn checks<B: Claimant>() -> [Check<B>; 6] {
    [
        Check { number: 16, op: "encoder", draw: encoder },
        Check { number: 17, op: "decoder", draw: decoder },
        Check { number: 18, op: "decoder_pullback", draw: decoder_pullback },
        Check { number: 19, op: "decoder_tangent", draw: decoder_tangent },
        Check { number: 20, op: "train_step", draw: train_step },
        Check { number: 21, op: "decoders", draw: decoders },
    ]
}

/// The smallest network that has every kind of layer.
fn small() -> Result<Architecture> {
    small_with(Stem::Deep)
}

fn small_with(stem: Stem) -> Result<Architecture> {
    Architecture::new(ModelConfig {
        stem,
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
#[derive(Clone)]
struct Values {
    params: Vec<f32>,
    stats: Vec<f32>,
}

impl Values {
    fn draw(arch: &Architecture, rng: &mut Stream) -> Values {
        let (mut params, mut stats) = arch.init(Initialization::default(), u64::from(rng.next_u32()), 0);
        params.iter_mut().for_each(|v| *v += 0.1 * rng.normal());
        // Variances stay positive: they start at 1 and move by less than a half.
        stats.iter_mut().for_each(|v| *v += rng.range(-0.4, 0.4));
        Values { params, stats }
    }

    fn upload<B: Backend>(&self, b: &B) -> Network<B> {
        Network { params: b.upload_vector(&self.params), stats: b.upload_vector(&self.stats) }
    }
}

fn kept<T>(saved: Option<T>) -> Result<T> {
    saved.ok_or_else(|| Error::shape("gradcheck", "activations kept for the backward pass", "none"))
}

const IMAGES: Shape = Shape::new(3, 17, 21, 3);

/// The encoder's backward, with respect to its parameters, of either stem.
fn encoder<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    Ok(vec![encoder_with(b, Stem::Deep, rng)?, encoder_with(b, Stem::Single, rng)?])
}

fn encoder_with<B: Claimant>(b: &B, stem: Stem, rng: &mut Stream) -> Result<Problem> {
    let arch = small_with(stem)?;
    let values = Values::draw(&arch, rng);
    let x = normals(rng, IMAGES.len());
    let shape = arch.feature_shape(IMAGES);
    let dy = normals(rng, shape.len());
    let Network { params, mut stats } = values.upload(b);
    let (_, saved) = arch.encoder_train(b, &params, &mut stats, &upload(b, IMAGES, &x))?;
    let mut grads = b.zeros(arch.table.num_params);
    saved.backward(b, &params, &mut grads, &upload(b, shape, &dy))?;

    let (exact, x) = (Exact::new(), tensor(IMAGES, &x));
    let net = values.upload(&exact);
    Ok(Problem {
        case: format!("{} parameters, x {IMAGES}", arch.table.num_params),
        point: net.params,
        value: Box::new(move |p| {
            let norm = Norm::Train(&mut net.stats.clone());
            Ok(dot(arch.encoder(&exact, &p.to_vec(), norm, &x)?.data(), &dy))
        }),
        claim: Claim::Gradient(b.vector_values(&grads)),
    })
}

/// The decoder's backward in training mode, with respect to features and parameters.
fn decoder<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    let arch = small()?;
    let values = Values::draw(&arch, rng);
    let (features, logits) = (arch.feature_shape(IMAGES), arch.logits_shape(IMAGES));
    let mut point = normals(rng, features.len());
    let dy = normals(rng, logits.len());
    let Network { params, mut stats } = values.upload(b);
    let (_, saved) = arch.decoder_train(b, &params, &mut stats, &upload(b, features, &point))?;
    let mut grads = b.zeros(arch.table.num_params);
    let dx = saved.backward(b, &params, &mut grads, &upload(b, logits, &dy))?;

    let exact = Exact::new();
    let net = values.upload(&exact);
    point.extend(&net.params);
    Ok(vec![Problem {
        case: format!("features {features} and {} parameters", arch.table.num_params),
        point,
        value: Box::new(move |mut p| {
            let x = take(&mut p, features);
            let norm = Norm::Train(&mut net.stats.clone());
            Ok(dot(arch.decoder(&exact, &p.to_vec(), norm, &x)?.data(), &dy))
        }),
        claim: Claim::Gradient([b.values(&dx), b.vector_values(&grads)].concat()),
    }])
}

/// A decoder with frozen batch norm at drawn features, and the function ⟨dy, logits⟩.
struct Frozen {
    arch: Architecture,
    values: Values,
    features: Shape,
    logits: Shape,
    point: Vec<f64>,
    dy: Vec<f64>,
}

impl Frozen {
    fn new(rng: &mut Stream) -> Result<Frozen> {
        let arch = small()?;
        let values = Values::draw(&arch, rng);
        let (features, logits) = (arch.feature_shape(IMAGES), arch.logits_shape(IMAGES));
        let (point, dy) = (normals(rng, features.len()), normals(rng, logits.len()));
        Ok(Frozen { arch, values, features, logits, point, dy })
    }

    fn value(&self) -> Function {
        let exact = Exact::new();
        let (arch, net, features, dy) =
            (self.arch.clone(), self.values.upload(&exact), self.features, self.dy.clone());
        Box::new(move |p| {
            let norm = Norm::Frozen(&net.stats);
            let y = arch.decoder(&exact, &net.params, norm, &tensor(features, p))?;
            Ok(dot(y.data(), &dy))
        })
    }

    /// The network on `b`, and what its pass keeps.
    fn pass<B: Backend>(&self, b: &B) -> Result<(Network<B>, DecoderMasks<B>)> {
        let net = self.values.upload(b);
        let x = upload(b, self.features, &self.point);
        let (_, masks) = self.arch.decoder_masks(b, &net, &x)?;
        Ok((net, masks))
    }
}

/// Jᵀ dlogits.
fn decoder_pullback<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    let f = Frozen::new(rng)?;
    let (net, masks) = f.pass(b)?;
    let dx = masks.pullback(b, &net, &upload(b, f.logits, &f.dy))?;
    Ok(vec![Problem {
        case: format!("features {}", f.features),
        value: f.value(),
        point: f.point,
        claim: Claim::Gradient(b.values(&dx)),
    }])
}

/// J t.
fn decoder_tangent<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    let f = Frozen::new(rng)?;
    let (net, masks) = f.pass(b)?;
    let b = b.clone();
    Ok(vec![Problem {
        case: format!("features {}", f.features),
        value: f.value(),
        point: f.point.clone(),
        claim: Claim::Tangent(Box::new(move |t| {
            let moved = masks.tangent(&b, &net, &upload(&b, f.features, t))?;
            Ok(dot(&b.values(&moved), &f.dy))
        })),
    }])
}

/// Jᵀ dlogits and J t of two networks' decoders side by side; the function sums over both, one by one.
fn decoders<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
    let arch = small()?;
    let drawn = [Values::draw(&arch, rng), Values::draw(&arch, rng)];
    let (features, logits) = (arch.feature_shape(IMAGES), arch.logits_shape(IMAGES));
    let (point, dy) = (normals(rng, features.len()), normals(rng, 2 * logits.len()));
    let wide = logits.with_channels(2 * logits.c);
    let on_device = drawn.each_ref().map(|values| values.upload(b));
    let pair = arch.decoders(b, &on_device.each_ref())?;
    let (_, saved) = pair.masks(b, &upload(b, features, &point))?;
    let dx = b.values(&pair.pullback(b, &saved, &upload(b, wide, &dy))?);
    drop(pair);
    let function = || -> Function {
        let nets = drawn.each_ref().map(|values| values.upload(&Exact::new()));
        let (arch, dy) = (arch.clone(), dy.clone());
        Box::new(move |p| {
            let mut sum = 0.0;
            for (i, net) in nets.iter().enumerate() {
                let (x, norm) = (tensor(features, p), Norm::Frozen(&net.stats));
                let y = arch.decoder(&Exact::new(), &net.params, norm, &x)?;
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
        claim: Claim::Gradient(dx),
    };
    let (value, b) = (function(), b.clone());
    let tangent = move |t: &[f64]| -> Result<f64> {
        let pair = arch.decoders(&b, &on_device.each_ref())?;
        Ok(dot(&b.values(&pair.tangent(&b, &saved, &upload(&b, features, t))?), &dy))
    };
    let tangent = Problem { case: case("tangent"), value, point, claim: Claim::Tangent(Box::new(tangent)) };
    Ok(vec![pullback, tangent])
}

/// The student's gradient of a whole step. The function is the two losses written out over forward passes
/// alone, with the noise that the step found and the teachers' targets as constants.
fn train_step<B: Claimant>(b: &B, rng: &mut Stream) -> Result<Vec<Problem>> {
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
        problems.push(step(b, rng, args)?);
    }
    Ok(problems)
}

/// A batch in values that every device takes.
struct Drawn {
    features: Shape,
    x_l: Vec<f64>,
    y_l: Vec<u8>,
    x_u_weak: Vec<f64>,
    x_u_strong: Vec<f64>,
    d_l: Vec<f64>,
    d_u: Vec<f64>,
}

impl Drawn {
    fn draw(rng: &mut Stream, features: Shape) -> Drawn {
        let y_l = |rng: &mut Stream| {
            let label = |_| if rng.chance(0.1) { IGNORE } else { rng.below(4) as u8 };
            (0..IMAGES.positions()).map(label).collect()
        };
        Drawn {
            features,
            y_l: y_l(rng),
            x_l: normals(rng, IMAGES.len()),
            x_u_weak: normals(rng, IMAGES.len()),
            x_u_strong: normals(rng, IMAGES.len()),
            d_l: normals(rng, features.len()),
            d_u: normals(rng, features.len()),
        }
    }

    fn upload<B: Backend>(&self, b: &B) -> Batch<B> {
        let key = Key::new(1, Domain::CutMix, 0);
        Batch {
            x: upload(b, IMAGES, &self.x_l),
            y: b.upload_labels(IMAGES.with_channels(1), &self.y_l),
            unlabeled: Some(Unlabeled {
                weak: upload(b, IMAGES, &self.x_u_weak),
                strong: upload(b, IMAGES, &self.x_u_strong),
                truth: None,
                mix: cut_mix::sample(cut_mix::CutMixForm::Voc, IMAGES.n, (IMAGES.h, IMAGES.w), key),
                noise_labeled: upload(b, self.features, &self.d_l),
                noise_unlabeled: upload(b, self.features, &self.d_u),
            }),
        }
    }
}

fn step<B: Claimant>(claimant: &B, rng: &mut Stream, args: StepArgs) -> Result<Problem> {
    let arch = small()?;
    let size = (IMAGES.h, IMAGES.w);
    let drawn = Drawn::draw(rng, arch.feature_shape(IMAGES));
    let [student, teacher1, teacher2] = [(); 3].map(|()| Values::draw(&arch, rng));
    let mut nets = Networks {
        student: student.upload(claimant),
        teachers: vec![teacher1.upload(claimant), teacher2.upload(claimant)],
        momentum: claimant.zeros(arch.table.num_params),
        grads: claimant.zeros(arch.table.num_params),
    };
    let out = method_step(claimant, &arch, &mut nets, &drawn.upload(claimant), &args)?;
    let (r_l, r_u) = kept(out.noise)?;
    let [r_l, r_u] = [r_l, r_u].map(|r| tensor(drawn.features, &claimant.values(&r)));
    let claim = Claim::Gradient(claimant.vector_values(&nets.grads));

    let b = Exact::new();
    let Batch { x, y, unlabeled } = drawn.upload(&b);
    let unlabeled = unlabeled.expect("drawn so");
    let teacher = |values: &Values| {
        let net = values.upload(&b);
        forward(&arch, &net, &net.params, &unlabeled.weak, None)
    };
    let (core, assist) = match (args.algorithm.num_teachers(), args.active_teacher) {
        (2, 1) => (teacher(&teacher1)?, teacher(&teacher2)?),
        (2, _) => (teacher(&teacher2)?, teacher(&teacher1)?),
        _ => (teacher(&teacher1)?, teacher(&teacher1)?),
    };
    let x_u = ops::cut_mix(&b, &unlabeled.strong, &unlabeled.mix)?;
    let student = student.upload(&b);
    let point = student.params.clone();
    let loss = move |params: &[f64]| -> Result<f64> {
        let params = params.to_vec();
        let logits = forward(&arch, &student, &params, &x, Some(&r_l))?;
        let supervised = match &args.supervised_loss {
            SupervisedLoss::CrossEntropy => ops::cross_entropy(&b, &logits, &y, 1.0)?,
            SupervisedLoss::Ohem(ohem) => ops::ohem_cross_entropy(&b, &logits, &y, ohem, 1.0)?,
        };
        let logits = forward(&arch, &student, &params, &x_u, Some(&r_u))?;
        let (ensemble, mix) = (&args.ensemble, &unlabeled.mix);
        let unsupervised = if args.algorithm == Algorithm::MeanTeacher {
            let out = ops::mse_consistency(
                &b,
                &ops::MseConsistencyArgs {
                    student: &logits,
                    teachers: ops::TeacherLogits { core: &core, assist: &assist, ensemble },
                    size,
                    mix,
                    grad_scale: 1.0,
                },
            )?;
            b.read_scalar(&out.loss)
        } else {
            let pseudo = ops::ensemble_pseudo_label(
                &b,
                &ops::TeacherLogits { core: &core, assist: &assist, ensemble },
                size,
            )?;
            let out = ops::conf_ce(
                &b,
                &ops::ConfCeArgs {
                    student: &logits,
                    pseudo: &pseudo,
                    teachers: ops::TeacherLogits { core: &core, assist: &assist, ensemble },
                    mix,
                    spec: &args.conf_ce,
                    grad_scale: 1.0,
                },
            )?;
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
        claim,
    })
}

/// Stride-4 logits of a training-mode pass, `noise` added to the features.
fn forward(
    arch: &Architecture,
    net: &Network<Exact>,
    params: &Vec<f64>,
    x: &Tensor<f64>,
    noise: Option<&Tensor<f64>>,
) -> Result<Tensor<f64>> {
    let b = Exact::new();
    let mut stats = net.stats.clone();
    let mut features = arch.encoder(&b, params, Norm::Train(&mut stats), x)?;
    if let Some(r) = noise {
        features = ops::add(&b, &features, r, 1.0)?;
    }
    arch.decoder(&b, params, Norm::Train(&mut stats), &features)
}
