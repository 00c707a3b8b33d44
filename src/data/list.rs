//! List files: which images, and which masks, make up a set. Reads the lists and checks that the files exist; decodes
//! no image.

use super::layout::Layout;
use crate::{Error, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What a reader of a list wants of its masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masks {
    /// Every image needs one.
    Required,
    /// An image has the one that its line names, where there is such a file. None is looked for that no line names, and one
    /// that is not there is as if not named: published lists name masks that a user may not have.
    Optional,
    /// The list may name them, they are not looked for.
    Ignored,
}

/// One image of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The image as the list names it, without a leading slash.
    pub name: String,
    /// Line in the list, from 1.
    pub line: usize,
    /// Existing image file.
    pub image: PathBuf,
    /// Existing mask file, unless [`Masks::Ignored`].
    pub mask: Option<PathBuf>,
}

/// A list file with its lines resolved against a data directory.
#[derive(Clone, Debug)]
pub struct List {
    /// The list file, for messages.
    pub path: PathBuf,
    /// How the data directory is laid out.
    pub layout: Layout,
    /// The images in the order of the file, at least one.
    pub entries: Vec<Entry>,
}

impl List {
    /// Reads `path` and finds its files under `root`.
    ///
    /// A line is `image mask` or `image`, separated by a tab (then names may hold blanks) or by blanks; or an id that
    /// `layout` completes. Empty lines do not count, nor those that start with `#`, unless such an image is there.
    ///
    /// # Errors
    /// [`Error::Data`] with the line: a missing or empty list, a missing image or mask, a labelled image without mask, an
    /// image named twice.
    pub fn read(path: &Path, root: &Path, layout: Layout, masks: Masks) -> Result<List> {
        let (list, faults) = List::read_all(path, root, layout, masks)?;
        match faults.into_iter().next() {
            Some(fault) => Err(fault),
            None if list.entries.is_empty() => {
                Err(Error::data(path, "the list names no image; expected one image a line"))
            }
            None => Ok(list),
        }
    }

    /// As [`List::read`], with what is wrong with lines beside the images of the others.
    ///
    /// # Errors
    /// [`Error::Data`] where there is no list or data directory.
    pub fn read_all(path: &Path, root: &Path, layout: Layout, masks: Masks) -> Result<(List, Vec<Error>)> {
        let bytes =
            std::fs::read(path).map_err(|e| Error::data(path, format!("cannot read this list file: {e}")))?;
        let text = String::from_utf8(bytes)
            .map_err(|_| Error::data(path, "expected a list file in UTF-8 text, one image a line"))?;
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

/// Whether a line is a remark: it begins with `#`, and there is no image of that name.
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

/// Which file a path leads to, whatever links, `..` and other ways of writing lead there: device and inode, or the resolved path
/// where there are none.
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

/// Checks the lists of one run against each other: no image may be both learnt from with its mask and validated on.
/// Labelled images among the unlabelled are usual (some published splits have them) and get a warning, as do unlabelled
/// ones among the validation images.
///
/// # Errors
/// [`Error::Data`] with the lines of both lists.
pub fn check_disjoint(labeled: &List, unlabeled: Option<&List>, val: &List) -> Result<()> {
    let lines = |list: &List| -> HashMap<FileId, usize> {
        list.entries.iter().map(|e| (FileId::of(&e.image), e.line)).collect()
    };
    let val_lines = lines(val);
    let shared = |e: &'_ Entry| val_lines.get(&FileId::of(&e.image)).copied();
    if let Some((e, line)) = labeled.entries.iter().find_map(|e| Some((e, shared(e)?))) {
        return Err(Error::Data {
            path: labeled.path.clone(),
            line: Some(e.line),
            message: format!(
                "image {:?} is also in the validation list, {}:{line}; validation images must not be labelled training images",
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
