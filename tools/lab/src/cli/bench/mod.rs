//! `bench`: times kernels, layers and stages of a training step on drawn data, with the sizes of
//! `bench_torch.py`. One file per subcommand; here are the flags that they share.

mod floor;
mod forward;
mod kernels;
mod layers;
mod loss;
mod report;
mod stage;
mod step;
mod tiles;
mod tvat;

use super::examples;
use super::tile::tile_parser;
use crate::bench::{Oracle, Sampling, Sizes, known_calls};
use clap::ValueEnum;
use psmt_fast::backend::cuda::{Dtype, Tile};
use psmt_fast::cli::device::Opened;
use psmt_fast::cli::device::{Device, DeviceArgs, Precision};
use psmt_fast::method::Tvat;
use psmt_fast::model::ModelConfig;
use psmt_fast::{Error, Result};
use std::path::PathBuf;

/// Flags of `bench`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// One full iteration: teachers, T-VAT, both student passes, update.
    #[command(after_help = examples::BENCH_STEP)]
    Step(StageFlags),
    /// A network in evaluation mode, images to full-size logits.
    #[command(after_help = examples::BENCH_FORWARD)]
    Forward(Flags),
    /// The noise of T-VAT for given features and two teachers' decoders.
    #[command(after_help = examples::BENCH_TVAT)]
    Tvat(StageFlags),
    /// The loss stage: teachers' and student's stride-4 logits in, Conf-CE's gradient out.
    #[command(after_help = examples::BENCH_LOSS)]
    Loss(Flags),
    /// Every distinct convolution of a step: forward, data gradient, weight gradient.
    #[command(after_help = examples::BENCH_LAYERS)]
    Layers(LayersFlags),
    /// Every op of a step at its sizes.
    #[command(after_help = examples::BENCH_KERNELS)]
    Kernels(CallFlags),
    /// What a step has to move and to compute, and how long that takes at least. Runs nothing.
    #[command(after_help = examples::BENCH_FLOOR)]
    Floor(floor::FloorFlags),
    /// Which tile each convolution of a step takes on a GPU, and what the model that chooses expects of every
    /// other. Runs nothing.
    #[command(after_help = examples::BENCH_TILES)]
    Tiles(tiles::TilesFlags),
}

/// Flags of what only counts.
#[derive(clap::Args)]
struct StepFlags {
    /// Network.
    #[arg(long, default_value = "r50", value_parser = ["tiny", "r50", "r101", "resnet50", "resnet101"])]
    model: String,
    /// Side of the images
    #[arg(long, default_value_t = 512)]
    crop: usize,
    /// Labelled images, and as many unlabelled ones
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Classes.
    #[arg(long, default_value_t = 21)]
    classes: usize,
    /// Type of activations: f32 or bf16
    #[arg(long, value_enum, default_value = "bf16")]
    precision: Precision,
    /// Write the figures to this file too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl StepFlags {
    fn sizes(&self) -> Result<Sizes> {
        Sizes::new(ModelConfig::by_name(full_name(&self.model), self.classes)?, self.crop, self.batch)
    }

    fn dtype(&self) -> Result<Dtype> {
        match self.precision {
            Precision::F32 => Ok(Dtype::F32),
            Precision::Bf16 => Ok(Dtype::Bf16),
            Precision::F64 => Err(Error::Usage("--precision: expected f32 or bf16".into())),
        }
    }

    fn describe(&self) -> String {
        let StepFlags { model, crop, batch, classes, .. } = self;
        format!("{model} at {crop}x{crop}, batch {batch}+{batch}, {classes} classes")
    }
}

