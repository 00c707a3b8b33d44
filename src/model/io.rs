//! Tensor files in the safetensors format: written so that a file is whole or not there, with a checksum that
//! is verified when the file is opened; read tensor by tensor.

use super::checksum;
use super::table::{NamedTensor, ParamTable};
use crate::files::write_atomically;
use crate::{Error, Result};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Bytes of the header's length in front of the header.
const LEN_BYTES: u64 = 8;
/// No header of ours comes near this; a larger one is not a tensor file.
const MAX_HEADER: u64 = 100_000_000;

/// `tensors` with `prefix` and a dot before each name, e.g. `student`.
pub fn prefixed(prefix: &str, mut tensors: Vec<NamedTensor>) -> Vec<NamedTensor> {
    for t in &mut tensors {
        t.name = format!("{prefix}.{}", t.name);
    }
    tensors
}

/// Element type of a tensor file's values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Float {
    /// 32 bits, exact.
    #[default]
    F32,
    /// IEEE's 16 bits, up to 65504.
    F16,
    /// The upper half of 32 bits.
    Bf16,
}

impl Float {
    /// Name as in the container, and bytes per value.
    fn name_and_len(self) -> (&'static str, usize) {
        match self {
            Float::F32 => ("F32", 4),
            Float::F16 => ("F16", 2),
            Float::Bf16 => ("BF16", 2),
        }
    }

    /// Whether the nearest value is finite.
    pub fn holds(self, value: f32) -> bool {
        match self {
            Float::F32 => value.is_finite(),
            Float::F16 => f16::from_f32(value).is_finite(),
            Float::Bf16 => bf16::from_f32(value).is_finite(),
        }
    }

    /// Appends the values to `bytes`, each rounded to nearest.
    fn append(self, bytes: &mut Vec<u8>, values: &[f32]) {
        match self {
            Float::F32 => bytes.extend(values.iter().flat_map(|v| v.to_le_bytes())),
            Float::F16 => bytes.extend(values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes())),
            Float::Bf16 => bytes.extend(values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes())),
        }
    }
}

/// Writes `tensors` as f32; see [`write_tensors_as`].
///
/// # Errors
/// As [`write_tensors_as`].
pub fn write_tensors(
    path: &Path,
    tensors: &[NamedTensor],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    write_tensors_as(path, tensors, metadata, Float::F32)
}

/// Writes `tensors` as `float` with `metadata` and a checksum to `path`: into a temporary file of the same
/// folder, flushed to the disk and then renamed, so that `path` never holds half a file. The same input gives
/// the same bytes.
///
/// # Errors
/// [`Error::Io`] where the system refuses (disk full, no permission); `path` is then as it was.
/// [`Error::Checkpoint`] for a name that occurs twice or a shape that does not fit its values.
pub fn write_tensors_as(
    path: &Path,
    tensors: &[NamedTensor],
    metadata: &BTreeMap<String, String>,
    float: Float,
) -> Result<()> {
    let (dtype, len) = float.name_and_len();
    let mut header = serde_json::Map::new();
    let mut metadata = metadata.clone();
    metadata.insert(checksum::KEY.into(), checksum::ZEROS.into());
    header.insert("__metadata__".into(), serde_json::json!(metadata));
    let mut offset = 0;
    for t in tensors {
        if t.shape.iter().product::<usize>() != t.data.len() {
            let message = format!("tensor {}: shape {:?} for {} values", t.name, t.shape, t.data.len());
            return Err(Error::checkpoint(path, message));
        }
        let end = offset + len * t.data.len();
        let info = serde_json::json!({"dtype": dtype, "shape": t.shape, "data_offsets": [offset, end]});
        if header.insert(t.name.clone(), info).is_some() {
            return Err(Error::checkpoint(path, format!("tensor {} comes twice", t.name)));
        }
        offset = end;
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(LEN_BYTES as usize), b' ');
    let size = (header.len() as u64).to_le_bytes();
    let values = |each: &mut dyn FnMut(&[u8]) -> std::io::Result<()>| {
        let mut bytes = Vec::with_capacity(1 << 16);
        tensors.iter().flat_map(|t| t.data.chunks(1 << 14)).try_for_each(|chunk| {
            bytes.clear();
            float.append(&mut bytes, chunk);
            each(&bytes)
        })
    };
    if let Some(digits) = checksum::digits(&header) {
        let mut sum = crc32c::crc32c_append(crc32c::crc32c(&size), &header);
        let add = &mut |bytes: &[u8]| {
            sum = crc32c::crc32c_append(sum, bytes);
            Ok(())
        };
        values(add).map_err(Error::io(path))?;
        checksum::put(&mut header, digits, sum);
    }
    write_atomically(path, |out| {
        out.write_all(&size)?;
        out.write_all(&header)?;
        values(&mut |bytes| out.write_all(bytes))
    })
}

