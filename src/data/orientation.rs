//! How an image is turned to be seen upright, and how its mask lies: as the file stores the image, or as people see it. Knows
//! sizes, no files.

use crate::ops::Size;
use image::metadata::Orientation;
use serde::{Deserialize, Serialize};

/// How masks of images lie whose EXIF orientation turns them in a way that sizes do not tell: by half a turn, mirrored, or a
/// square by a quarter. Where a mask's size tells, it decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ExifMasks {
    /// As [`ExifMasks::Upright`], with a warning.
    #[default]
    Auto,
    /// As people see the image.
    Upright,
    /// As the file stores the image's pixels.
    Stored,
}

/// What an image's header says of its pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Rows and columns in the file.
    pub stored: Size,
    /// How the image is turned to be seen upright.
    pub orientation: Orientation,
}

/// How a mask lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lies {
    /// As its image, which is not turned.
    Unturned,
    /// As its size says.
    Told(Lie),
    /// As [`ExifMasks`] says: its size fits both.
    Untold(Lie),
}

/// As the image is seen, or as the file stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lie {
    Upright,
    Stored,
}

impl Header {
    /// Rows and columns of the image as it is seen.
    pub fn upright(&self) -> Size {
        use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
        match self.orientation {
            Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH => (self.stored.1, self.stored.0),
            _ => self.stored,
        }
    }

    /// How a mask of this size lies; `None` where it is of another image.
    pub fn mask_lies(&self, mask: Size, exif: ExifMasks) -> Option<Lies> {
        let upright = self.upright();
        match (mask == self.stored, mask == upright) {
            (false, false) => None,
            (true, true) if self.orientation == Orientation::NoTransforms => Some(Lies::Unturned),
            (true, true) if exif == ExifMasks::Stored => Some(Lies::Untold(Lie::Stored)),
            (true, true) => Some(Lies::Untold(Lie::Upright)),
            (true, false) => Some(Lies::Told(Lie::Stored)),
            (false, true) => Some(Lies::Told(Lie::Upright)),
        }
    }
}

impl Lies {
    /// Whether the mask has to be turned with its image.
    pub fn is_stored(self) -> bool {
        matches!(self, Lies::Told(Lie::Stored) | Lies::Untold(Lie::Stored))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_decide_where_they_tell_and_the_setting_elsewhere() {
        let lies = |stored, orientation, mask| {
            let header = Header { stored, orientation };
            [ExifMasks::Auto, ExifMasks::Upright, ExifMasks::Stored].map(|exif| header.mask_lies(mask, exif))
        };
        use Lie::{Stored, Upright};
        let quarter = Orientation::Rotate90;
        assert_eq!(lies((4, 6), quarter, (4, 6)), [Some(Lies::Told(Stored)); 3]);
        assert_eq!(lies((4, 6), quarter, (6, 4)), [Some(Lies::Told(Upright)); 3]);
        assert_eq!(lies((4, 6), quarter, (6, 6)), [None; 3]);
        assert_eq!(lies((4, 6), Orientation::NoTransforms, (6, 4)), [None; 3]);
        assert_eq!(lies((4, 6), Orientation::NoTransforms, (4, 6)), [Some(Lies::Unturned); 3]);
        let untold = [Upright, Upright, Stored].map(|lie| Some(Lies::Untold(lie)));
        for (size, orientation) in [
            ((4, 6), Orientation::Rotate180),
            ((4, 6), Orientation::FlipHorizontal),
            ((4, 6), Orientation::FlipVertical),
            ((5, 5), Orientation::Rotate270),
            ((5, 5), Orientation::Rotate90FlipH),
        ] {
            assert_eq!(lies(size, orientation, size), untold, "{orientation:?}");
        }
    }
}
