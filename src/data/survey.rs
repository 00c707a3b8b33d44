//! Reading a set of images through: every file decoded, sizes and classes counted, every fault kept. Knows lists and files.

use super::census::Census;
use super::list::List;
use super::source::{FolderOptions, FolderSource, Source};
use crate::Error;
use crate::ops::Size;
use rayon::prelude::*;
use std::collections::BTreeMap;

/// What is in a list's files.
#[derive(Debug, Default)]
pub struct Survey {
    /// Images that could be read.
    pub images: usize,
    /// How many images have each size, as they are seen.
    pub sizes: BTreeMap<Size, usize>,
    /// What the masks hold.
    pub census: Census,
    /// Pixels of each class in each image, by its place in the list; none for images without a mask or with a fault.
    pub by_image: Vec<Option<Vec<u64>>>,
    /// What cannot be read, in the order of the list.
    pub faults: Vec<Error>,
}

/// Decodes every image of the list, and its mask where the list has one, whose classes are below `options.num_classes` or
/// ignored.
pub fn survey(list: List, options: FolderOptions) -> Survey {
    let source = FolderSource::new(list, FolderOptions { cache_bytes: 0, ..options });
    let read = |i| source.decode(i).map(|(sample, count)| (sample.image.size, count));
    let seen: Vec<_> = (0..source.len()).into_par_iter().map(read).collect();
    let mut all = Survey { census: Census::new(options.num_classes), ..Survey::default() };
    for seen in seen {
        match seen {
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
