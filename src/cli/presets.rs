//! `presets`: the published settings, by name.

use crate::Result;
use crate::config::recipe::{PUBLISHED_TVAT, RECIPES};

/// List the published settings that `train --recipe` knows, with the mIoU that was reported for them.
///
/// Numbers of different lists must not be compared: high-quality and blender lists of VOC lie 2 to 3 points
/// above the augmented ones. Batches and rates are those of all cards together.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the subcommand.
///
/// # Errors
/// None.
pub fn run(_: Args) -> Result<()> {
    println!(
        "{:<21} {:<30} {:>8} {:>5} {:>6} {:>6} {:>7} {:>7}  published mIoU %",
        "recipe", "lists", "labelled", "crop", "epochs", "weight", "batch", "rate"
    );
    for r in &RECIPES {
        let published: Vec<String> =
            r.published.iter().map(|(net, miou)| format!("{net} {miou:.2}")).collect();
        println!(
            "{:<21} {:<30} {:>8} {:>5} {:>6} {:>6} {:>7} {:>7}  {}",
            r.name,
            r.lists.describe(),
            r.labeled,
            r.crop(),
            r.epochs,
            r.unsup_weight,
            format!("{0}+{0}", r.batch_size()),
            r.lr(),
            if published.is_empty() { "none".into() } else { published.join(", ") }
        );
    }
    println!(
        "\nT-VAT: recipes take {PUBLISHED_TVAT} with xi = 1e-6, to which the figures belong; rounding leaves its noise almost no \
         length.\n`--tvat exact` adds noise of the length that the paper describes, and has no published figure."
    );
    Ok(())
}
