//! Known data sets: number of classes, their names and colours, and the layout on disk. Opens no files.

use super::layout::Layout;
use super::scenes::SCENE_CLASSES;
use serde::{Deserialize, Serialize};

/// A known data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Pascal VOC 2012, 21 classes.
    Voc,
    /// Cityscapes, 19 classes.
    Cityscapes,
    /// CamVid in its 11-class version.
    Camvid,
    /// The built-in scenes.
    Demo,
}

const VOC_CLASSES: [&str; 21] = [
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "dining table",
    "dog",
    "horse",
    "motorbike",
    "person",
    "potted plant",
    "sheep",
    "sofa",
    "train",
    "tv monitor",
];

const CITYSCAPES_CLASSES: [&str; 19] = [
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
];

/// Colours published with the Cityscapes benchmark.
const CITYSCAPES_COLORS: [[u8; 3]; 19] = [
    [128, 64, 128],
    [244, 35, 232],
    [70, 70, 70],
    [102, 102, 156],
    [190, 153, 153],
    [153, 153, 153],
    [250, 170, 30],
    [220, 220, 0],
    [107, 142, 35],
    [152, 251, 152],
    [70, 130, 180],
    [220, 20, 60],
    [255, 0, 0],
    [0, 0, 142],
    [0, 0, 70],
    [0, 60, 100],
    [0, 80, 100],
    [0, 0, 230],
    [119, 11, 32],
];

const CAMVID_CLASSES: [&str; 11] = [
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign symbol",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
];

/// The usual colours of the 11-class version: those of the 32-class annotation's main classes.
const CAMVID_COLORS: [[u8; 3]; 11] = [
    [128, 128, 128],
    [128, 0, 0],
    [192, 192, 128],
    [128, 64, 128],
    [60, 40, 222],
    [128, 128, 0],
    [192, 128, 128],
    [64, 64, 128],
    [64, 0, 128],
    [64, 64, 0],
    [0, 128, 192],
];

impl Preset {
    /// Number of classes.
    pub fn num_classes(self) -> usize {
        self.class_names().len()
    }

    /// One name per class, in the order of the class indices.
    pub fn class_names(self) -> &'static [&'static str] {
        match self {
            Preset::Voc => &VOC_CLASSES,
            Preset::Cityscapes => &CITYSCAPES_CLASSES,
            Preset::Camvid => &CAMVID_CLASSES,
            Preset::Demo => &SCENE_CLASSES,
        }
    }

    /// One colour (red, green, blue) per class, in the order of the class indices.
    pub fn palette(self) -> Vec<[u8; 3]> {
        match self {
            Preset::Voc => (0..21).map(voc_color).collect(),
            Preset::Cityscapes => CITYSCAPES_COLORS.to_vec(),
            Preset::Camvid => CAMVID_COLORS.to_vec(),
            Preset::Demo => distinct_palette(SCENE_CLASSES.len()),
        }
    }

    /// Layout of the data directory.
    pub fn layout(self) -> Layout {
        match self {
            Preset::Voc => Layout::Voc,
            Preset::Cityscapes => Layout::Cityscapes,
            Preset::Camvid | Preset::Demo => Layout::Folder,
        }
    }

    /// Long side, in pixels, of an image at scale 1 that the method uses for this data set; `None` for the
    /// image's own size.
    pub fn base_size(self) -> Option<usize> {
        (self == Preset::Voc).then_some(600)
    }
}

/// Names for classes without one: `class 0`, `class 1`, ….
pub fn class_names(num_classes: usize) -> Vec<String> {
    (0..num_classes).map(|i| format!("class {i}")).collect()
}

/// Colour `i` of the VOC palette: the three low bits of `i` become the high bits of red, green, blue, the
/// next three the bits below, and so on.
fn voc_color(i: usize) -> [u8; 3] {
    let mut color = [0u8; 3];
    for bit in 0..8 {
        for (c, value) in color.iter_mut().enumerate() {
            *value |= ((i >> (3 * bit + c) & 1) as u8) << (7 - bit);
        }
    }
    color
}

/// `num_classes` colours that differ clearly: dark grey, then hues a golden angle apart in three
/// brightnesses.
pub fn distinct_palette(num_classes: usize) -> Vec<[u8; 3]> {
    let color = |i: usize| {
        if i == 0 {
            return [40, 40, 40];
        }
        let hue = (i as f64 * 0.618_034).fract() * 6.0;
        let value = [0.95, 0.7, 0.85][i % 3];
        let saturation = [0.85, 0.8, 0.5][i / 3 % 3];
        [5.0, 3.0, 1.0].map(|n: f64| {
            let k = (n + hue) % 6.0;
            (255.0 * value * (1.0 - saturation * k.min(4.0 - k).clamp(0.0, 1.0)) + 0.5) as u8
        })
    };
    (0..num_classes).map(color).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn presets_are_complete() {
        for (preset, n) in
            [(Preset::Voc, 21), (Preset::Cityscapes, 19), (Preset::Camvid, 11), (Preset::Demo, 6)]
        {
            assert_eq!((preset.num_classes(), preset.palette().len()), (n, n));
            assert_eq!(preset.palette().iter().collect::<HashSet<_>>().len(), n, "{preset:?}");
        }
    }

    #[test]
    fn voc_palette_is_the_published_one() {
        assert_eq!(
            [0, 1, 2, 15, 20].map(voc_color),
            [[0, 0, 0], [128, 0, 0], [0, 128, 0], [192, 128, 128], [0, 64, 128]]
        );
    }

    #[test]
    fn distinct_palette_has_no_repeats() {
        assert_eq!(distinct_palette(254).iter().collect::<HashSet<_>>().len(), 254);
    }
}
