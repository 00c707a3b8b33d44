//! Keys that are gone because their meaning changed: a configuration that has one would train something else
//! than it did, so it is refused with the key's successor. Knows keys and text only.

use crate::{Error, Result};
use toml::Table;
use toml::de::{DeTable, DeValue};

/// Old key, and its successor with what is different.
const RENAMED: [(&str, &str); 4] = [
    (
        "method.warm_up_epochs",
        "method.warm_up_passes: passes over the labelled images, which stand before the epochs and are not counted in them",
    ),
    ("schedule.epochs", "schedule.train_epochs: the epochs alone, without the warm-up before them"),
    ("optim.ohem_min_kept", "optim.ohem_min_kept_per_image: pixels for each image of a batch"),
    (
        "augment.blur_kernel",
        "augment.blur_kernels and augment.blur_kernel_shares: windows that are drawn independently of sigma",
    ),
];

/// Refuses a table with a key that is gone. `origin` names where it came from; `text`, where there is one, is
/// searched for the line.
///
/// # Errors
/// [`Error::Config`] with the key, its successor, and the line.
pub fn check(table: &Table, origin: &str, text: Option<&str>) -> Result<()> {
    for (old, successor) in RENAMED {
        let Some((section, key)) = old.split_once('.') else { continue };
        let has = table.get(section).and_then(|t| t.as_table()).is_some_and(|t| t.contains_key(key));
        if has {
            let line = text.and_then(|text| line_of(text, section, key));
            let origin = line.map_or(origin.to_string(), |line| format!("{origin}:{line}"));
            return Err(Error::config(
                origin,
                format!("{old} is no longer a key; its successor is {successor}"),
            ));
        }
    }
    Ok(())
}

/// The line, from 1, on which `key` of `section` stands.
fn line_of(text: &str, section: &str, key: &str) -> Option<usize> {
    let root = DeTable::parse(text).ok()?;
    let DeValue::Table(table) = root.get_ref().get(section)?.get_ref() else { return None };
    let start = table.get_key_value(key)?.0.span().start;
    Some(1 + text.as_bytes()[..start].iter().filter(|&&c| c == b'\n').count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_gone_name_line_and_successor() {
        let text = "[optim]\nlr = 1\n\n[ schedule ]\n# so many\nepochs = 3\n";
        let error = check(&text.parse().unwrap(), "run.toml", Some(text)).unwrap_err().to_string();
        assert!(error.contains("run.toml:6") && error.contains("schedule.train_epochs"), "{error}");
        let text = "method . warm_up_epochs = 3\n";
        let error = check(&text.parse().unwrap(), "run.toml", Some(text)).unwrap_err().to_string();
        assert!(error.contains("run.toml:1") && error.contains("warm_up_passes"), "{error}");
        let error = check(&text.parse().unwrap(), "command line", None).unwrap_err().to_string();
        assert!(error.contains("command line: method.warm_up_epochs"), "{error}");
        let text = "[schedule]\ntrain_epochs = 3\n[optim]\nohem_min_kept_per_image = 1\n";
        check(&text.parse().unwrap(), "run.toml", Some(text)).unwrap();
    }
}
