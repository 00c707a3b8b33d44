//! A full check of the files of a list: every file decoded, sizes and classes counted, every error kept.

use super::census::Census;
use super::list::List;
use super::source::{FolderOptions, FolderSource, Source};
use crate::Error;
use crate::ops::Size;
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Results of [`survey`].
#[derive(Debug, Default)]
pub struct Survey {
    /// Number of images that could be read.
    pub images: usize,
    /// Number of images of each size, upright.
    pub sizes: BTreeMap<Size, usize>,
    /// Counts of what the masks hold.
    pub census: Census,
    /// For each image of the list, its number of pixels of each class; `None` without a mask or with an
    /// error.
    pub by_image: Vec<Option<Vec<u64>>>,
    /// Errors of the files that cannot be used, in the order of the list.
    pub faults: Vec<Error>,
}

/// Decodes every image of the list, and its mask if it has one. Classes must be below `options.num_classes`
/// or ignored.
pub fn survey(list: List, options: FolderOptions) -> Survey {
    let source = FolderSource::new(list, FolderOptions { cache_bytes: 0, ..options });
    let read = |i| source.decode(i).map(|(sample, count)| (sample.image.size, count));
    let seen: Vec<_> = (0..source.len()).into_par_iter().map(read).collect();
    let mut all = Survey { census: Census::new(options.num_classes), ..Survey::default() };
    for result in seen {
        match result {
            Ok((size, count)) => {
                all.images += 1;
                *all.sizes.entry(size).or_default() += 1;
                count.iter().for_each(|mask| all.census.add(mask));
                all.by_image.push(count.map(|mask| mask.classes));
            }
            Err(e) => {
                all.by_image.push(None);
                all.faults.push(e);
            }
        }
    }
    all
}
