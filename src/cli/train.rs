//! `train`: a new run from flags and files, or an interrupted one continued.

use super::{DeviceArgs, on_device};
use crate::config::recipe::{RECIPES, Recipe};
use crate::config::{self, Overrides, RunConfig};
use crate::data::{ExifMasks, Preset};
use crate::eval::{Which, percent};
use crate::method::cut_mix::CutMixForm;
use crate::method::schedule::RampUp;
use crate::method::{Algorithm, Schedule, Tvat};
use crate::model::Stem;
use crate::ops::{Backend, View};
use crate::train::{self, Datasets, Prepared, Resume, ResumeFrom, RunDir, Summary};
use crate::{Error, Result};
use clap::ValueEnum;
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Flags of the data, shared with `eval`.
#[derive(clap::Args)]
#[command(next_help_heading = "Data")]
pub(super) struct DataArgs {
    /// Known data set: layout, classes and fitting defaults.
    #[arg(long, value_parser = ["voc", "cityscapes", "camvid", "demo"])]
    preset: Option<String>,
    /// Folder that the lists' paths are relative to.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// List of validation images: `image mask` a line.
    #[arg(long, value_name = "LIST")]
    val: Option<PathBuf>,
    /// Number of classes (masks hold 0 to N-1, and 255 for ignored pixels).
    #[arg(long, value_name = "N")]
    num_classes: Option<u32>,
    /// How masks of images lie that are turned by their EXIF orientation, where their size does not tell.
    #[arg(long, value_enum)]
    exif_masks: Option<ExifMasks>,
}

impl DataArgs {
    /// Puts the given flags among `over`.
    pub(super) fn apply(&self, over: &mut Overrides) -> Result<()> {
        over.set_some("data.preset", self.preset.clone());
        over.set_some("data.dir", path(&self.data)?);
        over.set_some("data.val", path(&self.val)?);
        over.set_some("data.num_classes", self.num_classes.map(i64::from));
        over.set_some("data.exif_masks", word(self.exif_masks)?);
        Ok(())
    }

