//! Counts of what the masks of a list hold, and the errors and warnings that follow from them: nothing to
//! learn from or to measure with, or values that likely mean something else. Opens no files.

use super::mask::StoredMask;
use super::orientation::{ExifMasks, Frame, MaskOrientation};
use crate::ops::IGNORE;
use crate::{Error, Result};
use std::path::Path;

/// Occurrences of a class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ClassCount {
    /// Number of images with at least one pixel of it.
    pub images: usize,
    /// Number of its pixels.
    pub pixels: u64,
}

/// Counts over the masks of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Number of masks.
    pub masks: usize,
    /// One count per class.
    pub classes: Vec<ClassCount>,
    /// Number of ignored pixels.
    pub ignored: u64,
    /// Number of masks with ignored pixels whose other pixels are all of class 0.
    pub ignored_alone: usize,
    /// Number of masks with ignored pixels and with a class other than 0.
    pub others_and_ignored: usize,
    /// Number of masks of 1 bit with white pixels, which are class 1.
    pub white_is_class: usize,
    /// Number of masks of 8 bits with white pixels, which are ignored.
    pub white_is_ignored: usize,
    /// Number of masks of rotated or mirrored images whose size shows that they are upright, and that they
    /// are as stored.
    pub oriented_by_size: [usize; 2],
    /// Number of masks of rotated or mirrored images whose size fits both; [`ExifMasks`] decides.
    pub oriented_by_setting: usize,
}

/// One mask's part of a [`Census`].
#[derive(Clone, Debug)]
pub(super) struct MaskCount {
    /// Number of pixels of each class.
    pub classes: Vec<u64>,
    ignored: u64,
    white_is_class: bool,
    white_is_ignored: bool,
    orientation: MaskOrientation,
}

impl MaskCount {
    /// Counts a mask whose values have been mapped to classes; `white` says whether its file had white
    /// pixels.
    pub fn new(stored: &StoredMask, white: bool, num_classes: usize) -> MaskCount {
        let mut counts = [0_u64; 256];
        stored.mask.data.iter().for_each(|&value| counts[usize::from(value)] += 1);
        MaskCount {
            classes: counts[..num_classes].to_vec(),
            ignored: counts[usize::from(IGNORE)],
            white_is_class: white && stored.bits == 1,
            white_is_ignored: white && stored.bits == 8,
            orientation: stored.orientation,
        }
    }
}

impl Census {
    /// A census of no masks, for classes below `num_classes`.
    pub fn new(num_classes: usize) -> Census {
        Census { classes: vec![ClassCount::default(); num_classes], ..Census::default() }
    }

    /// Adds the counts of one mask.
    pub(super) fn add(&mut self, mask: &MaskCount) {
        self.masks += 1;
        for (class, &pixels) in self.classes.iter_mut().zip(&mask.classes) {
            class.pixels += pixels;
            class.images += usize::from(pixels > 0);
        }
        self.ignored += mask.ignored;
        let others = mask.classes[1..].iter().any(|&pixels| pixels > 0);
        self.ignored_alone += usize::from(mask.ignored > 0 && !others);
        self.others_and_ignored += usize::from(mask.ignored > 0 && others);
        self.white_is_class += usize::from(mask.white_is_class);
        self.white_is_ignored += usize::from(mask.white_is_ignored);
        match mask.orientation {
            MaskOrientation::NotRotated => {}
            MaskOrientation::BySize(Frame::Upright) => self.oriented_by_size[0] += 1,
            MaskOrientation::BySize(Frame::Stored) => self.oriented_by_size[1] += 1,
            MaskOrientation::BySetting(_) => self.oriented_by_setting += 1,
        }
    }

    /// Number of pixels that have a class.
    pub fn pixels(&self) -> u64 {
        self.classes.iter().map(|class| class.pixels).sum()
    }
}

/// Purpose of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// To learn from, with masks.
    Labeled,
    /// To learn from without masks; those that there are measure pseudo labels.
    Unlabeled,
    /// To validate on.
    Val,
}

impl Role {
    /// Name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Role::Labeled => "labelled",
            Role::Unlabeled => "unlabelled",
            Role::Val => "validation",
        }
    }
}

/// Refuses labelled masks without a pixel to learn from, and validation masks without one to measure with.
///
/// # Errors
/// [`Error::Data`] naming the list.
pub fn check(role: Role, census: &Census, list: &Path) -> Result<()> {
    if census.masks == 0 || census.pixels() > 0 || role == Role::Unlabeled {
        return Ok(());
    }
    let nothing = if role == Role::Labeled { "learn" } else { "measure" };
    Err(Error::data(
        list,
        format!(
            "all pixels of its {} masks are {IGNORE}, which is read as ignored: there is nothing to {nothing}; \
             expected classes from 0 to {} in masks",
            census.masks,
            census.classes.len() - 1
        ),
    ))
}

