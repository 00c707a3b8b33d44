//! The training loop: warm-up, PS-MT epochs, records, checkpoints. Knows the method, the data and the run's folder; must
//! not know flags or kernels.

use super::checkpoint::{self, Metadata};
use super::dataset::{Datasets, Loaders};
use super::progress::{Display, StepView};
use super::records::{Clock, Losses, epoch_record, validation_record};
use super::run_dir::{Metrics, RunDir};
use super::state::{Best, State, param_name, warm_up_networks};
use super::{pictures, signal};
use crate::config::{RunConfig, TeacherStart};
use crate::data::{HostImages, LabeledBatch};
use crate::eval::{self, Palette, Scores};
use crate::method::schedule::poly_lr;
use crate::method::{self, Algorithm, Batch, StepArgs, StepOut, cut_mix};
use crate::model::DeepLab;
use crate::ops::{self, Backend, Images, Pixels, Shape};
use crate::rng::{Domain, Key};
use crate::{Error, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Instant;

/// One run on one device.
pub struct Trainer<'a, B: Backend> {
    /// The device.
    pub b: &'a B,
    /// The network's architecture.
    pub arch: &'a DeepLab,
    /// Settings.
    pub config: &'a RunConfig,
    /// Where results go.
    pub dir: &'a RunDir,
    /// Images.
    pub data: &'a Datasets,
    /// Networks and counters.
    pub state: State<B>,
    /// What checkpoints say.
    pub meta: Metadata,
    /// Records.
    pub metrics: Metrics,
}

