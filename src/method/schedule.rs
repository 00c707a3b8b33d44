//! What every optimiser step of a run does, as a value: the training loop follows it, and `train --dry-run
//! --schedule` prints it. Plain functions of step number and sizes; must not know data, devices or files.
//!
//! Source: PS-MT's released training loop. A warm-up of passes over the labelled images, the networks one
//! after the other at the constant base rate, precedes the epochs and is not counted in them; poly rate and
//! ramp-up begin with the first epoch.

use crate::ops::View;
use serde::{Deserialize, Serialize};

/// base (1 - step / total)^0.9 (Chen et al., DeepLab, 2017); 0 from `total` on.
pub fn poly_lr(base: f64, step: u64, total: u64) -> f64 {
    if step >= total { 0.0 } else { base * (1.0 - step as f64 / total as f64).powf(0.9) }
}

/// Shape of a ramp-up from about 0 at the start to 1 at its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum RampUp {
    /// 1 - (cos(pi t) + 1) / 2.
    Cosine,
    /// exp(-5 (1 - t)²) (Laine and Aila, 2017).
    Sigmoid,
    /// t.
    Linear,
    /// 1 - exp(-5 t).
    Log,
    /// exp(5 (t - 1)).
    Exp,
    /// 1 throughout.
    Constant,
}

impl RampUp {
    /// Value at `step` of `length` (same unit), t = step / length clamped to [0, 1]; 1 where `length` is 0.
    pub fn at(self, step: f64, length: f64) -> f64 {
        if length <= 0.0 {
            return 1.0;
        }
        let t = (step / length).clamp(0.0, 1.0);
        match self {
            RampUp::Cosine => 1.0 - 0.5 * ((std::f64::consts::PI * t).cos() + 1.0),
            RampUp::Sigmoid => (-5.0 * (1.0 - t) * (1.0 - t)).exp(),
            RampUp::Linear => t,
            RampUp::Log => 1.0 - (-5.0 * t).exp(),
            RampUp::Exp => (5.0 * (t - 1.0)).exp(),
            RampUp::Constant => 1.0,
        }
    }
}

/// One of the networks of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkName {
    /// Learns by gradient descent throughout.
    Student,
    /// Learns in the warm-up, then averages the student over odd epochs.
    Teacher1,
    /// Learns in the warm-up, then averages the student over even epochs.
    Teacher2,
}

impl NetworkName {
    /// The name in records and checkpoints.
    pub fn as_str(self) -> &'static str {
        match self {
            NetworkName::Student => "student",
            NetworkName::Teacher1 => "teacher1",
            NetworkName::Teacher2 => "teacher2",
        }
    }
}

/// Part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Networks learn from labelled images, one after the other.
    WarmUp,
    /// The student learns by the run's algorithm.
    Train,
}

/// What one optimiser step does. Serialised, it is a line of `train --dry-run --schedule`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Part of the run.
    pub phase: Phase,
    /// Warm-up: the pass over the labelled images; training: the epoch. From 1.
    pub pass: u64,
    /// From 0 within the phase; in the warm-up within the network's own steps.
    pub step: u64,
    /// The network that the gradient moves.
    pub network: NetworkName,
    /// View of the labelled images that it learns from.
    pub view: View,
    /// Learning rate.
    pub lr: f64,
    /// Weight of the unsupervised loss; 0 in the warm-up and without unlabelled images.
    pub unsup_weight: f64,
    /// The teacher whose logits lead the ensemble and which moves towards the student after the step; 0 where
    /// none does.
    pub core: u8,
}

/// What ends with a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A pass of the warm-up: of all its networks.
    WarmUpPass {
        /// Its number, from 1.
        pass: u64,
        /// Whether the warm-up ends with it.
        last: bool,
    },
    /// An epoch, from 1.
    Epoch(u64),
}

