//! `eval`: scores of a checkpoint on images with masks.

use super::inference::InferenceArgs;
use super::settings::DataArgs;
use super::{DeviceArgs, on_device};
use crate::config::{self, Overrides};
use crate::eval::{Palette, Predictor, Scores, Which, percent};
use crate::files::write_json;
use crate::model::Architecture;
use crate::ops::Backend;
use crate::train::{Checkpoint, RunDir, val_source};
use crate::{Error, Result};
use serde_json::json;
use std::path::PathBuf;

/// Flags of `eval`.
#[derive(clap::Args)]
pub struct Args {
    /// A run's folder (its best checkpoint and its validation images), or a checkpoint file.
    #[arg(value_name = "RUN_DIR|FILE")]
    checkpoint: PathBuf,
    /// Whose predictions (default: all that the checkpoint can give).
    #[arg(long, value_enum)]
    network: Vec<Which>,
    #[command(flatten)]
    inference: InferenceArgs,
    /// Write the scores to this file too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    data: DataArgs,
}

/// A checkpoint argument: a file, or a run's folder with its best (else last) checkpoint.
pub(super) fn checkpoint_file(path: &std::path::Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let dir = RunDir::open(path)?;
    [dir.best(), dir.last()].into_iter().find(|p| p.exists()).ok_or_else(|| {
        Error::checkpoint(dir.last(), "the run has not written a checkpoint yet; expected best or last")
    })
}

/// Runs `eval`.
pub fn run(args: Args) -> Result<()> {
    on_device!(args.device.open()?, b => run_on(b, args))
}

fn run_on<B: Backend>(b: &B, args: Args) -> Result<()> {
    let file = checkpoint_file(&args.checkpoint)?;
    let checkpoint = Checkpoint::open(&file)?;
    let mut over = Overrides::default();
    over.set_all(&args.data)?;
    // The run's own configuration says what it was validated on; flags win.
    let run_config = args.checkpoint.is_dir().then(|| args.checkpoint.join("config.toml"));
    if run_config.is_none() && args.data.is_empty() {
        return Err(Error::Usage(
            "a checkpoint file needs --data, --val and --num-classes, or a --preset".into(),
        ));
    }
    if run_config.is_none() {
        over.set_default("data.num_classes", checkpoint.meta.model.num_classes as i64);
    }
    let config = config::load::load(run_config.as_deref(), &over, None)?;
    config::check_sizes(&config)?;
    let classes = checkpoint.meta.model.num_classes;
    if config.data.num_classes != classes {
        return Err(Error::checkpoint(
            &file,
            format!(
                "is of a model with {classes} classes, expected {} as in the data",
                config.data.num_classes
            ),
        ));
    }
    let source = val_source(&config.data)?;
    let settings = args.inference.apply(checkpoint.meta.settings())?;

    let arch = Architecture::new(checkpoint.meta.model.clone())?;
    let owned = checkpoint.networks(b, &arch)?;
    let nets = owned.nets();
    let decides = checkpoint.meta.decides();
    let which = match args.network.is_empty() {
        true => decides.before(&nets.available()),
        false => args.network.clone(),
    };
    let predictor = Predictor { b, arch: &arch, nets: &nets, which: &which, settings: &settings };
    let scores = predictor.evaluate(&*source, |_| true)?.unwrap_or_default();
    if let Some(best) = &checkpoint.meta.progress.best {
        println!("epoch {} was the run's best, by the mIoU of {} (eval.network)", best.epoch, decides.name());
    }
    print(&scores, &Palette::new(config.data.preset, classes).names);
    if let Some(path) = &args.json {
        let all: serde_json::Map<_, _> =
            scores.iter().map(|(w, s)| (w.name().to_string(), json!(s))).collect();
        write_json(path, &all)?;
    }
    Ok(())
}

fn print(scores: &[(Which, Scores)], names: &[String]) {
    let row = |name: &str, cell: &dyn Fn(&Scores) -> Option<f64>| {
        print!("{name:<16}");
        for (_, s) in scores {
            print!(" {:>9}", percent(cell(s), 2));
        }
        println!();
    };
    print!("{:<16}", "IoU %");
    scores.iter().for_each(|(w, _)| print!(" {:>9}", w.name()));
    println!();
    for (c, name) in names.iter().enumerate() {
        row(name, &|s| s.iou[c]);
    }
    row("mIoU", &|s| s.miou);
    row("pixel accuracy", &|s| s.pixel_accuracy);
}