/// The first fault of the values of a network's tensor: one that is not finite, or a running variance below
/// 0.
pub fn fault(name: &str, values: &[f32]) -> Option<String> {
    if let Some(v) = values.iter().find(|v| !v.is_finite()) {
        return Some(format!("expected finite values, got {v}"));
    }
    let negative = || values.iter().find(|v| **v < 0.0).filter(|_| name.ends_with("running_var"));
    negative().map(|v| format!("expected variances of at least 0, got {v}"))
}

/// An open tensor file whose header has been checked.
pub struct TensorFile {
    path: PathBuf,
    file: RefCell<File>,
    header: Metadata,
    /// Offset of the values in the file.
    start: u64,
}

impl TensorFile {
    /// Opens `path` and checks its header against its length, and its checksum where it has one: files of
    /// other programs, and of older versions of this one, have none.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::Checkpoint`] where it is truncated, damaged or no
    /// tensor file.
    pub fn open(path: &Path) -> Result<TensorFile> {
        let mut file = File::open(path).map_err(Error::io(path))?;
        let len = file.metadata().map_err(Error::io(path))?.len();
        let broken = |message: String| Error::checkpoint(path, message);
        let mut size = [0; LEN_BYTES as usize];
        if len < LEN_BYTES {
            return Err(broken(format!("expected a safetensors file, got {len} bytes")));
        }
        file.read_exact(&mut size).map_err(Error::io(path))?;
        let size = u64::from_le_bytes(size);
        if size > MAX_HEADER {
            return Err(broken("expected a safetensors file, its header's length is not one".into()));
        }
        if LEN_BYTES + size > len {
            return Err(broken(format!("truncated: a header of {size} bytes, the file has {len}")));
        }
        let mut text = vec![0; size as usize];
        file.read_exact(&mut text).map_err(Error::io(path))?;
        let header: Metadata =
            serde_json::from_slice(&text).map_err(|e| broken(format!("not a safetensors header: {e}")))?;
        let start = LEN_BYTES + size;
        let expected = start + header.data_len() as u64;
        if expected != len {
            let what = if len < expected { "truncated" } else { "damaged" };
            return Err(broken(format!("{what}: expected {expected} bytes, the file has {len}")));
        }
        let opened = TensorFile { path: path.to_path_buf(), file: RefCell::new(file), header, start };
        let mut rest = opened.file.borrow_mut();
        if opened.has_checksum()
            && !checksum::holds(&size.to_le_bytes(), &text, &mut *rest).map_err(Error::io(path))?
        {
            return Err(broken(format!(
                "damaged: its content does not have the checksum that it was written with (another program that changes \
                 it must leave out the metadata {})",
                checksum::KEY
            )));
        }
        drop(rest);
        Ok(opened)
    }

