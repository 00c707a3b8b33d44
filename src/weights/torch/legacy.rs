//! `torch.save`'s container before PyTorch 1.6: pickles one after another (a magic number, a version, the
//! machine, the object, the storages' keys), then each storage as its number of elements and its bytes.

use super::heap::{Heap, Node, Value};
use super::pickle;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// The first pickle's number, 0x1950a86a20f9469cfc6c, as the opcode for a ten-byte integer writes it.
const MAGIC: [u8; 12] = [0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// Bytes from the start of a file that [`is_legacy`] needs.
pub const START: usize = 32;
const VERSION: i64 = 1001;

/// Whether a file that starts with these bytes has this container. Pickle protocols from 4 on write a frame
/// before the number.
pub fn is_legacy(start: &[u8]) -> bool {
    start.first() == Some(&0x80) && start.windows(MAGIC.len()).any(|bytes| bytes == MAGIC)
}

/// An open file.
pub struct Legacy {
    file: RefCell<BufReader<File>>,
    /// Offset of each storage's bytes in the file, by key.
    places: HashMap<String, u64>,
}

impl Legacy {
    /// Opens the file and returns it with its object, whose storages are in `heap`.
    ///
    /// # Errors
    /// A message where it is truncated or has another format.
    pub fn open(path: &Path, heap: &mut Heap) -> Result<(Legacy, Value), String> {
        let file = File::open(path).map_err(|e| e.to_string())?;
        let len = file.metadata().map_err(|e| e.to_string())?.len();
        let mut file = BufReader::new(file);
        let mut aside = Heap::default();
        pickle::read(&mut file, &mut aside)?; // the number
        match pickle::read(&mut file, &mut aside)? {
            Value::Int(VERSION) => {}
            other => return Err(format!("expected version {VERSION} of the format, got {other:?}")),
        }
        let machine = pickle::read(&mut file, &mut aside)?;
        if let Some(Node::Dict(entries)) = aside.node(machine)
            && entries.iter().any(|&(k, v)| aside.text(k) == Some("little_endian") && v == Value::Bool(false))
        {
            return Err("its numbers are big-endian: save it on a little-endian machine".into());
        }
        let object = pickle::read(&mut file, heap)?;
        let keys = pickle::read(&mut file, &mut aside)?;
        let Some(Node::List(keys)) = aside.node(keys) else {
            return Err("expected a list of storages after the object".into());
        };
        let mut at = file.stream_position().map_err(|e| e.to_string())?;
        let mut places = HashMap::new();
        for &key in keys {
            let key = aside.text(key).ok_or("expected a list of storages' names after the object")?;
            let storage = heap.storage_keys.get(key).and_then(|&i| heap.storages.get(i));
            let storage = storage.ok_or_else(|| format!("storage {key} is not in the object"))?;
            let mut count = [0; 8];
            file.seek(SeekFrom::Start(at)).map_err(|e| e.to_string())?;
            file.read_exact(&mut count).map_err(|_| format!("truncated: storage {key} is missing"))?;
            let count = u64::from_le_bytes(count);
            if count != storage.len as u64 {
                return Err(format!("storage {key}: expected {} elements, got {count}", storage.len));
            }
            at += 8;
            places.insert(key.to_string(), at);
            let element = storage.element.ok_or_else(|| {
                format!("storage {key} is of an unknown class, so the next one's offset is unknown")
            })?;
            let end = count.checked_mul(element.bytes() as u64).and_then(|bytes| at.checked_add(bytes));
            at = end
                .filter(|end| *end <= len)
                .ok_or_else(|| format!("truncated: storage {key} ends after the file"))?;
        }
        Ok((Legacy { file: RefCell::new(file), places }, object))
    }

    /// Checks that storage `key` exists.
    ///
    /// # Errors
    /// A message if it does not.
    pub fn check(&self, key: &str) -> Result<(), String> {
        self.places.get(key).map(|_| ()).ok_or_else(|| format!("storage {key} is missing"))
    }

    /// The bytes of storage `key`.
    ///
    /// # Errors
    /// A message where it cannot be read.
    pub fn storage(&self, key: &str, bytes: u64) -> Result<Vec<u8>, String> {
        self.check(key)?;
        let mut file = self.file.borrow_mut();
        file.seek(SeekFrom::Start(self.places[key])).map_err(|e| e.to_string())?;
        let mut read = Vec::new();
        (&mut *file).take(bytes).read_to_end(&mut read).map_err(|e| e.to_string())?;
        if read.len() as u64 != bytes {
            return Err(format!("storage {key}: expected {bytes} bytes, got {}", read.len()));
        }
        Ok(read)
    }
}