    /// Whether none was given.
    pub(super) fn is_empty(&self) -> bool {
        self.preset.is_none() && self.data.is_none() && self.val.is_none() && self.num_classes.is_none()
    }
}

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
    /// With --dry-run: write what every optimiser step would do to this file, one JSON object per line (docs/runs.md).
    #[arg(long, value_name = "FILE", requires = "dry_run")]
    schedule: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Any key of the configuration, such as method.gamma=0.5; can be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    data: DataArgs,
    /// List of labelled images: `image mask` a line.
    #[arg(long, value_name = "LIST", help_heading = "Data")]
    labeled: Option<PathBuf>,
    /// List of unlabelled images. Masks that it names measure pseudo labels and do nothing else.
    #[arg(long, value_name = "LIST", help_heading = "Data")]
    unlabeled: Option<PathBuf>,
    /// Crop: a side, or ROWSxCOLUMNS.
    #[arg(long, help_heading = "Data", value_parser = parse_crop)]
    crop: Option<[u32; 2]>,
    /// Long side of images at scale 1.
    #[arg(long, value_name = "PIXELS", help_heading = "Data")]
    base_size: Option<u32>,
    /// Long side at which validation images are predicted (0: their own).
    #[arg(long, value_name = "PIXELS", help_heading = "Data")]
    eval_size: Option<u32>,
    /// Network.
    #[arg(long, value_parser = ["tiny", "resnet50", "resnet101"], help_heading = "Model and method")]
    model: Option<String>,
    /// Stem of the network: deep (three 3x3 convolutions), or 7x7 as in torchvision's weights.
    #[arg(long, value_enum, help_heading = "Model and method")]
    stem: Option<Stem>,
    /// Start student and teachers (or the student alone, see model.pretrained_networks) from a backbone's weights, for example --pretrained resnet50.pth, or
    /// --model resnet50 --stem 7x7 --pretrained resnet50-0676ba61.pth for torchvision's; .safetensors, .pth or .pt. Of
    /// several networks in a file, #PREFIX chooses one, as inspect says.
    #[arg(long, value_name = "FILE[#PREFIX]", help_heading = "Model and method")]
    pretrained: Option<PathBuf>,
    /// Start from whole networks, for example --init runs/old/checkpoints/best.safetensors, or a file of PS-MT's
    /// authors; a file with one network starts all three.
    #[arg(
        long,
        value_name = "FILE[#PREFIX]",
        help_heading = "Model and method",
        conflicts_with = "pretrained"
    )]
    init: Option<PathBuf>,
    /// Method or baseline.
    #[arg(long, value_enum, help_heading = "Model and method")]
    algorithm: Option<Algorithm>,
    /// Noise in the student's features.
    #[arg(long, value_enum, help_heading = "Model and method")]
    tvat: Option<Tvat>,
    /// CutMix boxes.
    #[arg(long, value_enum, help_heading = "Model and method")]
    cut_mix: Option<CutMixForm>,
    /// Confidence from which a pixel learns from its pseudo label.
    #[arg(long, value_name = "P", help_heading = "Model and method")]
    threshold: Option<f64>,
    /// Negative learning below this probability (0: off).
    #[arg(long, value_name = "P", help_heading = "Model and method")]
    negative_threshold: Option<f64>,
    /// Weight of the unsupervised loss.
    #[arg(long, value_name = "W", help_heading = "Model and method")]
    unsup_weight: Option<f64>,
    /// Shape of that weight's rise.
    #[arg(long, value_enum, help_heading = "Model and method")]
    ramp_up: Option<RampUp>,
    /// Epochs of that weight's rise.
    #[arg(long, value_name = "N", help_heading = "Model and method")]
    ramp_up_epochs: Option<f64>,
    /// Share of itself that the active teacher keeps each step.
    #[arg(long, value_name = "P", help_heading = "Model and method")]
    ema_decay: Option<f64>,
    /// Passes over the labelled images before the epochs, in which networks learn from them alone.
    #[arg(long, value_name = "N", help_heading = "Model and method")]
    warm_up_passes: Option<u32>,
    /// The flag of before, whose number now counts passes.
    #[arg(long, value_name = "N", hide = true, conflicts_with = "warm_up_passes")]
    warm_up_epochs: Option<u32>,
    /// View of the labelled images that the student learns from.
    #[arg(long, value_enum, help_heading = "Model and method")]
    labeled_view: Option<View>,
    /// Loss on labelled images.
    #[arg(long, value_parser = ["ce", "ohem"], help_heading = "Training")]
    supervised_loss: Option<String>,
    /// Learning rate.
    #[arg(long, help_heading = "Training")]
    lr: Option<f64>,
    /// Labelled images that go through the networks together, and as many unlabelled ones.
    #[arg(long, value_name = "N", help_heading = "Training")]
    batch_size: Option<u32>,
    /// Batches a step, whose gradients are averaged: more images a step than fit into memory. Batch norms still see one
    /// batch at a time, which may cost accuracy (docs/recipes.md).
    #[arg(long, value_name = "N", help_heading = "Training")]
    accumulate: Option<u32>,
    /// Epochs; the warm-up stands before them.
    #[arg(long, value_name = "N", help_heading = "Training")]
    epochs: Option<u32>,
    /// Steps an epoch (default: one pass over the unlabelled images).
    #[arg(long, value_name = "N", help_heading = "Training")]
    steps_per_epoch: Option<u32>,
    /// Seed of everything random.
    #[arg(long, value_name = "N", help_heading = "Training")]
    seed: Option<u32>,
    /// Steps between checkpoints (0: at the ends of epochs only).
    #[arg(long, value_name = "N", help_heading = "Training")]
    checkpoint_every: Option<u32>,
    /// Epochs between validations.
    #[arg(long, value_name = "N", help_heading = "Training")]
    val_every: Option<u32>,
}

fn parse_recipe(text: &str) -> std::result::Result<&'static Recipe, String> {
    let names = || RECIPES.iter().map(|r| r.name).collect::<Vec<_>>().join(", ");
    Recipe::by_name(text).ok_or_else(|| format!("expected one of {}", names()))
}

