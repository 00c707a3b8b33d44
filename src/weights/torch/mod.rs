//! Files of `torch.save`, both containers, read without Python. Nothing in a file is executed: a pickle
//! becomes plain values (`pickle`), of which only those that make tensors are understood (`rebuild`).

mod archive;
mod heap;
mod legacy;
mod pickle;
mod rebuild;
mod storage;

pub(super) use legacy::{START, is_legacy};

use super::tensor::{Element, Info};
use archive::Archive;
use heap::{Heap, Node, Value};
use legacy::Legacy;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use storage::{Storage, View};

/// Most containers inside one another that are searched for tensors.
const MAX_DEPTH: usize = 16;
/// Longest name of a tensor, in bytes.
const MAX_NAME: usize = 512;
/// Most tensors; a checkpoint of three ResNet-101 has about 2000, with an optimiser's state 4000.
const MAX_TENSORS: usize = 100_000;
/// Most elements of a tensor that repeats those of its storage: more than any layer's weights, less than
/// would fill memory.
const MAX_REPEATED: usize = 1 << 24;

enum Container {
    Zip(Archive),
    Legacy(Legacy),
}

/// An open file.
pub struct TorchFile {
    container: Container,
    storages: Vec<Storage>,
    views: Vec<View>,
    /// Index and bytes of the storage that was read last, as several tensors may share it.
    last: RefCell<Option<(usize, Vec<u8>)>>,
}

/// The contents of a file.
pub struct Contents {
    /// The tensors that can be read; [`TorchFile::read`] takes their indices.
    pub tensors: Vec<Info>,
    /// Classes of the objects that were skipped.
    pub skipped: Vec<String>,
    /// Names of tensors that cannot be read, and the reason.
    pub unreadable: BTreeMap<String, String>,
}

impl TorchFile {
    /// Opens a zip archive or, with `legacy`, the older container.
    ///
    /// # Errors
    /// A message without the file's name.
    pub fn open(path: &Path, legacy: bool) -> Result<(TorchFile, Contents), String> {
        let mut heap = Heap::default();
        let (container, root) = if legacy {
            let (file, root) = Legacy::open(path, &mut heap)?;
            (Container::Legacy(file), root)
        } else {
            let (archive, bytes) = Archive::open(path)?;
            let root = pickle::read(&mut bytes.as_slice(), &mut heap)?;
            (Container::Zip(archive), root)
        };
        let mut found = Found {
            heap: &heap,
            seen: HashSet::new(),
            tensors: Vec::new(),
            skipped: BTreeSet::new(),
            unreadable: BTreeMap::new(),
        };
        found.visit(root, "", 0)?;
        let Found { tensors: named, skipped, mut unreadable, .. } = found;
        let mut needed = vec![None; heap.storages.len()];
        let (mut tensors, mut views) = (Vec::new(), Vec::new());
        for (name, view) in named {
            let storage = &heap.storages[view.storage];
            let (element, end) = match readable(&view, storage) {
                Ok(found) => found,
                Err(why) => {
                    unreadable.insert(name, why);
                    continue;
                }
            };
            let most: &mut Option<usize> = &mut needed[view.storage];
            *most = Some(most.unwrap_or(0).max(end));
            tensors.push(Info { name, shape: view.shape.clone(), element });
            views.push(view);
        }
        for (storage, needed) in heap.storages.iter().zip(&needed) {
            let Some(needed) = needed else { continue };
            let bytes = bytes_of(storage).ok_or_else(|| format!("storage {} is too large", storage.key))?;
            let element = storage.element.map_or(0, Element::bytes);
            match &container {
                Container::Zip(archive) => {
                    archive.check(&storage.key, bytes, (needed * element) as u64)?;
                }
                Container::Legacy(file) => file.check(&storage.key)?,
            }
        }
        let file = TorchFile { container, storages: heap.storages, views, last: RefCell::new(None) };
        Ok((file, Contents { tensors, skipped: skipped.into_iter().collect(), unreadable }))
    }

