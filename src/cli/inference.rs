//! Flags of commands that predict images.

use crate::Result;
use crate::eval::{Settings, Views};

/// How images become predictions.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct InferenceArgs {
    /// Side of a sliding window (0: whole images; default: as in the run's validation).
    #[arg(long, value_name = "PIXELS")]
    window: Option<usize>,
    /// Long side at which images are predicted (0: their own; default: as in the run's validation).
    #[arg(long, value_name = "PIXELS")]
    eval_size: Option<usize>,
    /// Average the probabilities at several sizes, factors to the long side: 0.5,0.75,1,1.25,1.5,1.75
    #[arg(long, value_name = "FACTORS", value_delimiter = ',', default_values_t = [1.0])]
    scales: Vec<f64>,
    /// Average with the mirrored image too, at every size
    #[arg(long)]
    flip: bool,
}

impl InferenceArgs {
    /// Settings of a checkpoint with what the flags say.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] for scales that are none.
    pub fn apply(&self, settings: Settings) -> Result<Settings> {
        Ok(Settings {
            window: self.window.unwrap_or(settings.window),
            long_side: self.eval_size.unwrap_or(settings.long_side),
            views: Views::new(self.scales.clone(), self.flip)?,
            ..settings
        })
    }
}
