//! `predict`: masks and confidences of a checkpoint for any images.

use super::eval::checkpoint_file;
use super::inference::InferenceArgs;
use super::{DeviceArgs, on_device, printable};
use crate::data::{Sample, check_image, decode_upright};
use crate::eval::{self, Palette, Predictor, Settings, Which};
use crate::files::write_json;
use crate::model::Architecture;
use crate::ops::Backend;
use crate::train::Checkpoint;
use crate::train::pictures::{Pixels, write_png};
use crate::{Error, Result};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::io::Write;
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
    /// Folder of results: NAME_color.png, NAME_index.png and NAME_confidence.png per image, and
    /// predictions.json.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace files that are in that folder; without it nothing is predicted where one would be.
    #[arg(long)]
    overwrite: bool,
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

impl Output {
    /// Name of the file for an image of this name.
    fn file(self, name: &str) -> String {
        let kind = match self {
            Output::Color => "color",
            Output::Index => "index",
            Output::Confidence => "confidence",
            Output::Overlay => "overlay",
        };
        format!("{name}_{kind}.png")
    }
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

/// Runs `predict`. A file that cannot be predicted is skipped with a line; only if nothing is left is that an
/// error.
pub fn run(args: Args) -> Result<()> {
    on_device!(args.device.open()?, b => run_on(b, args))
}

fn run_on<B: Backend>(b: &B, args: Args) -> Result<()> {
    let checkpoint = Checkpoint::open(&checkpoint_file(&args.checkpoint)?)?;
    let arch = Architecture::new(checkpoint.meta.model.clone())?;
    let owned = checkpoint.networks(b, &arch)?;
    let nets = owned.nets();
    let which = args.network.unwrap_or(checkpoint.meta.decides());
    which.expect_among(&nets.available())?;
    let palette = Palette::new(checkpoint.meta.preset, arch.config.num_classes);
    let settings = args.inference.apply(checkpoint.meta.settings())?;

    let mut skipped = Skipped::default();
    let found = collect(&args.images, args.recursive, &mut skipped)?;
    let of = found.len();
    let files = named(images(found, &mut skipped));
    refuse_to_replace(&args, &files)?;
    std::fs::create_dir_all(&args.out).map_err(Error::io(&args.out))?;
    let (mut described, mut refused) = (Vec::new(), None);
    let mut predict_all = || -> Result<()> {
        for (file, name) in &files {
            let image = match decode_upright(file) {
                Ok(image) => image,
                Err(e) => {
                    skipped.add(e);
                    continue;
                }
            };
            let sample = Arc::new(Sample { image, mask: None, name: file.display().to_string() });
            let target = Target { palette: &palette, outputs: &args.outputs, folder: &args.out, name };
            match predict(b, &arch, &nets, which, &sample, &settings, &target) {
                Ok(prediction) => described.push(prediction),
                // Of this image's size. After a fault of the device nothing else can be predicted.
                Err(e @ (Error::Memory { .. } | Error::Shape { .. } | Error::Data { .. }))
                    if b.check().is_ok() =>
                {
                    skipped.add(Error::data(file, e.to_string()));
                    refused.get_or_insert(e);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    };
    let ended = predict_all();
    let done = described.len();
    if done > 0 {
        let report = json!({ "network": which.name(), "images": described });
        let written = write_json(&args.out.join(REPORT), &report);
        ended.and(written)?;
    } else {
        ended?;
        let none = "expected at least one readable JPEG, PNG or WebP image, got none";
        return Err(refused.unwrap_or_else(|| Error::data(&args.images[0], none)));
    }
    let more = if skipped.0 > 0 { format!(", {} skipped", skipped.0) } else { String::new() };
    println!("{done} of {of} files predicted by {} into {}{more}", which.name(), args.out.display());
    Ok(())
}

/// Counts what is skipped, and says why.
#[derive(Default)]
struct Skipped(usize);

impl Skipped {
    fn add(&mut self, why: Error) {
        // A reader that is gone costs no prediction.
        let _ = writeln!(std::io::stderr(), "skipped: {}", printable(&why.to_string()));
        self.0 += 1;
    }
}

/// Name of the file that describes all predictions.
const REPORT: &str = "predictions.json";

/// Refuses outputs that would replace a file: any without --overwrite, and an image to predict in any case.
fn refuse_to_replace(args: &Args, files: &[(PathBuf, String)]) -> Result<()> {
    let outputs = files
        .iter()
        .flat_map(|(_, name)| args.outputs.iter().map(move |output| args.out.join(output.file(name))));
    let there: Vec<PathBuf> =
        outputs.chain([args.out.join(REPORT)]).filter(|path| path.symlink_metadata().is_ok()).collect();
    let Some(first) = there.first().filter(|_| !args.overwrite) else {
        let inputs: HashSet<PathBuf> =
            files.iter().filter_map(|(file, _)| file.canonicalize().ok()).collect();
        let is_input = |path: &&PathBuf| path.canonicalize().is_ok_and(|path| inputs.contains(&path));
        return match there.iter().find(is_input) {
            Some(path) => Err(Error::Usage(format!(
                "{} is itself among the images to predict and would be replaced: choose another --out",
                path.display()
            ))),
            None => Ok(()),
        };
    };
    let more = match there.len() {
        1 => String::new(),
        n => format!(" ({n} such files)"),
    };
    Err(Error::Usage(format!(
        "{} is there already and would be replaced{more}: choose another --out, or --overwrite",
        first.display()
    )))
}

/// Where pictures go and how they look.
struct Target<'a> {
    palette: &'a Palette,
    outputs: &'a [Output],
    folder: &'a Path,
    name: &'a str,
}

/// Predicts one image, writes its pictures, and describes it: size, mean confidence, share of each class that
/// occurs.
fn predict<B: Backend>(
    b: &B,
    arch: &Architecture,
    nets: &eval::Nets<'_, B>,
    which: Which,
    sample: &Arc<Sample>,
    settings: &Settings,
    target: &Target<'_>,
) -> Result<Value> {
    let size = sample.image.size;
    let predictor = Predictor { b, arch, nets, which: &[which], settings };
    let predictions = predictor.predict_group(std::slice::from_ref(sample))?;
    let p = predictions.first().ok_or_else(|| Error::shape("predict", "one prediction", "none"))?;
    let (label, confidence) = (b.download_labels(&p.label), b.download(&p.confidence));
    b.check()?;
    for &output in target.outputs {
        let file = target.folder.join(output.file(target.name));
        match output {
            Output::Color => write_png(&file, size, Pixels::Classes(target.palette), &label)?,
            Output::Index => write_png(&file, size, Pixels::Gray, &label)?,
            Output::Confidence => {
                let bytes: Vec<u8> =
                    confidence.iter().map(|c| (255.0 * c).round().clamp(0.0, 255.0) as u8).collect();
                write_png(&file, size, Pixels::Gray, &bytes)?;
            }
            Output::Overlay => {
                let colors = label.iter().flat_map(|&class| target.palette.color(class));
                let mixed = sample.image.data.iter().zip(colors);
                let bytes: Vec<u8> = mixed.map(|(&a, c)| u16::midpoint(a.into(), c.into()) as u8).collect();
                write_png(&file, size, Pixels::Rgb, &bytes)?;
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

/// The files given, and those inside the folders given, sorted. Folders inside them that cannot be read are
/// skipped.
fn collect(paths: &[PathBuf], recursive: bool, skipped: &mut Skipped) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut inside = Vec::new();
        let mut folders = vec![path.clone()];
        while let Some(folder) = folders.pop() {
            let entries: std::io::Result<Vec<_>> =
                std::fs::read_dir(&folder).and_then(|entries| entries.collect());
            let entries = match entries {
                Ok(entries) => entries,
                Err(e) if folder == *path => return Err(Error::io(&folder)(e)),
                Err(e) => {
                    skipped.add(Error::io(&folder)(e));
                    continue;
                }
            };
            for entry in entries {
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

/// Those of the files that are whole images by header and end: others take no names. What is no file, as a
/// pipe, is read once.
fn images(files: Vec<PathBuf>, skipped: &mut Skipped) -> Vec<PathBuf> {
    let check = |file: &PathBuf| if file.is_file() || !file.exists() { check_image(file) } else { Ok(()) };
    let checked: Vec<Result<()>> = files.par_iter().map(check).collect();
    let mut images = Vec::new();
    for (file, checked) in files.into_iter().zip(checked) {
        match checked {
            Ok(()) => images.push(file),
            Err(e) => skipped.add(e),
        }
    }
    images
}

/// Bytes of an image's name that its outputs keep: with their endings, systems take 255.
const NAME_BYTES: usize = 200;

/// Each file with its name without extension, numbered where an earlier file has it.
fn named(files: Vec<PathBuf>) -> Vec<(PathBuf, String)> {
    let mut taken = HashSet::new();
    let name = |file: &Path| {
        let mut stem = file.file_stem().map_or_else(|| "image".into(), |s| s.to_string_lossy().into_owned());
        let end = (0..=NAME_BYTES.min(stem.len())).rev().find(|&end| stem.is_char_boundary(end));
        stem.truncate(end.unwrap_or(0));
        let numbered = (2..).map(|number| format!("{stem}-{number}"));
        let mut names = std::iter::once(stem.clone()).chain(numbered);
        names.find(|name| taken.insert(name.clone())).unwrap_or(stem.clone())
    };
    let names: Vec<String> = files.iter().map(|file| file.as_path()).map(name).collect();
    files.into_iter().zip(names).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_end_where_systems_end_them() {
        let long = "ä".repeat(126);
        let files = ["a.jpg", "b/a.png", "a-2.png", "c/a", &format!("{long}.png")].map(PathBuf::from);
        let names: Vec<String> = named(files.to_vec()).into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["a", "a-2", "a-2-2", "a-3", &"ä".repeat(100)]);
    }
}
