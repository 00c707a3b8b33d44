//! Steps of several batches: the gradient is the mean of the batches', and runs repeat and resume.

use crate::cli_common::{Project, expect, records};
use crate::compare::{assert_within, largest};
use crate::networks::tiny;
use crate::step_common::{self, networks};
use psmt_fast::backend::cpu::Cpu;
use psmt_fast::method::{self, Algorithm, Batch, Networks, StepArgs, Tvat, TvatArgs, Unlabeled};
use psmt_fast::model::Architecture;
use psmt_fast::ops::{Device, IGNORE};

type Cpu64 = Cpu<f64>;

fn step_args(algorithm: Algorithm) -> StepArgs {
    let config = psmt_fast::config::RunConfig::preset(Some(psmt_fast::data::Preset::Demo));
    StepArgs {
        algorithm,
        lr: 0.1,
        unsup_weight: 1.5,
        tvat: TvatArgs { kind: Tvat::None, ..config.step_args().tvat },
        ..config.step_args()
    }
}

/// A batch whose unlabelled images have no true labels.
fn batch(b: &Cpu64, arch: &Architecture, seed: u64) -> Batch<Cpu64> {
    let batch = step_common::batch(b, arch, seed);
    Batch { unlabeled: batch.unlabeled.map(|unlabeled| Unlabeled { truth: None, ..unlabeled }), ..batch }
}

fn gradient(b: &Cpu64, arch: &Architecture, args: &StepArgs, batches: &[(&Batch<Cpu64>, f64)]) -> Vec<f32> {
    let mut nets = networks(b, arch);
    b.clear(&mut nets.grads);
    for &(batch, share) in batches {
        method::accumulate(b, arch, &mut nets, batch, args, share).unwrap();
    }
    b.download_vector(&nets.grads)
}

#[test]
fn the_gradient_is_the_mean_of_the_batches() {
    let b = Cpu64::new();
    let arch = tiny(4);
    let (one, other) = (batch(&b, &arch, 1), batch(&b, &arch, 2));
    for algorithm in [Algorithm::Supervised, Algorithm::PsMt, Algorithm::OneTeacher, Algorithm::MeanTeacher] {
        let args = step_args(algorithm);
        let of = |batches: &[(&Batch<Cpu64>, f64)]| gradient(&b, &arch, &args, batches);
        let (first, second) = (of(&[(&one, 1.0)]), of(&[(&other, 1.0)]));
        let both = of(&[(&one, 0.5), (&other, 0.5)]);
        assert!(first.iter().any(|v| *v != 0.0) && first != second, "{algorithm:?}");
        let allowed = 1e-6 * largest(&first).max(largest(&second));
        let mean = first.iter().zip(&second).map(|(a, b)| 0.5 * (f64::from(*a) + f64::from(*b)));
        let mean: Vec<f64> = mean.collect();
        assert_within(&format!("{algorithm:?}"), &both, &mean, |_| allowed);
    }
}

