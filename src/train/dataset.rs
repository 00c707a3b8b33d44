//! The images of a run, by its configuration: lists or drawn scenes, and their loaders. Depends on data and
//! configuration only.

use crate::config::{DataConfig, ImageSizes, RunConfig};
use crate::data::census::{self, Census, Role};
use crate::data::{
    FolderOptions, FolderSource, LabeledBatch, Layout, List, Loader, LoaderSpec, Masks, Preset, SceneSource,
    SceneSpec, Source, UnlabeledBatch, VocFamily, check_disjoint, steps_per_pass, voc_family,
};
use crate::eval::Palette;
use crate::method::{NetworkName, Schedule};
use crate::ops::Size;
use crate::{Error, Result};
use rayon::prelude::*;
use std::path::Path;
use std::sync::Arc;

/// Batches that a loader keeps ready.
const PREFETCH: usize = 3;
/// Stream of the unlabelled loader; labelled loaders have those of their networks.
const UNLABELED_STREAM: u16 = 16;

/// Sources of a run.
pub struct Datasets {
    /// Images with masks for training.
    pub labeled: Arc<dyn Source>,
    /// Images that are learnt from without masks; `None` for the supervised baseline without a list of them.
    /// Where it has masks, they measure pseudo labels.
    pub unlabeled: Option<Arc<dyn Source>>,
    /// Images with masks for validation.
    pub val: Arc<dyn Source>,
    /// The family of the labelled list, of Pascal VOC.
    pub voc_family: Option<VocFamily>,
}

impl Datasets {
    /// Opens what `config` names and checks that it can be read: every list and file, the headers and ends of
    /// images, all masks, and that there is something to learn from and to measure with. Warns of what masks
    /// are likely not meant to hold.
    ///
    /// # Errors
    /// [`Error::Data`] naming file, line and what was expected; [`Error::Config`] for a list that is not
    /// given.
    pub fn open(config: &RunConfig) -> Result<Datasets> {
        let d = &config.data;
        let needs_unlabeled = config.method.algorithm.learns_unlabeled();
        if d.preset == Some(Preset::Demo) {
            let [labeled, unlabeled, val] = demo(d)?;
            return Ok(Datasets { labeled, unlabeled: Some(unlabeled), val, voc_family: None });
        }
        let labeled = read_list(d, "labeled", d.labeled.as_deref(), Masks::Required)?;
        let unlabeled = match (&d.unlabeled, needs_unlabeled) {
            (None, false) => None,
            (path, _) => {
                let masks = match config.method.algorithm.has_pseudo_labels() {
                    true => Masks::Optional,
                    false => Masks::Ignored,
                };
                Some(read_list(d, "unlabeled", path.as_deref(), masks)?)
            }
        };
        let val = read_list(d, "val", d.val.as_deref(), Masks::Required)?;
        check_disjoint(&labeled, unlabeled.as_ref(), &val)?;
        let voc_family = d.dir.as_deref().and_then(|dir| voc_family(&labeled, dir));
        let options = folder_options(d);
        let (labeled, labeled_masks) = open_masked(labeled, options, Role::Labeled)?;
        let mut unlabeled_masks = Census::new(d.num_classes);
        let unlabeled = match unlabeled {
            Some(list) => {
                let mut source = FolderSource::new(list, FolderOptions { masks_measure: true, ..options });
                source.check_headers()?;
                let (census, left_out) = source.leave_out_unusable_masks();
                unlabeled_masks = census;
                if let Some((masks, first)) = left_out {
                    tracing::warn!(
                        "{masks} masks of unlabelled images cannot be used and are left out of the measure of pseudo \
                         labels; the first: {first}"
                    );
                }
                Some(Arc::new(source) as Arc<dyn Source>)
            }
            None => None,
        };
        let (val, val_masks) = open_masked(val, options, Role::Val)?;
        let masks =
            [(Role::Labeled, &labeled_masks), (Role::Unlabeled, &unlabeled_masks), (Role::Val, &val_masks)];
        census::log(&masks, &Palette::new(d.preset, d.num_classes).names, d.exif_masks);
        Ok(Datasets { labeled, unlabeled, val, voc_family })
    }

    /// Labelled, unlabelled and validation images.
    pub(super) fn sources(&self) -> impl Iterator<Item = &dyn Source> {
        [Some(&self.labeled), self.unlabeled.as_ref(), Some(&self.val)].into_iter().flatten().map(|s| &**s)
    }

    /// What decides the memory that they take.
    ///
    /// # Errors
    /// Those of reading the headers of image files.
    pub fn image_sizes(&self) -> Result<ImageSizes> {
        let mut images = ImageSizes { val: self.val.len(), ..ImageSizes::default() };
        for (source, decoded) in self.sources().zip(&mut images.decoded) {
            let sizes: Vec<Size> =
                (0..source.len()).into_par_iter().map(|i| source.size(i)).collect::<Result<_>>()?;
            let channels = if source.num_masks() > 0 { 4 } else { 3 };
            *decoded = sizes.iter().map(|&(h, w)| h as u64 * w as u64 * channels).sum();
            // The last list is the validation's.
            images.largest_val = sizes.into_iter().max_by_key(|&(h, w)| h * w).unwrap_or_default();
        }
        Ok(images)
    }

    /// Whether a run on these images measures its pseudo labels: it has some, and an unlabelled image has a
    /// mask.
    pub fn measures_pseudo_labels(&self, config: &RunConfig) -> bool {
        let masks = self.unlabeled.as_ref().map_or(0, |u| u.num_masks());
        config.method.algorithm.has_pseudo_labels() && masks > 0
    }

