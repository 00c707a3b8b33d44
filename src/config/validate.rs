//! Refuses what cannot train, before anything is written: each message names the key, what was expected and what came.

use super::RunConfig;
use crate::eval::{LARGEST_MULTIPLE, Which};
use crate::method::Tvat;
use crate::{Error, Result};

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
        ("eval.batch_size", config.eval.batch_size as u64),
    ] {
        if value == 0 {
            return fail(key, "at least 1", "0".into());
        }
    }
    check_eval(config)
}

/// How validation images are predicted, and whose prediction decides.
fn check_eval(config: &RunConfig) -> Result<()> {
    let fail = |message: String| Err(Error::config("resolved", message));
    let eval = &config.eval;
    if eval.multiple > LARGEST_MULTIPLE {
        return fail(format!("eval.multiple: expected 0 to {LARGEST_MULTIPLE}, got {}", eval.multiple));
    }
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
        let cases: [(&str, Change); 11] = [
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
