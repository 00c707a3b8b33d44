//! `train`: a new run from flags and files, or an interrupted one continued.

use super::settings::SettingsArgs;
use super::{DeviceArgs, on_device};
use crate::config::recipe::{RECIPES, Recipe};
use crate::config::{self, Overrides, RunConfig};
use crate::data::Preset;
use crate::eval::{Which, percent};
use crate::method::Schedule;
use crate::ops::Backend;
use crate::train::{self, Datasets, Prepared, Resume, ResumeFrom, RunDir, Summary};
use crate::{Error, Result};
use clap::ValueEnum;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Flags of `train`.
#[derive(clap::Args)]
pub struct Args {
    /// Configuration file (TOML); flags win over it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Published settings by name, see `psmt-fast presets`; other flags win over them.
    #[arg(long, value_name = "NAME", conflicts_with = "config", value_parser = parse_recipe)]
    recipe: Option<&'static Recipe>,
    /// Continue the run in this folder; takes no other setting.
    #[arg(long, value_name = "RUN_DIR")]
    resume: Option<PathBuf>,
    /// With --resume: where to go on instead of the last checkpoint.
    #[arg(long, value_enum, requires = "resume")]
    resume_from: Option<ResumeFrom>,
    /// With --resume: go on though the images or settings are not those of the checkpoint, to other results.
    #[arg(long, requires = "resume")]
    accept_changes: bool,
    /// Folder of results; a new one (default: runs/PRESET-ALGORITHM-sSEED, numbered where that exists).
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Check configuration, data and memory, print what the run would be, and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: write what every optimiser step would do to this file, one JSON object per line
    /// (docs/runs.md).
    #[arg(long, value_name = "FILE", requires = "dry_run")]
    schedule: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Any key of the configuration, such as method.gamma=0.5; can be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    settings: SettingsArgs,
}

fn parse_recipe(text: &str) -> std::result::Result<&'static Recipe, String> {
    let names = || RECIPES.iter().map(|r| r.name).collect::<Vec<_>>().join(", ");
    Recipe::by_name(text).ok_or_else(|| format!("expected one of {}", names()))
}

impl Args {
    /// Whether anything is trained.
    pub(super) fn trains(&self) -> bool {
        !self.dry_run
    }

    fn overrides(&self) -> Result<Overrides> {
        let mut o = Overrides::default();
        o.set_all(&self.settings)?;
        self.set.iter().try_for_each(|text| o.assign(text))?;
        if let Some(recipe) = self.recipe {
            recipe.apply(&mut o);
        }
        Ok(o)
    }

    fn config(&self) -> Result<RunConfig> {
        // With nothing that says which images, the built-in scenes.
        let own_data = self.config.is_some() || self.recipe.is_some() || self.settings.data.has_dir();
        config::load::load(self.config.as_deref(), &self.overrides()?, (!own_data).then_some(Preset::Demo))
    }
}

/// Runs `train`.
pub fn run(args: Args) -> Result<()> {
    on_device!(args.device.open()?, b => run_on(b, args))
}

fn run_on<B: Backend>(b: &B, args: Args) -> Result<()> {
    if let Some(root) = &args.resume {
        if args.config.is_some() || args.out.is_some() || !args.overrides()?.is_empty() {
            return Err(Error::Usage(
                "--resume continues a run as it was configured; it takes no --config, --out or other setting"
                    .into(),
            ));
        }
        let dir = RunDir::open(root)?;
        let path = dir.config();
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let config = config::parse(&path.display().to_string(), &text)?;
        let how = Resume { from: args.resume_from.unwrap_or_default(), accept_changes: args.accept_changes };
        let ready = train::check_resumed(b, &config, &dir, how)?;
        if args.dry_run {
            return dry_run(b, &config, &ready, args.schedule.as_deref());
        }
        let summary = train::resume(b, &config, &ready, &dir, how.from)?;
        report(&config, &summary, dir.root());
        return Ok(());
    }
    if args.settings.method.warm_up_epochs.is_some() {
        tracing::warn!(
            "--warm-up-epochs is now --warm-up-passes: its number counts passes over the labelled images before the epochs"
        );
    }
    let mut config = args.config()?;
    config.spell_out()?;
    let ready = train::check(b, &config)?;
    say_protocol(args.recipe, &ready.data);
    warn_from_scratch(&config);
    if config.optim.accumulate > 1 {
        tracing::warn!(
            "batch norms see {} images at a time, not the {} of a step: their statistics are noisier, and results can fall \
             behind those of one batch",
            config.optim.batch_size,
            config.optim.images_a_step()
        );
    }
    if args.dry_run {
        return dry_run(b, &config, &ready, args.schedule.as_deref());
    }
    ready.check_memory(b, &config)?;
    let data = &ready.data;
    let dir = RunDir::create(&args.out.clone().unwrap_or_else(|| free_folder(&config)))?;
    tracing::info!(
        "training {} on {} labelled and {} unlabelled images, {}, into {}",
        config.model.name,
        data.labeled.len(),
        data.unlabeled.as_ref().map_or(0, |u| u.len()),
        duration(&data.schedule(&config)),
        dir.root().display()
    );
    let summary = train::start(b, &config, &ready, &dir)?;
    report(&config, &summary, dir.root());
    Ok(())
}

