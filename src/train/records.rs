//! What the training loop counts between two records, and how records of epochs and validations look. Must
//! not know devices.

use super::dataset::Datasets;
use super::losses::{Losses, Sums};
use super::unread::Pending;
use crate::Result;
use crate::eval::Scores;
use crate::host::peak_memory;
use crate::method::{End, Phase};
use crate::ops::Backend;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Time of an epoch's parts. Never part of a checkpoint.
pub(super) struct Clock {
    pub since: Instant,
    /// Spent waiting for data.
    pub waited: Duration,
    pub steps: u64,
}

impl Clock {
    pub fn new() -> Clock {
        Clock { since: Instant::now(), waited: Duration::ZERO, steps: 0 }
    }

    /// Counts the time of `get` as waiting for data.
    pub fn waiting<T>(&mut self, get: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let value = get();
        self.waited += start.elapsed();
        value
    }
}

/// The first record of a run: what it trains on.
pub(super) fn run_record(data: &Datasets) -> Value {
    json!({
        "kind": "run", "step": 0, "labeled": data.labeled.len(),
        "unlabeled": data.unlabeled.as_ref().map_or(0, |u| u.len()), "val": data.val.len(),
        "voc_family": data.voc_family,
    })
}

/// The record of a step.
pub(super) fn step_record<B: Backend>(step: &Pending<B>, losses: &Losses, images_per_second: f64) -> Value {
    let what = &step.step;
    let warm_up = what.phase == Phase::WarmUp;
    let mut record = json!({
        "kind": "step", "step": step.number + 1, "warm_up": warm_up, "network": what.network, "lr": what.lr,
        "loss_sup": losses.sup, "loss_unsup": losses.unsup, "unsup_weight": what.unsup_weight,
    });
    record[if warm_up { "pass" } else { "epoch" }] = json!(what.pass);
    if let Some(c) = &losses.pseudo {
        record["pass_rate"] = json!(c.passed as f64 / c.pixels as f64);
    }
    record["images_per_second"] = json!(images_per_second);
    record
}

/// The record of an epoch, or of a pass of the warm-up.
pub(super) fn end_record(
    end: End,
    step: u64,
    sums: &Sums,
    images_per_second: f64,
    data_wait: f64,
    seconds: f64,
) -> Value {
    let (sup, unsup) = sums.means();
    let mut record = match end {
        End::WarmUpPass { pass, .. } => json!({ "kind": "warm_up", "pass": pass }),
        End::Epoch(epoch) => json!({ "kind": "epoch", "epoch": epoch, "loss_unsup": unsup }),
    };
    record["step"] = json!(step);
    record["loss_sup"] = json!(sup);
    record["train_miou"] = json!(sums.labeled.scores().miou);
    if sums.pixels > 0 {
        record["pseudo_agreement"] = json!(sums.pseudo.scores().pixel_accuracy);
        record["pass_rate"] = json!(sums.pass_rate());
        record["confidence_histogram"] = json!(sums.histogram);
    }
    if let Some(scores) = sums.pseudo_label_scores() {
        record["pseudo_label_miou"] = json!(scores.miou);
        record["pseudo_label_accuracy"] = json!(scores.pixel_accuracy);
    }
    record["images_per_second"] = json!(images_per_second);
    record["data_wait"] = json!(data_wait);
    record["seconds"] = json!(seconds);
    if let Some(bytes) = peak_memory() {
        record["memory_mib"] = json!(bytes >> 20);
    }
    record
}

/// The record of a validation; epoch 0 is the end of the warm-up.
pub(super) fn validation_record(
    epoch: u64,
    step: u64,
    scores: &BTreeMap<String, Scores>,
    seconds: f64,
) -> Value {
    let pick =
        |f: &dyn Fn(&Scores) -> Value| -> Value { scores.iter().map(|(n, s)| (n.clone(), f(s))).collect() };
    json!({
        "kind": "validation", "epoch": epoch, "step": step,
        "miou": pick(&|s| json!(s.miou)),
        "pixel_accuracy": pick(&|s| json!(s.pixel_accuracy)),
        "iou": pick(&|s| json!(s.iou)),
        "seconds": seconds,
    })
}
