//! Flags of commands that predict images.

use crate::config::LARGEST_SIDE;
use crate::eval::{LARGEST_MULTIPLE, Overlap, Settings, Views};
use crate::{Error, Result};

/// How images become predictions.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct InferenceArgs {
    /// Side of a sliding window (0: whole images; default: as in the run's validation).
    #[arg(long, value_name = "PIXELS")]
    window: Option<usize>,
    /// How the scores of overlapping windows combine (default: as in the run's validation).
    #[arg(long, value_enum)]
    overlap: Option<Overlap>,
    /// Stretch whole images to the next multiples of this many pixels (0: keep their size; default: as in the
    /// run's validation).
    #[arg(long, value_name = "PIXELS")]
    multiple: Option<usize>,
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
    /// [`Error::Usage`] for scales that are none, a multiple that is too large, and one beside a window.
    pub fn apply(&self, settings: Settings) -> Result<Settings> {
        if let Some(multiple) = self.multiple.filter(|&m| m > LARGEST_MULTIPLE) {
            return Err(Error::Usage(format!(
                "--multiple: expected 0 to {LARGEST_MULTIPLE}, got {multiple}"
            )));
        }
        let sides = [("--window", self.window), ("--eval-size", self.eval_size)];
        if let Some((flag, Some(side))) = sides.into_iter().find(|(_, side)| *side > Some(LARGEST_SIDE)) {
            return Err(Error::Usage(format!("{flag}: expected 0 to {LARGEST_SIDE}, got {side}")));
        }
        // Windows or whole images: what is given replaces what the run had of the other.
        let windows = self.window.is_some_and(|w| w > 0);
        let stretched = self.multiple.is_some_and(|m| m > 1);
        if windows && stretched {
            return Err(Error::Usage(
                "--multiple is of whole images: it takes no --window above 0 beside it".into(),
            ));
        }
        Ok(Settings {
            window: self.window.unwrap_or(if stretched { 0 } else { settings.window }),
            multiple: self.multiple.unwrap_or(if windows { 0 } else { settings.multiple }),
            overlap: self.overlap.unwrap_or(settings.overlap),
            long_side: self.eval_size.unwrap_or(settings.long_side),
            views: Views::new(self.scales.clone(), self.flip)?,
            ..settings
        })
    }
}
