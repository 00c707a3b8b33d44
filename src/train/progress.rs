//! What a person sees of a run: bars on a terminal, one line per epoch elsewhere. Prints, computes nothing.

use super::losses::Sums;
use crate::eval::percent;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;

/// The running display.
pub(super) struct Display {
    bar: Option<ProgressBar>,
    miou: Option<f64>,
}

/// What a bar shows of one step.
pub(super) struct StepView {
    /// Where the run is, such as `epoch 3/80`.
    pub place: String,
    /// Whether the warm-up still runs.
    pub warm_up: bool,
    pub loss_sup: f64,
    /// Weighted unsupervised loss.
    pub loss_unsup: f64,
    /// Images per second, labelled and unlabelled.
    pub images_per_second: f64,
}

impl Display {
    /// A display of `total` steps that begins at `step`.
    pub fn new(total: u64, step: u64) -> Display {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:24} {pos}/{len} steps, {eta} left  {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(total).with_style(style).with_position(step);
            bar.reset_eta();
            bar
        });
        Display { bar, miou: None }
    }

    /// After a step.
    pub fn step(&self, done: u64, view: &StepView) {
        let Some(bar) = &self.bar else { return };
        bar.set_position(done);
        let mut text = format!("{}  loss {:.3}", view.place, view.loss_sup);
        if !view.warm_up {
            text += &format!(" + {:.3}", view.loss_unsup);
        }
        if let Some(miou) = self.miou {
            text += &format!("  mIoU {:.1}", 100.0 * miou);
        }
        bar.set_message(text + &format!("  {:.1} images/s", view.images_per_second));
    }

    /// After a validation.
    pub fn validated(&mut self, miou: Option<f64>) {
        self.miou = miou;
    }

    /// A line that stays.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| tracing::info!("{text}")),
            None => tracing::info!("{text}"),
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The epoch's pseudo labels in words, to follow others; empty where nothing is known of them.
pub(super) fn pseudo_labels(sums: &Sums) -> String {
    let mut text = String::new();
    if sums.pixels > 0 {
        text += &format!(", {:.0} % of pixels pass", 100.0 * sums.pass_rate());
    }
    if let Some(scores) = sums.pseudo_label_scores() {
        let (miou, right) = (percent(scores.miou, 1), percent(scores.pixel_accuracy, 0));
        text += &format!(", pseudo labels {miou} mIoU, {right} % right");
    }
    text
}
