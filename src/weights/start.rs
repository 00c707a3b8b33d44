//! Initial weights of a run: a backbone for all its networks, or whole networks. Tensors and values are
//! checked when a file is opened; values are read again when the networks are made.

use super::file::WeightFile;
use super::fit::{self, Chosen};
use super::names::{Role, Wanted};
use crate::Result;
use crate::model::Architecture;
use std::path::{Path, PathBuf};

/// Most unreadable tensors that a description names.
const NAMED: usize = 3;

/// The file of `FILE` or `FILE#PREFIX`, and the prefix that chooses a network in it. If a file has the whole
/// name, that is the file.
fn split_selector(path: &Path) -> (PathBuf, Option<String>) {
    if !path.exists()
        && let Some((file, prefix)) = path.to_str().and_then(|text| text.rsplit_once('#'))
    {
        return (PathBuf::from(file), Some(prefix.to_string()));
    }
    (path.to_path_buf(), None)
}

/// An open file with the initial weights of a run's networks.
pub struct Weights {
    file: WeightFile,
    chosen: Chosen,
    /// Whether teachers keep their own initial values.
    student_alone: bool,
}

impl Weights {
    /// A backbone that student and teachers start from, or, after [`Weights::for_student`], the student only.
    /// `path` may end with `#` and the prefix of the backbone to take.
    ///
    /// # Errors
    /// As [`WeightFile::open`], and [`Error::Checkpoint`](crate::Error::Checkpoint) where nothing fits
    /// `arch`, several fit and none is chosen, or a value is invalid.
    pub fn backbone(path: &Path, arch: &Architecture) -> Result<Weights> {
        Weights::open(path, arch, Wanted::Backbone)
    }

    /// Whole networks. Networks with a role start the networks of that role; a network without one starts
    /// all. `path` may end with `#` and the prefix of the network to take.
    ///
    /// # Errors
    /// As [`WeightFile::open`], and [`Error::Checkpoint`](crate::Error::Checkpoint) where nothing fits
    /// `arch`, several fit and none is chosen, or a value is invalid.
    pub fn networks(path: &Path, arch: &Architecture) -> Result<Weights> {
        Weights::open(path, arch, Wanted::Network)
    }

    fn open(path: &Path, arch: &Architecture, wanted: Wanted) -> Result<Weights> {
        let (path, selector) = split_selector(path);
        let file = WeightFile::open(&path)?;
        let chosen = fit::fits(&file, arch, wanted, selector.as_deref())?;
        chosen.check_values(&file, arch)?;
        Ok(Weights { file, chosen, student_alone: false })
    }

    /// The same weights for the student only: teachers keep their own initial values.
    pub fn for_student(self) -> Weights {
        Weights { student_alone: true, ..self }
    }

    /// What was found and which networks start from it, as a text for the log.
    pub fn describe(&self) -> String {
        let found: Vec<_> = self.chosen.fits.iter().map(|fit| fit.spelling.to_string()).collect();
        let whom = match self.chosen.fits.len() {
            _ if self.student_alone => "for the student alone",
            0 | 1 => "for every network",
            _ => "each for its own network",
        };
        let file = self.file.path().display();
        let mut text = format!("{} from {file} ({}), {whom}", found.join("; "), self.file.format().name());
        if !self.chosen.others.is_empty() {
            text += &format!(
                "; the file also has {}: FILE#PREFIX, such as {file}#{}, takes another",
                self.chosen.others.join(" and "),
                self.chosen.others[0]
            );
        }
        let unreadable = self.file.unreadable();
        if !unreadable.is_empty() {
            let named: Vec<_> =
                unreadable.iter().take(NAMED).map(|(name, why)| format!("{name}: {why}")).collect();
            let more = if unreadable.len() > NAMED { "; …" } else { "" };
            text += &format!(
                "; other tensors, which cannot be read, are left out: {} ({}{more})",
                unreadable.len(),
                named.join("; ")
            );
        }
        text
    }

    /// Writes the values of network `number` (0 the student, 1 and 2 the teachers) to `params` and `stats`. A
    /// network that the file does not have gets the values of the file's student, or else of its first
    /// network. Teachers are left unchanged after [`Weights::for_student`].
    ///
    /// # Errors
    /// [`Error::Checkpoint`](crate::Error::Checkpoint) for a tensor that was damaged since the file was
    /// opened, [`Error::Io`](crate::Error::Io) where the file cannot be read.
    pub fn put(&self, arch: &Architecture, number: u64, params: &mut [f32], stats: &mut [f32]) -> Result<()> {
        if self.student_alone && number > 0 {
            return Ok(());
        }
        let role = [Role::Student, Role::Teacher1, Role::Teacher2][number.min(2) as usize];
        let own = self.chosen.fits.iter().find(|fit| fit.spelling.role() == role);
        // Fits are in the order of roles, so the student's is the first if there is one.
        let Some(fit) = own.or(self.chosen.fits.first()) else { return Ok(()) };
        for &(tensor, entry) in &fit.pairs {
            let flat = if entry < arch.table.params.len() { &mut *params } else { &mut *stats };
            let entry = fit::entry(arch, entry);
            entry.put(&fit::read(&self.file, tensor, entry)?, flat);
        }
        Ok(())
    }
}
