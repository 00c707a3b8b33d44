//! What decides the bits of a run, as a checkpoint says it: its images in their order and its settings. A run
//! that is resumed with others would go on to other bits. Must not know the files of a run.

use super::dataset::Datasets;
use crate::Result;
use crate::config::{RunConfig, changed_keys};
use crate::data::Source;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// Digits of one image.
const DIGITS: usize = 8;

/// The images and settings of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The settings that decide the run, as TOML.
    pub settings: String,
    /// Labelled images with their masks.
    pub labeled: Images,
    /// Unlabelled images; masks that only measure do not count.
    pub unlabeled: Option<Images>,
    /// Validation images with their masks.
    pub val: Images,
}

/// The images of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Images {
    /// Eight hexadecimal digits for each, in the order of the list.
    digits: String,
}

impl Images {
    fn of(source: &dyn Source) -> Result<Images> {
        let all: Vec<String> = (0..source.len())
            .into_par_iter()
            .map(|i| source.fingerprint(i).map(|n| format!("{n:08x}")))
            .collect::<Result<_>>()?;
        Ok(Images { digits: all.concat() })
    }

    fn all(&self) -> Vec<&[u8]> {
        self.digits.as_bytes().chunks(DIGITS).collect()
    }

    /// What is another in `now`, in words; `what` names the images, `name` gives an image's name by its
    /// number. The order counts where `ordered`.
    fn change(
        &self,
        now: &Images,
        what: &str,
        ordered: bool,
        name: &dyn Fn(usize) -> String,
    ) -> Option<String> {
        let (before, now) = (self.all(), now.all());
        let sorted = |images: &[&'_ [u8]]| {
            let mut images: Vec<Vec<u8>> = images.iter().map(|i| i.to_vec()).collect();
            images.sort();
            images
        };
        let first = before.iter().zip(&now).position(|(a, b)| a != b);
        if before.len() != now.len() {
            return Some(format!("{} {what} images, now {}", before.len(), now.len()));
        }
        let first = first?;
        if sorted(&before) == sorted(&now) {
            return ordered.then(|| format!("{what} images in another order from {} on", name(first)));
        }
        // Images that moved are not changed ones.
        let known: HashSet<&[u8]> = before.iter().copied().collect();
        let others = now.iter().filter(|image| !known.contains(*image)).count().max(1);
        let first = now.iter().position(|image| !known.contains(image)).unwrap_or(first);
        Some(format!("{others} of {} {what} images or masks are others, first {}", now.len(), name(first)))
    }
}

impl Fingerprint {
    /// Of a run of `config` on `data`. Reads the start and the end of every file.
    ///
    /// # Errors
    /// [`crate::Error::Io`] for a file that cannot be read.
    pub fn new(config: &RunConfig, data: &Datasets) -> Result<Fingerprint> {
        Ok(Fingerprint {
            settings: config.deciding_toml()?,
            labeled: Images::of(&*data.labeled)?,
            unlabeled: data.unlabeled.as_ref().map(|source| Images::of(&**source)).transpose()?,
            val: Images::of(&*data.val)?,
        })
    }

    /// What is another in `now`, whose images are `data`: a phrase each, none where a run goes on to the same
    /// bits. The order of validation images decides nothing.
    ///
    /// # Errors
    /// Settings that this version cannot write.
    pub fn changes(&self, now: &Fingerprint, data: &Datasets) -> Result<Vec<String>> {
        let mut changes = changed_keys(&self.settings, &now.settings)?;
        let named = |source: &dyn Source| {
            let names: Vec<String> = (0..source.len()).map(|i| source.name(i)).collect();
            move |i: usize| names.get(i).cloned().unwrap_or_default()
        };
        changes.extend(self.labeled.change(&now.labeled, "labelled", true, &named(&*data.labeled)));
        match (&self.unlabeled, &now.unlabeled, &data.unlabeled) {
            (Some(before), Some(now), Some(source)) => {
                changes.extend(before.change(now, "unlabelled", true, &named(&**source)));
            }
            (None, Some(_), _) => changes.push("unlabelled images, where there were none".into()),
            (Some(_), None, _) => changes.push("no unlabelled images, where there were some".into()),
            _ => {}
        }
        changes.extend(self.val.change(&now.val, "validation", false, &named(&*data.val)));
        Ok(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_images_are_named() {
        let images =
            |numbers: &[u32]| Images { digits: numbers.iter().map(|n| format!("{n:08x}")).collect() };
        let name = |i: usize| format!("image {i}");
        let change = |a: &[u32], b: &[u32], ordered| images(a).change(&images(b), "labelled", ordered, &name);
        assert_eq!(change(&[1, 2, 3], &[1, 2, 3], true), None);
        assert_eq!(change(&[1, 2], &[1, 2, 3], true).unwrap(), "2 labelled images, now 3");
        assert_eq!(
            change(&[1, 2, 3], &[1, 3, 2], true).unwrap(),
            "labelled images in another order from image 1 on"
        );
        assert_eq!(change(&[1, 2, 3], &[1, 3, 2], false), None);
        let said = change(&[1, 2, 3, 4], &[2, 1, 9, 4], true).unwrap();
        assert_eq!(said, "1 of 4 labelled images or masks are others, first image 2");
        // A name twice where there were two.
        let said = change(&[1, 2], &[1, 1], true).unwrap();
        assert_eq!(said, "1 of 2 labelled images or masks are others, first image 1");
    }
}
