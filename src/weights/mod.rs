//! Weights from files, also of other programs: the formats (safetensors, PyTorch's), how each calls a network's tensors,
//! and what a run starts from. Knows the model's table of names; knows neither the method nor devices. `docs/weights.md`
//! says which files fit.

mod copies;
mod element;
mod file;
mod fit;
mod infer;
mod names;
mod start;
mod torch;

pub use element::Element;
pub use file::{Format, Info, WeightFile};
pub use start::Weights;

use crate::model::{Architecture, ModelConfig};
use crate::{Error, Result};
use fit::Wanted;
use names::Spelling;

/// Something in a file that a run could start from, or almost.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Whether it is a whole network (for `--init`) or a backbone (for `--pretrained`).
    pub whole: bool,
    /// How the file calls it.
    pub spelling: String,
    /// Which network it is, without its classes.
    pub network: String,
    /// Its sizes; classes mean something for whole networks only.
    pub config: ModelConfig,
    /// How many tensors it would fill.
    pub tensors: usize,
    /// The prefix that must stand behind the file's name (`FILE#PREFIX`) where the file alone means another network, or none.
    pub selector: Option<String>,
    /// What keeps it from being taken; empty where it is.
    pub faults: String,
}

/// Everything in `file` that looks like a network or a backbone, each judged against the network that its own shapes
/// suggest, as a run with that network judges it. A spelling that its file does not follow at all is left out.
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

/// The selector with which a run with `arch` takes the network of `spelling`, none where it takes it from the file alone.
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
        Ok(false) => Err("nothing chooses it among the others".into()),
        Err(Error::Checkpoint { message, .. }) => Err(message),
        Err(error) => Err(error.to_string()),
    }
}
