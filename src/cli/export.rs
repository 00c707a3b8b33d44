//! `export`: networks of a checkpoint as files for other programs.

use super::eval::checkpoint_file;
use crate::eval::{Palette, Which};
use crate::export::{Info, Input, Naming, OnnxOptions, Output, Values, write_networks, write_onnx};
use crate::model::Architecture;
use crate::model::io::Float;
use crate::train::Checkpoint;
use crate::{Error, Result, host};
use clap::ValueEnum;
use std::path::PathBuf;

/// What kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// An ONNX model: images in, labels, probabilities or logits out.
    Onnx,
    /// Tensors by the names of the network's layers.
    Safetensors,
    /// A safetensors file by the names of the authors' PyTorch model, for its `load_state_dict`.
    PthNames,
}

/// Which networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Network {
    /// Mean of the teachers' logits; ONNX only.
    Ensemble,
    Student,
    Teacher1,
    Teacher2,
    /// Every network of the checkpoint; tensor files only.
    All,
}

/// Flags of `export`.
#[derive(clap::Args)]
pub struct Args {
    /// A run's folder (its best checkpoint), or a checkpoint file.
    #[arg(long, value_name = "RUN_DIR|FILE")]
    checkpoint: PathBuf,
    /// File to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// What kind of file.
    #[arg(long, value_enum, default_value = "onnx")]
    format: Format,
    /// Whose network (default: of ONNX what `predict` takes, see eval.network; of tensor files all).
    #[arg(long, value_enum)]
    network: Option<Network>,
    /// ONNX: what the input holds (default: bytes; normalisation is then part of the model).
    #[arg(long, value_enum)]
    input: Option<Input>,
    /// ONNX: what the model gives (default: labels, with confidences).
    #[arg(long, value_enum)]
    output: Option<Output>,
    /// ONNX: make batch norms part of the convolutions before them.
    #[arg(long)]
    fold_batch_norm: bool,
    /// Tensor files: type of the values (default: f32).
    #[arg(long, value_enum)]
    dtype: Option<Float>,
    /// Replace FILE where it exists.
    #[arg(long)]
    force: bool,
}

/// Runs `export`.
pub fn run(args: Args) -> Result<()> {
    args.check()?;
    let checkpoint = Checkpoint::open(&checkpoint_file(&args.checkpoint)?)?;
    let meta = &checkpoint.meta;
    let arch = Architecture::new(meta.model.clone())?;
    let (network, names) = args.networks(meta.algorithm.num_teachers(), meta.decides())?;
    // A file that does not hold what it says is a fault of the file, not of the machine.
    names.iter().try_for_each(|name| checkpoint.check(&arch, name))?;
    check_memory(&arch, names.len())?;
    let read = |name: &&str| -> Result<Values> {
        let (params, stats) = checkpoint.values(&arch, name)?;
        Ok(Values { name: name.to_string(), params, stats })
    };
    let networks = names.iter().map(read).collect::<Result<Vec<_>>>()?;
    let info = Info {
        network: network.clone(),
        palette: Palette::new(meta.preset, arch.config.num_classes),
        normalize: meta.normalize,
        long_side: meta.eval.long_side,
        window: meta.eval.window,
        multiple: meta.eval.multiple,
    };
    let naming = match args.format {
        Format::Onnx => {
            let options = OnnxOptions {
                input: args.input.unwrap_or_default(),
                output: args.output.unwrap_or_default(),
                fold_batch_norm: args.fold_batch_norm,
            };
            let written = write_onnx(&args.out, &arch, &networks, &info, &options)?;
            println!(
                "{}: {network} as an ONNX model of {} nodes, {} batch norms folded, {:.1} MiB",
                args.out.display(),
                written.nodes,
                written.folded,
                written.bytes as f64 / (1 << 20) as f64
            );
            return Ok(());
        }
        Format::Safetensors => Naming::Layers,
        Format::PthNames => Naming::EntireModel,
    };
    write_networks(&args.out, &arch, &networks, &info, naming, args.dtype.unwrap_or_default())?;
    println!("{}: {network} as tensors", args.out.display());
    Ok(())
}

/// Refuses networks that do not fit into memory, before any is read.
fn check_memory(arch: &Architecture, networks: usize) -> Result<()> {
    // As they are read, by their layers, as the file's values, and its bytes.
    const COPIES: usize = 4;
    let values = arch.table.num_params.saturating_add(arch.table.num_stats);
    let bytes = values.saturating_mul(size_of::<f32>() * COPIES).saturating_mul(networks) as u64;
    match host::available_memory() {
        Some(available) if bytes > available => Err(Error::Memory {
            what: format!("exporting {networks} networks of {values} values (--network takes one of them)"),
            needed_mib: bytes >> 20,
            available_mib: available >> 20,
        }),
        _ => Ok(()),
    }
}

impl Args {
    /// Refuses flags that the format has no use for, and a file that exists.
    fn check(&self) -> Result<()> {
        let onnx = self.format == Format::Onnx;
        let flags = [
            ("--input", self.input.is_some(), true),
            ("--output", self.output.is_some(), true),
            ("--fold-batch-norm", self.fold_batch_norm, true),
            ("--dtype", self.dtype.is_some(), false),
        ];
        if let Some((flag, ..)) = flags.iter().find(|(_, given, of_onnx)| *given && *of_onnx != onnx) {
            let of = if onnx { "of tensor files; an ONNX model is f32" } else { "of --format onnx only" };
            return Err(Error::Usage(format!("{flag} is {of}")));
        }
        if !self.force && self.out.exists() {
            return Err(Error::Usage(format!(
                "{} exists: choose another --out, or --force to replace it",
                self.out.display()
            )));
        }
        Ok(())
    }

    /// What is exported, in a word, and the checkpoint's networks that it takes; `default` is the network of
    /// an ONNX model.
    fn networks(&self, num_teachers: usize, default: Which) -> Result<(String, Vec<&'static str>)> {
        let available = Which::available(num_teachers);
        let onnx = self.format == Format::Onnx;
        let which = match self.network {
            Some(Network::All) | None if !onnx => {
                let single = available.iter().filter(|w| **w != Which::Ensemble);
                return Ok(("all networks".into(), single.map(|w| w.name()).collect()));
            }
            Some(Network::All) => {
                return Err(Error::Usage(
                    "an ONNX model is of one --network or the ensemble, not of all".into(),
                ));
            }
            Some(Network::Ensemble) if !onnx => {
                return Err(Error::Usage(
                    "the ensemble is two networks: expected --network all, teacher1, teacher2 or student"
                        .into(),
                ));
            }
            None => default,
            Some(Network::Ensemble) => Which::Ensemble,
            Some(Network::Student) => Which::Student,
            Some(Network::Teacher1) => Which::Teacher1,
            Some(Network::Teacher2) => Which::Teacher2,
        };
        which.expect_among(available)?;
        let names = match which {
            Which::Ensemble => vec![Which::Teacher1.name(), Which::Teacher2.name()],
            one => vec![one.name()],
        };
        Ok((which.name().into(), names))
    }
}
