//! Comparison of a file's tensors with a network's: which spelling of names fits, and what is wrong where
//! none does.

use super::file::WeightFile;
use super::names::{BACKBONE, Role, Spelling, Wanted};
use super::{copies, infer};
use crate::model::io::fault;
use crate::model::{Architecture, Entry, ModelConfig};
use crate::{Error, Result};
use std::collections::HashSet;

/// Most spellings that are tried; checkpoints do not have as many prefixes.
const MAX_SPELLINGS: usize = 64;
/// Most tensors of a kind that a message names.
const NAMED: usize = 3;

/// The comparison of a file with a network by one spelling.
#[derive(Clone, Debug)]
pub struct Fit {
    pub spelling: Spelling,
    /// Index of the file's tensor, and of the network's entry among parameters followed by statistics
    /// ([`entry`]).
    pub pairs: Vec<(usize, usize)>,
    /// Tensors that the network has and the file lacks.
    missing: Vec<String>,
    /// Tensors that cannot be read.
    unreadable: Vec<String>,
    /// Tensors of another shape.
    misshapen: Vec<String>,
    /// Tensors that the file has and the network lacks.
    unexpected: Vec<String>,
}

impl Fit {
    /// Whether every tensor fits.
    pub fn is_complete(&self) -> bool {
        self.problems() == 0
    }

    fn problems(&self) -> usize {
        self.missing.len() + self.unreadable.len() + self.misshapen.len() + self.unexpected.len()
    }

    /// Checks the values of all tensors.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the first tensor with an invalid value, [`Error::Io`] where it cannot be
    /// read.
    pub fn check_values(&self, file: &WeightFile, arch: &Architecture) -> Result<()> {
        self.pairs.iter().try_for_each(|&(tensor, i)| read(file, tensor, entry(arch, i)).map(|_| ()))
    }

    /// What is wrong, in words, with the names of the first tensors of each kind.
    pub fn faults(&self) -> String {
        let kinds = [
            (&self.missing, "missing"),
            (&self.unreadable, "unreadable"),
            (&self.misshapen, "of another shape"),
            (&self.unexpected, "not in this network"),
        ];
        let part = |(list, what): (&Vec<String>, &str)| {
            let more = if list.len() > NAMED { ", …" } else { "" };
            let named = list[..list.len().min(NAMED)].join(", ");
            (!list.is_empty()).then(|| format!("{} {what} ({named}{more})", list.len()))
        };
        kinds.into_iter().filter_map(part).collect::<Vec<_>>().join(", ")
    }
}

/// Entry `i` of the network's parameters followed by its statistics.
pub fn entry(arch: &Architecture, i: usize) -> &Entry {
    let params = &arch.table.params;
    params.get(i).unwrap_or_else(|| &arch.table.stats[i - params.len()])
}

/// The values of the file's tensor at index `tensor`, which are those of `entry`.
///
/// # Errors
/// As [`WeightFile::read`], and [`Error::Checkpoint`] for a running variance below 0.
pub fn read(file: &WeightFile, tensor: usize, entry: &Entry) -> Result<Vec<f32>> {
    let values = file.read(tensor)?;
    match fault(&entry.name, &values) {
        Some(fault) => {
            let name = &file.tensors()[tensor].name;
            Err(Error::checkpoint(file.path(), format!("tensor {name}: {fault}")))
        }
        None => Ok(values),
    }
}

