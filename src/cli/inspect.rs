//! `inspect`: what a file with weights holds, and what a run could start from.

use super::printable;
use crate::error::shell_word;
use crate::weights::{Finding, Info, WeightFile, survey};
use crate::{Error, Result};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Tensors up to which all are listed.
const LISTED: usize = 40;
/// Characters of a metadata value that are shown.
const VALUE: usize = 60;

/// Flags of `inspect`.
#[derive(clap::Args)]
pub struct Args {
    /// File with weights.
    file: PathBuf,
    /// List every tensor (default: up to 40, else a summary by prefix).
    #[arg(long)]
    all: bool,
    /// Print one JSON object instead.
    #[arg(long)]
    json: bool,
}

/// Runs `inspect`.
pub fn run(args: Args) -> Result<()> {
    let file = WeightFile::open(&args.file)?;
    let findings = survey(&file);
    if args.json {
        let text = serde_json::to_string_pretty(&as_json(&file, &findings))
            .map_err(|e| Error::Usage(format!("--json: {e}")))?;
        println!("{text}");
        return Ok(());
    }
    let elements: usize = file.tensors().iter().map(Info::len).sum();
    line(&format!(
        "{}: {}, {} tensors, {elements} elements",
        file.path().display(),
        file.format().name(),
        file.tensors().len()
    ));
    for (key, value) in file.metadata() {
        let shown: String = value.chars().take(VALUE).collect();
        line(&format!("metadata {key}: {shown}{}", if shown.len() < value.len() { "…" } else { "" }));
    }
    if !file.skipped().is_empty() {
        line(&format!("not looked into: objects of {}", file.skipped().join(", ")));
    }
    let shown = if args.all { usize::MAX } else { LISTED };
    for (name, why) in file.unreadable().iter().take(shown) {
        line(&format!("not read: tensor {name}: {why}"));
    }
    if file.unreadable().len() > shown {
        line(&format!("not read: {} more tensors", file.unreadable().len() - shown));
    }
    println!();
    if args.all || file.tensors().len() <= LISTED {
        list(file.tensors());
    } else {
        summary(file.tensors());
    }
    println!();
    if findings.is_empty() {
        println!("no network and no ResNet's backbone is among the tensors");
    }
    for finding in &findings {
        line(&sentence(&args.file, finding));
    }
    Ok(())
}

/// Prints a line that holds names from the file.
fn line(text: &str) {
    println!("{}", printable(text).replace('\n', "\\n"));
}

fn list(tensors: &[Info]) {
    let width = tensors.iter().map(|t| t.name.len()).max().unwrap_or(0).max("tensor".len());
    line(&format!("{:width$}  {:7}  shape", "tensor", "type"));
    for t in tensors {
        line(&format!("{:width$}  {:7}  {:?}", t.name, t.element.name(), t.shape));
    }
}

/// Tensors and elements by the part of the names that stands for a stage of a network.
fn summary(tensors: &[Info]) {
    let mut groups: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for t in tensors {
        let parts: Vec<_> = t.name.split('.').collect();
        // Up to the first number, which counts blocks or layers.
        let end =
            parts.iter().position(|p| p.parse::<u64>().is_ok()).unwrap_or(parts.len().saturating_sub(1));
        let group = groups.entry(parts[..end].join(".")).or_default();
        *group = (group.0 + 1, group.1 + t.len());
    }
    let width = groups.keys().map(String::len).max().unwrap_or(0).max("prefix".len());
    line(&format!("{:width$}  {:>7}  {:>11}", "prefix", "tensors", "elements"));
    for (prefix, (count, elements)) in groups {
        line(&format!("{prefix:width$}  {count:>7}  {elements:>11}"));
    }
    println!("--all lists every tensor");
}

fn sentence(file: &Path, finding: &Finding) -> String {
    let Finding { whole, spelling, network, config, tensors, selector, faults } = finding;
    let classes = if *whole { format!(", {} classes", config.num_classes) } else { String::new() };
    if faults.is_empty() {
        let mut flag = if *whole { "--init" } else { "--pretrained" }.to_string();
        if let Some(selector) = selector {
            flag += &format!(" {}#{}", shell_word(file), shell_word(Path::new(selector)));
        }
        format!("{flag} takes it: {spelling}, {network}{classes}; fills {tensors} tensors a network")
    } else {
        format!("no fit: {spelling}, {network}{classes}: {faults}")
    }
}

fn as_json(file: &WeightFile, findings: &[Finding]) -> serde_json::Value {
    let tensors: Vec<_> = file
        .tensors()
        .iter()
        .map(|t| json!({"name": t.name, "shape": t.shape, "dtype": t.element.name()}))
        .collect();
    let fits: Vec<_> = findings
        .iter()
        .map(|f| {
            json!({
                "flag": if f.whole { "--init" } else { "--pretrained" },
                "fits": f.faults.is_empty(),
                "selector": f.selector,
                "spelling": f.spelling,
                "network": f.network,
                "model": f.config,
                "tensors": f.tensors,
                "faults": f.faults,
            })
        })
        .collect();
    json!({
        "file": file.path().display().to_string(),
        "format": file.format().name(),
        "elements": file.tensors().iter().map(Info::len).sum::<usize>(),
        "metadata": file.metadata(),
        "skipped": file.skipped(),
        "unreadable": file.unreadable(),
        "tensors": tensors,
        "findings": fits,
    })
}
