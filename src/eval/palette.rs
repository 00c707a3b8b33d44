//! Colours of classes for pictures and masks, and their names for tables.

use crate::data::{Preset, class_names, distinct_palette};

/// Colours of ignored pixels and of classes outside a palette.
const IGNORED: [u8; 3] = [224, 224, 192];

/// Colours and names of a run's classes.
#[derive(Clone, Debug, PartialEq)]
pub struct Palette {
    colors: Vec<[u8; 3]>,
    /// Names in the order of the class indices.
    pub names: Vec<String>,
}

impl Palette {
    /// Those of a known data set where it has that many classes, else distinct colours and numbers.
    pub fn new(preset: Option<Preset>, num_classes: usize) -> Palette {
        match preset.filter(|p| p.num_classes() == num_classes) {
            Some(p) => Palette {
                colors: p.palette(),
                names: p.class_names().iter().map(|n| n.to_string()).collect(),
            },
            None => Palette { colors: distinct_palette(num_classes), names: class_names(num_classes) },
        }
    }

    /// RGB of a class.
    pub fn color(&self, class: u8) -> [u8; 3] {
        self.colors.get(usize::from(class)).copied().unwrap_or(IGNORED)
    }

    /// All 256 colours one after another, as a PNG palette wants them.
    pub fn table(&self) -> Vec<u8> {
        (0..=255u8).flat_map(|c| self.color(c)).collect()
    }
}
