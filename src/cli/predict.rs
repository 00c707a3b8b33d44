//! `predict`: masks and confidences of a checkpoint for any images.

use super::eval::checkpoint_file;
use super::inference::InferenceArgs;
use super::{DeviceArgs, on_device};
use crate::data::{Sample, decode_upright};
use crate::eval::{self, Palette, Settings, Which};
use crate::model::DeepLab;
use crate::model::io::write_json;
use crate::ops::Backend;
use crate::train::Checkpoint;
use crate::train::pictures::{Pixels, write_png};
use crate::{Error, Result};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Flags of `predict`.
#[derive(clap::Args)]
pub struct Args {
    /// Image files, or folders of them.
    #[arg(required = true, value_name = "IMAGES")]
    images: Vec<PathBuf>,
    /// Also what lies in folders of the folders (links to folders are not followed).
    #[arg(long)]
    recursive: bool,
    /// A run's folder (its best checkpoint), or a checkpoint file.
    #[arg(long, value_name = "RUN_DIR|FILE")]
    checkpoint: PathBuf,
    /// Folder of results: NAME_color.png, NAME_index.png and NAME_confidence.png an image, and predictions.json.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What to write of each image
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["color", "index", "confidence"])]
    outputs: Vec<Output>,
    /// Whose predictions (default: of the network that decided which epoch is the best, see eval.network).
    #[arg(long, value_enum)]
    network: Option<Which>,
    #[command(flatten)]
    inference: InferenceArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// A picture of a prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// Classes in their colours, as a palette PNG.
    Color,
    /// Class indices as grey values.
    Index,
    /// Confidence, 0 to 255.
    Confidence,
    /// The image under half-transparent class colours.
    Overlay,
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
    let which = args.network.unwrap_or(checkpoint.meta.decides());
    let palette = Palette::new(checkpoint.meta.preset, arch.config.num_classes);
    let settings = args.inference.apply(checkpoint.meta.settings())?;

    let files = collect(&args.images, args.recursive)?;
    std::fs::create_dir_all(&args.out).map_err(Error::io(&args.out))?;
    let mut taken = HashSet::new();
    let (mut done, mut skipped, mut described) = (0, 0, Vec::new());
    for file in &files {
        let image = match decode_upright(file) {
            Ok(image) => image,
            Err(e) => {
                eprintln!("skipped: {e}");
                skipped += 1;
                continue;
            }
        };
        let sample = Arc::new(Sample { image, mask: None, name: file.display().to_string() });
        let name = free_name(file, &mut taken);
        let target = Target { palette: &palette, outputs: &args.outputs, folder: &args.out, name: &name };
        described.push(predict(b, &arch, &nets, which, &sample, &settings, &target)?);
        done += 1;
    }
    if done == 0 {
        return Err(Error::data(
            &args.images[0],
            "expected at least one readable JPEG, PNG or WebP image, got none",
        ));
    }
    let report = json!({ "network": which.name(), "images": described });
    write_json(&args.out.join("predictions.json"), &report)?;
    let more = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
    let (of, out) = (files.len(), args.out.display());
    println!("{done} of {of} files predicted by {} into {out}{more}", which.name());
    Ok(())
}

/// Where pictures go and how they look.
struct Target<'a> {
    palette: &'a Palette,
    outputs: &'a [Output],
    folder: &'a Path,
    name: &'a str,
}

/// Predicts one image, writes its pictures, and describes it: size, mean confidence, share of each class that occurs.
fn predict<B: Backend>(
    b: &B,
    arch: &DeepLab,
    nets: &eval::Nets<'_, B>,
    which: Which,
    sample: &Arc<Sample>,
    settings: &Settings,
    target: &Target<'_>,
) -> Result<Value> {
    let size = sample.image.size;
    let predictions = eval::predict_group(b, arch, nets, &[which], std::slice::from_ref(sample), settings)?;
    let p = predictions.first().ok_or_else(|| Error::shape("predict", "one prediction", "none"))?;
    let (label, confidence) = (b.download_labels(&p.label), b.download(&p.confidence));
    b.check()?;
    for &output in target.outputs {
        let file = |kind: &str| target.folder.join(format!("{}_{kind}.png", target.name));
        match output {
            Output::Color => write_png(&file("color"), size, Pixels::Classes(target.palette), &label)?,
            Output::Index => write_png(&file("index"), size, Pixels::Gray, &label)?,
            Output::Confidence => {
                let bytes: Vec<u8> =
                    confidence.iter().map(|c| (255.0 * c).round().clamp(0.0, 255.0) as u8).collect();
                write_png(&file("confidence"), size, Pixels::Gray, &bytes)?;
            }
            Output::Overlay => {
                let colors = label.iter().flat_map(|&class| target.palette.color(class));
                let mixed = sample.image.data.iter().zip(colors);
                let bytes: Vec<u8> = mixed.map(|(&a, c)| u16::midpoint(a.into(), c.into()) as u8).collect();
                write_png(&file("overlay"), size, Pixels::Rgb, &bytes)?;
            }
        }
    }
    let mut shares = serde_json::Map::new();
    for class in 0..arch.config.num_classes {
        let pixels = label.iter().filter(|&&l| usize::from(l) == class).count();
        if pixels > 0 {
            shares.insert(target.palette.names[class].clone(), json!(pixels as f64 / label.len() as f64));
        }
    }
    let mean = confidence.iter().map(|&c| f64::from(c)).sum::<f64>() / confidence.len() as f64;
    Ok(json!({
        "file": sample.name, "name": target.name, "rows": size.0, "columns": size.1,
        "mean_confidence": mean, "class_shares": shares,
    }))
}

/// The files given, and those inside the folders given, sorted.
fn collect(paths: &[PathBuf], recursive: bool) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut inside = Vec::new();
        let mut folders = vec![path.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).map_err(Error::io(&folder))? {
                let entry = entry.map_err(Error::io(&folder))?;
                let path = entry.path();
                if path.is_file() {
                    inside.push(path);
                } else if recursive && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(path);
                }
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
