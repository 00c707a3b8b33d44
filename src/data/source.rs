//! Sources of decoded samples: a trait, images in folders, and a cache. Must not know augmentation, order or
//! batches.

use super::census::{Census, MaskCount};
use super::decode::{checked_header, decode_upright, image_header};
use super::fingerprint;
use super::list::{Entry, List};
use super::mask::{check_mask_header, decode_mask_of, to_classes};
use super::orientation::{ExifMasks, Header};
use super::pixels::{Mask, RgbImage};
use super::resize::{resize_bicubic, resize_nearest};
use crate::ops::Size;
use crate::{Error, Result};
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// One decoded image with its mask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The decoded image.
    pub image: RgbImage,
    /// The mask, of the image's size, where the source has one.
    pub mask: Option<Mask>,
    /// Name of the image, as in its list.
    pub name: String,
}

/// Random access to samples. Methods are called from several threads in parallel, and [`Source::load`] always
/// returns the same sample for an index.
pub trait Source: Send + Sync {
    /// Number of samples.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Name of sample `i`, for messages and file names.
    fn name(&self, i: usize) -> String;

    /// Sample `i`, below [`Source::len`].
    ///
    /// # Errors
    /// [`crate::Error::Data`] or [`crate::Error::Io`] with the file at fault.
    fn load(&self, i: usize) -> Result<Arc<Sample>>;

    /// Rows and columns of sample `i` as it is loaded.
    ///
    /// # Errors
    /// As [`Source::load`], of the file's header.
    fn size(&self, i: usize) -> Result<Size> {
        Ok(self.load(i)?.image.size)
    }

    /// Limits the bytes of decoded samples that the source caches from now on, if it has a cache.
    fn keep(&self, _bytes: usize) {}

    /// Whether every sample has a mask.
    fn has_masks(&self) -> bool;

    /// Number of samples that have a mask.
    fn num_masks(&self) -> usize {
        if self.has_masks() { self.len() } else { 0 }
    }

    /// A checksum that changes when the image of sample `i` changes, or its mask if that is learned from. By
    /// default it is of the name only. Decodes nothing.
    ///
    /// # Errors
    /// [`crate::Error::Io`] for a file that cannot be read.
    fn fingerprint(&self, i: usize) -> Result<u32> {
        Ok(crc32c::crc32c(self.name(i).as_bytes()))
    }
}

/// A cache of decoded samples up to a number of bytes. Samples that do not fit are made again each time.
pub(super) struct Cache {
    slots: Vec<OnceLock<Arc<Sample>>>,
    used: AtomicUsize,
    budget: AtomicUsize,
}

impl Cache {
    pub fn new(len: usize, budget: usize) -> Cache {
        Cache {
            slots: std::iter::repeat_with(OnceLock::new).take(len).collect(),
            used: AtomicUsize::new(0),
            budget: AtomicUsize::new(budget),
        }
    }

    /// Changes the number of bytes, for samples that are not cached yet.
    pub fn limit(&self, budget: usize) {
        self.budget.store(budget, Ordering::Relaxed);
    }

    /// Sample `i`, made by `make` if it is not cached. Two threads may both make it; one copy stays.
    pub fn get(&self, i: usize, make: impl FnOnce() -> Result<Sample>) -> Result<Arc<Sample>> {
        if let Some(kept) = self.slots[i].get() {
            return Ok(kept.clone());
        }
        let sample = Arc::new(make()?);
        let bytes = sample.image.data.len() + sample.mask.as_ref().map_or(0, |m| m.data.len());
        if self.used.fetch_add(bytes, Ordering::Relaxed) + bytes > self.budget.load(Ordering::Relaxed)
            || self.slots[i].set(sample.clone()).is_err()
        {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        }
        Ok(sample)
    }
}

/// Settings of a [`FolderSource`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FolderOptions {
    /// Number of classes that masks may hold, besides 255.
    pub num_classes: usize,
    /// Long side in pixels that images and masks are resized to on loading; `None` for their own size.
    pub long_side: Option<usize>,
    /// Most bytes of decoded samples that are cached.
    pub cache_bytes: usize,
    /// Whether masks are for measuring only: one that cannot be used is then ignored instead of an error.
    pub masks_measure: bool,
    /// Orientation of masks of rotated or mirrored images whose size does not decide it.
    pub exif_masks: ExifMasks,
}

impl FolderOptions {
    /// Images in their own size, masks with `num_classes` classes that are learned from, 1 GiB for decoded
    /// samples.
    pub fn new(num_classes: usize) -> FolderOptions {
        FolderOptions {
            num_classes,
            long_side: None,
            cache_bytes: 1 << 30,
            masks_measure: false,
            exif_masks: ExifMasks::default(),
        }
    }
}

/// Images and masks in the files of a [`List`].
pub struct FolderSource {
    list: List,
    options: FolderOptions,
    cache: Cache,
}

impl FolderSource {
    /// A source of the images of `list`.
    pub fn new(list: List, options: FolderOptions) -> FolderSource {
        let cache = Cache::new(list.entries.len(), options.cache_bytes);
        FolderSource { list, options, cache }
    }

    /// The list of this source.
    pub fn list(&self) -> &List {
        &self.list
    }

    /// Checks the header of every file, and that every image is complete: finds other formats, sizes that
    /// differ, truncated images.
    ///
    /// # Errors
    /// The first error in the order of the list, as [`Source::load`].
    pub fn check_headers(&self) -> Result<()> {
        let check = |entry: &Entry| {
            let header = checked_header(&entry.image)?;
            match &entry.mask {
                // Masks that cannot be used are ignored, see the option.
                Some(_) if self.options.masks_measure => Ok(()),
                Some(mask) => check_mask_header(mask, &header, &entry.image),
                None => Ok(()),
            }
        };
        self.each(check).into_iter().collect()
    }

