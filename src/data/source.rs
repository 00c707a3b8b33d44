//! Where samples come from: a trait, images in folders, and a store that keeps decoded samples. Knows nothing of
//! augmentation, order or batches.

use super::decode::{
    Mask, RgbImage, check_same_size, decode_image, decode_mask, decode_upright, image_sizes, mask_size,
    to_classes, turn_mask,
};
use super::fingerprint;
use super::list::{Entry, List};
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
    /// The pixels.
    pub image: RgbImage,
    /// Classes of the same size, where the source has them.
    pub mask: Option<Mask>,
    /// As the list names the image.
    pub name: String,
}

/// Random access to samples. `load` is called from several threads at once and returns the same for the same index.
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

    /// Keeps decoded samples in memory up to this many bytes from now on, where the source keeps any.
    fn keep(&self, _bytes: usize) {}

    /// Whether every sample has a mask.
    fn has_masks(&self) -> bool;

    /// Number of samples that have a mask.
    fn num_masks(&self) -> usize {
        if self.has_masks() { self.len() } else { 0 }
    }

    /// A number that is another for another image, or another mask that is learned from; where a source does not know its
    /// files, of the name. Decodes nothing.
    ///
    /// # Errors
    /// A file that cannot be read.
    fn fingerprint(&self, i: usize) -> Result<u32> {
        Ok(crc32c::crc32c(self.name(i).as_bytes()))
    }
}

/// Keeps decoded samples up to a number of bytes; what does not fit is made again each time.
pub(super) struct Cache {
    slots: Vec<OnceLock<Arc<Sample>>>,
    used: AtomicUsize,
    budget: AtomicUsize,
}

impl Cache {
    /// For `len` samples within `budget` bytes.
    pub fn new(len: usize, budget: usize) -> Cache {
        Cache {
            slots: std::iter::repeat_with(OnceLock::new).take(len).collect(),
            used: AtomicUsize::new(0),
            budget: AtomicUsize::new(budget),
        }
    }

    /// Another number of bytes, for samples that are not kept yet.
    pub fn limit(&self, budget: usize) {
        self.budget.store(budget, Ordering::Relaxed);
    }

    /// Sample `i`, made by `make` where it is not kept. Two threads may both make it; one copy stays.
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

/// How a [`FolderSource`] treats its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FolderOptions {
    /// Classes that masks may hold, beside 255.
    pub num_classes: usize,
    /// Images and masks are resized to this long side on loading; as they are when absent.
    pub long_side: Option<usize>,
    /// Decoded samples are kept in memory up to this many bytes.
    pub cache_bytes: usize,
    /// Masks only measure: an image is read as if it had none, and its mask is turned with it where it lies as the file does.
    pub masks_measure: bool,
}

impl FolderOptions {
    /// Images in their own size, 1 GiB of memory for decoded samples.
    pub fn new(num_classes: usize) -> FolderOptions {
        FolderOptions { num_classes, long_side: None, cache_bytes: 1 << 30, masks_measure: false }
    }
}

/// Images and masks in files, by a [`List`].
pub struct FolderSource {
    list: List,
    options: FolderOptions,
    cache: Cache,
}

impl FolderSource {
    /// A source over a list whose files were found.
    pub fn new(list: List, options: FolderOptions) -> FolderSource {
        let cache = Cache::new(list.entries.len(), options.cache_bytes);
        FolderSource { list, options, cache }
    }

    /// Images alone, without a list file (for prediction).
    pub fn from_images(images: &[PathBuf], options: FolderOptions) -> FolderSource {
        let entry = |(i, path): (usize, &PathBuf)| Entry {
            name: path.display().to_string(),
            line: i + 1,
            image: path.clone(),
            mask: None,
        };
        let entries = images.iter().enumerate().map(entry).collect();
        FolderSource::new(
            List { path: PathBuf::from("images"), layout: Default::default(), entries },
            options,
        )
    }

    /// The list behind this source.
    pub fn list(&self) -> &List {
        &self.list
    }

    /// Reads the header of every file: kinds of images and masks, and their sizes. Takes about a millisecond a file.
    ///
    /// # Errors
    /// The first in the order of the list, as [`Source::load`].
    pub fn check_headers(&self) -> Result<()> {
        self.check(|entry| {
            let size = self.entry_size(entry)?;
            match &entry.mask {
                // What is wrong with these is no error.
                Some(_) if self.options.masks_measure => Ok(()),
                Some(mask) => check_same_size(mask_size(mask)?, mask, size, &entry.image),
                None => Ok(()),
            }
        })
    }