#[derive(clap::Args)]
struct Flags {
    #[command(flatten)]
    device: DeviceArgs,
    /// Network [default: r50 on a GPU, else tiny]
    #[arg(long, value_parser = ["tiny", "r50", "r101", "resnet50", "resnet101"])]
    model: Option<String>,
    /// Side of the images [default: 512 on a GPU, 33 on the emulator, else 96]
    #[arg(long)]
    crop: Option<usize>,
    /// Labelled images, and as many unlabelled ones [default: 8 on a GPU, else 2]
    #[arg(long)]
    batch: Option<usize>,
    /// Classes.
    #[arg(long, default_value_t = 21)]
    classes: usize,
    /// Timed samples.
    #[arg(long, visible_alias = "samples", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    steps: u32,
    /// Calls before those.
    #[arg(long, default_value_t = 2)]
    warmup: u32,
    /// Write the figures to this file too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(clap::Args)]
struct StageFlags {
    #[command(flatten)]
    shared: Flags,
    /// Feature noise.
    #[arg(long, value_enum, default_value = "exact")]
    tvat: Tvat,
}

#[derive(clap::Args)]
struct CallFlags {
    #[command(flatten)]
    shared: Flags,
    /// Only ops and sizes that contain this
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
    /// Memory of the calls: cold goes round sets of inputs that together are larger than a cache, warm
    /// repeats one [default: cold on a GPU, else warm]
    #[arg(long, value_enum)]
    cache: Option<Cache>,
}

#[derive(clap::Args)]
struct LayersFlags {
    #[command(flatten)]
    calls: CallFlags,
    /// Tile of the convolution kernels, in place of the one that is expected to be fastest. Convolutions that
    /// it does not fit run in another, which is printed
    #[arg(long, value_parser = tile_parser())]
    tile: Option<Tile>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Cache {
    Warm,
    Cold,
}

/// Runs `bench`.
///
/// # Errors
/// [`psmt_fast::Error::CheckFailed`] where what is timed computes something wrong, and those of sizes,
/// devices and files.
pub fn run(args: Args) -> Result<()> {
    match args.what {
        What::Step(flags) => step::run(&flags),
        What::Forward(flags) => forward::run(&flags),
        What::Tvat(flags) => tvat::run(&flags),
        What::Loss(flags) => loss::run(&flags),
        What::Layers(flags) => layers::run(&flags),
        What::Kernels(flags) => kernels::run(&flags),
        What::Floor(flags) => floor::run(&flags),
        What::Tiles(flags) => tiles::run(&flags),
    }
}

/// Flags with the device's defaults.
struct Run<'a> {
    flags: &'a Flags,
    device: Device,
    precision: Precision,
    /// The name on the command line.
    model: String,
    sizes: Sizes,
}

impl Flags {
    fn resolve(&self) -> Result<Run<'_>> {
        let (device, precision) = self.device.resolve();
        let (model, crop, batch) = match device {
            Device::Cuda(_) => ("r50", 512, 8),
            Device::Extra(_) => ("tiny", 33, 2),
            _ => ("tiny", 96, 2),
        };
        let model = self.model.as_deref().unwrap_or(model);
        let config = ModelConfig::by_name(full_name(model), self.classes)?;
        let sizes = Sizes::new(config, self.crop.unwrap_or(crop), self.batch.unwrap_or(batch))?;
        Ok(Run { flags: self, device, precision, model: model.into(), sizes })
    }
}

/// A network's name as configurations have it.
fn full_name(model: &str) -> &str {
    match model {
        "r50" => "resnet50",
        "r101" => "resnet101",
        other => other,
    }
}

impl Run<'_> {
    fn open(&self) -> Result<Opened> {
        self.device.open(self.precision)
    }

    fn on_gpu(&self) -> bool {
        matches!(self.device, Device::Cuda(_))
    }

    fn emulated(&self) -> bool {
        matches!(self.device, Device::Extra(_))
    }

    /// Samples of many short calls; of single calls on the emulator, whose time means nothing.
    fn sampling(&self) -> Sampling {
        let min_ms = if self.emulated() { 0.0 } else { 10.0 };
        Sampling { samples: self.flags.steps as usize, warmup: self.flags.warmup as usize, min_ms }
    }

    /// Samples of steps: several one after another on a GPU, as in training, which seldom waits for one.
    fn step_sampling(&self) -> Sampling {
        Sampling { min_ms: if self.on_gpu() { 100.0 } else { 0.0 }, ..self.sampling() }
    }

    /// Bytes of an activation.
    fn value_bytes(&self) -> usize {
        match self.precision {
            Precision::F64 => 8,
            Precision::F32 => 4,
            Precision::Bf16 => 2,
        }
    }

    /// Largest relative error that passes where an op is compared with the processor in double precision.
    fn tolerance(&self) -> f64 {
        if self.precision == Precision::Bf16 { 1e-2 } else { 1e-4 }
    }

    /// Small calls of every op.
    fn oracle(&self) -> Result<Oracle> {
        let calls = known_calls(&self.sizes.small()?, Tvat::Exact)?;
        Ok(Oracle::new(calls.into_iter().map(|c| c.call).collect(), self.tolerance()))
    }

    /// Whether calls are timed with cold memory.
    fn cold(&self, cache: Option<Cache>) -> bool {
        cache.unwrap_or(if self.on_gpu() { Cache::Cold } else { Cache::Warm }) == Cache::Cold
    }
}