/// Names the family of a labelled list of VOC, and warns where it is not that of the published setting.
fn say_protocol(recipe: Option<&Recipe>, data: &Datasets) {
    if let Some(family) = data.voc_family {
        tracing::info!("labelled list: {family}");
        if let Some(recipe) = recipe.filter(|r| r.lists.family().is_some_and(|expected| expected != family)) {
            tracing::warn!(
                "{} is a setting of other lists ({}): its published mIoU cannot be compared with this run's",
                recipe.name,
                recipe.lists.describe()
            );
        }
    }
    if let Some(recipe) = recipe.filter(|r| r.labeled != data.labeled.len()) {
        tracing::warn!(
            "{} has {} labelled images, the list {}",
            recipe.name,
            recipe.labeled,
            data.labeled.len()
        );
    }
}

/// Warns where networks for a data set of the paper start from random weights alone.
fn warn_from_scratch(config: &RunConfig) {
    let model = &config.model;
    let data = match config.data.preset {
        Some(Preset::Voc) => "Pascal VOC",
        Some(Preset::Cityscapes) => "Cityscapes",
        _ => return,
    };
    if model.pretrained.is_none() && model.init.is_none() {
        tracing::warn!(
            "{} starts from random weights, without --pretrained or --init: on {data} that costs tens of points of mIoU, and \
             no published number can be compared; docs/weights.md says which files fit",
            model.name
        );
    }
}

/// Prints what a run would do and the memory it would take.
fn dry_run<B: Backend>(
    b: &B,
    config: &RunConfig,
    ready: &Prepared<B>,
    schedule: Option<&Path>,
) -> Result<()> {
    let data = &ready.data;
    println!(
        "{} of {} on {}, {}",
        name_of(config.method.algorithm),
        config.model.name,
        b.name(),
        duration(&data.schedule(config))
    );
    println!(
        "{} labelled, {} unlabelled, {} validation images; crops of {} x {}, {} labelled{} a step{}\n",
        data.labeled.len(),
        data.unlabeled.as_ref().map_or(0, |u| u.len()),
        data.val.len(),
        config.augment.crop[0],
        config.augment.crop[1],
        config.optim.images_a_step(),
        if config.method.algorithm.learns_unlabeled() { " and as many unlabelled" } else { "" },
        match config.optim.accumulate {
            1 => String::new(),
            n => format!(", in {n} batches of {}", config.optim.batch_size),
        }
    );
    if let Some(weights) = ready.start() {
        println!("starts with {weights}\n");
    }
    super::memory::print(&ready.memory, b.available_memory());
    ready.check_memory(b, config)?;
    if let Some(batch) = ready.largest_batch(b, config)? {
        let or_more = if batch == train::MAX_BATCH { " or more" } else { "" };
        println!("largest batch that fits: {batch}{or_more}");
    }
    schedule.map_or(Ok(()), |path| write_schedule(&data.schedule(config), path))
}

/// How long a run is, in words.
fn duration(schedule: &Schedule) -> String {
    let epochs = format!("{} epochs of {} steps", schedule.epochs, schedule.steps_per_epoch);
    let passes = format!("{} passes of {} steps", schedule.warm_up_passes, schedule.steps_per_pass);
    match schedule.warm_up.len() {
        0 => epochs,
        1 => format!("the student's warm-up of {passes}, then {epochs}"),
        n => format!("a warm-up of {passes} for each of {n} networks, then {epochs}"),
    }
}

/// Writes a line for each step.
fn write_schedule(schedule: &Schedule, path: &Path) -> Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).map_err(Error::io(path))?);
    for step in schedule.steps() {
        let line = serde_json::to_string(&step).map_err(|e| Error::Usage(e.to_string()))?;
        writeln!(file, "{line}").map_err(Error::io(path))?;
    }
    file.flush().map_err(Error::io(path))
}

/// A value as on the command line.
fn name_of(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |v| v.get_name().to_string())
}

/// The first of runs/NAME, runs/NAME-2, … that is not there.
fn free_folder(config: &RunConfig) -> PathBuf {
    let algorithm = name_of(config.method.algorithm);
    let preset = config.data.preset.map_or_else(|| "custom".to_string(), name_of);
    let base = format!("{preset}-{algorithm}-s{}", config.schedule.seed);
    let numbered = (2..).map(|n| format!("{base}-{n}"));
    let mut names = std::iter::once(base.clone()).chain(numbered).map(|n| Path::new("runs").join(n));
    names.find(|p| !p.exists()).unwrap_or_else(|| Path::new("runs").join(&base))
}

fn report(config: &RunConfig, summary: &Summary, root: &Path) {
    let mut text = format!("{:<10} {:>8} {:>10}\n", "network", "mIoU %", "pixels %");
    for which in config.eval.decides(config.method.algorithm).before(Which::available(2)) {
        let name = which.name();
        if let Some(s) = summary.get(name) {
            let (miou, right) = (percent(s.miou, 2), percent(s.pixel_accuracy, 2));
            text += &format!("{name:<10} {miou:>8} {right:>10}\n");
        }
    }
    text += &format!("results in {}\n", root.display());
    // Whether somebody reads it is no matter of the run's.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
