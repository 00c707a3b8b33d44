//! The family of labelled lists of Pascal VOC that a list belongs to, by its content. For the same method,
//! the mIoU of two families differs by 2 to 3 points, so numbers of two families must not be compared.

use super::layout::Layout;
use super::list::List;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::Path;

/// Families of published labelled lists of Pascal VOC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VocFamily {
    /// All labelled images are in VOC's own `train.txt` (1,464), whose masks were drawn with care:
    /// high-quality and blender lists.
    HighQuality,
    /// Some labelled images are of the augmented set, with SBD's masks: CPS lists.
    Augmented,
}

impl std::fmt::Display for VocFamily {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            VocFamily::HighQuality => {
                "high-quality or blender (all labelled images are in VOC's own train.txt)"
            }
            VocFamily::Augmented => "augmented, as CPS's (labelled images beyond VOC's own train.txt)",
        })
    }
}

/// Places of VOC's own list, relative to the data directory.
const TRAIN_LISTS: [&str; 3] = [
    "ImageSets/Segmentation/train.txt",
    "VOC2012/ImageSets/Segmentation/train.txt",
    "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt",
];

/// The family of a labelled list; `None` for other data sets, and where VOC's own list does not exist under
/// `root`.
pub fn voc_family(labeled: &List, root: &Path) -> Option<VocFamily> {
    if labeled.layout != Layout::Voc {
        return None;
    }
    let text = TRAIN_LISTS.iter().find_map(|path| std::fs::read_to_string(root.join(path)).ok())?;
    let own: HashSet<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let inside = labeled
        .entries
        .iter()
        .all(|e| e.image.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| own.contains(stem)));
    Some(if inside { VocFamily::HighQuality } else { VocFamily::Augmented })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::list::Entry;

    fn list(layout: Layout, stems: &[&str]) -> List {
        let entry = |(i, stem): (usize, &&str)| Entry {
            name: stem.to_string(),
            line: i + 1,
            image: Path::new("JPEGImages").join(format!("{stem}.jpg")),
            mask: None,
        };
        List { path: "l.txt".into(), layout, entries: stems.iter().enumerate().map(entry).collect() }
    }

    #[test]
    fn lists_are_recognised_by_their_images() {
        let dir = tempfile::tempdir().unwrap();
        let labeled = list(Layout::Voc, &["2007_000032", "2007_000039"]);
        assert_eq!(voc_family(&labeled, dir.path()), None);
        let lists = dir.path().join("VOC2012/ImageSets/Segmentation");
        std::fs::create_dir_all(&lists).unwrap();
        std::fs::write(lists.join("train.txt"), "2007_000032\n2007_000039\r\n2007_000063\n").unwrap();
        assert_eq!(voc_family(&labeled, dir.path()), Some(VocFamily::HighQuality));
        let other = list(Layout::Voc, &["2007_000032", "2008_000008"]);
        assert_eq!(voc_family(&other, dir.path()), Some(VocFamily::Augmented));
        assert_eq!(voc_family(&list(Layout::Folder, &["2007_000032"]), dir.path()), None);
    }
}
