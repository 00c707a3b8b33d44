//! Planned memory on the CUDA device: steps in an arena give the same bits as without one and ask the driver for nothing,
//! and values that are not finite are found where they are.

mod driver_common;

use driver_common::{Hooked, Hooks, hooked};
use psmt_fast::Result;
use psmt_fast::backend::cpu::Cpu;
use psmt_fast::backend::cuda::emulator::{self, EmulatorOptions};
use psmt_fast::backend::cuda::{Cuda, Dtype};
use psmt_fast::method::{self, Batch, Networks, StepArgs, SupervisedLoss, Tvat, TvatArgs, cut_mix};
use psmt_fast::model::{DeepLab, ModelConfig, Network};
use psmt_fast::ops::*;
use psmt_fast::rng::{Domain, Key};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts allocations of more than `LARGE` bytes.
struct Counting {
    allocations: AtomicUsize,
    arena: bool,
}

const LARGE: usize = 64;

impl Hooks for Counting {
    fn alloc(&self, bytes: usize) {
        self.allocations.fetch_add(usize::from(bytes > LARGE), Ordering::Relaxed);
    }
    fn allows_arena(&self) -> bool {
        self.arena
    }
}

fn counting(arena: bool) -> Option<Arc<Hooked<Counting>>> {
    hooked(Counting { allocations: AtomicUsize::new(0), arena })
}

const IMAGES: Shape = Shape::new(2, 33, 33, 3);

fn arch() -> DeepLab {
    DeepLab::new(ModelConfig { stem_width: 4, planes: 2, aspp: 6, low_level: 4, ..ModelConfig::tiny(3) })
        .unwrap()
}

fn networks<B: Backend>(b: &B, arch: &DeepLab) -> Networks<B> {
    b.phase("networks");
    let net = |number| {
        let (params, stats) = arch.init(5, number);
        Network::upload(b, &params, &stats)
    };
    let zeros = || b.zeros(arch.table.num_params);
    Networks { student: net(0), teacher1: net(1), teacher2: net(2), momentum: zeros(), grads: zeros() }
}

/// A step, of which the losses outlive its memory.
fn step<B: Backend>(b: &B, arch: &DeepLab, nets: &mut Networks<B>, number: u64) -> Result<[B::Scalar; 2]> {
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
        let key = |n: u64| Key::new(number, Domain::Bench, n);
        let image = |n: u64| b.uniform_noise(IMAGES, key(n));
        let labels: Vec<u8> = (0..IMAGES.positions()).map(|i| (i / 7 % 3) as u8).collect();
        let features = arch.feature_shape(IMAGES);
        let batch: Batch<B> = Batch {
            x_l: image(0),
            y_l: b.upload_labels(IMAGES.with_channels(1), &labels),
            x_u_weak: image(1),
            x_u_strong: image(2),
            mix: cut_mix::sample(cut_mix::CutMixForm::Voc, IMAGES.n, (IMAGES.h, IMAGES.w), key(3)),
            d_l: b.uniform_noise(features, key(4)),
            d_u: b.uniform_noise(features, key(5)),
        };
        let out = method::train_step(b, arch, nets, &batch, &args)?;
        let term = out.unsup.unwrap().terms[0].1.clone();
        Ok([out.loss_sup, term])
    })
}

/// Bits of three steps' losses and of the student afterwards.
fn run(b: &Cuda, arch: &DeepLab) -> (Vec<u64>, Vec<u32>) {
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

fn rehearse(twin: &Cuda, arch: &DeepLab) -> Result<()> {
    let mut nets = networks(twin, arch);
    (0..2).try_for_each(|number| step(twin, arch, &mut nets, number).map(drop))
}

#[test]
fn planned_steps_allocate_nothing_and_compute_the_same() {
    let arch = arch();
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let (Some(free), Some(tight)) = (counting(false), counting(true)) else { return };
        let without = Cuda::new(free.clone(), dtype);
        let (same, plan) = without.planned(|twin| rehearse(twin, &arch)).unwrap().unwrap();
        let expected = run(&same, &arch);
        assert!(
            free.hooks.allocations.load(Ordering::Relaxed) > 100,
            "the driver refuses an arena, and has one"
        );

        let device = Cuda::new(tight.clone(), dtype);
        let (planned, other) = device.planned(|twin| rehearse(twin, &arch)).unwrap().unwrap();
        assert_eq!(plan, other);
        assert_eq!(tight.hooks.allocations.load(Ordering::Relaxed), 0, "planning computes nothing");
        assert_eq!(run(&planned, &arch), expected);
        // Networks, momentum and gradient; in 16 bits copies; the arena; counts that outlive a step.
        let mut nets = networks(&planned, &arch);
        step(&planned, &arch, &mut nets, 7).unwrap();
        let before = tight.hooks.allocations.load(Ordering::Relaxed);
        step(&planned, &arch, &mut nets, 8).unwrap();
        let during = tight.hooks.allocations.load(Ordering::Relaxed) - before;
        assert!(during == 0, "{during} allocations in a planned step");
        planned.check().unwrap();
    }
}