    /// Whether the file carries a checksum, which was then verified.
    pub fn has_checksum(&self) -> bool {
        self.metadata(checksum::KEY).is_some()
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A metadata value.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.header.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// All metadata, without the checksum.
    pub fn all_metadata(&self) -> BTreeMap<String, String> {
        let all = self.header.metadata().iter().flatten().filter(|(key, _)| *key != checksum::KEY);
        all.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// All tensors' names in the order of their values.
    pub fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// A tensor of 32-bit floats; `None` without a tensor of that name.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for another element type, [`Error::Io`] where reading fails.
    pub fn tensor(&self, name: &str) -> Result<Option<NamedTensor>> {
        let Some(TensorInfo { dtype, shape, data_offsets }) = self.header.info(name) else { return Ok(None) };
        if *dtype != Dtype::F32 {
            return Err(Error::checkpoint(
                &self.path,
                format!("tensor {name}: expected F32 values, got {dtype}"),
            ));
        }
        let bytes = self.read(*data_offsets)?;
        let data = bytes.as_chunks::<4>().0.iter().map(|&v| f32::from_le_bytes(v)).collect();
        Ok(Some(NamedTensor { name: name.into(), shape: shape.clone(), data }))
    }

    /// Element type (as the format calls it) and shape of a tensor; `None` without a tensor of that name.
    pub fn info(&self, name: &str) -> Option<(String, &[usize])> {
        self.header.info(name).map(|info| (info.dtype.to_string(), info.shape.as_slice()))
    }

    /// The bytes of a tensor of any element type, little-endian; `None` without a tensor of that name.
    ///
    /// # Errors
    /// [`Error::Io`] where reading fails.
    pub fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.header.info(name).map(|info| self.read(info.data_offsets)).transpose()
    }

    fn read(&self, (begin, end): (usize, usize)) -> Result<Vec<u8>> {
        let mut bytes = vec![0; end - begin];
        let mut file = self.file.borrow_mut();
        file.seek(SeekFrom::Start(self.start + begin as u64)).map_err(Error::io(&self.path))?;
        file.read_exact(&mut bytes).map_err(Error::io(&self.path))?;
        Ok(bytes)
    }

    /// As [`TensorFile::tensor`], for the values of a network.
    ///
    /// # Errors
    /// As [`TensorFile::tensor`], and [`Error::Checkpoint`] for a value that is a [`fault`].
    pub fn sound_tensor(&self, name: &str) -> Result<Option<NamedTensor>> {
        let tensor = self.tensor(name)?;
        match tensor.as_ref().and_then(|t| fault(name, &t.data)) {
            Some(fault) => Err(Error::checkpoint(&self.path, format!("tensor {name}: {fault}"))),
            None => Ok(tensor),
        }
    }

    /// A tensor of 32-bit floats that must be there.
    ///
    /// # Errors
    /// As [`TensorFile::tensor`], and [`Error::Checkpoint`] where it is missing.
    pub fn require(&self, name: &str) -> Result<NamedTensor> {
        self.tensor(name)?.ok_or_else(|| Error::checkpoint(&self.path, format!("tensor {name} is missing")))
    }

    /// Compares names and shapes of the tensors `prefix.*` with those of `table`, by the header alone: no
    /// value is read.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] that names the first tensor that is missing, of another shape or not of this
    /// network.
    pub fn check_network(&self, table: &ParamTable, prefix: &str) -> Result<()> {
        let known: std::collections::HashSet<&str> =
            table.params.iter().chain(&table.stats).map(|e| e.name.as_str()).collect();
        for name in self.names() {
            let own = name.strip_prefix(prefix).and_then(|n| n.strip_prefix('.'));
            // PyTorch's counter of batches is not used here.
            if own.is_some_and(|n| !known.contains(n) && !n.ends_with(".num_batches_tracked")) {
                let message =
                    format!("tensor {name} does not belong to this model: the file is of another one");
                return Err(Error::checkpoint(&self.path, message));
            }
        }
        for e in table.params.iter().chain(&table.stats) {
            let name = format!("{prefix}.{}", e.name);
            let fail =
                |message: String| Err(Error::checkpoint(&self.path, format!("tensor {name}{message}")));
            match self.info(&name) {
                None => return fail(format!(" {:?} is missing", e.shape)),
                Some((_, shape)) if shape != e.shape => {
                    return fail(format!(": expected shape {:?}, got {shape:?}", e.shape));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Flat (parameters, running statistics) of the network whose tensors are `prefix.*`.
    ///
    /// # Errors
    /// Those of [`Self::check_network`], and [`Error::Checkpoint`] that names a tensor with values that no
    /// network can have (see [`fault`]).
    pub fn network(&self, table: &ParamTable, prefix: &str) -> Result<(Vec<f32>, Vec<f32>)> {
        // Checked before memory is allocated: the sizes of a damaged file may be more than any machine has.
        self.check_network(table, prefix)?;
        self.import(table, prefix, |_| false)
    }

    /// Flat values in the layout of the parameters alone, such as momenta, whose tensors are `prefix.*`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] that names a tensor that is missing, of another shape, or with a [`fault`].
    pub fn params(&self, table: &ParamTable, prefix: &str) -> Result<Vec<f32>> {
        let is_stat = |name: &str| table.stats.iter().any(|e| e.name == name);
        Ok(self.import(table, prefix, is_stat)?.0)
    }

    /// Flat (parameters, running statistics) of the tensors `prefix.*`; zeros for those that are `absent`
    /// from such files.
    fn import(
        &self,
        table: &ParamTable,
        prefix: &str,
        absent: impl Fn(&str) -> bool,
    ) -> Result<(Vec<f32>, Vec<f32>)> {
        let mut failed = None;
        let values = table.import(|name| {
            if absent(name) {
                let e = table.params.iter().chain(&table.stats).find(|e| e.name == name)?;
                return Some((e.shape.clone(), vec![0.0; e.span.len]));
            }
            match self.sound_tensor(&format!("{prefix}.{name}")) {
                Ok(t) => t.map(|t| (t.shape, t.data)),
                Err(e) => {
                    failed = Some(e);
                    None
                }
            }
        });
        match (values, failed) {
            (_, Some(e)) => Err(e),
            (Ok(values), None) => Ok(values),
            (Err(message), None) => {
                Err(Error::checkpoint(&self.path, format!("network {prefix}: {message}")))
            }
        }
    }
}