fn parse_crop(text: &str) -> std::result::Result<[u32; 2], String> {
    let side =
        |t: &str| t.trim().parse::<u32>().map_err(|_| format!("expected 256 or 256x512, got {text:?}"));
    match text.split_once('x') {
        Some((h, w)) => Ok([side(h)?, side(w)?]),
        None => side(text).map(|s| [s, s]),
    }
}

fn path(p: &Option<PathBuf>) -> Result<Option<String>> {
    let text = |p: &PathBuf| {
        p.to_str().map(String::from).ok_or_else(|| Error::Usage(format!("{} is not UTF-8", p.display())))
    };
    p.as_ref().map(text).transpose()
}

/// The name of a value as in a configuration file.
fn word(value: Option<impl Serialize>) -> Result<Option<toml::Value>> {
    value.map(|v| toml::Value::try_from(v).map_err(|e| Error::Usage(e.to_string()))).transpose()
}

impl Args {
    /// Whether anything is trained.
    pub(super) fn trains(&self) -> bool {
        !self.dry_run
    }

    fn overrides(&self) -> Result<Overrides> {
        let mut o = Overrides::default();
        self.data.apply(&mut o)?;
        o.set_some("data.labeled", path(&self.labeled)?);
        o.set_some("data.unlabeled", path(&self.unlabeled)?);
        o.set_some("augment.crop", self.crop.map(|c| c.map(i64::from).to_vec()));
        for (key, value) in [
            ("augment.base_size", self.base_size),
            ("eval.long_side", self.eval_size),
            ("method.warm_up_passes", self.warm_up_passes.or(self.warm_up_epochs)),
            ("optim.batch_size", self.batch_size),
            ("optim.accumulate", self.accumulate),
            ("schedule.train_epochs", self.epochs),
            ("schedule.steps_per_epoch", self.steps_per_epoch),
            ("schedule.seed", self.seed),
            ("run.checkpoint_every", self.checkpoint_every),
            ("run.val_every", self.val_every),
        ] {
            o.set_some(key, value.map(i64::from));
        }
        for (key, value) in [
            ("method.threshold", self.threshold),
            ("method.negative_threshold", self.negative_threshold),
            ("method.unsup_weight", self.unsup_weight),
            ("method.ramp_up_epochs", self.ramp_up_epochs),
            ("method.ema_decay", self.ema_decay),
            ("optim.lr", self.lr),
        ] {
            o.set_some(key, value);
        }
        o.set_some("model.name", self.model.clone());
        o.set_some("model.stem", word(self.stem)?);
        o.set_some("model.pretrained", path(&self.pretrained)?);
        o.set_some("model.init", path(&self.init)?);
        o.set_some("optim.supervised_loss", self.supervised_loss.clone());
        o.set_some("method.algorithm", word(self.algorithm)?);
        o.set_some("method.tvat", word(self.tvat)?);
        o.set_some("method.cut_mix", word(self.cut_mix)?);
        o.set_some("method.labeled_view", word(self.labeled_view)?);
        o.set_some("method.ramp_up", word(self.ramp_up)?);
        self.set.iter().try_for_each(|text| o.assign(text))?;
        if let Some(recipe) = self.recipe {
            recipe.apply(&mut o);
        }
        Ok(o)
    }

    fn config(&self) -> Result<RunConfig> {
        // With nothing that says which images, the built-in scenes.
        let own_data = self.config.is_some() || self.recipe.is_some() || self.data.has_dir();
        config::load::load(self.config.as_deref(), &self.overrides()?, (!own_data).then_some(Preset::Demo))
    }
}

impl DataArgs {
    fn has_dir(&self) -> bool {
        self.data.is_some()
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
    if args.warm_up_epochs.is_some() {
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
        algorithm_name(config),
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

/// The algorithm as on the command line.
fn algorithm_name(config: &RunConfig) -> String {
    config.method.algorithm.to_possible_value().map_or_else(String::new, |v| v.get_name().to_string())
}

/// The first of runs/NAME, runs/NAME-2, … that is not there.
fn free_folder(config: &RunConfig) -> PathBuf {
    let algorithm = algorithm_name(config);
    let preset = config.data.preset.map_or_else(|| "custom".to_string(), |p| format!("{p:?}").to_lowercase());
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
