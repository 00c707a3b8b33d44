//! Weights from files, also of other programs: the formats (safetensors, PyTorch's), how each calls a network's tensors,
//! and what a run starts from. Knows the model's table of names; knows neither the method nor devices. `docs/weights.md`
//! says which files fit.

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

use crate::Error;
use crate::model::{DeepLab, ModelConfig};
use fit::Wanted;

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
    /// What keeps it from fitting; empty where it fits.
    pub faults: String,
}

/// Everything in `file` that looks like a network or a backbone, each judged against the network that its own shapes
/// suggest. A spelling that its file does not follow at all is left out.
pub fn survey(file: &WeightFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    for wanted in [Wanted::Network, Wanted::Backbone] {
        for spelling in fit::spellings(file, wanted) {
            let Some(config) = infer::config(file, &spelling) else { continue };
            let Ok(arch) = DeepLab::new(config.clone()) else { continue };
            let fit = fit::judge(file, &arch, wanted, &spelling);
            findings.push(Finding {
                whole: wanted == Wanted::Network,
                spelling: spelling.to_string(),
                network: infer::describe(&config, wanted),
                config,
                tensors: fit.pairs.len(),
                faults: match fit.check_values(file, &arch) {
                    _ if !fit.is_complete() => fit.faults(),
                    Ok(()) => String::new(),
                    Err(Error::Checkpoint { message, .. }) => message,
                    Err(error) => error.to_string(),
                },
            });
        }
    }
    findings
}
