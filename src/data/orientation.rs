//! EXIF orientation: how an image is rotated and mirrored for display, and whether its mask is oriented as
//! the file stores the image or as viewers show it. Works on headers; opens no files.

use crate::ops::Size;
use image::metadata::Orientation;
use serde::{Deserialize, Serialize};

/// Orientation of masks whose image is rotated or mirrored by EXIF in a way that the mask's size cannot show:
/// by 180°, mirrored, or by 90° with as many rows as columns. Elsewhere the mask's size decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ExifMasks {
    /// As [`ExifMasks::Upright`], with a warning.
    #[default]
    Auto,
    /// Upright, as viewers show the image.
    Upright,
    /// As the file stores the image's pixels.
    Stored,
}

/// What an image file's header says of its pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Rows and columns in the file.
    pub stored: Size,
    /// How the image is rotated and mirrored for display.
    pub orientation: Orientation,
}

/// Orientation of a mask, and what decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MaskOrientation {
    /// The image is neither rotated nor mirrored.
    NotRotated,
    /// The mask's size decides.
    BySize(Frame),
    /// Its size fits both: [`ExifMasks`] decides.
    BySetting(Frame),
}

/// Orientation of pixels: as viewers show the image, or as the file stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Upright,
    Stored,
}

impl Header {
    /// Rows and columns of the image as viewers show it.
    pub fn upright(&self) -> Size {
        use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
        match self.orientation {
            Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH => (self.stored.1, self.stored.0),
            _ => self.stored,
        }
    }

    /// Orientation of a mask of this size; `None` where its size does not fit the image.
    pub fn mask_orientation(&self, mask: Size, exif: ExifMasks) -> Option<MaskOrientation> {
        use MaskOrientation::{BySetting, BySize, NotRotated};
        let upright = self.upright();
        match (mask == self.stored, mask == upright) {
            (false, false) => None,
            (true, true) if self.orientation == Orientation::NoTransforms => Some(NotRotated),
            (true, true) if exif == ExifMasks::Stored => Some(BySetting(Frame::Stored)),
            (true, true) => Some(BySetting(Frame::Upright)),
            (true, false) => Some(BySize(Frame::Stored)),
            (false, true) => Some(BySize(Frame::Upright)),
        }
    }
}

impl MaskOrientation {
    /// Whether the mask has to be rotated and mirrored with its image.
    pub fn is_stored(self) -> bool {
        use MaskOrientation::{BySetting, BySize};
        matches!(self, BySize(Frame::Stored) | BySetting(Frame::Stored))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_decide_where_they_differ_and_the_setting_elsewhere() {
        let oriented = |stored, orientation, mask| {
            let header = Header { stored, orientation };
            [ExifMasks::Auto, ExifMasks::Upright, ExifMasks::Stored]
                .map(|exif| header.mask_orientation(mask, exif))
        };
        use Frame::{Stored, Upright};
        use MaskOrientation::{BySetting, BySize, NotRotated};
        let quarter = Orientation::Rotate90;
        assert_eq!(oriented((4, 6), quarter, (4, 6)), [Some(BySize(Stored)); 3]);
        assert_eq!(oriented((4, 6), quarter, (6, 4)), [Some(BySize(Upright)); 3]);
        assert_eq!(oriented((4, 6), quarter, (6, 6)), [None; 3]);
        assert_eq!(oriented((4, 6), Orientation::NoTransforms, (6, 4)), [None; 3]);
        assert_eq!(oriented((4, 6), Orientation::NoTransforms, (4, 6)), [Some(NotRotated); 3]);
        let by_setting = [Upright, Upright, Stored].map(|frame| Some(BySetting(frame)));
        for (size, orientation) in [
            ((4, 6), Orientation::Rotate180),
            ((4, 6), Orientation::FlipHorizontal),
            ((4, 6), Orientation::FlipVertical),
            ((5, 5), Orientation::Rotate270),
            ((5, 5), Orientation::Rotate90FlipH),
        ] {
            assert_eq!(oriented(size, orientation, size), by_setting, "{orientation:?}");
        }
    }
}
