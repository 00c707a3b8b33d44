//! Directory layouts of data sets: from the words of a list line to paths. Reads no list and decodes nothing.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Layout of a data directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// Lists name every file relative to the data directory.
    #[default]
    Folder,
    /// Pascal VOC 2012: `JPEGImages`, `SegmentationClassAug` or `SegmentationClass`, in the data directory or
    /// in its `VOC2012` or `VOCdevkit/VOC2012`.
    Voc,
    /// Cityscapes as downloaded: `leftImg8bit/SPLIT/CITY/ID_leftImg8bit.png`,
    /// `gtFine/SPLIT/CITY/ID_gtFine_labelIds.png` (or `labelTrainIds`).
    Cityscapes,
}

/// What the bytes of a mask file mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum MaskIds {
    /// Class indices, 255 is ignored.
    #[default]
    Train,
    /// The 34 label ids of the Cityscapes annotation, mapped to its 19 training classes on load.
    CityscapesLabelIds,
}

/// The files of one list line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    /// The image as the list names it, without a leading slash.
    pub name: String,
    pub image: PathBuf,
    pub mask: Option<PathBuf>,
}

const VOC_BASES: [&str; 3] = ["", "VOC2012", "VOCdevkit/VOC2012"];
const CITYSCAPES_BASES: [&str; 2] = ["", "cityscapes"];
const CITYSCAPES_SPLITS: [&str; 4] = ["train", "val", "test", "train_extra"];
const IMAGE_SUFFIX: &str = "_leftImg8bit.png";
/// `labelTrainIds` first: it is not part of the download, so where both exist the user made it on purpose.
const MASK_SUFFIXES: [&str; 2] = ["_gtFine_labelTrainIds.png", "_gtFine_labelIds.png"];

impl Layout {
    /// Folders, relative to the data directory, in which names are looked for.
    fn bases(self) -> &'static [&'static str] {
        match self {
            Layout::Folder => &VOC_BASES[..1],
            Layout::Voc => &VOC_BASES,
            Layout::Cityscapes => &CITYSCAPES_BASES,
        }
    }

    /// Which ids a mask file of this layout holds.
    pub(super) fn mask_ids(self, mask: &Path) -> MaskIds {
        let label_ids = mask.file_name().is_some_and(|n| n.to_string_lossy().ends_with("_labelIds.png"));
        if self == Layout::Cityscapes && label_ids { MaskIds::CityscapesLabelIds } else { MaskIds::Train }
    }

    /// Files of a line that names `image` and perhaps `mask`. With `want_mask` a mask must exist; without it,
    /// none is looked for. The error says which file was looked for and where.
    pub(super) fn resolve(
        self,
        root: &Path,
        image: &str,
        mask: Option<&str>,
        want_mask: bool,
    ) -> Result<Resolved, String> {
        if mask.is_none() && is_id(image) && self.locate(root, image).is_none() {
            return match self {
                Layout::Cityscapes => resolve_cityscapes_id(root, image, want_mask),
                Layout::Folder | Layout::Voc => resolve_voc_id(root, image, want_mask),
            };
        }
        let found = self
            .locate(root, image)
            .ok_or_else(|| format!("no image file {image:?} under {}", self.searched(root)))?;
        let mask = match mask {
            _ if !want_mask => None,
            Some(mask) => Some(
                self.locate_mask(root, mask)
                    .ok_or_else(|| format!("no mask file {mask:?} under {}", self.searched(root)))?,
            ),
            None => Some(self.mask_of_image(&found).ok_or_else(|| {
                format!(
                    "image {image:?} has no mask; a labelled line is \"image mask\", both relative to {}",
                    root.display()
                )
            })?),
        };
        Ok(Resolved { name: image.trim_start_matches('/').to_owned(), image: found, mask })
    }

    /// An existing file of that name: relative to one of the bases (a leading slash does not make it
    /// absolute, as in the authors' lists), or else absolute.
    pub(super) fn locate(self, root: &Path, name: &str) -> Option<PathBuf> {
        let relative = name.trim_start_matches('/');
        let inside = self.bases().iter().map(|base| join(root, base).join(relative)).find(|p| p.is_file());
        inside.or_else(|| Some(PathBuf::from(name)).filter(|p| p.is_absolute() && p.is_file()))
    }

    /// An existing mask file of that name, or the other kind of mask of the same image.
    pub(super) fn locate_mask(self, root: &Path, name: &str) -> Option<PathBuf> {
        self.locate(root, name).or_else(|| self.sibling_ids(root, name))
    }

    fn searched(self, root: &Path) -> String {
        let all: Vec<String> = self.bases().iter().map(|b| join(root, b).display().to_string()).collect();
        all.join(", ")
    }

    /// The mask file that belongs to an image file by the layout's names.
    fn mask_of_image(self, image: &Path) -> Option<PathBuf> {
        let name = image.file_name()?.to_str()?;
        match self {
            Layout::Folder => None,
            Layout::Voc => {
                let base = image.parent().filter(|p| p.ends_with("JPEGImages"))?.parent()?;
                voc_mask(base, Path::new(name).file_stem()?.to_str()?)
            }
            Layout::Cityscapes => {
                let id = name.strip_suffix(IMAGE_SUFFIX)?;
                let city = image.parent()?;
                let split = city.parent()?;
                let folder =
                    split.parent()?.parent()?.join("gtFine").join(split.file_name()?).join(city.file_name()?);
                MASK_SUFFIXES.iter().map(|s| folder.join(format!("{id}{s}"))).find(|p| p.is_file())
            }
        }
    }

    /// The other kind of Cityscapes mask of the same image: published lists name either, the download has
    /// `labelIds` only, and both hold the same annotation.
    fn sibling_ids(self, root: &Path, mask: &str) -> Option<PathBuf> {
        if self != Layout::Cityscapes {
            return None;
        }
        let [train, label] = MASK_SUFFIXES;
        let other = match (mask.strip_suffix(train), mask.strip_suffix(label)) {
            (Some(id), _) => format!("{id}{label}"),
            (_, Some(id)) => format!("{id}{train}"),
            _ => return None,
        };
        self.locate(root, &other)
    }
}