    /// Steps of an epoch: as configured, or one pass over the unlabelled images (the labelled ones where
    /// there are none).
    pub fn steps_per_epoch(&self, config: &RunConfig) -> u64 {
        let images = self.unlabeled.as_ref().unwrap_or(&self.labeled).len();
        match config.schedule.steps_per_epoch {
            0 => steps_per_pass(images, config.optim.images_a_step()),
            steps => steps,
        }
    }

    /// What every step of a run on these images does.
    pub fn schedule(&self, config: &RunConfig) -> Schedule {
        let pass = steps_per_pass(self.labeled.len(), config.optim.images_a_step());
        config.schedule(pass, self.steps_per_epoch(config))
    }

    /// Loaders of what the step after the first `done` ones needs, and those after it in its phase.
    pub(super) fn loaders(&self, config: &RunConfig, schedule: &Schedule, done: u64) -> Result<Loaders> {
        let accumulate = config.optim.accumulate;
        let warm_up = done < schedule.warm_up_steps();
        let learners = match warm_up {
            true => schedule.warm_up.clone(),
            false => vec![(NetworkName::Student, schedule.labeled_view)],
        };
        let mut loaders = Loaders { labeled: Vec::new(), unlabeled: None };
        for (network, view) in learners {
            let mut loader =
                Loader::labeled(self.labeled.clone(), loader_spec(config, network as u16), view)?;
            loader.start(schedule.labeled_steps(network, done) * accumulate as u64)?;
            loaders.labeled.push((network, loader));
        }
        if let Some(mut loader) = self.unlabeled_loader(config)?.filter(|_| !warm_up) {
            loader.start((done - schedule.warm_up_steps()) * accumulate as u64)?;
            loaders.unlabeled = Some(loader);
        }
        Ok(loaders)
    }

    /// The loader of unlabelled batches, not yet started; `None` for the supervised baseline.
    pub(super) fn unlabeled_loader(&self, config: &RunConfig) -> Result<Option<Loader<UnlabeledBatch>>> {
        let source = self.unlabeled.as_ref().filter(|_| config.method.algorithm.learns_unlabeled());
        source.map(|s| Loader::unlabeled(s.clone(), loader_spec(config, UNLABELED_STREAM))).transpose()
    }
}

fn loader_spec(config: &RunConfig, stream: u16) -> LoaderSpec {
    LoaderSpec {
        seed: config.schedule.seed,
        stream,
        batch: config.optim.batch_size,
        batches_per_step: config.optim.accumulate,
        augment: config.augment.clone(),
        prefetch: PREFETCH,
    }
}

/// Running loaders of a phase.
pub(super) struct Loaders {
    labeled: Vec<(NetworkName, Loader<LabeledBatch>)>,
    unlabeled: Option<Loader<UnlabeledBatch>>,
}

impl Loaders {
    /// The next labelled batch of `network`.
    pub fn labeled(&mut self, network: NetworkName) -> Result<LabeledBatch> {
        match self.labeled.iter_mut().find(|(name, _)| *name == network) {
            Some((_, loader)) => loader.next(),
            None => Err(Error::Usage(format!("{} learns nothing in this phase", network.as_str()))),
        }
    }

    /// The next unlabelled batch.
    pub fn unlabeled(&mut self) -> Result<UnlabeledBatch> {
        match &mut self.unlabeled {
            Some(loader) => loader.next(),
            None => Err(Error::Usage(
                "this algorithm needs unlabelled images: give a list with --unlabeled".into(),
            )),
        }
    }
}

/// The validation images alone, for `eval`.
///
/// # Errors
/// As [`Datasets::open`].
pub fn val_source(d: &DataConfig) -> Result<Arc<dyn Source>> {
    if d.preset == Some(Preset::Demo) {
        let [_, _, val] = demo(d)?;
        return Ok(val);
    }
    let list = read_list(d, "val", d.val.as_deref(), Masks::Required)?;
    let (source, masks) = open_masked(list, folder_options(d), Role::Val)?;
    census::log(&[(Role::Val, &masks)], &Palette::new(d.preset, d.num_classes).names, d.exif_masks);
    Ok(source)
}

fn folder_options(d: &DataConfig) -> FolderOptions {
    FolderOptions { exif_masks: d.exif_masks, ..FolderOptions::new(d.num_classes) }
}

/// A list of images with masks, all of which were decoded, and what they hold.
fn open_masked(list: List, options: FolderOptions, role: Role) -> Result<(Arc<dyn Source>, Census)> {
    let source = FolderSource::new(list, options);
    let census = source.check_masks()?;
    census::check(role, &census, &source.list().path)?;
    Ok((Arc::new(source), census))
}

fn read_list(d: &DataConfig, key: &str, path: Option<&Path>, masks: Masks) -> Result<List> {
    let missing = |key: &str| {
        Error::config(
            "data",
            format!("data.{key} (--{}) is not given; expected a path", key.replace("dir", "data")),
        )
    };
    let path = path.ok_or_else(|| missing(key))?;
    let dir = d.dir.as_deref().ok_or_else(|| missing("dir"))?;
    List::read(path, dir, d.preset.map_or(Layout::Folder, Preset::layout), masks)
}

/// Labelled, unlabelled and validation scenes: ranges of one family that do not meet.
fn demo(d: &DataConfig) -> Result<[Arc<dyn Source>; 3]> {
    let mut first = 0;
    let mut next = |len: usize| -> Result<Arc<dyn Source>> {
        let size = (d.demo_size, d.demo_size);
        let source = SceneSource::new(SceneSpec { seed: d.demo_seed, first, len, size })?;
        first += len as u64;
        Ok(Arc::new(source))
    };
    Ok([next(d.demo_labeled)?, next(d.demo_unlabeled)?, next(d.demo_val)?])
}