/// Sizes and settings from which every step of a run follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Networks that learn in the warm-up in the order of their turns, each with its view of the labelled
    /// images.
    pub warm_up: Vec<(NetworkName, View)>,
    /// Passes of the warm-up.
    pub warm_up_passes: u64,
    /// Steps of one network in a pass over the labelled images.
    pub steps_per_pass: u64,
    /// Epochs, the warm-up not counted.
    pub epochs: u64,
    /// Steps of an epoch.
    pub steps_per_epoch: u64,
    /// View of the labelled images that the student learns from in the epochs.
    pub labeled_view: View,
    /// Base learning rate.
    pub lr: f64,
    /// Final weight of the unsupervised loss.
    pub unsup_weight: f64,
    /// Shape of its rise.
    pub ramp_up: RampUp,
    /// Epochs of its rise.
    pub ramp_up_epochs: f64,
    /// Teachers that make pseudo labels, 0 to 2.
    pub num_teachers: usize,
}

impl Schedule {
    /// Steps of one turn of all networks, a pass.
    fn steps_of_pass(&self) -> u64 {
        self.steps_per_pass.saturating_mul(self.warm_up.len() as u64)
    }

    /// Optimiser steps of the warm-up, of all its networks together.
    pub fn warm_up_steps(&self) -> u64 {
        self.steps_of_pass().saturating_mul(self.warm_up_passes)
    }

    /// Optimiser steps of the epochs.
    pub fn train_steps(&self) -> u64 {
        self.epochs.saturating_mul(self.steps_per_epoch)
    }

    /// All optimiser steps.
    pub fn num_steps(&self) -> u64 {
        self.warm_up_steps().saturating_add(self.train_steps())
    }

    /// Step number `number`, from 0 over both phases.
    pub fn step(&self, number: u64) -> Step {
        match number.checked_sub(self.warm_up_steps()) {
            None => self.warm_up_step(number),
            Some(step) => self.train_step(step),
        }
    }

    /// All steps in order.
    pub fn steps(&self) -> impl Iterator<Item = Step> {
        (0..self.num_steps()).map(|number| self.step(number))
    }

    fn warm_up_step(&self, number: u64) -> Step {
        let (pass, within) = (number / self.steps_of_pass(), number % self.steps_of_pass());
        let (network, view) = self.warm_up[(within / self.steps_per_pass) as usize];
        Step {
            phase: Phase::WarmUp,
            pass: pass + 1,
            step: pass * self.steps_per_pass + within % self.steps_per_pass,
            network,
            view,
            lr: self.lr,
            unsup_weight: 0.0,
            core: 0,
        }
    }

    fn train_step(&self, step: u64) -> Step {
        let epoch = step / self.steps_per_epoch + 1;
        let ramp = self.ramp_up.at(step as f64, self.ramp_up_epochs * self.steps_per_epoch as f64);
        let (unsup_weight, core) = match self.num_teachers {
            0 => (0.0, 0),
            1 => (self.unsup_weight * ramp, 1),
            _ => (self.unsup_weight * ramp, if epoch % 2 == 1 { 1 } else { 2 }),
        };
        Step {
            phase: Phase::Train,
            pass: epoch,
            step,
            network: NetworkName::Student,
            view: self.labeled_view,
            lr: poly_lr(self.lr, step, self.train_steps()),
            unsup_weight,
            core,
        }
    }

    /// What ends when `done` steps are done.
    pub fn end(&self, done: u64) -> Option<End> {
        let warm_up = self.warm_up_steps();
        if done == 0 {
            return None;
        }
        if done <= warm_up {
            let pass = done / self.steps_of_pass();
            return done
                .is_multiple_of(self.steps_of_pass())
                .then_some(End::WarmUpPass { pass, last: pass == self.warm_up_passes });
        }
        let steps = done - warm_up;
        steps.is_multiple_of(self.steps_per_epoch).then_some(End::Epoch(steps / self.steps_per_epoch))
    }

