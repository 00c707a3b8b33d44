//! `predict`: masks and confidences of a checkpoint for any images.

use super::eval::checkpoint_file;
use super::{DeviceArgs, on_device};
use crate::data::{Sample, decode_image};
use crate::eval::{self, Palette, Settings, Which};
use crate::model::DeepLab;
use crate::ops::Backend;
use crate::train::Checkpoint;
use crate::train::pictures::{Pixels, write_png};
use crate::{Error, Result};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Flags of `predict`.
#[derive(clap::Args)]
pub struct Args {
    /// Image files, or folders of them.
    #[arg(required = true, value_name = "IMAGES")]
    images: Vec<PathBuf>,
    /// A run's folder (its best checkpoint), or a checkpoint file.
    #[arg(long, value_name = "RUN_DIR|FILE")]
    checkpoint: PathBuf,
    /// Folder of results: NAME_color.png, NAME_index.png and NAME_confidence.png an image.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Whose predictions (default: the ensemble, where the checkpoint has one).
    #[arg(long, value_enum)]
    network: Option<Which>,
    /// Side of a sliding window (0: whole images; default: as in the run's validation).
    #[arg(long, value_name = "PIXELS")]
    window: Option<usize>,
    /// Long side at which images are predicted (0: their own; default: as in the run's validation).
    #[arg(long, value_name = "PIXELS")]
    eval_size: Option<usize>,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs `predict`. Files that are no images are skipped with a line each; only if nothing is left is that an error.
pub fn run(args: Args) -> Result<()> {
    on_device!(args.device.open()?, b => run_on(b, args))
}

fn run_on<B: Backend>(b: &B, args: Args) -> Result<()> {
    let checkpoint = Checkpoint::open(&checkpoint_file(&args.checkpoint)?)?;
    let arch = DeepLab::new(checkpoint.meta.model.clone())?;
    let owned = checkpoint.networks(b, &arch)?;
    let nets = owned.nets();
    let which = args.network.unwrap_or(nets.best());
    let palette = Palette::new(checkpoint.meta.preset, arch.config.num_classes);
    let mut settings = checkpoint.meta.settings();
    settings.window = args.window.unwrap_or(settings.window);
    settings.long_side = args.eval_size.unwrap_or(settings.long_side);

    let files = collect(&args.images)?;
    std::fs::create_dir_all(&args.out).map_err(Error::io(&args.out))?;
    let mut taken = HashSet::new();
    let mut done = 0;
    for file in &files {
        let image = match decode_image(file) {
            Ok(image) => image,
            Err(e) => {
                eprintln!("skipped: {e}");
                continue;
            }
        };
        let sample = Arc::new(Sample { image, mask: None, name: file.display().to_string() });
        let name = free_name(file, &mut taken);
        write(b, &arch, &nets, which, &sample, &settings, &palette, &args.out, &name)?;
        done += 1;
    }
    if done == 0 {
        return Err(Error::data(
            &args.images[0],
            "expected at least one readable JPEG, PNG or WebP image, got none",
        ));
    }
    println!("{done} of {} files predicted into {}", files.len(), args.out.display());
    Ok(())
}

fn write<B: Backend>(
    b: &B,
    arch: &DeepLab,
    nets: &eval::Nets<'_, B>,
    which: Which,
    sample: &Arc<Sample>,
    settings: &Settings,
    palette: &Palette,
    out: &Path,
    name: &str,
) -> Result<()> {
    let size = sample.image.size;
    let predictions = eval::predict_group(b, arch, nets, &[which], std::slice::from_ref(sample), settings)?;
    for p in predictions {
        let label = b.download_labels(&p.label);
        let confidence: Vec<u8> =
            b.download(&p.confidence).iter().map(|c| (255.0 * c).round().clamp(0.0, 255.0) as u8).collect();
        b.check()?;
        let file = |kind: &str| out.join(format!("{name}_{kind}.png"));
        write_png(&file("color"), size, Pixels::Classes(palette), &label)?;
        write_png(&file("index"), size, Pixels::Gray, &label)?;
        write_png(&file("confidence"), size, Pixels::Gray, &confidence)?;
    }
    Ok(())
}

/// The files given, and those inside the folders given, sorted.
fn collect(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut inside = Vec::new();
        for entry in std::fs::read_dir(path).map_err(Error::io(path))? {
            let entry = entry.map_err(Error::io(path))?.path();
            if entry.is_file() {
                inside.push(entry);
            }
        }
        inside.sort();
        files.extend(inside);
    }
    Ok(files)
}

/// The file's name without extension, numbered where an earlier file has it.
fn free_name(file: &Path, taken: &mut HashSet<String>) -> String {
    let stem = file.file_stem().map_or_else(|| "image".into(), |s| s.to_string_lossy().into_owned());
    let mut name = stem.clone();
    let mut number = 2;
    while !taken.insert(name.clone()) {
        name = format!("{stem}-{number}");
        number += 1;
    }
    name
}
