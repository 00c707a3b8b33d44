//! List files: the images and masks of a set. Reads the lists and checks that the files exist; decodes no
//! image.

use super::layout::Layout;
use crate::{Error, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Which masks of a list are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masks {
    /// Every image must have a mask.
    Required,
    /// An image has the mask that its line names, if that file exists: published lists name masks that a user
    /// may not have. No mask is looked for where the line names none.
    Optional,
    /// No mask is looked for, whatever the list names.
    Ignored,
}

/// One image of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The image as the list names it, without a leading slash.
    pub name: String,
    /// Line number in the list, from 1.
    pub line: usize,
    /// The image file, which existed when the list was read.
    pub image: PathBuf,
    /// The mask file, which existed when the list was read; `None` with [`Masks::Ignored`], or with
    /// [`Masks::Optional`] where there is none.
    pub mask: Option<PathBuf>,
}

/// A list file with its lines resolved against a data directory.
#[derive(Clone, Debug)]
pub struct List {
    /// The list file, for messages.
    pub path: PathBuf,
    /// Layout of the data directory.
    pub layout: Layout,
    /// The images in the order of the file, at least one.
    pub entries: Vec<Entry>,
}

impl List {
    /// Reads `path` and finds its files under `root`.
    ///
    /// A line is `image mask` or `image`, separated by a tab (then names may hold blanks) or by blanks; or an
    /// id that `layout` completes. Empty lines are skipped, and so are lines that start with `#`, unless an
    /// image has that name.
    ///
    /// # Errors
    /// [`Error::Data`] with the line: a missing or empty list, a missing image or mask, a labelled image
    /// without mask, an image named twice.
    pub fn read(path: &Path, root: &Path, layout: Layout, masks: Masks) -> Result<List> {
        let (list, faults) = List::read_all(path, root, layout, masks)?;
        match faults.into_iter().next() {
            Some(fault) => Err(fault),
            None if list.entries.is_empty() => {
                Err(Error::data(path, "the list names no image; expected one image per line"))
            }
            None => Ok(list),
        }
    }

    /// As [`List::read`], with the errors of all lines next to the images of the lines without one.
    ///
    /// # Errors
    /// [`Error::Data`] where there is no list or data directory.
    pub fn read_all(path: &Path, root: &Path, layout: Layout, masks: Masks) -> Result<(List, Vec<Error>)> {
        let bytes =
            std::fs::read(path).map_err(|e| Error::data(path, format!("cannot read this list file: {e}")))?;
        let text = String::from_utf8(bytes)
            .map_err(|_| Error::data(path, "expected a list file in UTF-8 text, one image per line"))?;
        if !root.is_dir() {
            return Err(Error::data(root, "no such data directory"));
        }
        let mut seen: HashMap<FileId, usize> = HashMap::new();
        let (mut entries, mut faults) = (Vec::new(), Vec::new());
        for (i, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let number = i + 1;
            let fail =
                |message: String| Error::Data { path: path.to_path_buf(), line: Some(number), message };
            let line = line.trim();
            if line.is_empty() || is_comment(line, root, layout) {
                continue;
            }
            let found = split(line, root, layout).and_then(|(image, mask)| {
                let mut found = layout.resolve(root, image, mask, masks == Masks::Required)?;
                if masks == Masks::Optional {
                    found.mask = mask.and_then(|mask| layout.locate_mask(root, mask));
                }
                Ok(found)
            });
            let found = match found {
                Ok(found) => found,
                Err(message) => {
                    faults.push(fail(message));
                    continue;
                }
            };
            if let Some(first) = seen.insert(FileId::of(&found.image), number) {
                let message =
                    format!("image {:?} was named already on line {first}; name each image once", found.name);
                faults.push(fail(message));
                continue;
            }
            entries.push(Entry { name: found.name, line: number, image: found.image, mask: found.mask });
        }
        Ok((List { path: path.to_path_buf(), layout, entries }, faults))
    }
}

/// Whether a line is a comment: it begins with `#`, and no image has that name.
fn is_comment(line: &str, root: &Path, layout: Layout) -> bool {
    let image = |(image, _)| layout.locate(root, image).is_some();
    line.starts_with('#') && !split(line, root, layout).is_ok_and(image)
}

/// The one or two names of a line.
fn split<'a>(
    line: &'a str,
    root: &Path,
    layout: Layout,
) -> std::result::Result<(&'a str, Option<&'a str>), String> {
    if line.contains('\t') {
        let words: Vec<&str> = line.split('\t').map(str::trim).filter(|w| !w.is_empty()).collect();
        return match words[..] {
            [image] => Ok((image, None)),
            [image, mask] => Ok((image, Some(mask))),
            _ => Err(format!("expected \"image<tab>mask\", got {} names", words.len())),
        };
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        [image] => Ok((image, None)),
        // A single image whose own name has a blank.
        _ if layout.locate(root, line).is_some() => Ok((line, None)),
        [image, mask] => Ok((image, Some(mask))),
        _ => Err(format!(
            "expected \"image mask\" or \"image\", got {} words; separate names that hold blanks with a tab",
            words.len()
        )),
    }
}

/// Identity of the file that a path leads to, the same for all links and ways of writing the path: device and
/// inode, or the resolved path where there are none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum FileId {
    #[cfg(unix)]
    Inode(u64, u64),
    Path(PathBuf),
}

impl FileId {
    fn of(path: &Path) -> FileId {
        #[cfg(unix)]
        if let Ok(meta) = std::fs::metadata(path) {
            use std::os::unix::fs::MetadataExt;
            return FileId::Inode(meta.dev(), meta.ino());
        }
        FileId::Path(std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf()))
    }
}

/// Checks that the labelled and the validation list of a run share no image. Unlabelled images that are also
/// in one of them, as in some published splits, are logged as a warning.
///
/// # Errors
/// [`Error::Data`] with the lines of both lists.
pub fn check_disjoint(labeled: &List, unlabeled: Option<&List>, val: &List) -> Result<()> {
    let lines = |list: &List| -> HashMap<FileId, usize> {
        list.entries.iter().map(|e| (FileId::of(&e.image), e.line)).collect()
    };
    let val_lines = lines(val);
    let shared = |e: &Entry| val_lines.get(&FileId::of(&e.image)).copied();
    if let Some((e, line)) = labeled.entries.iter().find_map(|e| Some((e, shared(e)?))) {
        return Err(Error::Data {
            path: labeled.path.clone(),
            line: Some(e.line),
            message: format!(
                "image {:?} is also in the validation list, {}:{line}; validation images must not be labelled \
                 training images",
                e.name,
                val.path.display()
            ),
        });
    }
    let Some(unlabeled) = unlabeled else { return Ok(()) };
    for (other, what) in [(labeled, "labelled"), (val, "validation")] {
        let there = lines(other);
        let shared = unlabeled.entries.iter().filter(|e| there.contains_key(&FileId::of(&e.image))).count();
        if shared > 0 {
            tracing::warn!(
                "{shared} of the {} images of {} are also in the {what} list {}",
                unlabeled.entries.len(),
                unlabeled.path.display(),
                other.path.display()
            );
        }
    }
    Ok(())
}
