//! `torch.save`'s container since PyTorch 1.6: a zip archive with `data.pkl` and one entry per storage. Sizes
//! that the archive claims are checked against the file and against what tensors need before anything is
//! read.

use super::pickle::MAX_BYTES;
use std::cell::RefCell;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use zip::{CompressionMethod, ZipArchive};

/// Most bytes of a compressed entry beyond what its tensors need.
const ALLOWANCE: u64 = 1 << 20;
/// Largest compression ratio of deflate.
const MAX_RATIO: u64 = 1032;

/// An open archive.
pub struct Archive {
    zip: RefCell<ZipArchive<BufReader<File>>>,
    /// Common prefix of the entries' names.
    prefix: String,
    file_len: u64,
}

impl Archive {
    /// Opens the archive and returns it with its pickle.
    ///
    /// # Errors
    /// A message where it is not such an archive.
    pub fn open(path: &Path) -> Result<(Archive, Vec<u8>), String> {
        let file = File::open(path).map_err(|e| e.to_string())?;
        let file_len = file.metadata().map_err(|e| e.to_string())?.len();
        let zip = ZipArchive::new(BufReader::new(file))
            .map_err(|e| format!("truncated or damaged: not a zip archive ({e})"))?;
        let is_pickle = |name: &&str| *name == "data.pkl" || name.ends_with("/data.pkl");
        let names: Vec<String> = zip.file_names().filter_map(|n| Some(n.ok()?.into_owned())).collect();
        let pickle = names
            .iter()
            .map(String::as_str)
            .find(is_pickle)
            .ok_or("expected a file of torch.save, got a zip archive without data.pkl")?;
        let prefix = pickle[..pickle.len() - "data.pkl".len()].to_string();
        let archive = Archive { zip: RefCell::new(zip), prefix, file_len };
        if let Some(order) = archive.read("byteorder", 16)?
            && order != b"little"
        {
            return Err("its numbers are big-endian: save it on a little-endian machine".into());
        }
        let pickle = archive.read("data.pkl", MAX_BYTES)?.unwrap_or_default();
        Ok((archive, pickle))
    }

    /// The bytes of an entry, at most `limit`; `None` if there is no entry of that name.
    fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, String> {
        let name = format!("{}{name}", self.prefix);
        let mut zip = self.zip.borrow_mut();
        let Some(index) = zip.index_for_name(&name) else { return Ok(None) };
        let entry = zip.by_index(index).map_err(|e| format!("entry {name}: {e}"))?;
        if entry.size() > limit {
            return Err(format!("entry {name}: expected up to {limit} bytes, got {}", entry.size()));
        }
        let mut bytes = Vec::new();
        // Reading one byte more than the limit shows whether there are more.
        entry.take(limit + 1).read_to_end(&mut bytes).map_err(|e| format!("entry {name}: {e}"))?;
        if bytes.len() as u64 > limit {
            return Err(format!("entry {name}: expected up to {limit} bytes, got more"));
        }
        Ok(Some(bytes))
    }

    /// Checks that storage `key` exists and has `bytes` bytes, and if it is compressed, not many more than
    /// the `needed` bytes of its tensors.
    ///
    /// # Errors
    /// A message with both sizes.
    pub fn check(&self, key: &str, bytes: u64, needed: u64) -> Result<(), String> {
        let name = format!("{}data/{key}", self.prefix);
        let mut zip = self.zip.borrow_mut();
        let index = zip.index_for_name(&name).ok_or_else(|| format!("entry {name} is missing"))?;
        let entry = zip.by_index(index).map_err(|e| format!("entry {name}: {e}"))?;
        if entry.size() != bytes {
            return Err(format!("entry {name}: expected {bytes} bytes, got {}", entry.size()));
        }
        let stored = entry.compression() == CompressionMethod::Stored;
        let most = if stored { self.file_len } else { self.file_len.saturating_mul(MAX_RATIO) };
        if bytes > most {
            return Err(format!("entry {name}: claims {bytes} bytes, the file has {}", self.file_len));
        }
        if !stored && bytes > needed.saturating_add(ALLOWANCE) {
            return Err(format!("entry {name}: inflates to {bytes} bytes, its tensors need {needed}"));
        }
        Ok(())
    }

    /// The bytes of storage `key`.
    ///
    /// # Errors
    /// A message where it is damaged.
    pub fn storage(&self, key: &str, bytes: u64) -> Result<Vec<u8>, String> {
        let read = self.read(&format!("data/{key}"), bytes)?.unwrap_or_default();
        if read.len() as u64 != bytes {
            return Err(format!("storage {key}: expected {bytes} bytes, got {}", read.len()));
        }
        Ok(read)
    }
}