/// Compares the wanted tensors of `arch` with the file's by `spelling`.
pub fn judge(file: &WeightFile, arch: &Architecture, wanted: Wanted, spelling: &Spelling) -> Fit {
    let (mut pairs, mut missing, mut unreadable, mut misshapen) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut used = HashSet::new();
    let entries = arch.table.params.iter().chain(&arch.table.stats).enumerate();
    for (i, e) in entries.filter(|(_, e)| wanted == Wanted::Network || e.name.starts_with(BACKBONE)) {
        let Some(name) = spelling.spell(&e.name) else { continue };
        match file.find(&name) {
            None => match file.why_not(&name) {
                Some(why) => unreadable.push(format!("{name}: {why}")),
                None => missing.push(format!("{name} {:?}", e.shape)),
            },
            Some((at, info)) if info.shape == e.shape => pairs.push((at, i)),
            Some((_, info)) => {
                misshapen.push(format!("{name}: expected {:?}, got {:?}", e.shape, info.shape))
            }
        }
        used.insert(name);
    }
    let extra = |name: &&str| spelling.claims(name) && !used.contains(*name);
    let floats = file.tensors().iter().filter(|t| t.element.is_float()).map(|t| t.name.as_str());
    let unexpected = floats.filter(extra).map(String::from).collect();
    Fit { spelling: spelling.clone(), pairs, missing, unreadable, misshapen, unexpected }
}

/// The spellings that the file's names suggest, at most [`MAX_SPELLINGS`].
pub fn spellings(file: &WeightFile, wanted: Wanted) -> Vec<Spelling> {
    let mut all = suggested(file, wanted);
    all.truncate(MAX_SPELLINGS);
    all
}

fn suggested(file: &WeightFile, wanted: Wanted) -> Vec<Spelling> {
    Spelling::suggested(file.tensors().iter().map(|t| t.name.as_str()), wanted)
}

/// The networks of a file that are taken.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// One backbone, or the networks of distinct roles.
    pub fits: Vec<Fit>,
    /// Selectors of networks that fit as well and were not taken: copies of those that were, or networks
    /// without a name next to those with one.
    pub others: Vec<String>,
}

impl Chosen {
    /// [`Fit::check_values`] of all fits.
    ///
    /// # Errors
    /// As [`Fit::check_values`].
    pub fn check_values(&self, file: &WeightFile, arch: &Architecture) -> Result<()> {
        self.fits.iter().try_for_each(|fit| fit.check_values(file, arch))
    }
}

/// Spellings that `selector` chooses, or all: those whose selector it is, otherwise those whose prefix begins
/// with it.
fn selected(file: &WeightFile, wanted: Wanted, selector: Option<&str>) -> Result<Vec<Spelling>> {
    let Some(selector) = selector else { return Ok(spellings(file, wanted)) };
    let dotted = match selector.trim_end_matches('.') {
        "" => String::new(),
        words => format!("{words}."),
    };
    let all = suggested(file, wanted);
    let take = |fits: &dyn Fn(&Spelling) -> bool| -> Vec<Spelling> {
        all.iter().filter(|s| fits(s)).take(MAX_SPELLINGS).cloned().collect()
    };
    let mut found = take(&|s| s.selector() == dotted);
    if found.is_empty() && !dotted.is_empty() {
        found = take(&|s| s.backbone_prefix().starts_with(&dotted));
    }
    if found.is_empty() {
        let mut there: Vec<String> = all.iter().map(|s| format!("{:?}", s.selector())).collect();
        there.dedup();
        there.truncate(MAX_SPELLINGS);
        let there = if there.is_empty() { "none".into() } else { there.join(", ") };
        let what = if wanted == Wanted::Backbone { "backbone" } else { "network" };
        let message = format!("has no {what} with the prefix {selector:?}; there are {there}");
        return Err(Error::checkpoint(file.path(), message));
    }
    Ok(found)
}

