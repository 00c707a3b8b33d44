//! Fixtures of whole networks, T-VAT and the training step.

use super::{FixtureOp, Run, Values, mix};
use crate::check::fixture::{Array, Fixture};
use psmt_fast::method::{
    Algorithm, Batch, Networks, StepArgs, SupervisedLoss, Tvat, TvatArgs, Unlabeled,
    train_step as method_step, tvat as method_tvat,
};
use psmt_fast::model::{Architecture, ModelConfig, Network};
use psmt_fast::ops::{self, Backend, ConfCe, Ensemble, Shape};
use psmt_fast::{Error, Result};
use serde::Deserialize;

pub(super) fn fixtures<B: Backend>() -> [FixtureOp<B>; 3] {
    [("network", network), ("tvat", tvat), ("train_step", train_step)]
}

/// The published weight of the mean squared student probability next to negative learning.
const SQUARE_WEIGHT: f64 = 0.5;

/// No network of a fixture has more parameters than this.
const MAX_PARAMS: usize = 1 << 28;

/// The network that the settings describe.
fn model(fixture: &Fixture, config: ModelConfig) -> Result<Architecture> {
    config.validate().map_err(|e| fixture.bad_attrs(e))?;
    let arch = Architecture::new(config)?;
    let found = arch.table.num_params;
    if found > MAX_PARAMS {
        return Err(
            fixture.bad_attrs(format!("model: expected at most {MAX_PARAMS} parameters, found {found}"))
        );
    }
    Ok(arch)
}

/// Values of the network whose tensors begin with `prefix`. With `decoder_only` the encoder's, which the file
/// then lacks, are zeros.
fn values<B: Backend>(
    b: &B,
    fixture: &Fixture,
    arch: &Architecture,
    prefix: &str,
    decoder_only: bool,
) -> Result<Network<B>> {
    let encoder_shape = |name: &str| {
        let entries = arch.table.params.iter().chain(&arch.table.stats);
        entries.filter(|e| e.name.starts_with("encoder.")).find(|e| e.name == name).map(|e| e.shape.clone())
    };
    let mut mistyped = None;
    let found = arch.table.import(|name| {
        if let Some(shape) = encoder_shape(name).filter(|_| decoder_only) {
            let len = shape.iter().product();
            return Some((shape, vec![0.0; len]));
        }
        let full = format!("{prefix}.{name}");
        let array = fixture.inputs.get(&full)?;
        match &array.values {
            Values::F32(v) => Some((array.shape.clone(), v.clone())),
            other => {
                mistyped =
                    Some(fixture.bad_input(&full, format!("expected float32, found {}", other.type_name())));
                None
            }
        }
    });
    if let Some(error) = mistyped {
        return Err(error);
    }
    let (params, stats) = found
        .map_err(|message| Error::checkpoint(&fixture.path, format!("network 'in.{prefix}': {message}")))?;
    Ok(Network { params: b.upload_vector(&params), stats: b.upload_vector(&stats) })
}

/// Adds a network's parameters (if `params`) and running statistics to the results, names after `prefix`.
fn put_network<B: Backend>(
    run: &mut Run<'_, B>,
    arch: &Architecture,
    prefix: &str,
    net: &Network<B>,
    params: bool,
) {
    let (values, stats) = (run.b.download_vector(&net.params), run.b.download_vector(&net.stats));
    for tensor in arch.table.export(&values, &stats) {
        if params || arch.table.stats.iter().any(|e| e.name == tensor.name) {
            run.put(&format!("{prefix}.{}", tensor.name), Array::f32(tensor.shape, tensor.data));
        }
    }
}