/// As [`Path::join`], without the trailing separator for an empty base.
fn join(root: &Path, base: &str) -> PathBuf {
    if base.is_empty() { root.to_path_buf() } else { root.join(base) }
}

/// A word without folder and extension, such as `2007_000032`.
fn is_id(word: &str) -> bool {
    !word.is_empty() && !word.contains(['/', '\\', '.'])
}

fn voc_mask(base: &Path, id: &str) -> Option<PathBuf> {
    let folders = ["SegmentationClassAug", "SegmentationClass"];
    folders.iter().map(|f| base.join(f).join(format!("{id}.png"))).find(|p| p.is_file())
}

fn resolve_voc_id(root: &Path, id: &str, want_mask: bool) -> Result<Resolved, String> {
    let bases: Vec<PathBuf> = VOC_BASES.iter().map(|b| join(root, b)).collect();
    let image = |base: &PathBuf| {
        let file = base.join("JPEGImages").join(format!("{id}.jpg"));
        file.is_file().then(|| (base.clone(), file))
    };
    let (base, image) = bases.iter().find_map(image).ok_or_else(|| {
        format!(
            "no image file {id:?} under {0}, nor JPEGImages/{id}.jpg under {0}, its VOC2012 or \
             VOCdevkit/VOC2012",
            root.display()
        )
    })?;
    let mask = if want_mask {
        Some(voc_mask(&base, id).ok_or_else(|| {
            format!("no mask {id}.png in SegmentationClassAug or SegmentationClass under {}", base.display())
        })?)
    } else {
        None
    };
    Ok(Resolved { name: id.to_owned(), image, mask })
}

fn resolve_cityscapes_id(root: &Path, id: &str, want_mask: bool) -> Result<Resolved, String> {
    let id = id.strip_suffix("_leftImg8bit").unwrap_or(id);
    let city = id.split('_').next().unwrap_or_default();
    let file = |base: &&str, split: &&str| {
        join(root, base).join("leftImg8bit").join(split).join(city).join(format!("{id}{IMAGE_SUFFIX}"))
    };
    let mut candidates =
        CITYSCAPES_BASES.iter().flat_map(|b| CITYSCAPES_SPLITS.iter().map(move |s| file(b, s)));
    let image = candidates.find(|p| p.is_file()).ok_or_else(|| {
        format!(
            "no leftImg8bit/{{train,val,test,train_extra}}/{city}/{id}{IMAGE_SUFFIX} under {}",
            root.display()
        )
    })?;
    let mask = Layout::Cityscapes.mask_of_image(&image);
    if want_mask && mask.is_none() {
        return Err(format!(
            "no gtFine mask {id}_gtFine_labelIds.png or {id}_gtFine_labelTrainIds.png for {}",
            image.display()
        ));
    }
    Ok(Resolved { name: id.to_owned(), image, mask: mask.filter(|_| want_mask) })
}

/// Training class of each Cityscapes label id 0..=33; 255 for ids that the benchmark does not evaluate.
const CITYSCAPES_TRAIN_IDS: [u8; 34] = {
    let mut map = [255; 34];
    let evaluated = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33];
    let mut class = 0;
    while class < evaluated.len() {
        map[evaluated[class]] = class as u8;
        class += 1;
    }
    map
};

impl MaskIds {
    /// The training class of a mask byte, or `None` for a value that this kind of mask cannot hold.
    pub fn class(self, value: u8) -> Option<u8> {
        match self {
            MaskIds::Train => Some(value),
            // The licence-plate id -1 is stored as 255.
            MaskIds::CityscapesLabelIds if value == 255 => Some(255),
            MaskIds::CityscapesLabelIds => CITYSCAPES_TRAIN_IDS.get(usize::from(value)).copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cityscapes_ids_map_to_nineteen_classes() {
        let ids = MaskIds::CityscapesLabelIds;
        assert_eq!(ids.class(7), Some(0)); // road
        assert_eq!(ids.class(26), Some(13)); // car
        assert_eq!(ids.class(33), Some(18)); // bicycle
        assert_eq!(ids.class(0), Some(255));
        assert_eq!(ids.class(255), Some(255));
        assert_eq!(ids.class(34), None);
        let mut classes: Vec<u8> = (0..34).filter_map(|v| ids.class(v)).filter(|&c| c != 255).collect();
        classes.sort_unstable();
        assert_eq!(classes, (0..19).collect::<Vec<u8>>());
    }

    #[test]
    fn mask_kind_follows_the_file_name_in_cityscapes_only() {
        let file = Path::new("x/a_gtFine_labelIds.png");
        assert_eq!(Layout::Cityscapes.mask_ids(file), MaskIds::CityscapesLabelIds);
        assert_eq!(Layout::Cityscapes.mask_ids(Path::new("a_gtFine_labelTrainIds.png")), MaskIds::Train);
        assert_eq!(Layout::Folder.mask_ids(file), MaskIds::Train);
    }
}
