//! A file with weights, of any format: its tensors by name, their values as f32. Must not know what the
//! tensors are.

use super::tensor::{Element, Info};
use super::torch::{Contents, START, TorchFile, is_legacy};
use crate::model::io::TensorFile;
use crate::{Error, Result};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// File format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The safetensors format.
    Safetensors,
    /// The zip archive of `torch.save` since PyTorch 1.6.
    TorchZip,
    /// The container of `torch.save` before PyTorch 1.6.
    TorchLegacy,
}

impl Format {
    /// Name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Format::Safetensors => "safetensors",
            Format::TorchZip => "PyTorch (zip)",
            Format::TorchLegacy => "PyTorch (before 1.6)",
        }
    }
}

enum Source {
    Safetensors(TensorFile),
    Torch(TorchFile),
}

/// An open file. Its sizes have been checked; values are read by [`WeightFile::read`].
pub struct WeightFile {
    path: PathBuf,
    format: Format,
    tensors: Vec<Info>,
    by_name: HashMap<String, usize>,
    metadata: BTreeMap<String, String>,
    skipped: Vec<String>,
    unreadable: BTreeMap<String, String>,
    source: Source,
}

impl WeightFile {
    /// Opens a `.safetensors`, `.pth` or `.pt` file. The format is recognised by the content.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::Checkpoint`] where it is truncated, damaged or of
    /// another format.
    pub fn open(path: &Path) -> Result<WeightFile> {
        let mut start = Vec::new();
        let file = File::open(path).map_err(Error::io(path))?;
        file.take(START as u64).read_to_end(&mut start).map_err(Error::io(path))?;
        let format = if start.starts_with(b"PK\x03\x04") || start.starts_with(b"PK\x05\x06") {
            Format::TorchZip
        } else if is_legacy(&start) {
            Format::TorchLegacy
        } else if start.get(8).is_some_and(|&c| c != b'{') {
            return Err(Error::checkpoint(
                path,
                "expected a file of safetensors or of torch.save, got another",
            ));
        } else {
            Format::Safetensors
        };
        let (source, tensors, metadata, skipped, unreadable) = if format == Format::Safetensors {
            let file = TensorFile::open(path)?;
            let info = |name: String| {
                let (element, shape) = file.info(&name).unwrap_or_default();
                Info { shape: shape.to_vec(), element: Element::by_name(&element), name }
            };
            let tensors = file.names().into_iter().map(info).collect();
            let metadata = file.all_metadata();
            (Source::Safetensors(file), tensors, metadata, Vec::new(), BTreeMap::new())
        } else {
            let opened = TorchFile::open(path, format == Format::TorchLegacy);
            let (file, contents) = opened.map_err(|message| Error::checkpoint(path, message))?;
            let Contents { tensors, skipped, unreadable } = contents;
            (Source::Torch(file), tensors, BTreeMap::new(), skipped, unreadable)
        };
        let by_name = tensors.iter().enumerate().map(|(i, t): (_, &Info)| (t.name.clone(), i)).collect();
        let path = path.to_path_buf();
        Ok(WeightFile { path, format, tensors, by_name, metadata, skipped, unreadable, source })
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Format of the file.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The tensors that can be read, in the order of the file.
    pub fn tensors(&self) -> &[Info] {
        &self.tensors
    }

    /// The metadata of a safetensors file; empty for other formats.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Classes of Python objects next to the tensors, which were skipped.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// Names of tensors that cannot be read, and the reason; [`WeightFile::tensors`] does not have them.
    pub fn unreadable(&self) -> &BTreeMap<String, String> {
        &self.unreadable
    }

    /// Why [`WeightFile::find`] does not return a tensor of that name that the file has.
    pub(super) fn why_not(&self, name: &str) -> Option<String> {
        let other_type = || {
            let element = self.tensors[*self.by_name.get(name)?].element;
            (!element.is_float()).then(|| format!("expected floats, got {}", element.name()))
        };
        self.unreadable.get(name).cloned().or_else(other_type)
    }

    /// Index in [`WeightFile::tensors`] and description of the tensor of floats of that name.
    pub fn find(&self, name: &str) -> Option<(usize, &Info)> {
        let &index = self.by_name.get(name)?;
        Some((index, &self.tensors[index])).filter(|(_, info)| info.element.is_float())
    }

    /// The values of the tensor at `index` of [`WeightFile::tensors`], row-major (last axis fastest).
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where it is damaged, not of floats, or has a value that is not finite;
    /// [`Error::Io`] where it cannot be read.
    pub fn read(&self, index: usize) -> Result<Vec<f32>> {
        let info = &self.tensors[index];
        let fail =
            |message: String| Error::checkpoint(&self.path, format!("tensor {}: {message}", info.name));
        if !info.element.is_float() {
            return Err(fail(format!("expected floats, got {}", info.element.name())));
        }
        let values = match &self.source {
            Source::Safetensors(file) => info.element.to_f32(&file.bytes(&info.name)?.unwrap_or_default()),
            Source::Torch(file) => file.read(index).map_err(fail)?,
        };
        match values.iter().find(|v| !v.is_finite()) {
            Some(v) => Err(fail(format!("expected finite values, got {v}"))),
            None => Ok(values),
        }
    }
}
