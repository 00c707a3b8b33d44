//! Refuses what cannot train, before anything is written: each message names the key, what was expected and
//! what came.

use super::{EvalConfig, RunConfig};
use crate::eval::{LARGEST_MULTIPLE, Which};
use crate::method::Tvat;
use crate::{Error, Result};

/// Longest side of crops, scenes, windows and images that a network sees, in pixels. Whether they fit into
/// memory is found apart; this keeps products of sizes numbers.
pub const LARGEST_SIDE: usize = 1 << 20;
/// Most pixels of a batch, for the same reason.
const MOST_PIXELS: u128 = 1 << 40;

/// Checks every value that is not checked where it is used.
///
/// # Errors
/// [`Error::Config`] naming the key.
pub fn validate(config: &RunConfig) -> Result<()> {
    let fail = |key: &str, expected: &str, got: String| {
        Err(Error::config("resolved", format!("{key}: expected {expected}, got {got}")))
    };
    if config.data.num_classes == 0 {
        return fail(
            "data.num_classes (--num-classes)",
            "2 to 254 classes, or a preset that says it",
            "none".into(),
        );
    }
    if !(2..=254).contains(&config.data.num_classes) {
        return fail("data.num_classes", "2 to 254 classes", config.data.num_classes.to_string());
    }
    config.model_config()?;
    if config.model.pretrained.is_some() && config.model.init.is_some() {
        return fail("model.init (--init)", "no model.pretrained (--pretrained) beside it", "both".into());
    }
    config.augment.validate()?;
    config.normalize.validate()?;
    check_batch(config.optim.batch_size)?;
    check_sizes(config)?;

    let (m, o, s) = (&config.method, &config.optim, &config.schedule);
    let in_range = |key: &str, value: f64, lo: f64, hi: f64| {
        if (lo..=hi).contains(&value) {
            return Ok(());
        }
        let hi = if hi == f64::MAX { "any finite number".into() } else { hi.to_string() };
        fail(key, &format!("{lo} to {hi}"), value.to_string())
    };
    for (key, value, lo, hi) in [
        ("optim.lr", o.lr, 0.0, f64::MAX),
        ("optim.momentum", o.momentum, 0.0, 1.0),
        ("optim.weight_decay", o.weight_decay, 0.0, f64::MAX),
        ("optim.ohem_threshold", o.ohem_threshold, 0.0, 1.0),
        ("method.tvat_eps", m.tvat_eps, 0.0, f64::MAX),
        ("method.threshold", m.threshold, 0.0, 1.0),
        ("method.negative_threshold", m.negative_threshold, 0.0, 1.0),
        ("method.gamma", m.gamma, 0.0, 1.0),
        ("method.unsup_weight", m.unsup_weight, 0.0, f64::MAX),
        ("method.ramp_up_epochs", m.ramp_up_epochs, 0.0, f64::MAX),
        ("method.ema_decay", m.ema_decay, 0.0, 1.0),
        ("run.val_all_from", config.run.val_all_from, 0.0, 1.0),
    ] {
        in_range(key, value, lo, hi)?;
    }
    if m.tvat == Tvat::FiniteDifference && !(m.tvat_xi > 0.0 && m.tvat_xi.is_finite()) {
        return fail("method.tvat_xi", "above 0", m.tvat_xi.to_string());
    }
    for (key, value) in [
        ("method.topk", m.topk as u64),
        ("method.tvat_iterations", m.tvat_iterations as u64),
        ("optim.ohem_min_kept_per_image", o.ohem_min_kept_per_image as u64),
        ("optim.accumulate", o.accumulate as u64),
        ("schedule.train_epochs", s.train_epochs),
        ("run.val_every", config.run.val_every),
    ] {
        if value == 0 {
            return fail(key, "at least 1", "0".into());
        }
    }
    check_eval(config)
}

/// Refuses numbers so large that what is computed of them would be none.
///
/// # Errors
/// [`Error::Config`] naming the key.
pub fn check_sizes(config: &RunConfig) -> Result<()> {
    let (a, d, o, s) = (&config.augment, &config.data, &config.optim, &config.schedule);
    let numbers = [
        ("augment.crop", a.crop[0] as u64, LARGEST_SIDE as u64),
        ("augment.crop", a.crop[1] as u64, LARGEST_SIDE as u64),
        ("augment.base_size", a.base_size.unwrap_or(1) as u64, LARGEST_SIDE as u64),
        ("optim.batch_size", o.batch_size as u64, 1 << 16),
        ("optim.accumulate", o.accumulate as u64, 1 << 10),
        ("method.tvat_iterations", config.method.tvat_iterations as u64, 1000),
        ("schedule.train_epochs", s.train_epochs, 1 << 40),
        ("schedule.steps_per_epoch", s.steps_per_epoch, 1 << 40),
        ("method.warm_up_passes", config.method.warm_up_passes, 1 << 40),
        ("run.pictures", config.run.pictures as u64, 1000),
        ("data.demo_labeled", d.demo_labeled as u64, 1 << 20),
        ("data.demo_unlabeled", d.demo_unlabeled as u64, 1 << 20),
        ("data.demo_val", d.demo_val as u64, 1 << 20),
        ("data.demo_size", d.demo_size as u64, 1 << 12),
    ];
    if let Some((key, value, most)) = numbers.into_iter().find(|(_, value, most)| value > most) {
        return Err(Error::config("resolved", format!("{key}: expected at most {most}, got {value}")));
    }
    let pixels = a.crop.iter().fold(o.batch_size as u128, |n, &side| n * side as u128);
    if pixels > MOST_PIXELS {
        return Err(Error::config(
            "resolved",
            format!(
                "augment.crop, optim.batch_size: expected at most {MOST_PIXELS} pixels in a batch, got {} x {} x {}",
                o.batch_size, a.crop[0], a.crop[1]
            ),
        ));
    }
    if let Some(scale) = a.scale.iter().find(|scale| **scale > 1000.0) {
        return Err(Error::config("resolved", format!("augment.scale: expected at most 1000, got {scale}")));
    }
    Ok(())
}

