//! A training step on drawn images, small enough to run many times on the emulator.
#![allow(dead_code)] // each test program uses a part

use crate::networks;
use psmt_fast::Result;
use psmt_fast::backend::cuda::Cuda;
use psmt_fast::method::{
    self, Batch, Networks, StepArgs, SupervisedLoss, Tvat, TvatArgs, Unlabeled, cut_mix,
};
use psmt_fast::model::{Architecture, Initialization, ModelConfig, Network};
use psmt_fast::ops::*;
use psmt_fast::rng::{Domain, Key};

/// Shape of a step's labelled images, and of its unlabelled ones.
pub const IMAGES: Shape = Shape::new(2, 33, 33, 3);

/// A network of three classes, the smallest that trains.
pub fn arch() -> Architecture {
    networks::arch(ModelConfig { stem_width: 4, planes: 2, aspp: 6, low_level: 4, ..ModelConfig::tiny(3) })
}

/// Networks of different weights.
pub fn networks<B: Backend>(b: &B, arch: &Architecture) -> Networks<B> {
    b.phase("networks");
    let net = |number| {
        let (params, stats) = arch.init(Initialization::default(), 5, number);
        Network::upload(b, &params, &stats)
    };
    let zeros = || b.zeros(arch.table.num_params);
    Networks { student: net(0), teachers: vec![net(1), net(2)], momentum: zeros(), grads: zeros() }
}

/// A step. Its supervised and its unsupervised loss outlive the step's memory.
pub fn step<B: Backend>(
    b: &B,
    arch: &Architecture,
    nets: &mut Networks<B>,
    number: u64,
) -> Result<[B::Scalar; 2]> {
    let args = StepArgs {
        lr: 0.01,
        momentum: 0.9,
        weight_decay: 1e-4,
        ema_decay: 0.9,
        unsup_weight: 1.0,
        conf_ce: ConfCe { threshold: 0.2, negative_threshold: 0.0, square_weight: 0.0, weighted: true },
        ensemble: Ensemble { topk: 2, gamma: 0.5 },
        tvat: TvatArgs { kind: Tvat::Exact, eps: 2.0, xi: 0.1, iterations: 1 },
        active_teacher: 1,
        supervised_loss: SupervisedLoss::CrossEntropy,
        algorithm: method::Algorithm::PsMt,
        keep_noise: false,
    };
    b.step("training step", || {
        let out = method::train_step(b, arch, nets, &batch(b, arch, number), &args)?;
        let term = out.unsup.unwrap().terms[0].1.clone();
        Ok([out.loss_sup, term])
    })
}

/// Labelled images with some ignored pixels, and unlabelled ones with true labels, drawn from `seed`.
pub fn batch<B: Backend>(b: &B, arch: &Architecture, seed: u64) -> Batch<B> {
    let key = |n: u64| Key::new(seed, Domain::Bench, n);
    let image = |n: u64| b.uniform_noise(IMAGES, key(n));
    let label =
        |i: usize| if i.is_multiple_of(19) { IGNORE } else { (i / 7 % arch.config.num_classes) as u8 };
    let labels: Vec<u8> = (0..IMAGES.positions()).map(label).collect();
    let features = arch.feature_shape(IMAGES);
    Batch {
        x: image(0),
        y: b.upload_labels(IMAGES.with_channels(1), &labels),
        unlabeled: Some(Unlabeled {
            weak: image(1),
            strong: image(2),
            truth: Some(b.upload_labels(IMAGES.with_channels(1), &labels)),
            mix: cut_mix::sample(cut_mix::CutMixForm::Voc, IMAGES.n, (IMAGES.h, IMAGES.w), key(3)),
            noise_labeled: b.uniform_noise(features, key(4)),
            noise_unlabeled: b.uniform_noise(features, key(5)),
        }),
    }
}

/// Bits of three steps' losses and of the student afterwards.
pub fn run(b: &Cuda, arch: &Architecture) -> (Vec<u64>, Vec<u32>) {
    let mut nets = networks(b, arch);
    let mut kept = Vec::new();
    for number in 0..3 {
        kept.extend(step(b, arch, &mut nets, number).unwrap());
    }
    let losses = kept.iter().map(|s| b.read_scalar(s).to_bits()).collect();
    let params = b.download_vector(&nets.student.params).iter().map(|v| v.to_bits()).collect();
    b.check().unwrap();
    (losses, params)
}

/// The steps that a planned device rehearses.
pub fn rehearse(twin: &Cuda, arch: &Architecture) -> Result<()> {
    let mut nets = networks(twin, arch);
    (0..2).try_for_each(|number| step(twin, arch, &mut nets, number).map(drop))
}
