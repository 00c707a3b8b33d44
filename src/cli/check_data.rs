//! `check-data`: reads a data set through and reports sizes, class frequencies and every fault.

use super::printable;
use crate::data::census::{self, ClassCount, Role};
use crate::data::survey::{Survey, survey};
use crate::data::{ExifMasks, FolderOptions, Layout, List, Masks, Preset, check_disjoint, class_names};
use crate::files::write_json;
use crate::{Error, Result};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Read every image and mask of the lists, count sizes and classes, and report each fault with its file.
///
/// Exit code 1 when something cannot be used.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    set: SetArgs,
    /// List of labelled images: one `image mask` per line
    #[arg(long, value_name = "LIST")]
    labeled: Option<PathBuf>,
    /// List of unlabelled images; masks are not looked for
    #[arg(long, value_name = "LIST")]
    unlabeled: Option<PathBuf>,
    /// List of validation images: one `image mask` per line
    #[arg(long, value_name = "LIST")]
    val: Option<PathBuf>,
    /// Write what was found to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Flags that say how files are found and read.
#[derive(clap::Args)]
pub(super) struct SetArgs {
    /// Known data set: layout and classes
    #[arg(long, value_enum)]
    preset: Option<Known>,
    /// Folder that the lists' paths are relative to
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Number of classes (masks hold 0 to N-1, and 255 for ignored pixels)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=254))]
    num_classes: Option<u8>,
    /// How masks of images lie that are turned by their EXIF orientation, where their size does not tell
    #[arg(long, value_enum, default_value_t)]
    exif_masks: ExifMasks,
}

/// Data sets on disk that are known by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Known {
    Voc,
    Cityscapes,
    Camvid,
}

impl SetArgs {
    fn preset(&self) -> Option<Preset> {
        self.preset.map(|known| match known {
            Known::Voc => Preset::Voc,
            Known::Cityscapes => Preset::Cityscapes,
            Known::Camvid => Preset::Camvid,
        })
    }

    /// Number of classes that masks may hold.
    fn num_classes(&self) -> Result<usize> {
        match (self.num_classes, self.preset()) {
            (Some(n), _) => Ok(usize::from(n)),
            (None, Some(preset)) => Ok(preset.num_classes()),
            (None, None) => Err(Error::Usage("expected --num-classes N, or a --preset that says it".into())),
        }
    }

    /// How files are read.
    pub(super) fn options(&self) -> Result<FolderOptions> {
        Ok(FolderOptions { exif_masks: self.exif_masks, ..FolderOptions::new(self.num_classes()?) })
    }

    /// A list, and what is wrong with its lines.
    pub(super) fn read(&self, path: &Path, masks: Masks) -> Result<(List, Vec<Error>)> {
        List::read_all(path, &self.data, self.preset().map_or(Layout::Folder, Preset::layout), masks)
    }

    /// Names of the classes.
    fn names(&self, classes: usize) -> Vec<String> {
        match self.preset().filter(|preset| preset.num_classes() == classes) {
            Some(preset) => preset.class_names().iter().map(|name| name.to_string()).collect(),
            None => class_names(classes),
        }
    }
}

/// Runs the subcommand.
///
/// # Errors
/// [`Error::CheckFailed`] where something cannot be used, [`Error::Data`] where a list or the folder is
/// missing.
pub fn run(args: Args) -> Result<()> {
    let options = args.set.options()?;
    let names = args.set.names(options.num_classes);
    let lists = [
        (Role::Labeled, &args.labeled, Masks::Required),
        (Role::Unlabeled, &args.unlabeled, Masks::Ignored),
        (Role::Val, &args.val, Masks::Required),
    ];
    if lists.iter().all(|(_, path, _)| path.is_none()) {
        return Err(Error::Usage("expected a list: --labeled, --unlabeled or --val".into()));
    }
    let mut faults = Vec::new();
    let mut report = serde_json::Map::new();
    let (mut read, mut counted) = (Vec::new(), Vec::new());
    for (role, path, masks) in lists {
        let Some(path) = path else {
            read.push(None);
            continue;
        };
        let (list, mut found) = args.set.read(path, masks)?;
        let mut seen = survey(list.clone(), options);
        found.append(&mut seen.faults);
        found.extend(census::check(role, &seen.census, path).err());
        print(role.name(), path, &seen, masks == Masks::Required, &names);
        report.insert(role.name().into(), describe(path, &seen, &names, &found));
        faults.extend(found);
        read.push(Some(list));
        counted.push((role, seen.census));
    }
    if let [Some(labeled), unlabeled, Some(val)] = read.as_slice()
        && let Err(e) = check_disjoint(labeled, unlabeled.as_ref(), val)
    {
        faults.push(e);
    }
    let counted: Vec<_> = counted.iter().map(|(role, census)| (*role, census)).collect();
    let warnings = census::warnings(&counted, &names, options.exif_masks);
    report.insert("warnings".into(), json!(warnings));
    if let Some(path) = &args.json {
        write_json(path, &report)?;
    }
    for fault in &faults {
        println!("{}", printable(&fault.to_string()));
    }
    census::log(&counted, &names, options.exif_masks);
    match faults.len() {
        0 => {
            let warned =
                if warnings.is_empty() { String::new() } else { format!(", {} warnings", warnings.len()) };
            println!("no faults{warned}");
            Ok(())
        }
        n => Err(Error::CheckFailed(format!("{n} faults in the data"))),
    }
}

fn print(what: &str, path: &Path, seen: &Survey, masks: bool, names: &[String]) {
    println!("{what}: {} images of {}", seen.images, path.display());
    let mut sizes: Vec<_> = seen.sizes.iter().collect();
    sizes.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
    let shown: Vec<String> = sizes.iter().take(4).map(|((h, w), n)| format!("{n} of {h} x {w}")).collect();
    let more = if sizes.len() > 4 { format!(", {} other sizes", sizes.len() - 4) } else { String::new() };
    println!("  rows x columns: {}{more}", shown.join(", "));
    if masks {
        let census = &seen.census;
        let total = (census.ignored + census.pixels()).max(1);
        let percent = |n: u64| 100.0 * n as f64 / total as f64;
        println!("  {:<24} {:>8} {:>8}", "class", "images", "pixels %");
        for (ClassCount { images, pixels }, name) in census.classes.iter().zip(names) {
            let note = if *images == 0 { "  in no image" } else { "" };
            println!("  {name:<24} {images:>8} {:>8.2}{note}", percent(*pixels));
        }
        println!("  {:<24} {:>8} {:>8.2}", "ignored", "", percent(census.ignored));
    }
    println!();
}

fn describe(path: &Path, seen: &Survey, names: &[String], faults: &[Error]) -> Value {
    let sizes: Vec<Value> =
        seen.sizes.iter().map(|((h, w), n)| json!({"rows": h, "columns": w, "images": n})).collect();
    let classes: Vec<Value> = seen
        .census
        .classes
        .iter()
        .zip(names)
        .map(|(c, name)| json!({"name": name, "images": c.images, "pixels": c.pixels}))
        .collect();
    json!({
        "list": path.display().to_string(), "images": seen.images, "sizes": sizes, "classes": classes,
        "ignored_pixels": seen.census.ignored, "faults": faults.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}