fn put_grads<B: Backend>(run: &mut Run<'_, B>, arch: &Architecture, grads: &B::Vector) {
    let values = run.b.download_vector(grads);
    for tensor in arch.table.export(&values, &vec![0.0; arch.table.num_stats]) {
        if arch.table.params.iter().any(|e| e.name == tensor.name) {
            run.put(&format!("grad.{}", tensor.name), Array::f32(tensor.shape, tensor.data));
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkAttrs {
    model: ModelConfig,
}

fn network<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let b = run.b;
    let arch = model(run.fixture, run.attrs::<NetworkAttrs>()?.model)?;
    let mut net = values(b, run.fixture, &arch, "student", false)?;
    let x = run.tensor("x")?;
    let shape = B::shape(&x);
    let size = (shape.h, shape.w);
    let dlogits = run.tensor_of("dlogits", shape.with_channels(arch.config.num_classes))?;

    let (features, encoder) = arch.encoder_train(b, &net.params, &mut net.stats, &x)?;
    let (logits, decoder) = arch.decoder_train(b, &net.params, &mut net.stats, &features)?;
    let low = B::shape(&logits);
    let dlow = ops::interpolate_bwd(b, &dlogits, (low.h, low.w))?;
    let mut grads = b.zeros(arch.table.num_params);
    let dfeatures = decoder.backward(b, &net.params, &mut grads, &dlow)?;
    encoder.backward(b, &net.params, &mut grads, &dfeatures)?;
    run.put_tensor("logits", &ops::interpolate(b, &logits, size)?);
    put_grads(run, &arch, &grads);
    put_network(run, &arch, "student", &net, false);

    let logits = arch.predict(b, &net, &x)?;
    run.put_tensor("logits_eval_after", &ops::interpolate(b, &logits, size)?);
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TvatAttrs {
    model: ModelConfig,
    size: [usize; 2],
    eps: f64,
    iterations: usize,
}

fn tvat<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let b = run.b;
    let attrs: TvatAttrs = run.attrs()?;
    let arch = model(run.fixture, attrs.model)?;
    let x = run.tensor("x")?;
    let d = run.tensor_of("d", B::shape(&x))?;
    let size = run.size(B::shape(&x).n, attrs.size)?;
    let teacher1 = values(b, run.fixture, &arch, "teacher1", true)?;
    let teacher2 = values(b, run.fixture, &arch, "teacher2", true)?;
    let args = exact(attrs.eps, attrs.iterations);
    let decoders = arch.decoders(b, &[&teacher1, &teacher2])?;
    let noise = method_tvat::noise(b, Some(&decoders), &x, size, &d, &args)?;
    if let Some(r) = noise.map(|noise| noise.values(b)).transpose()? {
        run.put_tensor("r", &r);
    }
    Ok(())
}

fn exact(eps: f64, iterations: usize) -> TvatArgs {
    TvatArgs { kind: Tvat::Exact, eps, xi: 0.0, iterations }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TrainStepAttrs {
    model: ModelConfig,
    step: ReferenceStep,
}

/// Settings of one step as the reference names them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReferenceStep {
    lr: f64,
    momentum: f64,
    weight_decay: f64,
    keep: f64,
    unsup_weight: f64,
    threshold: f64,
    negative_threshold: f64,
    topk: usize,
    gamma: f64,
    tvat_eps: f64,
    active_teacher: usize,
}

/// Everything that a `train_step` fixture gives to the step.
pub(in crate::check) struct TrainStepInputs<B: Backend> {
    pub arch: Architecture,
    pub nets: Networks<B>,
    pub x: B::Tensor,
    pub y: B::Labels,
    pub unlabeled: Unlabeled<B>,
    pub args: StepArgs,
}

impl<B: Backend> TrainStepInputs<B> {
    /// Reads them onto `b`.
    pub fn read(b: &B, fixture: &Fixture) -> Result<TrainStepInputs<B>> {
        let run = Run { b, fixture, out: Default::default() };
        let TrainStepAttrs { model: config, step } = run.attrs()?;
        if !matches!(step.active_teacher, 1 | 2) {
            return Err(
                fixture.bad_attrs(format!("active_teacher: expected 1 or 2, found {}", step.active_teacher))
            );
        }
        let arch = model(fixture, config)?;
        let x_l = run.tensor("x_l")?;
        let y_l = run.labels("y_l", arch.config.num_classes, Some(i64::from(ops::IGNORE)))?;
        let (shape, labels) = (B::shape(&x_l), B::labels_shape(&y_l));
        if labels != shape.with_channels(1) {
            let message = format!("expected shape {}, found {labels}", shape.with_channels(1));
            return Err(fixture.bad_input("y_l", message));
        }
        let x_u_weak = run.tensor("x_u_weak")?;
        let shape_u: Shape = B::shape(&x_u_weak);
        let unlabeled = Unlabeled {
            strong: run.tensor_of("x_u_strong", shape_u)?,
            truth: None,
            mix: mix(fixture, shape_u.n, (shape_u.h, shape_u.w))?,
            noise_labeled: run.tensor_of("d_l", arch.feature_shape(shape))?,
            noise_unlabeled: run.tensor_of("d_u", arch.feature_shape(shape_u))?,
            weak: x_u_weak,
        };
        let nets = Networks {
            student: values(b, fixture, &arch, "student", false)?,
            teachers: ["teacher1", "teacher2"]
                .into_iter()
                .map(|name| values(b, fixture, &arch, name, false))
                .collect::<Result<_>>()?,
            momentum: b.zeros(arch.table.num_params),
            grads: b.zeros(arch.table.num_params),
        };
        let args = StepArgs {
            lr: step.lr,
            momentum: step.momentum,
            weight_decay: step.weight_decay,
            ema_decay: step.keep,
            unsup_weight: step.unsup_weight,
            conf_ce: ConfCe {
                threshold: step.threshold,
                negative_threshold: step.negative_threshold,
                square_weight: if step.negative_threshold > 0.0 { SQUARE_WEIGHT } else { 0.0 },
                weighted: true,
            },
            ensemble: Ensemble { topk: step.topk, gamma: step.gamma },
            tvat: exact(step.tvat_eps, 1),
            active_teacher: step.active_teacher,
            supervised_loss: SupervisedLoss::CrossEntropy,
            algorithm: Algorithm::PsMt,
            keep_noise: true,
        };
        Ok(TrainStepInputs { arch, nets, x: x_l, y: y_l, unlabeled, args })
    }
}

fn train_step<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let b = run.b;
    let TrainStepInputs { arch, mut nets, x, y, unlabeled, args } = TrainStepInputs::read(b, run.fixture)?;
    let batch = Batch { x, y, unlabeled: Some(unlabeled) };
    let out = method_step(b, &arch, &mut nets, &batch, &args)?;
    run.put_scalar("loss_sup", b.read_scalar(&out.loss_sup));
    run.put_scalar("loss_unsup", out.loss_unsup(b));
    if let Some(pseudo) = out.unsup.and_then(|u| u.pseudo) {
        let counts = b.read_counts(&pseudo.histogram);
        run.put_counts("histogram", vec![counts.len()], &counts);
    }
    if let Some((r_l, r_u)) = out.noise {
        run.put_tensor("r_l", &r_l);
        run.put_tensor("r_u", &r_u);
    }
    put_grads(run, &arch, &nets.grads);
    let named = ["student", "teacher1", "teacher2"].into_iter();
    for (prefix, net) in named.zip([&nets.student].into_iter().chain(&nets.teachers)) {
        put_network(run, &arch, prefix, net, true);
    }
    Ok(())
}