    /// How many of the first `done` steps taught `network` labelled images: where its stream of them
    /// continues.
    pub fn labeled_steps(&self, network: NetworkName, done: u64) -> u64 {
        let warm_up = self.warm_up_steps();
        let mut steps = 0;
        if let Some(turn) = self.warm_up.iter().position(|(name, _)| *name == network) {
            let warm = done.min(warm_up);
            let (passes, within) = match self.steps_of_pass() {
                0 => (0, 0),
                of_pass => (warm / of_pass, warm % of_pass),
            };
            let before = turn as u64 * self.steps_per_pass;
            steps = passes * self.steps_per_pass + within.saturating_sub(before).min(self.steps_per_pass);
        }
        if network == NetworkName::Student { steps + done.saturating_sub(warm_up) } else { steps }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poly_falls_from_base_to_zero() {
        assert_eq!(poly_lr(0.01, 0, 10), 0.01);
        assert!((poly_lr(1.0, 5, 10) - 0.5f64.powf(0.9)).abs() < 1e-15);
        assert_eq!(poly_lr(0.01, 10, 10), 0.0);
    }

    #[test]
    fn ramps_rise_to_one_and_stay() {
        for ramp in [RampUp::Cosine, RampUp::Sigmoid, RampUp::Linear, RampUp::Exp] {
            let v: Vec<f64> = (0..=12).map(|s| ramp.at(f64::from(s), 12.0)).collect();
            assert!(v.windows(2).all(|p| p[0] < p[1]), "{ramp:?} {v:?}");
            assert!(v[0] < 0.01 && (v[12] - 1.0).abs() < 1e-12 && ramp.at(40.0, 12.0) == v[12]);
            assert_eq!(ramp.at(3.0, 0.0), 1.0);
        }
        // The published logarithmic form ends at 1 - e^-5, not at 1.
        assert!((RampUp::Log.at(12.0, 12.0) - (1.0 - (-5.0f64).exp())).abs() < 1e-15);
        assert_eq!(RampUp::Constant.at(0.0, 12.0), 1.0);
    }

    fn schedule() -> Schedule {
        Schedule {
            warm_up: vec![
                (NetworkName::Teacher1, View::Weak),
                (NetworkName::Teacher2, View::Weak),
                (NetworkName::Student, View::Strong),
            ],
            warm_up_passes: 2,
            steps_per_pass: 3,
            epochs: 4,
            steps_per_epoch: 5,
            labeled_view: View::Strong,
            lr: 0.1,
            unsup_weight: 2.0,
            ramp_up: RampUp::Linear,
            ramp_up_epochs: 2.0,
            num_teachers: 2,
        }
    }

    #[test]
    fn networks_take_turns_before_the_epochs() {
        let s = schedule();
        let steps: Vec<Step> = s.steps().collect();
        assert_eq!((s.warm_up_steps(), steps.len()), (18, 38));
        let turns: Vec<_> = steps[..18].iter().map(|s| (s.pass, s.network, s.step)).collect();
        assert_eq!(
            turns[..4],
            [
                (1, NetworkName::Teacher1, 0),
                (1, NetworkName::Teacher1, 1),
                (1, NetworkName::Teacher1, 2),
                (1, NetworkName::Teacher2, 0)
            ]
        );
        assert_eq!(turns[17], (2, NetworkName::Student, 5));
        assert!(steps[..18].iter().all(|s| s.lr == 0.1 && s.unsup_weight == 0.0 && s.core == 0));
        let train = &steps[18..];
        assert_eq!((train[0].lr, train[0].unsup_weight, train[0].core), (0.1, 0.0, 1));
        assert_eq!((train[5].pass, train[5].core, train[5].unsup_weight), (2, 2, 1.0));
        assert_eq!(train[10].unsup_weight, 2.0);
    }

    #[test]
    fn every_labeled_step_counts_once() {
        let s = schedule();
        for done in 0..=s.num_steps() {
            for network in [NetworkName::Student, NetworkName::Teacher1, NetworkName::Teacher2] {
                let counted = s.steps().take(done as usize).filter(|step| step.network == network).count();
                assert_eq!(s.labeled_steps(network, done), counted as u64, "{network:?} after {done}");
            }
        }
    }

    #[test]
    fn ends_follow_the_last_network_of_a_pass_and_each_epoch() {
        let s = schedule();
        let ends: Vec<_> = (0..=s.num_steps()).filter_map(|done| Some((done, s.end(done)?))).collect();
        assert_eq!(
            ends,
            [
                (9, End::WarmUpPass { pass: 1, last: false }),
                (18, End::WarmUpPass { pass: 2, last: true }),
                (23, End::Epoch(1)),
                (28, End::Epoch(2)),
                (33, End::Epoch(3)),
                (38, End::Epoch(4)),
            ]
        );
        let without = Schedule { warm_up_passes: 0, ..schedule() };
        assert_eq!((without.warm_up_steps(), without.end(5)), (0, Some(End::Epoch(1))));
    }
}