#[test]
fn a_plan_says_what_memory_is_for() {
    let Some(driver) = counting(true) else { return };
    let arch = arch();
    let (_, plan) = Cuda::new(driver, Dtype::Bf16).planned(|twin| rehearse(twin, &arch)).unwrap().unwrap();
    let (params, stats) = (arch.table.num_params, arch.table.num_stats);
    // Three networks with momentum and gradient beside them, to whole blocks, and three copies in 16 bits.
    let held = |what: &str| plan.held.iter().find(|u| u.what == what).map_or(0, |u| u.bytes) as usize;
    let block = |bytes: usize| bytes.next_multiple_of(256);
    assert_eq!(held("networks"), 5 * block(4 * params) + 3 * block(4 * stats));
    assert_eq!(held("16-bit copies of parameters"), 3 * block(2 * params));
    let [step] = plan.steps.as_slice() else { panic!("{plan:?}") };
    let at_peak: u64 = step.at_peak.iter().map(|u| u.bytes).sum();
    assert!(step.bytes >= at_peak && step.bytes <= at_peak * 11 / 10, "{step:?}");
    // At least what the backward pass needs: the encoder's and decoder's activations in 16 bits.
    let activations = step.at_peak.iter().find(|u| u.what == "student's activations").unwrap().bytes;
    let kept = arch.activation_bytes(IMAGES) / 2;
    assert!(activations > kept / 2 && activations < 2 * kept, "{activations} of {kept}: {step:?}");
}

#[test]
fn a_step_that_leaves_its_plan_computes_the_same() {
    let Some(driver) = counting(true) else { return };
    let d = Cuda::new(driver.clone(), Dtype::F32);
    let shape = Shape::new(1, 40, 40, 3);
    let values: Vec<f32> = (0..shape.len()).map(|i| i as f32 - 900.0).collect();
    // Planned for one tensor that lives as long as the step, then one of half the size.
    let work = |b: &Cuda, extra: bool| {
        b.step("s", || {
            let x = b.upload(shape, &values);
            let other = extra.then(|| b.leaky_relu(&x, 0.5));
            let y = b.leaky_relu(&x, 0.5);
            let z = b.slice_channels(&y, 1, 2);
            (b.download(&z), other)
        })
    };
    let rehearse = |twin: &Cuda| {
        (0..2).for_each(|_| drop(work(twin, false)));
        Ok(())
    };
    let (planned, _) = d.planned(rehearse).unwrap().unwrap();
    let expected = work(&d, false).0;
    // The tensor that the plan does not know takes another's place and is kept into the next step.
    let (got, kept) = work(&planned, true);
    assert_eq!(got, expected);
    let before = planned.download(kept.as_ref().unwrap());
    assert_eq!(work(&planned, true).0, expected);
    assert_eq!(work(&planned, false).0, expected);
    assert_eq!(planned.download(kept.as_ref().unwrap()), before);
    planned.check().unwrap();
}

/// Watches tensors of `len` values with a bad one at each of `bad`, as places 3, 4, ….
fn watched_by<B: Backend>(b: &B, len: usize, bad: &[(usize, f32)]) -> Option<(u32, u64)> {
    let mut watch = b.zero_counts(1);
    let clean = vec![1.5; len];
    b.watch_tensor(&mut watch, &b.upload(Shape::new(1, 1, len, 1), &clean), 2);
    for (number, &(at, value)) in bad.iter().enumerate().rev() {
        let mut values = clean.clone();
        values[at] = value;
        values[len - 1] = if number % 2 == 0 { value } else { values[len - 1] };
        let place = 3 + number as u32;
        match number % 2 {
            0 => b.watch_tensor(&mut watch, &b.upload(Shape::new(1, 1, len, 1), &values), place),
            _ => b.watch_vector(&mut watch, &b.upload_vector(&values), place),
        }
    }
    watched(b.read_counts(&watch)[0])
}

#[test]
fn the_first_value_that_is_not_finite_is_found() {
    let mut devices = Vec::new();
    for check in [false, true] {
        match emulator::open(EmulatorOptions { check, ..EmulatorOptions::default() }) {
            Ok(driver) => devices.extend([Dtype::F32, Dtype::Bf16].map(|t| Cuda::new(driver.clone(), t))),
            Err(e) => eprintln!("skipped: {e}"),
        }
    }
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    for len in [1, 7, 8, 9, 300, 5003, 1 << 20] {
        let cases: [&[(usize, f32)]; 5] = [
            &[],
            &[(0, nan)],
            &[(len / 2, -inf)],
            &[(len - 1, inf), (0, nan)],
            &[(len / 3, nan), (len - 1, inf)],
        ];
        for bad in cases {
            let expected = bad.first().map(|&(at, _)| (3, at as u64));
            assert_eq!(watched_by(&Cpu::<f32>::new(), len, bad), expected);
            for d in &devices {
                assert_eq!(watched_by(d, len, bad), expected, "{len} values, bad {bad:?}");
                d.check().unwrap();
            }
        }
    }
    for d in &devices {
        let mut v = vec![0.0; 1000];
        v[617] = inf;
        assert_eq!(first_non_finite(d, &d.upload_vector(&v)), Some(617));
        assert_eq!(first_non_finite(d, &d.zeros(1000)), None);
    }
}