/// Logs [`warnings`], and how masks are oriented by a setting other than [`ExifMasks::Auto`].
pub fn log(lists: &[(Role, &Census)], names: &[String], exif: ExifMasks) {
    warnings(lists, names, exif).iter().for_each(|warning| tracing::warn!("{warning}"));
    if let Some(text) = orientation_text(lists, exif).filter(|_| exif != ExifMasks::Auto) {
        tracing::info!("{text}");
    }
}

/// One sentence for each kind of values that likely mean something else than what they are read as. `names`
/// are the names of the classes.
pub fn warnings(lists: &[(Role, &Census)], names: &[String], exif: ExifMasks) -> Vec<String> {
    let mut all = Vec::new();
    for (role, census) in lists {
        // A list whose masks have other classes as well as ignored pixels uses the latter as intended.
        if census.ignored_alone > 0 && census.others_and_ignored == 0 {
            all.push(format!(
                "{} of {} {} masks hold only 0 and {IGNORE}: {IGNORE} is read as ignored, not as white; where white \
                 is a class, write its index instead (0 and 1 for two classes)",
                census.ignored_alone,
                census.masks,
                role.name()
            ));
        }
    }
    all.extend(missing_classes(lists, names));
    let sum = |count: fn(&Census) -> usize| lists.iter().map(|(_, census)| count(census)).sum::<usize>();
    let (class, ignored) = (sum(|c| c.white_is_class), sum(|c| c.white_is_ignored));
    if class > 0 && ignored > 0 {
        all.push(format!(
            "white is class 1 in {class} masks of 1 bit and ignored ({IGNORE}) in {ignored} masks of 8 bits; save \
             all with 8 bits and class indices as values"
        ));
    }
    if exif == ExifMasks::Auto {
        all.extend(orientation_text(lists, exif));
    }
    all
}

/// How masks are oriented whose size does not decide it; `None` where there are none.
fn orientation_text(lists: &[(Role, &Census)], exif: ExifMasks) -> Option<String> {
    let count = |of: fn(&Census) -> usize| lists.iter().map(|(_, census)| of(census)).sum::<usize>();
    let by_setting: Vec<String> = lists
        .iter()
        .filter(|(_, census)| census.oriented_by_setting > 0)
        .map(|(role, census)| format!("{} {}", census.oriented_by_setting, role.name()))
        .collect();
    if by_setting.is_empty() {
        return None;
    }
    let (taken, other) = match exif {
        ExifMasks::Auto | ExifMasks::Upright => {
            ("upright, as viewers show the image", "\"stored\" reads them as the file stores it")
        }
        ExifMasks::Stored => ("as the file stores the image", "\"upright\" reads them as viewers show it"),
    };
    let by_size = match [count(|c| c.oriented_by_size[0]), count(|c| c.oriented_by_size[1])] {
        [0, 0] => String::new(),
        [upright, stored] => {
            format!(" (of those whose size decides, {upright} are upright and {stored} as stored)")
        }
    };
    Some(format!(
        "EXIF orientation: {} images are rotated or mirrored so that the size of their mask does not decide \
         its orientation; these masks are read {taken}; {other} (data.exif_masks, --exif-masks){by_size}",
        by_setting.join(" and "),
    ))
}

/// The warning about classes that no labelled mask has, and about those of them that validation masks have.
fn missing_classes(lists: &[(Role, &Census)], names: &[String]) -> Option<String> {
    let of = |role| lists.iter().find(|(r, _)| *r == role).map(|(_, census)| *census);
    let labeled = of(Role::Labeled).filter(|census| census.masks > 0)?;
    let absent: Vec<usize> = (0..labeled.classes.len()).filter(|&c| labeled.classes[c].images == 0).collect();
    let validated: Vec<usize> = match of(Role::Val) {
        Some(val) => absent.iter().copied().filter(|&c| val.classes[c].images > 0).collect(),
        None => Vec::new(),
    };
    if absent.is_empty() {
        return None;
    }
    let mut text =
        format!("no labelled mask has {}: nothing can be learned of it", list_classes(&absent, names));
    if !validated.is_empty() {
        text += &format!(
            "; validation masks have {}, whose IoU will be 0 and count in mIoU",
            list_classes(&validated, names)
        );
    }
    Some(text)
}

