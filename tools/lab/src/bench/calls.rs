//! The calls of a training step, found by running it on a device that notes them. Must not know how a call is
//! timed.

use super::case::sized;
use super::stage::{self, Sizes};
use super::trace::{Counted, Trace};
use crate::cases::conv2d::End;
use crate::cases::{
    AdaptiveAvgPool, AdaptiveAvgPoolBwd, BatchNormEval, BatchNormEvalBwd, BatchNormTangent, Call,
    ConfusionMatrix, Fprop, LeakyRelu, LeakyReluBwd, NormalizeBytes, Photometric, UniformNoise, WatchTensor,
    WatchVector,
};
use psmt_fast::Result;
use psmt_fast::method::{self, Algorithm, Batch, Networks, StepArgs, SupervisedLoss, Tvat, Unlabeled};
use psmt_fast::model::Network;
use psmt_fast::ops::{ConfCe, Ohem};

/// The distinct calls of one step of the method, in the order of their first, those that only another step
/// makes at the end with a count of 0: `others` are settings of such steps.
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

/// Every op at the sizes of a step of the method with feature noise `tvat`: its calls, with how often, then
/// those of the other losses, baselines and kinds of noise, and of ops outside of `train_step`, with 0.
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
    // Frozen batch norms by themselves, as where no kernel applies them to a convolution's output.
    let frozen = calls.iter().find_map(|c| match &c.call {
        Call::Fprop(Fprop { conv, x, end: End::Norm(norm, residual) }) => {
            let (x, norm, residual) = (conv.out_shape(*x), *norm, *residual);
            Some((
                BatchNormEval { x, norm, residual },
                BatchNormEvalBwd { x, norm },
                BatchNormTangent { x, norm },
            ))
        }
        _ => None,
    });
    let frozen =
        frozen.into_iter().flat_map(|(eval, bwd, tangent)| [eval.into(), bwd.into(), tangent.into()]);
    let pooled = calls.iter().find_map(|c| match &c.call {
        Call::AdaptiveAvgPool(AdaptiveAvgPool { x, size }) => {
            Some(AdaptiveAvgPoolBwd { dy: sized(x, *size), size: (x.h, x.w) }.into())
        }
        _ => None,
    });
    let features = sizes.arch.feature_shape(images);
    let (labels, classes) = (images.with_channels(1), sizes.arch.config.num_classes);
    let outside: [Call; 9] = [
        LeakyRelu { x: features }.into(),
        LeakyReluBwd { x: features }.into(),
        UniformNoise { x: features }.into(),
        ConfusionMatrix { x: labels, classes, above: None }.into(),
        ConfusionMatrix { x: labels, classes, above: Some(0.6) }.into(),
        NormalizeBytes { x: images }.into(),
        Photometric { x: images, strong: stage::strong(sizes) }.into(),
        WatchTensor { x: sizes.logits() }.into(),
        WatchVector { len: sizes.arch.table.num_params }.into(),
    ];
    let outside: Vec<Call> = frozen.chain(pooled).chain(outside).collect();
    calls.extend(outside.into_iter().map(|call| Counted { call, count: 0 }));
    Ok(calls)
}

fn one_step(sizes: &Sizes, args: &StepArgs) -> Result<Vec<Counted>> {
    let trace = Trace::default();
    let table = &sizes.arch.table;
    let net = || Network { params: table.num_params, stats: table.num_stats };
    let mut nets = Networks {
        student: net(),
        teachers: vec![net(), net()],
        momentum: table.num_params,
        grads: table.num_params,
    };
    let images = sizes.images();
    let features = sizes.arch.feature_shape(images);
    let batch: Batch<Trace> = Batch {
        x: images,
        y: images.with_channels(1),
        unlabeled: Some(Unlabeled {
            weak: images,
            strong: images,
            truth: None,
            mix: stage::mix(sizes),
            noise_labeled: features,
            noise_unlabeled: features,
        }),
    };
    method::train_step(&trace, &sizes.arch, &mut nets, &batch, args)?;
    Ok(trace.calls())
}

#[cfg(test)]
mod tests {
    use super::*;
    use psmt_fast::model::ModelConfig;

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
        let stem = calls.iter().find(|c| matches!(&c.call, Call::Wgrad(wgrad) if wgrad.x.c == 3)).unwrap();
        let dgrads = ["conv2d_dgrad", "conv2d_dgrad_add", "conv2d_dgrad_sums"].map(flops).iter().sum::<u64>();
        assert_eq!(dgrads, 2 * (pass - stem.call.flops().unwrap()));
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