    /// Decodes every mask whole, beside [`Self::check_headers`]: truncated masks and classes out of range are found too.
    ///
    /// # Errors
    /// The first in the order of the list, as [`Source::load`].
    pub fn check_masks(&self) -> Result<()> {
        self.check(|entry| match &entry.mask {
            Some(mask) => self.mask(entry, mask, self.entry_size(entry)?).map(|_| ()),
            None => self.entry_size(entry).map(|_| ()),
        })
    }

    /// Decodes every mask whole and leaves out those that cannot be used, for [`FolderOptions::masks_measure`]. Returns how many
    /// those are, and what is wrong with the first of them in the order of the list.
    pub fn leave_out_unusable_masks(&mut self) -> Option<(usize, Error)> {
        let read = |entry: &Entry| match &entry.mask {
            Some(mask) => self.mask(entry, mask, self.entry_size(entry)?).map(|_| ()),
            None => Ok(()),
        };
        let read: Vec<Result<()>> = self.list.entries.par_iter().map(read).collect();
        let mut left_out: Option<(usize, Error)> = None;
        for (entry, read) in self.list.entries.iter_mut().zip(read) {
            if let Err(error) = read {
                entry.mask = None;
                left_out = Some(left_out.map_or((1, error), |(n, first)| (n + 1, first)));
            }
        }
        left_out
    }

    /// Decodes every image and mask, which also fills the memory that [`FolderOptions::cache_bytes`] grants.
    ///
    /// # Errors
    /// The first in the order of the list, as [`Source::load`].
    pub fn check_all(&self) -> Result<()> {
        let results: Vec<Result<()>> =
            (0..self.len()).into_par_iter().map(|i| self.load(i).map(|_| ())).collect();
        results.into_iter().collect()
    }

    fn check(&self, f: impl Fn(&Entry) -> Result<()> + Sync + Send) -> Result<()> {
        // All are run and the first failure is taken, so that the message does not depend on the threads.
        let results: Vec<Result<()>> = self.list.entries.par_iter().map(f).collect();
        results.into_iter().collect()
    }

    fn mask(&self, entry: &Entry, path: &Path, image: Size) -> Result<Mask> {
        let mut mask = decode_mask(path)?;
        if self.options.masks_measure {
            mask = turn_mask(mask, &entry.image)?;
        }
        check_same_size(mask.size, path, image, &entry.image)?;
        to_classes(&mut mask, self.list.layout.mask_ids(path), self.options.num_classes, path)?;
        Ok(mask)
    }

    fn decode(&self, entry: &Entry) -> Result<Sample> {
        let upright = self.seen_upright(entry)?;
        let mut image = if upright { decode_upright(&entry.image)? } else { decode_image(&entry.image)? };
        let mut mask = match entry.mask.as_ref().map(|path| self.mask(entry, path, image.size)).transpose() {
            // A file that was damaged since it was checked is no reason to stop either.
            Err(_) if self.options.masks_measure => None,
            mask => mask?,
        };
        if let Some(long) = self.options.long_side {
            let size = with_long_side(image.size, long);
            image = resize_bicubic(&image, size)?;
            mask = mask.map(|m| resize_nearest(&m, size)).transpose()?;
        }
        Ok(Sample { image, mask, name: entry.name.clone() })
    }

    /// Whether the image is turned as its EXIF orientation says. One without a mask is. One with a mask is as the mask is: it has
    /// the rows and columns of the file, or of the turned image; where they are the same, nothing is turned. Masks that only
    /// measure have no say.
    fn seen_upright(&self, entry: &Entry) -> Result<bool> {
        let Some(mask) = entry.mask.as_ref().filter(|_| !self.options.masks_measure) else { return Ok(true) };
        let (stored, upright) = image_sizes(&entry.image)?;
        Ok(stored != upright && mask_size(mask)? == upright)
    }

    /// Rows and columns of the image as it is seen.
    fn entry_size(&self, entry: &Entry) -> Result<Size> {
        let (stored, upright) = image_sizes(&entry.image)?;
        Ok(if self.seen_upright(entry)? { upright } else { stored })
    }
}

/// The size of an image that is resized to a long side.
fn with_long_side((h, w): Size, long: usize) -> Size {
    let short = |short: usize, side: usize| ((short * long + side / 2) / side).max(1);
    if h > w { (long, short(w, h)) } else { (short(h, w), long) }
}

impl Source for FolderSource {
    fn size(&self, i: usize) -> Result<Size> {
        let size = self.entry_size(&self.list.entries[i])?;
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
        self.cache.get(i, || self.decode(&self.list.entries[i]))
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
