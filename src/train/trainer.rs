//! The training loop: warm-up, PS-MT epochs, records, checkpoints. Must not know flags or kernels.

use super::checkpoint::{self, Metadata};
use super::dataset::{Datasets, Loaders};
use super::events::Events;
use super::losses::Sums;
use super::progress::{self, Display, StepView};
use super::records::{Clock, end_record, run_record, step_record, validation_record};
use super::run_dir::{Metrics, RunDir};
use super::state::{Best, State};
use super::unread::{Pending, Reading, Unread};
use super::validation::is_validated;
use super::{pictures, signal, step};
use crate::config::{RunConfig, TeacherStart};
use crate::error::shell_word;
use crate::eval::{self, Palette, Predictor, Scores, Which};
use crate::method::{Algorithm, End, NetworkName, Phase, Schedule, StepArgs};
use crate::model::Architecture;
use crate::ops::Backend;
use crate::{Error, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Instant;

/// One run on one device.
pub(super) struct Trainer<'a, B: Backend> {
    pub b: &'a B,
    pub arch: &'a Architecture,
    pub config: &'a RunConfig,
    /// What each step does.
    pub schedule: Schedule,
    pub dir: &'a RunDir,
    pub data: &'a Datasets,
    /// Networks and counters.
    pub state: State<B>,
    /// What each checkpoint says about itself.
    pub meta: Metadata,
    pub metrics: Metrics,
    /// The records as TensorBoard reads them, if asked for.
    pub events: Option<Events>,
    /// Steps whose results are still on the device.
    pub unread: Unread<B>,
}