    /// The values of tensor `index` as f32, row-major.
    ///
    /// # Errors
    /// A message without the file's name.
    pub fn read(&self, index: usize) -> Result<Vec<f32>, String> {
        let view = &self.views[index];
        let storage = &self.storages[view.storage];
        let mut last = self.last.borrow_mut();
        if last.as_ref().is_none_or(|(i, _)| *i != view.storage) {
            *last = None; // freed before the next one is read
            let bytes = bytes_of(storage).unwrap_or(u64::MAX);
            let read = match &self.container {
                Container::Zip(archive) => archive.storage(&storage.key, bytes)?,
                Container::Legacy(file) => file.storage(&storage.key, bytes)?,
            };
            *last = Some((view.storage, read));
        }
        let (Some((_, bytes)), Some(element)) = (last.as_ref(), storage.element) else {
            return Ok(Vec::new());
        };
        Ok(view.gather(element, bytes))
    }
}

fn bytes_of(storage: &Storage) -> Option<u64> {
    storage.len.checked_mul(storage.element?.bytes()).map(|bytes| bytes as u64)
}

/// A view's element type, and the first element of its storage after it.
///
/// # Errors
/// Why it cannot be read.
fn readable(view: &View, storage: &Storage) -> Result<(Element, usize), String> {
    let element = storage.element.ok_or("its storage is of an unknown class")?;
    let end = view.end().filter(|end| *end <= storage.len).ok_or("it lies outside its storage")?;
    // Expanded tensors repeat elements and could be larger than any memory.
    if view.len().is_none_or(|len| len > storage.len.max(MAX_REPEATED)) {
        return Err(format!("it has more elements than its storage and {MAX_REPEATED}"));
    }
    Ok((element, end))
}

/// A search for tensors; their names are the keys of the dictionaries and lists that contain them.
struct Found<'a> {
    heap: &'a Heap,
    /// Containers that were searched: one with several parents is searched in the first, and cycles end.
    seen: HashSet<usize>,
    tensors: Vec<(String, View)>,
    skipped: BTreeSet<String>,
    unreadable: BTreeMap<String, String>,
}

impl Found<'_> {
    fn visit(&mut self, value: Value, name: &str, depth: usize) -> Result<(), String> {
        let heap = self.heap;
        let (Value::Node(index), Some(node)) = (value, heap.node(value)) else { return Ok(()) };
        match node {
            Node::Tensor(view) => {
                self.count()?;
                self.tensors.push((name.to_string(), view.clone()));
                Ok(())
            }
            Node::Odd(why) => {
                self.count()?;
                self.unreadable.insert(name.to_string(), why.clone());
                Ok(())
            }
            Node::Object(class) => {
                if let Some(Node::Global(class)) = heap.node(*class)
                    && self.skipped.len() < 16
                {
                    self.skipped.insert(class.clone());
                }
                Ok(())
            }
            Node::Dict(_) | Node::List(_) | Node::Tuple(_)
                if depth >= MAX_DEPTH || !self.seen.insert(index) =>
            {
                Ok(())
            }
            Node::Dict(entries) => entries.iter().try_for_each(|&(key, value)| {
                let key = match key {
                    Value::Int(key) => key.to_string(),
                    _ => heap.text(key).unwrap_or("?").to_string(),
                };
                self.enter(value, name, &key, depth)
            }),
            Node::List(items) | Node::Tuple(items) => items
                .iter()
                .enumerate()
                .try_for_each(|(i, &item)| self.enter(item, name, &i.to_string(), depth)),
            Node::Str(_) | Node::Global(_) | Node::Storage(_) | Node::Bytes => Ok(()),
        }
    }

    fn count(&self) -> Result<(), String> {
        if self.tensors.len() + self.unreadable.len() >= MAX_TENSORS {
            return Err(format!("expected up to {MAX_TENSORS} tensors, got more"));
        }
        Ok(())
    }

    fn enter(&mut self, value: Value, name: &str, key: &str, depth: usize) -> Result<(), String> {
        if name.len() + key.len() >= MAX_NAME {
            return Ok(());
        }
        let name = if name.is_empty() { key.to_string() } else { format!("{name}.{key}") };
        self.visit(value, &name, depth + 1)
    }
}
