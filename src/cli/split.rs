//! `split`: chooses which images of a labelled set stay labelled.

use super::check_data::SetArgs;
use crate::data::Masks;
use crate::data::split::stratified;
use crate::data::survey::survey;
use crate::files::write_atomically;
use crate::{Error, Result};
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Divide a list of labelled images into labelled and unlabelled ones in which every class keeps its share.
///
/// Writes DIR/labeled.txt with the chosen lines as they are, and DIR/unlabeled.txt with the images of the
/// others. The same seed gives the same lists.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    set: SetArgs,
    /// List of labelled images to divide: one `image mask` per line
    #[arg(long, value_name = "LIST")]
    list: PathBuf,
    /// How many stay labelled: a number of images, or a share such as 1/8 or 0.125
    #[arg(long, value_name = "N|SHARE", value_parser = parse_wanted)]
    labeled: Wanted,
    /// Another seed, another choice
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Folder for the two lists
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// How many images stay labelled.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wanted {
    Images(usize),
    Share(f64),
}

fn parse_wanted(text: &str) -> std::result::Result<Wanted, String> {
    let bad = || format!("expected a number of images of at least 1, or a share below 1, got {text:?}");
    if let Ok(n) = text.parse::<usize>() {
        return if n > 0 { Ok(Wanted::Images(n)) } else { Err(bad()) };
    }
    let share = match text.split_once('/') {
        Some((a, b)) => a.trim().parse::<f64>().ok().zip(b.trim().parse::<f64>().ok()).map(|(a, b)| a / b),
        None => text.parse::<f64>().ok(),
    };
    share.filter(|s| *s > 0.0 && *s < 1.0).map(Wanted::Share).ok_or_else(bad)
}

/// Runs the subcommand.
///
/// # Errors
/// The first fault of the list or its files; [`Error::Usage`] where more images are wanted than there are, or
/// a list is there already; [`Error::Io`].
pub fn run(args: Args) -> Result<()> {
    let options = args.set.options()?;
    let (list, mut faults) = args.set.read(&args.list, Masks::Required)?;
    let entries = list.entries.clone();
    let mut seen = survey(list, options);
    faults.append(&mut seen.faults);
    if let Some(fault) = faults.into_iter().next() {
        return Err(fault);
    }
    let wanted = match args.labeled {
        Wanted::Images(n) => n,
        Wanted::Share(share) => ((share * entries.len() as f64).round() as usize).max(1),
    };
    if wanted > entries.len() {
        let message = format!("--labeled: expected at most {} images, got {wanted}", entries.len());
        return Err(Error::Usage(message));
    }
    let has: Vec<Vec<bool>> =
        seen.by_image.iter().map(|pixels| pixels.iter().flatten().map(|&n| n > 0).collect()).collect();
    let chosen = stratified(&has, wanted, args.seed);

    let text = std::fs::read_to_string(&args.list).map_err(Error::io(&args.list))?;
    let lines: HashMap<usize, &str> = (1..).zip(text.trim_start_matches('\u{feff}').lines()).collect();
    let (mut labeled, mut unlabeled) = (Vec::new(), Vec::new());
    for (i, entry) in entries.iter().enumerate() {
        match chosen.binary_search(&i) {
            Ok(_) => labeled.push(lines.get(&entry.line).map_or("", |line| line.trim()).to_string()),
            Err(_) => unlabeled.push(entry.name.clone()),
        }
    }
    std::fs::create_dir_all(&args.out).map_err(Error::io(&args.out))?;
    write(&args.out.join("labeled.txt"), &labeled)?;
    write(&args.out.join("unlabeled.txt"), &unlabeled)?;

    println!("{:<8} {:>8} {:>10}", "class", "images", "labelled");
    for (class, count) in seen.census.classes.iter().enumerate() {
        let labelled = chosen.iter().filter(|&&i| has[i][class]).count();
        println!("{class:<8} {:>8} {labelled:>10}", count.images);
    }
    println!("{} labelled, {} unlabelled, in {}", labeled.len(), unlabeled.len(), args.out.display());
    Ok(())
}

/// Writes a new list.
fn write(path: &Path, lines: &[String]) -> Result<()> {
    if path.exists() {
        return Err(Error::Usage(format!("{} is there already: choose another --out", path.display())));
    }
    write_atomically(path, |out| lines.iter().try_for_each(|line| writeln!(out, "{line}")))
}
