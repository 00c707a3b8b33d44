//! A run's folder: where its files are, and the record file. Must not know networks or devices.

use crate::error::shell_word;
use crate::files::TEMPORARY;
use crate::{Error, Result};
use std::fs::{File, TryLockError};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Paths inside a run's folder.
#[derive(Clone, Debug)]
pub struct RunDir {
    root: PathBuf,
}

/// Keeps other processes from training in a folder until it is dropped or the process ends, in whatever way.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

/// Name of the file that is locked.
const LOCK: &str = ".lock";
/// Name of the empty file that notes that there was a checkpoint.
const NOTE: &str = ".has-checkpoint";

impl RunDir {
    /// Makes a new run's folder.
    ///
    /// # Errors
    /// A folder that already has something in it, or that cannot be made.
    pub fn create(root: &Path) -> Result<RunDir> {
        if is_occupied(root) {
            return Err(Error::Usage(format!(
                "{} already exists and is not empty: choose another --out, or continue that run with --resume {}",
                root.display(),
                shell_word(root)
            )));
        }
        let dir = RunDir { root: root.to_path_buf() };
        for d in [dir.checkpoints(), dir.pictures()] {
            std::fs::create_dir_all(&d).map_err(Error::io(&d))?;
        }
        Ok(dir)
    }

    /// Opens an existing run's folder.
    ///
    /// # Errors
    /// No configuration in it.
    pub fn open(root: &Path) -> Result<RunDir> {
        let dir = RunDir { root: root.to_path_buf() };
        let config = dir.config();
        File::open(&config).map_err(Error::io(&config))?;
        #[cfg(unix)]
        dir.refuse_foreign_links()?;
        Ok(dir)
    }

    /// Refuses a part of the folder that another user made a link of: what is written there would go where
    /// that user likes.
    #[cfg(unix)]
    fn refuse_foreign_links(&self) -> Result<()> {
        use std::os::unix::fs::MetadataExt;
        // SAFETY: always succeeds and touches no memory.
        let own = unsafe { libc::geteuid() };
        let parts = [self.root.join(LOCK), self.metrics(), self.checkpoints(), self.pictures()];
        let foreign = |path: &&PathBuf| {
            std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink() && meta.uid() != own)
        };
        match parts.iter().find(foreign) {
            Some(path) => {
                Err(Error::data(path, "is a link that another user made; a run is not continued through it"))
            }
            None => Ok(()),
        }
    }

    /// Takes the folder for this process alone.
    ///
    /// # Errors
    /// [`Error::Usage`] where another process trains in it, [`Error::Io`] where the lock's file cannot be
    /// made.
    pub fn lock(&self) -> Result<RunLock> {
        let path = self.root.join(LOCK);
        let open = || File::options().create(true).truncate(false).write(true).open(&path);
        let file = open().map_err(Error::io(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Usage(format!(
                    "another process trains in {}: wait for it, or stop it first",
                    self.root.display()
                )));
            }
            // Some network file systems have no locks; a run is worth more than its guard.
            Err(TryLockError::Error(e)) => {
                tracing::warn!(
                    "{}: cannot be locked ({e}); train in this folder with one process only",
                    path.display()
                );
            }
        }
        Ok(RunLock { _file: file })
    }

    /// Removes what processes that were killed while they wrote have left. Only for who holds the folder's
    /// lock.
    pub fn remove_temporary_files(&self) {
        for folder in [self.root.clone(), self.checkpoints(), self.pictures()] {
            let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            for entry in entries.filter(|entry| is_temporary(&entry.file_name())) {
                match std::fs::remove_file(entry.path()) {
                    Ok(()) => {
                        tracing::info!("removed {}, which a killed process left", entry.path().display())
                    }
                    Err(e) => tracing::warn!("{}: {e}", entry.path().display()),
                }
            }
        }
    }

    /// Notes that the run has written a checkpoint, so that one that is gone later is missed.
    pub fn note_checkpoint(&self) {
        let path = self.root.join(NOTE);
        if path.exists() {
            return;
        }
        if let Err(e) = File::create(&path).and_then(|file| file.sync_all()) {
            tracing::warn!("{}: {e}", path.display());
        }
    }

    /// Whether the run has written a checkpoint, whose first one follows step `first`: it is noted, there is
    /// a best one, or the records go on after that step.
    pub fn had_checkpoint(&self, first: u64) -> bool {
        self.root.join(NOTE).exists() || self.best().exists() || last_recorded_step(&self.metrics()) > first
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The resolved configuration.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// Records, one JSON object a line.
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// The newest checkpoint.
    pub fn last(&self) -> PathBuf {
        self.checkpoints().join("last.safetensors")
    }

    /// The checkpoint with the best validation.
    pub fn best(&self) -> PathBuf {
        self.checkpoints().join("best.safetensors")
    }

    /// Pictures of validations.
    pub fn pictures(&self) -> PathBuf {
        self.root.join("pictures")
    }
}

/// Whether a name is that of a file that was being written.
fn is_temporary(name: &std::ffi::OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with('.') && name.ends_with(TEMPORARY)
}

/// Whether a new run must not go to `root`: it is a file, or a folder with anything else than what a run that
/// failed before its configuration was written leaves.
fn is_occupied(root: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(root) else { return root.is_file() };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let empty = || std::fs::read_dir(entry.path()).is_ok_and(|mut d| d.next().is_none());
        let own_folder = (name == "checkpoints" || name == "pictures") && empty();
        !(own_folder || name == LOCK || is_temporary(&name))
    })
}