/// The first classes by name, and how many more there are.
fn list_classes(classes: &[usize], names: &[String]) -> String {
    const SHOWN: usize = 8;
    let name = |&class: &usize| match names.get(class) {
        Some(name) if *name != format!("class {class}") => format!("class {class} ({name})"),
        _ => format!("class {class}"),
    };
    let shown: Vec<String> = classes.iter().take(SHOWN).map(name).collect();
    match classes.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} others", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Mask;
    use crate::data::class_names;

    /// Census of masks given by values, bits per value and orientation.
    fn census(masks: &[(&[u8], u8, MaskOrientation)], num_classes: usize) -> Census {
        let mut census = Census::new(num_classes);
        for &(values, bits, orientation) in masks {
            let mask = Mask { size: (1, values.len()), data: values.to_vec() };
            let stored = StoredMask { mask, bits, white: Some(u8::MAX >> (8 - bits)), orientation };
            census.add(&MaskCount::new(&stored, stored.has_white(), num_classes));
        }
        census
    }

    fn of(masks: &[&[u8]], num_classes: usize) -> Census {
        census(&masks.iter().map(|m| (*m, 8, MaskOrientation::NotRotated)).collect::<Vec<_>>(), num_classes)
    }

    fn said(labeled: &Census, val: &Census) -> Vec<String> {
        let names = class_names(labeled.classes.len());
        warnings(&[(Role::Labeled, labeled), (Role::Val, val)], &names, ExifMasks::Auto)
    }

    #[test]
    fn whole_masks_are_not_warned_of() {
        let sound = of(&[&[0, 1, 2, 255], &[0, 255, 0, 0], &[1, 1, 1, 1]], 3);
        assert_eq!((sound.masks, sound.ignored, sound.pixels()), (3, 2, 10));
        assert_eq!(sound.classes[1], ClassCount { images: 2, pixels: 5 });
        assert_eq!(said(&sound, &of(&[&[0, 0, 255, 255], &[1, 255, 1, 1]], 3)), [""; 0]);
        assert!(check(Role::Labeled, &sound, Path::new("l")).is_ok());
    }

    #[test]
    fn white_that_is_ignored_is_warned_of() {
        let [white, class] = &said(&of(&[&[0, 255], &[0, 0]], 2), &of(&[&[0, 1]], 2))[..] else { panic!() };
        assert!(white.starts_with("1 of 2 labelled masks hold only 0 and 255"), "{white}");
        assert!(
            class.contains("no labelled mask has class 1: ")
                && class.contains("validation masks have class 1,"),
            "{class}"
        );
        // Next to masks of two classes, and in validation only.
        let sound = of(&[&[0, 1]], 2);
        assert!(said(&of(&[&[0, 255], &[0, 1]], 2), &sound)[0].contains("1 of 2 labelled masks"));
        assert!(said(&sound, &of(&[&[0, 255], &[255, 255]], 2))[0].contains("2 of 2 validation masks"));
    }

    #[test]
    fn white_of_two_meanings_is_warned_of() {
        let bits = census(&[(&[0, 1, 1], 1, MaskOrientation::NotRotated)], 2);
        let bytes = of(&[&[0, 1, 255]], 2);
        let all = said(&bits, &bytes);
        assert!(all.len() == 1 && all[0].contains("white is class 1 in 1 masks of 1 bit"), "{all:?}");
        assert_eq!(said(&bits, &of(&[&[0, 1, 1]], 2)), [""; 0]);
        assert_eq!(
            said(
                &census(
                    &[(&[0, 0], 1, MaskOrientation::NotRotated), (&[1, 0], 2, MaskOrientation::NotRotated)],
                    2
                ),
                &bytes
            ),
            [""; 0]
        );
    }

    #[test]
    fn masks_that_nothing_can_be_learned_from_are_refused() {
        let nothing = of(&[&[255, 255], &[255]], 4);
        let refused = |role| check(role, &nothing, Path::new("list.txt")).map_err(|e| e.to_string());
        let learn = refused(Role::Labeled).unwrap_err();
        assert!(
            learn.starts_with("list.txt: all pixels of its 2 masks are 255")
                && learn.contains("nothing to learn"),
            "{learn}"
        );
        assert!(refused(Role::Val).unwrap_err().contains("nothing to measure"));
        assert!(refused(Role::Unlabeled).is_ok());
    }

    #[test]
    fn masks_whose_size_does_not_decide_their_orientation_are_counted() {
        use MaskOrientation::{BySetting, BySize};
        let either =
            census(&[(&[0, 1], 8, BySetting(Frame::Upright)), (&[0, 1], 8, BySize(Frame::Stored))], 2);
        let decided = census(&[(&[0, 1], 8, BySize(Frame::Upright))], 2);
        let all = said(&either, &decided);
        assert!(all.len() == 1 && all[0].contains("1 labelled images"), "{all:?}");
        assert!(
            all[0].contains("read upright, as viewers show the image")
                && all[0].contains("1 are upright and 1 as stored")
        );
        assert_eq!(said(&decided, &decided), [""; 0]);
        // Where the setting was chosen there is no warning, but the text is logged.
        let lists = [(Role::Val, &either)];
        assert_eq!(warnings(&lists, &class_names(2), ExifMasks::Stored), [""; 0]);
        let text = orientation_text(&lists, ExifMasks::Stored).unwrap();
        assert!(
            text.contains("1 validation images") && text.contains("read as the file stores the image"),
            "{text}"
        );
    }
}
