//! All networks and backbones in a file, each with the flag that takes it or the reason why none does, for
//! `inspect`.

use super::file::WeightFile;
use super::names::{Spelling, Wanted};
use super::{fit, infer};
use crate::model::{Architecture, ModelConfig};
use crate::{Error, Result};

/// A network or backbone in a file.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Whether it is a whole network (for `--init`), not a backbone (for `--pretrained`).
    pub whole: bool,
    /// How the file names its tensors, in words.
    pub spelling: String,
    /// Name and sizes of the network, without its classes.
    pub network: String,
    /// Its configuration. The number of classes is meaningful for whole networks only.
    pub config: ModelConfig,
    /// Number of the file's tensors that fit.
    pub tensors: usize,
    /// The prefix that chooses it in `FILE#PREFIX`, where the file without one means another network, or
    /// none.
    pub selector: Option<String>,
    /// Why no run takes it, in words; empty if it is taken.
    pub faults: String,
}

/// Everything in `file` that looks like a network or a backbone, each compared with the network that its own
/// shapes suggest, as a run with that network would compare it. Spellings that do not fit at all are left
/// out.
pub fn survey(file: &WeightFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    for wanted in [Wanted::Network, Wanted::Backbone] {
        for spelling in fit::spellings(file, wanted) {
            let Some(config) = infer::config(file, &spelling) else { continue };
            let Ok(arch) = Architecture::new(config.clone()) else { continue };
            let fit = fit::judge(file, &arch, wanted, &spelling);
            let taken =
                if fit.is_complete() { taken(file, &arch, wanted, &spelling) } else { Err(fit.faults()) };
            let (selector, faults) = match taken {
                Ok(selector) => (selector, String::new()),
                Err(faults) => (None, faults),
            };
            findings.push(Finding {
                whole: wanted == Wanted::Network,
                spelling: spelling.to_string(),
                network: infer::describe(&config, wanted),
                config,
                tensors: fit.pairs.len(),
                selector,
                faults,
            });
        }
    }
    findings
}

/// The selector with which a run with `arch` takes the network of `spelling`; `None` if it takes it without
/// one.
///
/// # Errors
/// Why no run takes it.
fn taken(
    file: &WeightFile,
    arch: &Architecture,
    wanted: Wanted,
    spelling: &Spelling,
) -> std::result::Result<Option<String>, String> {
    let with = |selector: Option<&str>| -> Result<bool> {
        let chosen = fit::fits(file, arch, wanted, selector)?;
        chosen.check_values(file, arch)?;
        Ok(chosen.fits.iter().any(|fit| fit.spelling == *spelling))
    };
    if with(None).is_ok_and(|taken| taken) {
        return Ok(None);
    }
    let selector = spelling.selector();
    match with(Some(&selector)) {
        Ok(true) => Ok(Some(selector)),
        Ok(false) => Err("no prefix distinguishes it from the others".into()),
        Err(Error::Checkpoint { message, .. }) => Err(message),
        Err(error) => Err(error.to_string()),
    }
}