/// The largest step of the records, 0 without any.
fn last_recorded_step(metrics: &Path) -> u64 {
    let Ok(file) = File::open(metrics) else { return 0 };
    let step = |line: &[u8]| serde_json::from_slice::<serde_json::Value>(line).ok()?["step"].as_u64();
    BufReader::new(file).split(b'\n').map_while(|l| l.ok()).filter_map(|line| step(&line)).max().unwrap_or(0)
}

/// The record file: appends lines and counts them.
pub(super) struct Metrics {
    path: PathBuf,
    file: BufWriter<File>,
    lines: u64,
}

impl Metrics {
    /// Opens the file and keeps its first `lines` lines; what an interrupted run wrote after its checkpoint
    /// is written again by the resumed one. Where there are fewer, those are kept: a checkpoint is worth more
    /// than its records.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Data`] for a link, which would have another file cut.
    pub fn open(path: &Path, lines: u64) -> Result<Metrics> {
        if std::fs::symlink_metadata(path).is_ok_and(|m| !m.is_file()) {
            return Err(Error::data(path, "expected a file of records, got a link or a folder"));
        }
        let file =
            File::options().create(true).append(true).read(true).open(path).map_err(Error::io(path))?;
        let mut reader = BufReader::new(&file);
        let (mut kept, mut bytes, mut line) = (0, 0, Vec::new());
        while kept < lines {
            line.clear();
            let n = reader.read_until(b'\n', &mut line).map_err(Error::io(path))?;
            if line.last() != Some(&b'\n') {
                tracing::warn!(
                    "{}: {kept} records, the checkpoint counts {lines}; some are lost",
                    path.display()
                );
                break;
            }
            bytes += n as u64;
            kept += 1;
        }
        file.set_len(bytes).map_err(Error::io(path))?;
        Ok(Metrics { path: path.to_path_buf(), file: BufWriter::new(file), lines: kept })
    }

    /// Appends one record.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&mut self, record: &serde_json::Value) -> Result<()> {
        writeln!(self.file, "{record}").map_err(Error::io(&self.path))?;
        self.lines += 1;
        Ok(())
    }

    /// Number of records.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Brings all records to the disk; to be called before the checkpoint that counts them is written.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sync(&mut self) -> Result<()> {
        self.file.flush().and_then(|()| self.file.get_ref().sync_data()).map_err(Error::io(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_after_the_checkpoint_are_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        std::fs::write(&path, "{\"a\":1}\n{\"a\":2}\n{\"a\":").unwrap();
        let mut m = Metrics::open(&path, 1).unwrap();
        m.write(&serde_json::json!({"a": 3})).unwrap();
        m.sync().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{\"a\":3}\n");
        assert_eq!(Metrics::open(&path, 5).unwrap().lines(), 2);
        assert_eq!(Metrics::open(&dir.path().join("none"), 5).unwrap().lines(), 0);
        #[cfg(unix)]
        {
            let link = dir.path().join("link");
            std::os::unix::fs::symlink(&path, &link).unwrap();
            assert!(Metrics::open(&link, 0).is_err_and(|e| e.to_string().contains("link")));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{\"a\":3}\n");
        }
    }

    #[test]
    fn a_folder_is_trained_in_by_one_alone() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(&dir.path().join("run")).unwrap();
        let held = run.lock().unwrap();
        let error = run.lock().unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("another process trains"), "{error}");
        drop(held);
        run.lock().unwrap();
    }

    #[test]
    fn what_failed_before_it_began_is_no_dead_end() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("run");
        let run = RunDir::create(&root).unwrap();
        run.lock().unwrap();
        std::fs::write(root.join("checkpoints/.psmt-x.tmp"), "half").unwrap();
        assert!(RunDir::create(&root).is_err(), "a half-written checkpoint was there");
        run.remove_temporary_files();
        assert!(RunDir::create(&root).is_ok());
        std::fs::write(root.join("config.toml"), "").unwrap();
        assert!(RunDir::create(&root).is_err());
    }

    #[test]
    fn checkpoints_that_were_written_are_missed() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(&dir.path().join("run")).unwrap();
        assert!(!run.had_checkpoint(4));
        std::fs::write(run.metrics(), "{\"step\":0}\n{\"step\":4}\n{\"st").unwrap();
        assert!(!run.had_checkpoint(4), "it may have ended before the first was whole");
        assert!(run.had_checkpoint(3));
        run.note_checkpoint();
        assert!(run.had_checkpoint(4));
        std::fs::remove_file(run.root().join(NOTE)).unwrap();
        std::fs::write(run.best(), "").unwrap();
        assert!(run.had_checkpoint(4));
    }

    #[cfg(unix)]
    #[test]
    fn links_of_other_users_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("run");
        RunDir::create(&root).unwrap();
        std::fs::write(root.join("config.toml"), "").unwrap();
        let (pictures, elsewhere) = (root.join("pictures"), dir.path().join("elsewhere"));
        std::fs::rename(&pictures, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &pictures).unwrap();
        // One's own are one's own matter.
        RunDir::open(&root).unwrap();
        if let Err(e) = std::os::unix::fs::lchown(&pictures, Some(12_345), None) {
            return eprintln!("skipped: a link of another user cannot be made: {e}");
        }
        let error = RunDir::open(&root).unwrap_err();
        assert!(error.exit_code() == 4 && error.to_string().contains("pictures: is a link"), "{error}");
    }

    #[test]
    fn occupied_folders_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(RunDir::create(&dir.path().join("new")).is_ok());
        assert!(matches!(RunDir::create(dir.path()), Err(Error::Usage(_))));
    }
}
