//! What the masks of a list hold, counted while they are read, and what of it keeps a run from learning or from being measured.
//! Knows values of masks, no files.

use super::mask::StoredMask;
use super::orientation::{ExifMasks, Lie, Lies};
use crate::ops::IGNORE;
use crate::{Error, Result};
use std::path::Path;

/// How often a class occurs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ClassCount {
    /// Images with at least one pixel of it.
    pub images: usize,
    /// Its pixels.
    pub pixels: u64,
}

/// The masks of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Number of masks.
    pub masks: usize,
    /// By class.
    pub classes: Vec<ClassCount>,
    /// Pixels that are ignored.
    pub ignored: u64,
    /// Masks with ignored pixels and beside them none but of class 0.
    pub ignored_alone: usize,
    /// Masks with both another class and ignored pixels.
    pub others_and_ignored: usize,
    /// Masks of one bit with white in them, which is class 1.
    pub white_is_class: usize,
    /// Masks of 8 bits with white in them, which is ignored.
    pub white_is_ignored: usize,
    /// Masks of turned images whose size says that they lie as the image is seen, and as the file stores it.
    pub told: [usize; 2],
    /// Masks of turned images whose size says neither.
    pub untold: usize,
}

/// One mask's part of a [`Census`].
#[derive(Clone, Debug)]
pub(super) struct MaskCount {
    /// Pixels by class.
    pub classes: Vec<u64>,
    /// Ignored pixels.
    pub ignored: u64,
    white_is_class: bool,
    white_is_ignored: bool,
    lies: Lies,
}

impl MaskCount {
    /// Counts a mask whose values are classes now; `white` says whether its file had white pixels.
    pub fn new(stored: &StoredMask, white: bool, num_classes: usize) -> MaskCount {
        let mut counts = [0_u64; 256];
        stored.mask.data.iter().for_each(|&value| counts[usize::from(value)] += 1);
        MaskCount {
            classes: counts[..num_classes].to_vec(),
            ignored: counts[usize::from(IGNORE)],
            white_is_class: white && stored.bits == 1,
            white_is_ignored: white && stored.bits == 8,
            lies: stored.lies,
        }
    }
}

impl Census {
    /// Of no masks yet.
    pub fn new(num_classes: usize) -> Census {
        Census { classes: vec![ClassCount::default(); num_classes], ..Census::default() }
    }

    /// Adds a mask.
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
        match mask.lies {
            Lies::Unturned => {}
            Lies::Told(Lie::Upright) => self.told[0] += 1,
            Lies::Told(Lie::Stored) => self.told[1] += 1,
            Lies::Untold(_) => self.untold += 1,
        }
    }

    /// Pixels that have a class.
    pub fn pixels(&self) -> u64 {
        self.classes.iter().map(|class| class.pixels).sum()
    }
}

/// What a list is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// To learn from with its masks.
    Labeled,
    /// To learn from without masks; some may have one, to measure with.
    Unlabeled,
    /// To validate on.
    Val,
}

impl Role {
    /// As in messages.
    pub fn name(self) -> &'static str {
        match self {
            Role::Labeled => "labelled",
            Role::Unlabeled => "unlabelled",
            Role::Val => "validation",
        }
    }
}

/// Refuses masks from which nothing can be learned, or with which nothing can be measured.
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
            "all pixels of its {} masks are {IGNORE}, which is read as ignored: there is nothing to {nothing}; expected classes \
             from 0 to {} in masks",
            census.masks,
            census.classes.len() - 1
        ),
    ))
}

/// Says once what [`warnings`] finds, and how masks are taken where somebody chose it.
pub fn tell(lists: &[(Role, &Census)], names: &[String], exif: ExifMasks) {
    warnings(lists, names, exif).iter().for_each(|warning| tracing::warn!("{warning}"));
    if let Some(text) = untold(lists, exif).filter(|_| exif != ExifMasks::Auto) {
        tracing::info!("{text}");
    }
}

