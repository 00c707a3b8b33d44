//! Reading a set of images through: every file decoded, sizes and classes counted, every fault kept. Knows lists and files.

use super::list::List;
use super::source::{FolderOptions, FolderSource, Source};
use crate::Error;
use crate::ops::{IGNORE, Size};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// What is in a list's files.
#[derive(Debug, Default)]
pub struct Survey {
    /// Images that could be read.
    pub images: usize,
    /// How many images have each size.
    pub sizes: BTreeMap<Size, usize>,
    /// Of each class: images that have it, and pixels.
    pub classes: Vec<ClassCount>,
    /// Pixels that are ignored.
    pub ignored: u64,
    /// Pixels of each class in each image, by its place in the list; none for images without a mask or with a fault.
    pub by_image: Vec<Option<Vec<u64>>>,
    /// What cannot be read, in the order of the list.
    pub faults: Vec<Error>,
}

/// How often a class occurs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ClassCount {
    /// Images with at least one pixel of it.
    pub images: usize,
    /// Its pixels.
    pub pixels: u64,
}

/// One image's part.
struct Seen {
    size: Size,
    pixels: Option<Vec<u64>>,
    ignored: u64,
}

/// Decodes every image of the list, and its mask where the list has one, whose classes are below `num_classes` or ignored.
pub fn survey(list: List, num_classes: usize) -> Survey {
    let source = FolderSource::new(list, FolderOptions { cache_bytes: 0, ..FolderOptions::new(num_classes) });
    let seen: Vec<crate::Result<Seen>> = (0..source.len())
        .into_par_iter()
        .map(|i| {
            let sample = source.load(i)?;
            let count = |mask: &[u8]| {
                let mut bytes = [0u64; 256];
                mask.iter().for_each(|&c| bytes[usize::from(c)] += 1);
                bytes
            };
            let bytes = sample.mask.as_ref().map(|mask| count(&mask.data));
            Ok(Seen {
                size: sample.image.size,
                pixels: bytes.map(|b| b[..num_classes].to_vec()),
                ignored: bytes.map_or(0, |b| b[usize::from(IGNORE)]),
            })
        })
        .collect();
    let mut all = Survey { classes: vec![ClassCount::default(); num_classes], ..Survey::default() };
    for seen in seen {
        match seen {
            Ok(Seen { size, pixels, ignored }) => {
                all.images += 1;
                all.ignored += ignored;
                *all.sizes.entry(size).or_default() += 1;
                for (class, &n) in all.classes.iter_mut().zip(pixels.iter().flatten()) {
                    class.pixels += n;
                    class.images += usize::from(n > 0);
                }
                all.by_image.push(pixels);
            }
            Err(e) => {
                all.by_image.push(None);
                all.faults.push(e);
            }
        }
    }
    all
}
