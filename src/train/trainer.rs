//! The training loop: warm-up, PS-MT epochs, records, checkpoints. Knows the method, the data and the run's folder; must
//! not know flags or kernels.

use super::checkpoint::{self, Metadata};
use super::dataset::{Datasets, Loaders};
use super::events::Events;
use super::progress::{Display, StepView};
use super::records::{Clock, epoch_record, run_record, step_record, validation_record};
use super::run_dir::{Metrics, RunDir};
use super::state::{Best, State, warm_up_networks};
use super::unread::{Pending, Reading, Unread};
use super::validation::is_validated;
use super::{pictures, signal, step};
use crate::config::{RunConfig, TeacherStart};
use crate::eval::{self, Palette, Scores, Which};
use crate::method::schedule::poly_lr;
use crate::method::{Algorithm, StepArgs};
use crate::model::DeepLab;
use crate::ops::Backend;
use crate::{Error, Result};
use serde_json::Value;
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
    /// The same for TensorBoard, if asked for.
    pub events: Option<Events>,
    /// Steps whose results are still on the device.
    pub unread: Unread<B>,
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
        if self.metrics.lines() == 0 {
            self.record(&run_record(self.data))?;
        }
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
                self.read_steps(&display, &clock)?;
                return self.interrupt();
            }
            self.next_step(&mut loaders, &mut clock)?;
            let progress = &mut self.state.progress;
            let epoch_ends = progress.step.is_multiple_of(per_epoch);
            progress.epoch_end_pending = epoch_ends;
            let every = self.config.run.checkpoint_every;
            let save = every > 0 && progress.step.is_multiple_of(every) && !epoch_ends;
            if save || epoch_ends || self.unread.due() {
                self.read_steps(&display, &clock)?;
            }
            if save {
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
        let m = &self.config.method;
        let (step, per_epoch) = (self.state.progress.step, self.steps_per_epoch());
        let since = step.saturating_sub(self.warm_up_steps());
        let ramp = m.ramp_up.at(since as f64, m.ramp_up_epochs * per_epoch as f64);
        // Epochs count from 1 at the end of the warm-up: odd ones train teacher 1, even ones teacher 2.
        let odd = (since / per_epoch) % 2 == 0;
        StepArgs {
            lr,
            unsup_weight: m.unsup_weight * ramp,
            active_teacher: if odd || m.algorithm.num_teachers() < 2 { 1 } else { 2 },
            ..self.config.step_args()
        }
    }

    /// Runs the next step; its losses stay on the device.
    fn next_step(&mut self, loaders: &mut Loaders, clock: &mut Clock) -> Result<()> {
        let (step, per_epoch) = (self.state.progress.step, self.steps_per_epoch());
        let warm_up = step < self.warm_up_steps();
        let args = self.step_args(poly_lr(self.config.optim.lr, step, self.total_steps()));
        let (b, arch, config) = (self.b, self.arch, self.config);
        let batches = || 0..config.optim.accumulate;
        let outcome = if warm_up {
            let mut networks = Vec::new();
            for number in 0..warm_up_networks(config) {
                let batches = batches().map(|_| clock.waiting(|| loaders.labeled(number)));
                networks.push(batches.collect::<Result<Vec<_>>>()?);
            }
            step::warm_up(b, arch, config, &mut self.state, &networks, &args, &mut self.unread.watch)?
        } else {
            let mut next = || {
                let labeled = loaders.labeled(0)?;
                let supervised = args.algorithm == Algorithm::Supervised;
                Ok((labeled, if supervised { None } else { Some(loaders.unlabeled()?) }))
            };
            let batches: Vec<_> = batches().map(|_| clock.waiting(&mut next)).collect::<Result<_>>()?;
            step::method(b, arch, config, &mut self.state, &batches, &args, &mut self.unread.watch)?
        };
        let unsup_weight = if warm_up { 0.0 } else { args.unsup_weight };
        let epoch = step / per_epoch + 1;
        self.unread.push(Pending { step, epoch, warm_up, lr: args.lr, unsup_weight, outcome });
        clock.steps += 1;
        self.state.progress.step += 1;
        self.b.check()
    }

    /// Reads what the steps since the last reading left on the device, records every few of them and shows the last.
    fn read_steps(&mut self, display: &Display, clock: &Clock) -> Result<()> {
        let Reading { steps, bad } = self.unread.read(self.b, self.arch)?;
        let seconds = clock.since.elapsed().as_secs_f64();
        for (number, (step, losses)) in steps.iter().enumerate() {
            let rate = self.images_per_step(step.warm_up) * clock.steps as f64 / seconds;
            self.state.progress.sums.add(losses);
            let log_every = self.config.run.log_every;
            if log_every > 0 && (step.step + 1).is_multiple_of(log_every) {
                self.record(&step_record(step, losses, rate))?;
            }
            if number + 1 == steps.len() {
                let view = StepView {
                    epoch: (step.epoch, self.config.schedule.epochs),
                    warm_up: step.warm_up,
                    loss_sup: losses.sup,
                    loss_unsup: losses.unsup,
                    images_per_second: rate,
                };
                display.step(step.step + 1, &view);
            }
        }
        bad.map_or(Ok(()), |bad| Err(self.non_finite(bad.tensor, bad.step)))
    }

    fn images_per_step(&self, warm_up: bool) -> f64 {
        let batches = match (warm_up, self.algorithm()) {
            (true, _) => warm_up_networks(self.config),
            (false, Algorithm::Supervised) => 1,
            (false, _) => 2,
        };
        (batches * self.config.optim.images_a_step()) as f64
    }

    fn record(&mut self, record: &Value) -> Result<()> {
        self.metrics.write(record)?;
        if let Some(events) = &mut self.events {
            events.record(record)?;
        }
        self.state.progress.metrics_lines = self.metrics.lines();
        Ok(())
    }

    /// Record, validation and checkpoints of the epoch that just ended. False where Ctrl-C broke the validation off; then
    /// nothing was recorded and a resumed run does it again.
    fn end_epoch(&mut self, display: &mut Display, clock: &mut Clock) -> Result<bool> {
        if let Some(tensor) = self.state.first_non_finite(self.b, self.arch, self.algorithm()) {
            return Err(self.non_finite(tensor, self.state.progress.step));
        }
        let (step, per_epoch) = (self.state.progress.step, self.steps_per_epoch());
        let (epoch, epochs) = (step / per_epoch, self.config.schedule.epochs);
        let warm_up = step <= self.warm_up_steps();
        let seconds = clock.since.elapsed().as_secs_f64();
        if warm_up && self.config.method.teacher_start == TeacherStart::Student {
            self.state.copy_to_teachers();
        }
        let validate = is_validated(epoch, epochs, &self.config.run);
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
            let best = self.meta.decides();
            let miou = scores.get(best.name()).map_or(0.0, |s| s.miou);
            let before =
                self.state.progress.best.as_ref().map_or(f64::NEG_INFINITY, |b| f64::from_bits(b.miou));
            improved = miou > before;
            if improved {
                self.state.progress.best = Some(Best { epoch, miou: miou.to_bits() });
            }
            let shown = best.before(Which::available(self.algorithm().num_teachers()));
            let all: Vec<String> = shown
                .iter()
                .filter_map(|w| Some(format!("{} {:.1}", w.name(), 100.0 * scores.get(w.name())?.miou)))
                .collect();
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

    fn validate(&mut self, epoch: u64) -> Result<Option<BTreeMap<String, Scores>>> {
        let nets = self.state.eval_nets(self.algorithm());
        let which = nets.available();
        let shown = self.meta.decides();
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
            let size = pictures::write(&path, &strips)?;
            if let Some(events) = &mut self.events {
                let png = std::fs::read(&path).map_err(Error::io(&path))?;
                events.picture("validation", self.state.progress.step, size, &png)?;
            }
        }
        Ok(Some(scores.into_iter().map(|(w, s)| (w.name().to_string(), s)).collect()))
    }

    /// Writes `last`, and `best` before it where this is the best: a crash in between costs nothing.
    fn save(&mut self, best: bool) -> Result<()> {
        if let Some(tensor) = self.state.first_non_finite(self.b, self.arch, self.algorithm()) {
            return Err(self.non_finite(tensor, self.state.progress.step));
        }
        self.metrics.sync()?;
        if let Some(events) = &mut self.events {
            events.flush()?;
        }
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

    fn non_finite(&self, tensor: String, step: u64) -> Error {
        let last = self.dir.last();
        let checkpoint = if last.exists() { last.display().to_string() } else { "not written yet".into() };
        Error::NonFinite { tensor, step, checkpoint }
    }
}