#[test]
fn what_an_algorithm_lacks_is_named() {
    let b = Cpu64::new();
    let arch = tiny(4);
    let whole = batch(&b, &arch, 1);
    let step = |batch: &Batch<Cpu64>, teachers: usize, algorithm| {
        let mut nets = networks(&b, &arch);
        nets.teachers.truncate(teachers);
        let result = method::train_step(&b, &arch, &mut nets, batch, &step_args(algorithm));
        result.map(|_| ()).map_err(|e| e.to_string())
    };
    let labeled = Batch { unlabeled: None, ..whole.clone() };
    assert_eq!(step(&labeled, 0, Algorithm::Supervised), Ok(()));
    for (batch, teachers, expected) in
        [(&labeled, 2, "PsMt needs unlabelled images"), (&whole, 1, "PsMt needs 2 teachers, found 1")]
    {
        let said = step(batch, teachers, Algorithm::PsMt).unwrap_err();
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn two_halves_of_the_same_batch_are_one_step() {
    let b = Cpu64::new();
    let arch = tiny(4);
    let batch = batch(&b, &arch, 3);
    for algorithm in [Algorithm::Supervised, Algorithm::PsMt] {
        let args = step_args(algorithm);
        let (mut whole, mut halves) = (networks(&b, &arch), networks(&b, &arch));
        method::train_step(&b, &arch, &mut whole, &batch, &args).unwrap();
        b.clear(&mut halves.grads);
        for _ in 0..2 {
            method::accumulate(&b, &arch, &mut halves, &batch, &args, 0.5).unwrap();
        }
        method::update(&b, &arch, &mut halves, &args).unwrap();
        // Halves are exact, so parameters have the same bits; running statistics moved twice.
        let params = |n: &Networks<Cpu64>| {
            [&n.student, &n.teachers[0], &n.teachers[1]].map(|net| b.download_vector(&net.params))
        };
        assert_eq!(params(&whole), params(&halves), "{algorithm:?}");
        let stats = |n: &Networks<Cpu64>| b.download_vector(&n.student.stats);
        assert_ne!(stats(&whole), stats(&halves));
    }
}

#[test]
fn runs_of_several_batches_per_step_repeat_and_resume() {
    let p = Project::new();
    let flags = ["--batch-size", "2", "--accumulate", "2"];
    let out = p.train("whole", &flags);
    expect(&out, 0, &["batch norms see 2 images at a time, not the 4 of a step", "results in whole"]);
    p.train_and_kill("killed", &flags);
    expect(&p.resume("killed", &[]), 0, &["results in killed"]);
    let bits = |out: &str| p.read(&format!("{out}/checkpoints/last.safetensors"));
    assert!(bits("whole") == bits("killed"), "the resumed run differs");
    // As many images a step, other batch norms.
    expect(&p.train("one", &["--batch-size", "4"]), 0, &[]);
    let steps = |out: &str| records(&p.path(out)).last().unwrap()["step"].clone();
    assert_eq!(steps("whole"), steps("one"));
    assert!(bits("whole") != bits("one"));
    let out = p.train("dry", &[&flags[..], &["--dry-run"]].concat());
    expect(&out, 0, &["4 labelled and as many unlabelled a step, in 2 batches of 2"]);
    expect(&p.train("none", &["--accumulate", "0"]), 3, &["optim.accumulate", "at least 1"]);
}

/// True labels of unlabelled images are counted against the pseudo labels that pass, and change nothing.
#[test]
fn pseudo_labels_are_measured_and_true_labels_teach_nothing() {
    let b = Cpu64::new();
    let arch = tiny(4);
    let classes = arch.config.num_classes;
    for algorithm in [Algorithm::PsMt, Algorithm::OneTeacher, Algorithm::MeanTeacher] {
        let plain = batch(&b, &arch, 1);
        let unlabeled = plain.unlabeled.clone().unwrap();
        let truth = Some(plain.y.clone());
        let measured = Batch { unlabeled: Some(Unlabeled { truth, ..unlabeled.clone() }), ..plain.clone() };
        let mut args = step_args(algorithm);
        // In the middle of the confidences, and not at one, which the device holds in double precision.
        let mut nets = networks(&b, &arch);
        let teachers = &mut nets.teachers[..algorithm.num_teachers()];
        let pseudo = method::pseudo_labels(&b, &arch, teachers, &unlabeled.weak, &args).unwrap();
        let mut want = None;
        if let Some(pseudo) = &pseudo {
            let confidence = b.download(&pseudo.confidence);
            let mut sorted = confidence.clone();
            sorted.sort_by(f32::total_cmp);
            let middle = sorted.len() / 2;
            args.conf_ce.threshold = (f64::from(sorted[middle - 1]) + f64::from(sorted[middle])) / 2.0;
            let (label, truth) = (b.download_labels(&pseudo.label), b.download_labels(&plain.y));
            let mut counts = vec![0u64; classes * classes];
            for i in 0..truth.len() {
                if truth[i] != IGNORE && f64::from(confidence[i]) >= args.conf_ce.threshold {
                    counts[usize::from(truth[i]) * classes + usize::from(label[i])] += 1;
                }
            }
            assert!(counts.iter().sum::<u64>() > 0);
            want = Some(counts);
        }
        assert_eq!(pseudo.is_some(), algorithm.has_pseudo_labels());

        let step = |batch: &Batch<Cpu64>| {
            let mut nets = networks(&b, &arch);
            b.clear(&mut nets.grads);
            let out = method::accumulate(&b, &arch, &mut nets, batch, &args, 1.0).unwrap();
            let truth = out.unsup.unwrap().pseudo.and_then(|p| p.truth).map(|counts| b.read_counts(&counts));
            let bits: Vec<u32> = b.download_vector(&nets.grads).iter().map(|v| v.to_bits()).collect();
            (bits, truth)
        };
        let (without, with) = (step(&plain), step(&measured));
        assert!(without.0 == with.0, "{algorithm:?}: true labels change the gradient");
        assert_eq!((without.1, with.1), (None, want), "{algorithm:?}");
    }
}
