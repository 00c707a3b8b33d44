//! The plain values that a pickle becomes, and a bound on their memory.

use super::storage::{Storage, View};
use std::collections::HashMap;

/// Most bytes of a pickle's values.
const MAX_HEAP: usize = 256 << 20;

/// The error is a message without the file's name.
pub type Result<T> = std::result::Result<T, String>;

/// A value; larger ones than numbers are in the heap.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// Python's `None`, and numbers that are not needed (floats, large integers).
    None,
    Bool(bool),
    Int(i64),
    /// Index of a [`Node`].
    Node(usize),
}

/// A value of the heap.
#[derive(Debug)]
pub enum Node {
    Str(String),
    /// A list or set.
    List(Vec<Value>),
    Tuple(Vec<Value>),
    /// A dictionary in the order of its entries.
    Dict(Vec<(Value, Value)>),
    /// A class or function by `module.name`.
    Global(String),
    /// Index of a [`Storage`].
    Storage(usize),
    Tensor(View),
    /// A tensor that cannot be read, with the reason.
    Odd(String),
    /// An object of a class that is not understood, with the class.
    Object(Value),
    /// Bytes, whose content is not needed.
    Bytes,
}

/// The values of a pickle.
#[derive(Debug, Default)]
pub struct Heap {
    nodes: Vec<Node>,
    /// Storages that the tensors refer to.
    pub storages: Vec<Storage>,
    /// Their indices by key.
    pub storage_keys: HashMap<String, usize>,
    used: usize,
}

impl Heap {
    pub fn node(&self, value: Value) -> Option<&Node> {
        match value {
            Value::Node(i) => self.nodes.get(i),
            _ => None,
        }
    }

    pub fn text(&self, value: Value) -> Option<&str> {
        match self.node(value) {
            Some(Node::Str(text)) => Some(text),
            _ => None,
        }
    }

    pub fn tuple(&self, value: Value) -> Option<&[Value]> {
        match self.node(value) {
            Some(Node::Tuple(items)) => Some(items),
            _ => None,
        }
    }

    /// Counts `bytes` of memory.
    ///
    /// # Errors
    /// Where the sum exceeds [`MAX_HEAP`].
    pub fn charge(&mut self, bytes: usize) -> Result<()> {
        self.used = self.used.saturating_add(bytes);
        if self.used > MAX_HEAP { Err("its pickle holds too many values".into()) } else { Ok(()) }
    }

    /// Adds a node and counts its memory.
    pub fn add(&mut self, node: Node) -> Result<Value> {
        let inner = match &node {
            Node::Str(s) | Node::Global(s) | Node::Odd(s) => s.len(),
            Node::List(items) | Node::Tuple(items) => items.len() * size_of::<Value>(),
            Node::Dict(items) => items.len() * 2 * size_of::<Value>(),
            Node::Tensor(view) => 2 * view.shape.len() * size_of::<usize>(),
            Node::Storage(_) | Node::Object(_) | Node::Bytes => 0,
        };
        self.charge(size_of::<Node>() + inner)?;
        self.nodes.push(node);
        Ok(Value::Node(self.nodes.len() - 1))
    }

    /// Appends `items` to a list; without effect on objects of unknown classes.
    pub fn extend(&mut self, list: Value, items: &[Value]) -> Result<()> {
        self.charge(size_of_val(items))?;
        if let Value::Node(i) = list
            && let Some(Node::List(list)) = self.nodes.get_mut(i)
        {
            list.extend_from_slice(items);
        }
        Ok(())
    }

    /// Adds alternating keys and values to a dictionary; without effect on objects of unknown classes.
    pub fn insert(&mut self, dict: Value, items: &[Value]) -> Result<()> {
        self.charge(size_of_val(items))?;
        if let Value::Node(i) = dict
            && let Some(Node::Dict(dict)) = self.nodes.get_mut(i)
        {
            dict.extend(items.as_chunks::<2>().0.iter().map(|&[key, value]| (key, value)));
        }
        Ok(())
    }
}
