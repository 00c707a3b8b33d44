//! A run's folder: where its files are, and the record file. Knows files only.

use crate::{Error, Result};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Paths inside a run's folder.
#[derive(Clone, Debug)]
pub struct RunDir {
    root: PathBuf,
}

impl RunDir {
    /// Makes a new run's folder.
    ///
    /// # Errors
    /// A folder that already has something in it, or that cannot be made.
    pub fn create(root: &Path) -> Result<RunDir> {
        let occupied = std::fs::read_dir(root).is_ok_and(|mut d| d.next().is_some());
        if occupied || root.is_file() {
            return Err(Error::Usage(format!(
                "{} already exists and is not empty: choose another --out, or continue that run with --resume {}",
                root.display(),
                root.display()
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
        Ok(dir)
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

/// The record file: appends lines, and knows how many there are.
pub struct Metrics {
    path: PathBuf,
    file: BufWriter<File>,
    lines: u64,
}

impl Metrics {
    /// Opens the file and keeps its first `lines` lines; what an interrupted run wrote after its checkpoint is written
    /// again by the resumed one.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Data`] where there are fewer lines.
    pub fn open(path: &Path, lines: u64) -> Result<Metrics> {
        let file =
            File::options().create(true).append(true).read(true).open(path).map_err(Error::io(path))?;
        let mut reader = BufReader::new(&file);
        let (mut kept, mut bytes, mut line) = (0, 0, Vec::new());
        while kept < lines {
            line.clear();
            let n = reader.read_until(b'\n', &mut line).map_err(Error::io(path))?;
            if line.last() != Some(&b'\n') {
                return Err(Error::data(
                    path,
                    format!("expected the checkpoint's {lines} records, got {kept}"),
                ));
            }
            bytes += n as u64;
            kept += 1;
        }
        file.set_len(bytes).map_err(Error::io(path))?;
        Ok(Metrics { path: path.to_path_buf(), file: BufWriter::new(file), lines })
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
        assert!(Metrics::open(&path, 5).is_err());
    }

    #[test]
    fn occupied_folders_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(RunDir::create(&dir.path().join("new")).is_ok());
        assert!(matches!(RunDir::create(dir.path()), Err(Error::Usage(_))));
    }
}