/// What is likely not meant as it is read, a sentence each. `names` are those of the classes.
pub fn warnings(lists: &[(Role, &Census)], names: &[String], exif: ExifMasks) -> Vec<String> {
    let mut all = Vec::new();
    for (role, census) in lists {
        // A list in which ignored pixels border on other classes too uses them as they are meant.
        if census.ignored_alone > 0 && census.others_and_ignored == 0 {
            all.push(format!(
                "{} of {} {} masks hold only 0 and {IGNORE}: {IGNORE} is read as ignored, not as white; where white is a class, \
                 write its index instead (0 and 1 for two classes)",
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
            "white is class 1 in {class} masks of 1 bit and ignored ({IGNORE}) in {ignored} masks of 8 bits; save all with 8 bits \
             and class indices as values"
        ));
    }
    if exif == ExifMasks::Auto {
        all.extend(untold(lists, exif));
    }
    all
}

/// How masks of turned images are taken where their size does not tell; `None` where there are none.
fn untold(lists: &[(Role, &Census)], exif: ExifMasks) -> Option<String> {
    let count = |of: fn(&Census) -> usize| lists.iter().map(|(_, census)| of(census)).sum::<usize>();
    let untold: Vec<String> = lists
        .iter()
        .filter(|(_, census)| census.untold > 0)
        .map(|(role, census)| format!("{} {}", census.untold, role.name()))
        .collect();
    if untold.is_empty() {
        return None;
    }
    let (taken, other) = match exif {
        ExifMasks::Auto | ExifMasks::Upright => {
            ("as people see the image", "\"stored\" takes them as the file stores it")
        }
        ExifMasks::Stored => ("as the file stores the image", "\"upright\" takes them as people see it"),
    };
    let told = match [count(|c| c.told[0]), count(|c| c.told[1])] {
        [0, 0] => String::new(),
        [upright, stored] => {
            format!(
                " (of those whose size tells, {upright} lie as people see the image and {stored} as stored)"
            )
        }
    };
    Some(format!(
        "EXIF orientation: {} images are turned or mirrored so that the size of their mask does not tell which way it lies; these \
         masks are taken {taken}; {other} (data.exif_masks, --exif-masks){told}",
        untold.join(" and "),
    ))
}

/// Classes that no labelled mask has, and those of them that are validated all the same.
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

/// Some of the classes by name, and how many more there are.
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
    use crate::data::class_names;
    use crate::data::mask::Mask;

    /// Of masks given by their values, of 8 bits but for those of one bit.
    fn census(masks: &[(&[u8], u8, Lies)], num_classes: usize) -> Census {
        let mut census = Census::new(num_classes);
        for &(values, bits, lies) in masks {
            let mask = Mask { size: (1, values.len()), data: values.to_vec() };
            let stored = StoredMask { mask, bits, white: Some(u8::MAX >> (8 - bits)), lies };
            census.add(&MaskCount::new(&stored, stored.has_white(), num_classes));
        }
        census
    }

    fn of(masks: &[&[u8]], num_classes: usize) -> Census {
        census(&masks.iter().map(|m| (*m, 8, Lies::Unturned)).collect::<Vec<_>>(), num_classes)
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
        // Beside masks of two classes, and in validation alone.
        let sound = of(&[&[0, 1]], 2);
        assert!(said(&of(&[&[0, 255], &[0, 1]], 2), &sound)[0].contains("1 of 2 labelled masks"));
        assert!(said(&sound, &of(&[&[0, 255], &[255, 255]], 2))[0].contains("2 of 2 validation masks"));
    }

    #[test]
    fn white_of_two_meanings_is_warned_of() {
        let bits = census(&[(&[0, 1, 1], 1, Lies::Unturned)], 2);
        let bytes = of(&[&[0, 1, 255]], 2);
        let all = said(&bits, &bytes);
        assert!(all.len() == 1 && all[0].contains("white is class 1 in 1 masks of 1 bit"), "{all:?}");
        assert_eq!(said(&bits, &of(&[&[0, 1, 1]], 2)), [""; 0]);
        assert_eq!(
            said(&census(&[(&[0, 0], 1, Lies::Unturned), (&[1, 0], 2, Lies::Unturned)], 2), &bytes),
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
    fn turned_masks_that_nothing_tells_of_are_counted() {
        let untold =
            census(&[(&[0, 1], 8, Lies::Untold(Lie::Upright)), (&[0, 1], 8, Lies::Told(Lie::Stored))], 2);
        let told = census(&[(&[0, 1], 8, Lies::Told(Lie::Upright))], 2);
        let all = said(&untold, &told);
        assert!(all.len() == 1 && all[0].contains("1 labelled images"), "{all:?}");
        assert!(
            all[0].contains("taken as people see the image")
                && all[0].contains("1 lie as people see the image and 1 as stored")
        );
        assert_eq!(said(&told, &told), [""; 0]);
        // Nothing to warn of where somebody chose, but to be said.
        let lists = [(Role::Val, &untold)];
        assert_eq!(warnings(&lists, &class_names(2), ExifMasks::Stored), [""; 0]);
        let text = super::untold(&lists, ExifMasks::Stored).unwrap();
        assert!(
            text.contains("1 validation images") && text.contains("taken as the file stores the image"),
            "{text}"
        );
    }
}