/// What `file` has for `arch`: one backbone, or the networks of distinct roles; only those that `selector`
/// chooses if it is given. Of a network and its copies (see [`copies`]) the network is taken.
///
/// # Errors
/// [`Error::Checkpoint`] where nothing fits (naming the closest spelling and the first tensors at fault),
/// where a network that the file names is damaged, or where several fit and none is chosen.
pub fn fits(
    file: &WeightFile,
    arch: &Architecture,
    wanted: Wanted,
    selector: Option<&str>,
) -> Result<Chosen> {
    let fail = |message: String| Err(Error::checkpoint(file.path(), message));
    let judged: Vec<_> =
        selected(file, wanted, selector)?.iter().map(|s| judge(file, arch, wanted, s)).collect();
    let Some(closest) = judged.iter().min_by_key(|fit| fit.problems()) else {
        return fail(nothing(file, wanted));
    };
    if !closest.is_complete() {
        return fail(format!(
            "does not fit the network; closest is a {}: {}{}",
            closest.spelling,
            closest.faults(),
            advice(file, &arch.config, wanted, &closest.spelling)
        ));
    }
    let broken = judged
        .iter()
        .find(|fit| wanted == Wanted::Network && fit.spelling.role() != Role::Only && !fit.is_complete());
    if let Some(fit) = broken {
        return fail(format!("{}: {}", fit.spelling, fit.faults()));
    }
    let mut complete: Vec<Fit> = judged.into_iter().filter(Fit::is_complete).collect();
    // Networks with a role come before those without; of several backbones the student's is taken.
    complete.sort_by_key(|fit| fit.spelling.role());
    let mut chosen = Chosen { fits: Vec::new(), others: Vec::new() };
    if complete.iter().any(|fit| fit.spelling.role() != Role::Only) {
        let (named, others) = complete.into_iter().partition(|fit| fit.spelling.role() != Role::Only);
        let others: Vec<Fit> = others;
        chosen.others.extend(others.iter().map(|fit| fit.spelling.selector()));
        complete = named;
    }
    for same in complete.chunk_by(|a, b| a.spelling.role() == b.spelling.role()) {
        let prefixes: Vec<String> = same.iter().map(|fit| fit.spelling.backbone_prefix()).collect();
        let Some(original) = copies::original(&prefixes) else {
            return fail(several(file, same));
        };
        chosen.fits.push(same[original].clone());
        let others = same.iter().enumerate().filter(|(i, _)| *i != original);
        chosen.others.extend(others.map(|(_, fit)| fit.spelling.selector()));
    }
    if wanted == Wanted::Backbone {
        chosen.fits.truncate(1);
    }
    Ok(chosen)
}

/// The message for a file that has no network.
fn nothing(file: &WeightFile, wanted: Wanted) -> String {
    let what = match wanted {
        Wanted::Backbone => "a ResNet's backbone",
        Wanted::Network => "a network of this program or of PS-MT's authors",
    };
    let mut message = format!("expected the tensors of {what}, got {} others", file.tensors().len());
    if file.tensors().is_empty() && !file.skipped().is_empty() {
        message +=
            &format!("; objects of {} are skipped: save the model's state_dict", file.skipped().join(", "));
    }
    if wanted == Wanted::Network && !spellings(file, Wanted::Backbone).is_empty() {
        message += "; it has a backbone, which --pretrained takes";
    }
    message
}

/// The message for several networks that fit, and how to choose one.
fn several(file: &WeightFile, fits: &[Fit]) -> String {
    let list = |text: &dyn Fn(&Fit) -> String, by: &str| fits.iter().map(text).collect::<Vec<_>>().join(by);
    let name = file.path().file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
    format!(
        "several networks fit, and none is chosen: {}; choose one by its prefix after the file's name: {}",
        list(&|fit| fit.spelling.to_string(), "; "),
        list(&|fit| format!("{name}#{}", fit.spelling.selector()), " or "),
    )
}

/// How the run would have to be configured for the file's network, where that is known.
fn advice(file: &WeightFile, config: &ModelConfig, wanted: Wanted, spelling: &Spelling) -> String {
    // The closest spelling may be that of another stem: the network is inferred from the file's own.
    let prefix = spelling.backbone_prefix();
    let all = spellings(file, wanted);
    let same = all.iter().filter(|other| other.backbone_prefix() == prefix);
    let Some(found) = std::iter::once(spelling).chain(same).find_map(|s| infer::config(file, s)) else {
        return String::new();
    };
    let own = infer::describe(config, wanted);
    let theirs = infer::describe(&found, wanted);
    if own != theirs {
        return format!("; the file's network is {theirs}, the run's {own}");
    }
    if wanted == Wanted::Network && found.num_classes != config.num_classes {
        return format!(
            "; the file has {} classes, the run {}: take the backbone alone by --pretrained",
            found.num_classes, config.num_classes
        );
    }
    String::new()
}
