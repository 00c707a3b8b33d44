//! Layers a configuration: preset, then file, then command line. Knows TOML and error positions, not what
//! keys mean.

use super::{RunConfig, renamed};
use crate::data::Preset;
use crate::{Error, Result};
use serde::Serialize;
use std::path::Path;
use toml::{Table, Value};

/// Settings of the command line, by dotted key.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    table: Table,
}

impl Overrides {
    /// Sets `key` (such as `optim.lr`).
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        let (path, last) = key.rsplit_once('.').map_or((None, key), |(p, l)| (Some(p), l));
        let mut table = &mut self.table;
        for part in path.into_iter().flat_map(|p| p.split('.')) {
            let slot = table.entry(part).or_insert_with(|| Value::Table(Table::new()));
            if !slot.is_table() {
                *slot = Value::Table(Table::new());
            }
            table = match slot {
                Value::Table(t) => t,
                _ => unreachable!("just made a table"),
            };
        }
        table.insert(last.to_string(), value.into());
    }

    /// Sets the key that each field of `settings` is serialised under to the field's value; `None` sets
    /// nothing.
    ///
    /// # Errors
    /// [`Error::Usage`] for a value that TOML cannot hold, such as a path that is not UTF-8.
    pub fn set_all(&mut self, settings: &impl Serialize) -> Result<()> {
        let table = Table::try_from(settings).map_err(|e| Error::Usage(e.to_string()))?;
        table.into_iter().for_each(|(key, value)| self.set(&key, value));
        Ok(())
    }

    /// The value of `key`, where it is set.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let mut parts = key.split('.');
        let first = self.table.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.as_table()?.get(part))
    }

    /// Sets `key` where it is not set.
    pub fn set_default(&mut self, key: &str, value: impl Into<Value>) {
        if self.get(key).is_none() {
            self.set(key, value);
        }
    }

    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// `KEY=VALUE` of `--set`: the value is TOML, or a plain word taken as a string.
    ///
    /// # Errors
    /// No `=`.
    pub fn assign(&mut self, text: &str) -> Result<()> {
        let (key, raw) = text.split_once('=').ok_or_else(|| {
            Error::Usage(format!("--set expects KEY=VALUE such as optim.lr=0.01, got {text:?}"))
        })?;
        let (key, raw) = (key.trim(), raw.trim());
        let value = format!("v = {raw}")
            .parse::<Table>()
            .ok()
            .and_then(|mut t| t.remove("v"))
            .unwrap_or_else(|| Value::String(raw.to_string()));
        self.set(key, value);
        Ok(())
    }
}

/// Reads one configuration text alone, over the defaults. `origin` names it in errors.
///
/// # Errors
/// [`Error::Config`] with file, line, the key and what was expected.
pub fn parse(origin: &str, text: &str) -> Result<RunConfig> {
    if let Ok(table) = text.parse::<Table>() {
        renamed::check(&table, origin, Some(text))?;
    }
    toml::from_str(text).map_err(|e| {
        let origin = match e.span() {
            Some(span) => {
                let before = &text.as_bytes()[..span.start.min(text.len())];
                format!("{origin}:{}", 1 + before.iter().filter(|&&c| c == b'\n').count())
            }
            None => origin.to_string(),
        };
        Error::config(origin, e.message().to_string())
    })
}

/// Preset (of the command line, else of the file, else `fallback`), then `file`, then `overrides`.
///
/// # Errors
/// A file that cannot be read, an unknown key, a value of the wrong kind.
pub fn load(file: Option<&Path>, overrides: &Overrides, fallback: Option<Preset>) -> Result<RunConfig> {
    let mut file_table = Table::new();
    let mut chosen = fallback;
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let origin = path.display().to_string();
        let typed = parse(&origin, &text)?;
        file_table = text.parse::<Table>().map_err(|e| Error::config(&origin, e.message().to_string()))?;
        if file_table.get("data").and_then(|d| d.get("preset")).is_some() {
            chosen = typed.data.preset;
        }
    }
    let typed = from_table(&overrides.table, "command line")?;
    if overrides.table.get("data").and_then(|d| d.get("preset")).is_some() {
        chosen = typed.data.preset;
    }
    let mut table =
        Table::try_from(RunConfig::preset(chosen)).map_err(|e| Error::config("preset", e.to_string()))?;
    merge(&mut table, file_table);
    merge(&mut table, overrides.table.clone());
    let mut config = from_table(&table, "after all overrides")?;
    config.data.preset = chosen;
    Ok(config)
}

/// Reads a table by way of text, so that a message can show the line that it is about.
fn from_table(table: &Table, origin: &str) -> Result<RunConfig> {
    renamed::check(table, origin, None)?;
    let text = toml::to_string(table).map_err(|e| Error::config(origin, e.to_string()))?;
    toml::from_str(&text).map_err(|e| {
        let start = e.span().map_or(text.len(), |s| s.start.min(text.len()));
        let line = text.as_bytes()[..start].iter().filter(|&&c| c == b'\n').count();
        let shown = text.lines().nth(line).map(str::trim).unwrap_or_default();
        Error::config(origin, format!("{shown}: {}", e.message()))
    })
}

fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(b)), Value::Table(o)) => merge(b, o),
            // An integer where a number with a fraction stands is meant as one.
            (Some(Value::Float(b)), Value::Integer(i)) => *b = i as f64,
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    fn write(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.toml");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn command_line_beats_file_beats_preset() {
        let (_dir, path) = write("[optim]\nlr = 1\nmomentum = 0.5\n[data]\npreset = \"demo\"\n");
        let mut over = Overrides::default();
        over.set("optim.momentum", 0.25);
        over.assign("method.tvat=uniform").unwrap();
        over.assign("schedule.train_epochs = 3").unwrap();
        let c = load(Some(&path), &over, None).unwrap();
        assert_eq!((c.optim.lr, c.optim.momentum, c.schedule.train_epochs), (1.0, 0.25, 3));
        assert_eq!(c.method.tvat, crate::method::Tvat::Uniform);
        assert_eq!(c.data.num_classes, RunConfig::preset(Some(Preset::Demo)).data.num_classes);
    }

    #[test]
    fn unknown_keys_name_file_line_and_key() {
        let (_dir, path) = write("[optim]\nlr = 0.1\n\nlearning_rate = 2\n");
        let text = load(Some(&path), &Overrides::default(), None).unwrap_err().to_string();
        assert!(
            text.contains("run.toml:4") && text.contains("learning_rate") && text.contains("expected"),
            "{text}"
        );
        let mut over = Overrides::default();
        over.set("optim.learning_rate", 1.0);
        let text = load(None, &over, None).unwrap_err().to_string();
        assert!(text.contains("command line") && text.contains("learning_rate"), "{text}");
    }

    #[test]
    fn resolved_text_reads_back() {
        for preset in Preset::value_variants().iter().copied().map(Some).chain([None]) {
            let c = load(None, &Overrides::default(), preset).unwrap();
            assert_eq!(parse("x", &c.to_toml().unwrap()).unwrap(), c);
        }
    }
}
