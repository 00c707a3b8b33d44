//! Everything that a run must remember: networks, momenta and counters. Must not know files (weights to start
//! from are read for it).

use super::losses::Sums;
use crate::Result;
use crate::config::RunConfig;
use crate::eval::{Nets, Scores, Which};
use crate::method::{NetworkName, Networks};
use crate::model::{Architecture, Network};
use crate::ops::{Backend, first_non_finite};
use crate::weights::Weights;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The values of a run.
pub struct State<B: Backend> {
    /// Student and teachers; as many teachers as the algorithm has.
    pub nets: Networks<B>,
    /// Momenta of teacher 1 and 2, while the warm-up trains them.
    pub teacher_momenta: Vec<B::Vector>,
    /// Counters and records.
    pub progress: Progress,
}

/// Counters of a run and what its records need across a resume. Exact in JSON: floating-point sums are kept
/// as bits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// Finished optimiser steps, of the warm-up's networks and of the epochs.
    pub step: u64,
    /// The last step of an epoch, or of a pass of the warm-up, is done; its record and validation are not.
    pub end_pending: bool,
    /// Records in `metrics.jsonl`.
    pub metrics_lines: u64,
    /// Sums over the running epoch.
    pub sums: Sums,
    /// The best validation so far.
    pub best: Option<Best>,
    /// Scores of the last validation by the network's name, see [`Which::name`].
    pub scores: BTreeMap<String, Scores>,
}

impl Progress {
    /// All counters; floating-point sums are none.
    pub fn counters(&self) -> impl Iterator<Item = u64> {
        let sums = &self.sums;
        [self.step, self.metrics_lines, sums.steps, sums.passed, sums.pixels]
            .into_iter()
            .chain(sums.histogram)
    }
}

/// A best validation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Epoch, from 1.
    pub epoch: u64,
    /// Bits of its mIoU.
    pub miou: u64,
}

impl<B: Backend> State<B> {
    /// Networks of a new run: each its own initialisation, over which `weights` are put; momenta zero.
    ///
    /// # Errors
    /// A file of weights that is damaged or cannot be read.
    pub fn new(
        b: &B,
        arch: &Architecture,
        config: &RunConfig,
        weights: Option<&Weights>,
    ) -> Result<State<B>> {
        State::with(b, arch, config, |number| {
            let seeded = if config.method.shared_init { 0 } else { number };
            let (mut params, mut stats) =
                arch.init(config.model.initialization, config.schedule.seed, seeded);
            if let Some(weights) = weights {
                weights.put(arch, number, &mut params, &mut stats)?;
            }
            Ok((params, stats))
        })
    }

    /// The same with values of no meaning, for what depends on sizes alone.
    pub(super) fn zeros(b: &B, arch: &Architecture, config: &RunConfig) -> Result<State<B>> {
        State::with(b, arch, config, |_| {
            Ok((vec![0.0; arch.table.num_params], vec![0.0; arch.table.num_stats]))
        })
    }

    /// Networks of (parameters, running statistics) that `init` gives for their numbers.
    fn with(
        b: &B,
        arch: &Architecture,
        config: &RunConfig,
        init: impl Fn(u64) -> Result<(Vec<f32>, Vec<f32>)>,
    ) -> Result<State<B>> {
        let algorithm = config.method.algorithm;
        b.phase("networks");
        let net = |number: u64| -> Result<Network<B>> {
            let (params, stats) = init(number)?;
            Ok(Network::upload(b, &params, &stats))
        };
        let zeros = || b.zeros(arch.table.num_params);
        let student = net(0)?;
        let teachers = (1..=algorithm.num_teachers() as u64).map(net).collect::<Result<_>>()?;
        b.phase("momentum and gradient");
        Ok(State {
            nets: Networks { student, teachers, momentum: zeros(), grads: zeros() },
            teacher_momenta: config
                .warm_up_networks()
                .iter()
                .filter(|(name, _)| *name != NetworkName::Student)
                .map(|_| zeros())
                .collect(),
            progress: Progress::default(),
        })
    }

    /// Gives the teachers that still learn in the warm-up a momentum, and takes it from those that do not: a
    /// checkpoint of a run whose warm-up has become longer or shorter since has too few or too many.
    pub(super) fn fit_momenta(&mut self, b: &B, arch: &Architecture, config: &RunConfig, warm_up: bool) {
        let learners = config.warm_up_networks();
        let teachers = learners.iter().filter(|(name, _)| *name != NetworkName::Student).count();
        self.teacher_momenta
            .resize_with(if warm_up { teachers } else { 0 }, || b.zeros(arch.table.num_params));
    }

    /// Makes the teachers copies of the student.
    pub(super) fn copy_to_teachers(&mut self) {
        self.nets.teachers.fill(self.nets.student.clone());
    }

    /// The networks by their names in checkpoints.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &Network<B>)> {
        let names = ["student", Which::Teacher1.name(), Which::Teacher2.name()];
        names.into_iter().zip([&self.nets.student].into_iter().chain(&self.nets.teachers))
    }

    /// The same for predictions.
    pub fn eval_nets(&self) -> Nets<'_, B> {
        Nets { student: &self.nets.student, teachers: self.nets.teachers.iter().collect() }
    }

    /// Names the first stored value that is not finite.
    pub(super) fn first_non_finite(&self, b: &B, arch: &Architecture) -> Option<String> {
        for (name, net) in self.named() {
            if let Some(i) = first_non_finite(b, &net.params) {
                return Some(format!("{name}.{}", param_name(arch, i)));
            }
            if let Some(i) = first_non_finite(b, &net.stats) {
                return Some(format!("{name}.{}", arch.table.stat_at(i).map_or("statistics", |e| &e.name)));
            }
        }
        let at = first_non_finite(b, &self.nets.momentum)?;
        Some(format!("momentum of student.{}", param_name(arch, at)))
    }
}

/// Name of the parameter at index `i` of the flat vector.
pub(super) fn param_name(arch: &Architecture, i: usize) -> String {
    arch.table.param_at(i).map_or_else(|| format!("parameter {i}"), |e| e.name.clone())
}