impl<B: Backend> Trainer<'_, B> {
    fn algorithm(&self) -> Algorithm {
        self.config.method.algorithm
    }

    /// Trains from the state's step to the end.
    ///
    /// # Errors
    /// Bad data, a value that is not finite, a failed write, or Ctrl-C after its checkpoint.
    pub fn run(&mut self) -> Result<BTreeMap<String, Scores>> {
        let num_steps = self.schedule.num_steps();
        if self.state.progress.step > num_steps {
            // A run that was made shorter is over.
            tracing::warn!("step {} is after the run's last one, {num_steps}", self.state.progress.step);
            return Ok(self.state.progress.scores.clone());
        }
        if self.metrics.lines() == 0 {
            self.record(&run_record(self.data))?;
        }
        let mut loaders = self.loaders()?;
        let mut display = Display::new(num_steps, self.state.progress.step);
        let mut clock = Clock::new();
        loop {
            let done = self.state.progress.step;
            if let Some(end) = self.schedule.end(done).filter(|_| self.state.progress.end_pending) {
                // What validation costs, in memory above all, is no longer the finished steps' risk.
                if self.is_validated(end) {
                    self.save(false)?;
                }
                if !self.end(end, &mut display, &mut clock)? {
                    return self.interrupt();
                }
                if matches!(end, End::WarmUpPass { last: true, .. }) {
                    loaders = self.loaders()?;
                }
                clock = Clock::new();
            }
            if done >= num_steps {
                return Ok(self.state.progress.scores.clone());
            }
            if signal::asked() {
                self.read_steps(&display, &clock)?;
                return self.interrupt();
            }
            self.next_step(&mut loaders, &mut clock)?;
            let progress = &mut self.state.progress;
            progress.end_pending = self.schedule.end(progress.step).is_some();
            let save = self.checkpoint_due() && !self.state.progress.end_pending;
            if save || self.state.progress.end_pending || self.unread.due() {
                self.read_steps(&display, &clock)?;
            }
            if save {
                self.save(false)?;
            }
        }
    }

    /// Whether a checkpoint follows the last step by its number.
    fn checkpoint_due(&self) -> bool {
        let every = self.config.run.checkpoint_every;
        every > 0 && self.state.progress.step.is_multiple_of(every)
    }

    fn loaders(&self) -> Result<Loaders> {
        self.data.loaders(self.config, &self.schedule, self.state.progress.step)
    }

    /// Runs the next step; its losses stay on the device.
    fn next_step(&mut self, loaders: &mut Loaders, clock: &mut Clock) -> Result<()> {
        let number = self.state.progress.step;
        let step = self.schedule.step(number);
        let config = self.config;
        let setup = step::Setup { b: self.b, arch: self.arch, config };
        let (state, watch) = (&mut self.state, &mut self.unread.watch);
        let batches = 0..config.optim.accumulate;
        let outcome = match step.phase {
            Phase::WarmUp => {
                let args = StepArgs { lr: step.lr, ..config.warm_up_args() };
                let mut next = || loaders.labeled(step.network);
                let batches: Vec<_> = batches.map(|_| clock.waiting(&mut next)).collect::<Result<_>>()?;
                step::warm_up(&setup, state, (step.network, step.view), &batches, &args, watch)?
            }
            Phase::Train => {
                let args = StepArgs {
                    lr: step.lr,
                    unsup_weight: step.unsup_weight,
                    active_teacher: usize::from(step.core.max(1)),
                    ..config.step_args()
                };
                let mut next = || {
                    let labeled = loaders.labeled(step.network)?;
                    let unlabeled =
                        args.algorithm.learns_unlabeled().then(|| loaders.unlabeled()).transpose()?;
                    Ok((labeled, unlabeled))
                };
                let batches: Vec<_> = batches.map(|_| clock.waiting(&mut next)).collect::<Result<_>>()?;
                step::method(&setup, state, (step.step, &batches), &args, watch)?
            }
        };
        self.unread.push(Pending { number, step, outcome });
        clock.steps += 1;
        self.state.progress.step += 1;
        self.b.check()
    }

    /// Reads what the steps since the last reading left on the device, records every few of them and shows
    /// the last.
    fn read_steps(&mut self, display: &Display, clock: &Clock) -> Result<()> {
        let Reading { steps, bad } = self.unread.read(self.b, self.arch)?;
        let seconds = clock.since.elapsed().as_secs_f64();
        for (number, (pending, losses)) in steps.iter().enumerate() {
            let step = &pending.step;
            let rate = self.images_per_step(step.phase) * clock.steps as f64 / seconds;
            // A pass of the warm-up is told by the student's losses.
            if step.network == NetworkName::Student {
                self.state.progress.sums.add(losses);
            }
            let log_every = self.config.run.log_every;
            if log_every > 0 && (pending.number + 1).is_multiple_of(log_every) {
                self.record(&step_record(pending, losses, rate))?;
            }
            if number + 1 == steps.len() {
                let view = StepView {
                    place: match step.phase {
                        Phase::WarmUp => format!(
                            "warm-up {}/{} {}",
                            step.pass,
                            self.schedule.warm_up_passes,
                            step.network.as_str()
                        ),
                        Phase::Train => format!("epoch {}/{}", step.pass, self.schedule.epochs),
                    },
                    warm_up: step.phase == Phase::WarmUp,
                    loss_sup: losses.sup,
                    loss_unsup: losses.unsup,
                    images_per_second: rate,
                };
                display.step(pending.number + 1, &view);
            }
        }
        bad.map_or(Ok(()), |bad| Err(self.non_finite(bad.tensor, bad.step)))
    }

    fn images_per_step(&self, phase: Phase) -> f64 {
        let batches = if phase == Phase::Train && self.algorithm().learns_unlabeled() { 2 } else { 1 };
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

    /// Whether the networks are validated at this end.
    fn is_validated(&self, end: End) -> bool {
        match end {
            End::WarmUpPass { last, .. } => last,
            End::Epoch(epoch) => is_validated(epoch, self.schedule.epochs, &self.config.run),
        }
    }

    /// What follows the end of an epoch or of a pass of the warm-up: its record; after an epoch and after the
    /// whole warm-up also validation and checkpoints. False where Ctrl-C broke the validation off; then
    /// nothing was recorded and a resumed run does it again.
    fn end(&mut self, end: End, display: &mut Display, clock: &mut Clock) -> Result<bool> {
        let validated = self.is_validated(end);
        let (epoch, saved) = match end {
            End::WarmUpPass { last, .. } => (0, last || self.checkpoint_due()),
            End::Epoch(epoch) => (epoch, true),
        };
        if saved && let Some(tensor) = self.state.first_non_finite(self.b, self.arch) {
            return Err(self.non_finite(tensor, self.state.progress.step));
        }
        let seconds = clock.since.elapsed().as_secs_f64();
        if let (End::WarmUpPass { last: true, .. }, TeacherStart::Student) =
            (end, self.config.method.teacher_start)
        {
            self.state.copy_to_teachers();
        }
        let started = Instant::now();
        let validation = if validated {
            match self.validate(epoch)? {
                Some(v) => Some(v),
                None => return Ok(false),
            }
        } else {
            None
        };
        if validated && epoch > 0 {
            self.picture_unlabeled(epoch)?;
        }

        let step = self.state.progress.step;
        let sums = std::mem::take(&mut self.state.progress.sums);
        let phase = if epoch == 0 { Phase::WarmUp } else { Phase::Train };
        let wait = clock.waited.as_secs_f64() / seconds.max(1e-9);
        let images_per_second = self.images_per_step(phase) * clock.steps as f64 / seconds.max(1e-9);
        self.record(&end_record(end, step, &sums, images_per_second, wait, seconds))?;
        let mut line = self.describe(end, &sums);
        line +=
            &format!(", {images_per_second:.1} images/s, {:.0} % of the time waiting for data", 100.0 * wait);

        let mut improved = false;
        if let Some(scores) = validation {
            self.record(&validation_record(epoch, step, &scores, started.elapsed().as_secs_f64()))?;
            let best = self.meta.decides();
            let miou = scores.get(best.name()).and_then(|s| s.miou);
            let before =
                self.state.progress.best.as_ref().map_or(f64::NEG_INFINITY, |b| f64::from_bits(b.miou));
            // The best of a run is one of its epochs: the warm-up is not yet the method.
            if let Some(miou) = miou.filter(|&miou| epoch > 0 && miou > before) {
                improved = true;
                self.state.progress.best = Some(Best { epoch, miou: miou.to_bits() });
            }
            let shown = best.before(Which::available(self.algorithm().num_teachers()));
            let all: Vec<String> = shown
                .iter()
                .filter_map(|w| {
                    Some(format!("{} {}", w.name(), eval::percent(scores.get(w.name())?.miou, 1)))
                })
                .collect();
            line += &format!(", mIoU {}", all.join(", "));
            display.validated(miou);
            self.state.progress.scores = scores;
        }
        if self.is_told(end) {
            display.line(&line);
        }
        self.state.progress.end_pending = false;
        if matches!(end, End::WarmUpPass { last: true, .. }) {
            self.state.teacher_momenta.clear(); // from now on teachers are averages
        }
        if saved {
            self.save(improved)?;
        }
        Ok(true)
    }

    /// The beginning of a line about an epoch or a pass.
    fn describe(&self, end: End, sums: &Sums) -> String {
        let (sup, unsup) = sums.means();
        match end {
            End::WarmUpPass { pass, .. } => {
                format!("warm-up {pass}/{}: loss {sup:.3}", self.schedule.warm_up_passes)
            }
            End::Epoch(epoch) => {
                let line = format!("epoch {epoch}/{}: loss {sup:.3} + {unsup:.3}", self.schedule.epochs);
                line + &progress::pseudo_labels(sums)
            }
        }
    }

    /// Whether a line is printed: for each epoch, and about ten times in a warm-up of many short passes.
    fn is_told(&self, end: End) -> bool {
        match end {
            End::WarmUpPass { pass, .. } => {
                let tenths = |pass: u64| pass * 10 / self.schedule.warm_up_passes;
                tenths(pass) > tenths(pass - 1)
            }
            End::Epoch(_) => true,
        }
    }

    fn validate(&mut self, epoch: u64) -> Result<Option<BTreeMap<String, Scores>>> {
        let nets = self.state.eval_nets();
        let which = nets.available();
        let shown = self.meta.decides();
        let palette = Palette::new(self.meta.preset, self.arch.config.num_classes);
        let mut strips = Vec::new();
        let settings = self.meta.settings();
        let predictor =
            Predictor { b: self.b, arch: self.arch, nets: &nets, which: &which, settings: &settings };
        let scores = predictor.evaluate(&*self.data.val, |seen| {
            if strips.len() < self.config.run.pictures {
                strips.push(pictures::strip(&seen, shown, &palette));
            }
            !signal::asked()
        })?;
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
        if let Some(tensor) = self.state.first_non_finite(self.b, self.arch) {
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
        checkpoint::save(self.b, self.arch, &self.state, &self.meta, &paths)?;
        self.dir.note_checkpoint();
        Ok(())
    }

    fn interrupt<T>(&mut self) -> Result<T> {
        self.save(false)?;
        Err(Error::Interrupted {
            resume: format!("psmt-fast train --resume {}", shell_word(self.dir.root())),
        })
    }

    fn non_finite(&self, tensor: String, step: u64) -> Error {
        let last = self.dir.last();
        let checkpoint = if last.exists() { last.display().to_string() } else { "not written yet".into() };
        Error::NonFinite { tensor, step, checkpoint }
    }
}
