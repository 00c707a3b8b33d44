//! Planned memory on the CUDA device: steps in an arena give the same bits as without one and ask the driver
//! for nothing, and values that are not finite are found where they are.

use crate::cuda_common::{CHECKED, DTYPES, PLAIN};
use crate::driver_common::{Hooked, Hooks, emulator, hooked};
use crate::step_common::{IMAGES, arch, networks, rehearse, run, step};
use psmt_fast::backend::cpu::Cpu;
use psmt_fast::backend::cuda::{Cuda, Dtype};
use psmt_fast::ops::*;
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

#[test]
fn planned_steps_allocate_nothing_and_compute_the_same() {
    let arch = arch();
    for dtype in DTYPES {
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
    // Three networks, momentum and gradient, to whole blocks, and three copies in 16 bits.
    let held = |what: &str| plan.held.iter().find(|u| u.what == what).map_or(0, |u| u.bytes) as usize;
    let block = |bytes: usize| bytes.next_multiple_of(256);
    assert_eq!(held("networks"), 5 * block(4 * params) + 3 * block(4 * stats));
    assert_eq!(held("16-bit copies of parameters"), 3 * block(2 * params));
    // Labels of both kinds of images, and CutMix boxes for the images and for the loss; for a step and for
    // the next.
    assert_eq!(held("data that arrives"), 2 * (2 * block(IMAGES.positions()) + 2 * block(1)));
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
    let drivers = [PLAIN, CHECKED].into_iter().filter_map(emulator);
    let devices: Vec<Cuda> = drivers.flat_map(|d| DTYPES.map(|t| Cuda::new(d.clone(), t))).collect();
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
            assert_eq!(watched_by(&Cpu::<f32>::new(), len, bad), expected, "{len} values, bad {bad:?}");
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