    /// As [`Self::check_headers`], and decodes every mask: finds truncated masks and classes out of range
    /// too. Returns what the masks hold.
    ///
    /// # Errors
    /// The first error in the order of the list, as [`Source::load`].
    pub fn check_masks(&self) -> Result<Census> {
        let check = |entry: &Entry| self.count(entry, &checked_header(&entry.image)?);
        let mut census = Census::new(self.options.num_classes);
        for count in self.each(check) {
            count?.iter().for_each(|mask| census.add(mask));
        }
        Ok(census)
    }

    /// Decodes every mask and removes those that cannot be used, for [`FolderOptions::masks_measure`].
    /// Returns what the others hold, how many were removed, and the error of the first of these in the order
    /// of the list.
    pub fn leave_out_unusable_masks(&mut self) -> (Census, Option<(usize, Error)>) {
        let counts = self.each(|entry| self.count(entry, &image_header(&entry.image)?));
        let mut census = Census::new(self.options.num_classes);
        let mut left_out: Option<(usize, Error)> = None;
        for (entry, count) in self.list.entries.iter_mut().zip(counts) {
            match count {
                Ok(mask) => mask.iter().for_each(|mask| census.add(mask)),
                Err(error) => {
                    entry.mask = None;
                    left_out = Some(left_out.map_or((1, error), |(n, first)| (n + 1, first)));
                }
            }
        }
        (census, left_out)
    }

    /// `f` of every image, in the order of the list, so that no message depends on the threads.
    fn each<T: Send>(&self, f: impl Fn(&Entry) -> Result<T> + Sync + Send) -> Vec<Result<T>> {
        self.list.entries.par_iter().map(f).collect()
    }

    /// Counts of what the mask of an image holds, if it has one.
    fn count(&self, entry: &Entry, header: &Header) -> Result<Option<MaskCount>> {
        let count = |path: &PathBuf| Ok(self.mask(entry, path, header)?.1);
        entry.mask.as_ref().map(count).transpose()
    }

    /// A mask, upright, and counts of what it holds.
    fn mask(&self, entry: &Entry, path: &Path, header: &Header) -> Result<(Mask, MaskCount)> {
        let mut stored = decode_mask_of(path, header, &entry.image, self.options.exif_masks)?;
        let white = stored.has_white();
        to_classes(&mut stored.mask, self.list.layout.mask_ids(path), self.options.num_classes, path)?;
        let count = MaskCount::new(&stored, white, self.options.num_classes);
        let mask = match stored.orientation.is_stored() {
            true => stored.mask.oriented(header.orientation),
            false => stored.mask,
        };
        Ok((mask, count))
    }

    /// An image and its mask, both upright, from its files, and counts of what the mask holds.
    pub(super) fn decode(&self, i: usize) -> Result<(Sample, Option<MaskCount>)> {
        let entry = &self.list.entries[i];
        let read = |path: &PathBuf| self.mask(entry, path, &image_header(&entry.image)?);
        let (mask, count) = match entry.mask.as_ref().map(read).transpose() {
            // A file that was damaged since it was checked is ignored as well.
            Err(_) if self.options.masks_measure => (None, None),
            mask => mask?.unzip(),
        };
        let sample = Sample { image: decode_upright(&entry.image)?, mask, name: entry.name.clone() };
        Ok((self.resized(sample)?, count))
    }

    fn resized(&self, sample: Sample) -> Result<Sample> {
        let Some(long) = self.options.long_side else { return Ok(sample) };
        let size = with_long_side(sample.image.size, long);
        let image = resize_bicubic(&sample.image, size)?;
        let mask = sample.mask.map(|mask| resize_nearest(&mask, size)).transpose()?;
        Ok(Sample { image, mask, ..sample })
    }
}

/// The size of an image of size (h, w) after it is resized to a long side.
fn with_long_side((h, w): Size, long: usize) -> Size {
    let short = |short: usize, side: usize| ((short * long + side / 2) / side).max(1);
    if h > w { (long, short(w, h)) } else { (short(h, w), long) }
}

impl Source for FolderSource {
    fn size(&self, i: usize) -> Result<Size> {
        let size = image_header(&self.list.entries[i].image)?.upright();
        Ok(self.options.long_side.map_or(size, |long| with_long_side(size, long)))
    }

    fn keep(&self, bytes: usize) {
        self.cache.limit(bytes);
    }

    fn len(&self) -> usize {
        self.list.entries.len()
    }

    fn name(&self, i: usize) -> String {
        self.list.entries[i].name.clone()
    }

    fn load(&self, i: usize) -> Result<Arc<Sample>> {
        self.cache.get(i, || Ok(self.decode(i)?.0))
    }

    fn has_masks(&self) -> bool {
        self.list.entries.iter().all(|e| e.mask.is_some())
    }

    fn num_masks(&self) -> usize {
        self.list.entries.iter().filter(|e| e.mask.is_some()).count()
    }

    fn fingerprint(&self, i: usize) -> Result<u32> {
        let entry = &self.list.entries[i];
        let image = fingerprint::of_file(&entry.image, 0)?;
        match entry.mask.as_ref().filter(|_| !self.options.masks_measure) {
            Some(mask) => fingerprint::of_file(mask, image),
            None => Ok(image),
        }
    }
}