/// How validation images are predicted, and whose prediction decides.
fn check_eval(config: &RunConfig) -> Result<()> {
    let fail = |message: String| Err(Error::config("resolved", message));
    let eval = &config.eval;
    eval.validate()?;
    if eval.multiple > 1 && eval.window > 0 {
        return fail(format!(
            "eval.multiple: expected 0 beside a sliding window, as it is of whole images, got {} and eval.window = {}",
            eval.multiple, eval.window
        ));
    }
    let available = Which::available(config.method.algorithm.num_teachers());
    if let Some(network) = eval.network.filter(|network| !available.contains(network)) {
        let names: Vec<_> = available.iter().map(|w| w.name()).collect();
        return fail(format!(
            "eval.network: expected what method.algorithm gives ({}), got {}",
            names.join(", "),
            network.name()
        ));
    }
    Ok(())
}

impl EvalConfig {
    /// Checks that every size is one that images can be predicted at.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key.
    pub fn validate(&self) -> Result<()> {
        for (key, value, least, most) in [
            ("eval.long_side", self.long_side, 0, LARGEST_SIDE),
            ("eval.window", self.window, 0, LARGEST_SIDE),
            ("eval.multiple", self.multiple, 0, LARGEST_MULTIPLE),
            ("eval.batch_size", self.batch_size, 1, 1 << 16),
        ] {
            if !(least..=most).contains(&value) {
                let message = format!("{key}: expected {least} to {most}, got {value}");
                return Err(Error::config("resolved", message));
            }
        }
        Ok(())
    }
}

/// Batch norm's statistics of the image-pooling branch need two values a channel, hence two images.
///
/// # Errors
/// [`Error::Config`] for fewer.
pub fn check_batch(batch_size: usize) -> Result<()> {
    if batch_size < 2 {
        return Err(Error::config(
            "resolved",
            format!(
                "optim.batch_size (--batch-size): expected at least 2 images, as batch norm over pooled features needs \
                 two values, got {batch_size}"
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Preset;
    use crate::method::Algorithm;

    #[test]
    fn presets_are_valid_and_bad_values_name_their_key() {
        for p in [Preset::Voc, Preset::Cityscapes, Preset::Camvid, Preset::Demo] {
            validate(&RunConfig::preset(Some(p))).unwrap();
        }
        type Change = fn(&mut RunConfig);
        let cases: [(&str, Change); 25] = [
            ("num_classes", |c| c.data.num_classes = 1_000_000_000_000),
            ("optim.accumulate: expected at most", |c| c.optim.accumulate = 1 << 61),
            ("optim.batch_size: expected at most", |c| c.optim.batch_size = usize::MAX),
            ("augment.crop: expected at most", |c| c.augment.crop = [8, usize::MAX]),
            ("pixels in a batch", |c| (c.augment.crop, c.optim.batch_size) = ([1 << 20, 1 << 20], 1 << 16)),
            ("augment.base_size", |c| c.augment.base_size = Some(usize::MAX)),
            ("augment.scale", |c| c.augment.scale = [0.5, 1e30]),
            ("method.tvat_iterations", |c| c.method.tvat_iterations = 1 << 60),
            ("method.warm_up_passes", |c| c.method.warm_up_passes = u64::MAX),
            ("schedule.train_epochs", |c| c.schedule.train_epochs = u64::MAX),
            ("run.pictures", |c| c.run.pictures = usize::MAX),
            ("data.demo_size", |c| c.data.demo_size = 1 << 40),
            ("eval.long_side", |c| c.eval.long_side = usize::MAX),
            ("eval.batch_size", |c| c.eval.batch_size = usize::MAX),
            ("batch_size", |c| c.optim.batch_size = 1),
            ("method.threshold", |c| c.method.threshold = 2.0),
            ("optim.lr", |c| c.optim.lr = f64::NAN),
            ("schedule.train_epochs", |c| c.schedule.train_epochs = 0),
            ("num_classes", |c| c.data.num_classes = 0),
            ("crop", |c| c.augment.crop = [0, 8]),
            ("run.val_all_from", |c| c.run.val_all_from = 1.5),
            ("eval.multiple", |c| c.eval.multiple = 257),
            ("eval.window = 64", |c| (c.eval.window, c.eval.multiple) = (64, 8)),
            ("eval.network", |c| {
                c.eval.network = Some(Which::Teacher1);
                c.method.algorithm = Algorithm::Supervised;
            }),
            ("teacher1, student), got ensemble", |c| {
                c.eval.network = Some(Which::Ensemble);
                c.method.algorithm = Algorithm::MeanTeacher;
            }),
        ];
        for (key, change) in cases {
            let mut c = RunConfig::preset(Some(Preset::Demo));
            change(&mut c);
            let text = validate(&c).unwrap_err().to_string();
            assert!(text.contains(key), "{key}: {text}");
        }
    }
}
