//! Configurations key by key: all of them, and those that decide a run's bits. Knows TOML, not what keys
//! mean.

use super::{RunConfig, parse};
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use toml::{Table, Value};

/// Keys that decide neither what a run computes nor what its validations score: where images lie (what they
/// are is compared apart), what networks started from, and what is written when.
const UNDECIDING: [&str; 16] = [
    "data.dir",
    "data.labeled",
    "data.unlabeled",
    "data.val",
    "model.name",
    "model.initialization",
    "model.pretrained",
    "model.pretrained_networks",
    "model.init",
    "eval.batch_size",
    "run.checkpoint_every",
    "run.val_every",
    "run.val_all_from",
    "run.log_every",
    "run.pictures",
    "run.tensorboard",
];

/// All keys by dotted names; what is not set is left out.
///
/// # Errors
/// As [`RunConfig::to_toml`].
pub fn flatten(config: &RunConfig) -> Result<BTreeMap<String, String>> {
    fn walk(prefix: &str, table: &Table, keys: &mut BTreeMap<String, String>) {
        for (key, value) in table {
            let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match value {
                Value::Table(inner) => walk(&name, inner, keys),
                Value::String(text) => drop(keys.insert(name, text.clone())),
                other => drop(keys.insert(name, other.to_string())),
            }
        }
    }
    let mut keys = BTreeMap::new();
    walk("", &table(config)?, &mut keys);
    Ok(keys)
}

fn table(config: &RunConfig) -> Result<Table> {
    config.to_toml()?.parse().map_err(|e: toml::de::Error| Error::config("resolved", e.message()))
}

impl RunConfig {
    /// The settings that decide the run, as TOML that [`parse`] reads.
    ///
    /// # Errors
    /// As [`RunConfig::to_toml`].
    pub fn deciding_toml(&self) -> Result<String> {
        let mut all = table(self)?;
        for key in UNDECIDING {
            if let Some((part, key)) = key.split_once('.')
                && let Some(Value::Table(part)) = all.get_mut(part)
            {
                part.remove(key);
            }
        }
        toml::to_string(&all).map_err(|e| Error::config("resolved", e.to_string()))
    }
}

/// What differs between two texts of [`RunConfig::deciding_toml`], a phrase per key. Keys that a text of an
/// older version does not have are at their defaults.
///
/// # Errors
/// As [`parse`].
pub fn changed_keys(before: &str, now: &str) -> Result<Vec<String>> {
    let keys = |text: &str| flatten(&parse("settings of the checkpoint", text)?);
    let (before, now) = (keys(before)?, keys(now)?);
    let names: BTreeSet<_> = before.keys().chain(now.keys()).collect();
    let value = |keys: &BTreeMap<String, String>, name: &str| {
        keys.get(name).map_or_else(|| "not set".to_string(), String::clone)
    };
    Ok(names
        .into_iter()
        .filter(|name| before.get(*name) != now.get(*name))
        .map(|name| format!("{name} was {}, is {}", value(&before, name), value(&now, name)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Preset;

    #[test]
    fn what_decides_a_run_is_compared() {
        let mut a = RunConfig::preset(Some(Preset::Demo));
        let mut b = a.clone();
        b.data.dir = Some("elsewhere".into());
        b.run.checkpoint_every = 7;
        b.model.pretrained = Some("x.pth".into());
        b.eval.batch_size = 1;
        let text = |c: &RunConfig| c.deciding_toml().unwrap();
        assert_eq!(text(&a), text(&b));
        b.optim.lr = 0.5;
        b.augment.base_size = None;
        b.augment.crop = [48, 64];
        let expected = [
            "augment.base_size was 96, is not set",
            "augment.crop was [80, 80], is [48, 64]",
            "optim.lr was 0.1, is 0.5",
        ];
        assert_eq!(changed_keys(&text(&a), &text(&b)).unwrap(), expected);
        assert_eq!(changed_keys(&text(&a), &text(&a)).unwrap(), Vec::<String>::new());
        // A key of a later version.
        a.eval.multiple = 0;
        let older: String =
            text(&a).lines().filter(|l| !l.starts_with("multiple")).collect::<Vec<_>>().join("\n");
        assert!(older.len() < text(&a).len());
        assert_eq!(changed_keys(&older, &text(&a)).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn undeciding_keys_exist() {
        let mut config = RunConfig::default();
        let path = || Some(std::path::PathBuf::from("x"));
        (config.data.dir, config.data.labeled, config.data.unlabeled, config.data.val) =
            (path(), path(), path(), path());
        (config.model.pretrained, config.model.init) = (path(), path());
        let keys = flatten(&config).unwrap();
        assert!(UNDECIDING.iter().all(|key| keys.contains_key(*key)));
    }
}