impl<B: Backend> Trainer<'_, B> {
    fn algorithm(&self) -> Algorithm {
        self.config.method.algorithm
    }

    fn steps_per_epoch(&self) -> u64 {
        self.data.steps_per_epoch(self.config)
    }

    fn total_steps(&self) -> u64 {
        self.steps_per_epoch() * self.config.schedule.epochs
    }

    fn warm_up_steps(&self) -> u64 {
        match self.algorithm() {
            Algorithm::Supervised => 0,
            _ => self.steps_per_epoch() * self.config.method.warm_up_epochs.min(self.config.schedule.epochs),
        }
    }

    /// Trains from the state's step to the end.
    ///
    /// # Errors
    /// Bad data, a value that is not finite, a failed write, or Ctrl-C after its checkpoint.
    pub fn run(&mut self) -> Result<BTreeMap<String, Scores>> {
        let (per_epoch, total) = (self.steps_per_epoch(), self.total_steps());
        let mut loaders = self.loaders()?;
        let mut display = Display::new(total, self.state.progress.step);
        let mut clock = Clock::new();
        loop {
            let step = self.state.progress.step;
            if self.state.progress.epoch_end_pending {
                if !self.end_epoch(&mut display, &mut clock)? {
                    return self.interrupt();
                }
                if step == self.warm_up_steps() && step < total {
                    loaders = self.loaders()?;
                }
                clock = Clock::new();
            }
            if step >= total {
                return Ok(self.state.progress.scores.clone());
            }
            if signal::asked() {
                return self.interrupt();
            }
            let lr = poly_lr(self.config.optim.lr, step, total);
            let losses = if step < self.warm_up_steps() {
                self.warm_up_step(&mut loaders, &mut clock, lr)?
            } else {
                self.method_step(&mut loaders, &mut clock, lr)?
            };
            self.b.check()?;
            self.after_step(&losses, lr, &display, &mut clock)?;
            let progress = &mut self.state.progress;
            progress.epoch_end_pending = progress.step.is_multiple_of(per_epoch);
            let every = self.config.run.checkpoint_every;
            if every > 0 && progress.step.is_multiple_of(every) && !progress.epoch_end_pending {
                self.save(false)?;
            }
        }
    }

    fn loaders(&self) -> Result<Loaders> {
        let step = self.state.progress.step;
        let warm = step < self.warm_up_steps();
        if !warm && self.algorithm() == Algorithm::Supervised {
            return self.data.loaders(self.config, step, 1, false);
        }
        self.data.loaders(self.config, step, if warm { warm_up_networks(self.config) } else { 1 }, !warm)
    }

    /// Settings of the step at hand.
    fn step_args(&self, lr: f64) -> StepArgs {
        let (m, o) = (&self.config.method, &self.config.optim);
        let (step, per_epoch) = (self.state.progress.step, self.steps_per_epoch());
        let since = step.saturating_sub(self.warm_up_steps());
        let ramp = m.ramp_up.at(since as f64, m.ramp_up_epochs * per_epoch as f64);
        // Epochs count from 1 at the end of the warm-up: odd ones train teacher 1, even ones teacher 2.
        let odd = (since / per_epoch) % 2 == 0;
        StepArgs {
            lr,
            momentum: o.momentum,
            weight_decay: o.weight_decay,
            ema_decay: m.ema_decay,
            unsup_weight: m.unsup_weight * ramp,
            conf_ce: m.conf_ce(),
            ensemble: m.ensemble(),
            tvat: m.tvat_args(),
            active_teacher: if odd || m.algorithm.num_teachers() < 2 { 1 } else { 2 },
            supervised_loss: o.loss(),
            algorithm: m.algorithm,
            keep_noise: false,
        }
    }

    fn warm_up_step(&mut self, loaders: &mut Loaders, clock: &mut Clock, lr: f64) -> Result<Losses> {
        let args = self.step_args(lr);
        let mut student_loss = 0.0;
        for number in 0..warm_up_networks(self.config) {
            let batch = clock.waiting(|| loaders.labeled(number))?;
            let (x, y) = self.upload(&batch)?;
            let nets = &mut self.state.nets;
            let (name, net, momentum) = match number {
                0 => ("student", &mut nets.student, &mut nets.momentum),
                1 => ("teacher1", &mut nets.teacher1, &mut self.state.teacher_momenta[0]),
                _ => ("teacher2", &mut nets.teacher2, &mut self.state.teacher_momenta[1]),
            };
            let out =
                method::supervised_step(self.b, self.arch, net, momentum, &mut nets.grads, &x, &y, &args)?;
            if let Some(tensor) = self.non_finite_of(&out, name) {
                return Err(self.non_finite(format!("{tensor} ({name}, warm-up)")));
            }
            if number == 0 {
                student_loss = self.b.read_scalar(&out.loss_sup);
            }
        }
        Ok(Losses { sup: student_loss, unsup: 0.0, passed: None })
    }

    fn method_step(&mut self, loaders: &mut Loaders, clock: &mut Clock, lr: f64) -> Result<Losses> {
        let args = self.step_args(lr);
        let (step, seed) = (self.state.progress.step, self.config.schedule.seed);
        let labeled = clock.waiting(|| loaders.labeled(0))?;
        let (x_l, y_l) = self.upload(&labeled)?;
        let noise = |x: &B::Tensor, domain| {
            self.b.uniform_noise(self.arch.feature_shape(B::shape(x)), Key::new(seed, domain, step))
        };
        let batch = if args.algorithm == Algorithm::Supervised {
            // Only the labelled part is read.
            let d = self.b.uniform_noise(Shape::new(1, 1, 1, 1), Key::new(seed, Domain::NoiseLabeled, step));
            let (x_u_weak, x_u_strong) = (x_l.clone(), x_l.clone());
            Batch { x_l, y_l, x_u_weak, x_u_strong, mix: Default::default(), d_l: d.clone(), d_u: d }
        } else {
            let unlabeled = clock.waiting(|| loaders.unlabeled())?;
            let Shape { n, h, w, .. } = unlabeled.images.shape;
            let key = Key::new(seed, Domain::CutMix, step);
            let (images, normalize) = (self.images(&unlabeled.images)?, &self.config.normalize);
            let x_u_weak = ops::normalize_bytes(self.b, &images, normalize)?;
            let x_u_strong = ops::photometric(self.b, Pixels::Bytes(&images), &unlabeled.strong, normalize)?;
            Batch {
                d_l: noise(&x_l, Domain::NoiseLabeled),
                d_u: noise(&x_u_weak, Domain::NoiseUnlabeled),
                mix: cut_mix::sample(self.config.method.cut_mix, n, (h, w), key),
                x_l,
                y_l,
                x_u_weak,
                x_u_strong,
            }
        };
        let out = method::train_step(self.b, self.arch, &mut self.state.nets, &batch, &args)?;
        let (sup, unsup) = (self.b.read_scalar(&out.loss_sup), out.loss_unsup(self.b));
        if let Some(tensor) = self.non_finite_of(&out, "student") {
            return Err(self.non_finite(tensor));
        }
        let mut losses = Losses { sup, unsup, passed: None };
        if let Some((passed, histogram)) = out.unsup.and_then(|u| u.confidence) {
            let passed = self.b.read_scalar(&passed) as u64;
            let shape = B::shape(&batch.x_u_weak);
            losses.passed = Some((passed, shape.positions() as u64));
            let sums = &mut self.state.progress.sums;
            for (sum, n) in sums.histogram.iter_mut().zip(self.b.read_counts(&histogram)) {
                *sum += n;
            }
        }
        Ok(losses)
    }

    fn images(&self, images: &HostImages) -> Result<Images<B>> {
        ops::upload_images(self.b, images.shape, &images.data, images.shown.clone())
    }

    fn upload(&self, batch: &LabeledBatch) -> Result<(B::Tensor, B::Labels)> {
        let x = ops::normalize_bytes(self.b, &self.images(&batch.images)?, &self.config.normalize)?;
        Ok((x, self.b.upload_labels(batch.images.shape.with_channels(1), &batch.labels)))
    }

    /// Counts the step, and records every few of them.
    fn after_step(&mut self, losses: &Losses, lr: f64, display: &Display, clock: &mut Clock) -> Result<()> {
        let args = self.step_args(lr);
        let per_epoch = self.steps_per_epoch();
        let step = self.state.progress.step;
        let (epoch, warm_up) = (step / per_epoch + 1, step < self.warm_up_steps());
        clock.steps += 1;
        let images_per_second =
            self.images_per_step(warm_up) * clock.steps as f64 / clock.since.elapsed().as_secs_f64();
        let sums = &mut self.state.progress.sums;
        sums.add_losses(losses.sup, losses.unsup);
        if let Some((passed, pixels)) = losses.passed {
            sums.passed += passed;
            sums.pixels += pixels;
        }
        self.state.progress.step += 1;
        let log_every = self.config.run.log_every;
        if log_every > 0 && (step + 1).is_multiple_of(log_every) {
            let mut record = json!({
                "kind": "step", "step": step + 1, "epoch": epoch, "warm_up": warm_up, "lr": lr,
                "loss_sup": losses.sup, "loss_unsup": losses.unsup,
                "unsup_weight": if warm_up { 0.0 } else { args.unsup_weight },
            });
            if let Some((passed, pixels)) = losses.passed {
                record["pass_rate"] = json!(passed as f64 / pixels as f64);
            }
            record["images_per_second"] = json!(images_per_second);
            self.record(&record)?;
        }
        let view = StepView {
            epoch: (epoch, self.config.schedule.epochs),
            warm_up,
            loss_sup: losses.sup,
            loss_unsup: losses.unsup,
            images_per_second,
        };
        display.step(step + 1, &view);
        Ok(())
    }

    fn images_per_step(&self, warm_up: bool) -> f64 {
        let batches = match (warm_up, self.algorithm()) {
            (true, _) => warm_up_networks(self.config),
            (false, Algorithm::Supervised) => 1,
            (false, _) => 2,
        };
        (batches * self.config.optim.batch_size) as f64
    }

    fn record(&mut self, record: &Value) -> Result<()> {
        self.metrics.write(record)?;
        self.state.progress.metrics_lines = self.metrics.lines();
        Ok(())
    }

    /// Record, validation and checkpoints of the epoch that just ended. False where Ctrl-C broke the validation off; then
    /// nothing was recorded and a resumed run does it again.
    fn end_epoch(&mut self, display: &mut Display, clock: &mut Clock) -> Result<bool> {
        if let Some(tensor) = self.state.first_non_finite(self.b, self.arch, self.algorithm()) {
            return Err(self.non_finite(tensor));
        }
        let (step, per_epoch) = (self.state.progress.step, self.steps_per_epoch());
        let (epoch, epochs) = (step / per_epoch, self.config.schedule.epochs);
        let warm_up = step <= self.warm_up_steps();
        let seconds = clock.since.elapsed().as_secs_f64();
        if warm_up && self.config.method.teacher_start == TeacherStart::Student {
            self.state.copy_to_teachers();
        }
        let validate = epoch == epochs || epoch.is_multiple_of(self.config.run.val_every.max(1));
        let started = Instant::now();
        let validation = if validate {
            match self.validate(epoch)? {
                Some(v) => Some(v),
                None => return Ok(false),
            }
        } else {
            None
        };

        let sums = std::mem::take(&mut self.state.progress.sums);
        let (sup, unsup) = sums.means();
        let wait = clock.waited.as_secs_f64() / seconds.max(1e-9);
        let images_per_second = self.images_per_step(warm_up) * clock.steps as f64 / seconds.max(1e-9);
        self.record(&epoch_record(epoch, step, warm_up, &sums, images_per_second, wait, seconds))?;
        let mut line = format!("epoch {epoch}/{epochs}{}", if warm_up { " (warm-up)" } else { "" });
        line += &format!(": loss {sup:.3} + {unsup:.3}");
        if sums.pixels > 0 {
            line += &format!(", {:.0} % of pixels pass", 100.0 * sums.pass_rate());
        }
        line +=
            &format!(", {images_per_second:.1} images/s, {:.0} % of the time waiting for data", 100.0 * wait);

        let mut improved = false;
        if let Some(scores) = validation {
            self.record(&validation_record(epoch, step, &scores, started.elapsed().as_secs_f64()))?;
            let best = self.state.eval_nets(self.algorithm()).best();
            let miou = scores.get(best.name()).map_or(0.0, |s| s.miou);
            let before =
                self.state.progress.best.as_ref().map_or(f64::NEG_INFINITY, |b| f64::from_bits(b.miou));
            improved = miou > before;
            if improved {
                self.state.progress.best = Some(Best { epoch, miou: miou.to_bits() });
            }
            let all: Vec<String> = scores.iter().map(|(n, s)| format!("{n} {:.1}", 100.0 * s.miou)).collect();
            line += &format!(", mIoU {}", all.join(", "));
            display.validated(miou);
            self.state.progress.scores = scores;
        }
        display.line(&line);
        self.state.progress.epoch_end_pending = false;
        if step == self.warm_up_steps() {
            self.state.teacher_momenta.clear(); // from now on teachers are averages
        }
        self.save(improved)?;
        Ok(true)
    }

    fn validate(&self, epoch: u64) -> Result<Option<BTreeMap<String, Scores>>> {
        let nets = self.state.eval_nets(self.algorithm());
        let which = nets.available();
        let shown = nets.best();
        let palette = Palette::new(self.meta.preset, self.arch.config.num_classes);
        let mut strips = Vec::new();
        let scores = eval::evaluate(
            self.b,
            self.arch,
            &nets,
            &which,
            &*self.data.val,
            &self.meta.settings(),
            |seen| {
                if strips.len() < self.config.run.pictures {
                    strips.push(pictures::strip(&seen, shown, &palette));
                }
                !signal::asked()
            },
        )?;
        let Some(scores) = scores else { return Ok(None) };
        if !strips.is_empty() {
            let path = self.dir.pictures().join(format!("epoch-{epoch:04}.png"));
            pictures::write(&path, &strips)?;
        }
        Ok(Some(scores.into_iter().map(|(w, s)| (w.name().to_string(), s)).collect()))
    }

    /// Writes `last`, and `best` before it where this is the best: a crash in between costs nothing.
    fn save(&mut self, best: bool) -> Result<()> {
        if let Some(tensor) = self.state.first_non_finite(self.b, self.arch, self.algorithm()) {
            return Err(self.non_finite(tensor));
        }
        self.metrics.sync()?;
        self.meta.progress = self.state.progress.clone();
        let mut paths = vec![self.dir.last()];
        if best {
            paths.insert(0, self.dir.best());
        }
        checkpoint::save(self.b, self.arch, &self.state, &self.meta, &paths)
    }

    fn interrupt<T>(&mut self) -> Result<T> {
        self.save(false)?;
        Err(Error::Interrupted { resume: format!("psmt-fast train --resume {}", self.dir.root().display()) })
    }

    /// The first thing of a step of network `net` that is not finite.
    fn non_finite_of(&self, out: &StepOut<B>, net: &str) -> Option<String> {
        let name = |i: usize| format!("{net}.{}", param_name(self.arch, i));
        out.first_non_finite(self.b, &self.state.nets.grads, name)
    }

    fn non_finite(&self, tensor: String) -> Error {
        let last = self.dir.last();
        let checkpoint = if last.exists() { last.display().to_string() } else { "not written yet".into() };
        Error::NonFinite { tensor, step: self.state.progress.step, checkpoint }
    }
}
