//! Plain values that a pickle becomes, and a bound on the memory that they take. Knows no file.

use super::rebuild::{Storage, View};
use std::collections::HashMap;

/// Bytes that the values of a pickle may take.
const MAX_HEAP: usize = 256 << 20;

/// What failed, without the file's name.
pub type Result<T> = std::result::Result<T, String>;

/// A value; what is larger than a number lies in the heap.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// Python's `None`, and numbers that nothing here needs.
    None,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Index of a [`Node`].
    Node(usize),
}

/// A value of the heap.
#[derive(Debug)]
pub enum Node {
    /// Text.
    Str(String),
    /// List or set.
    List(Vec<Value>),
    /// Tuple.
    Tuple(Vec<Value>),
    /// Dictionary in the order of its entries.
    Dict(Vec<(Value, Value)>),
    /// A class or function by `module.name`.
    Global(String),
    /// Index of a [`Storage`].
    Storage(usize),
    /// A tensor.
    Tensor(View),
    /// A tensor that cannot be read, and why.
    Odd(String),
    /// An object of a class that means nothing here; the class.
    Object(Value),
    /// Bytes, whose content nothing here needs.
    Bytes,
}

/// What a pickle holds.
#[derive(Debug, Default)]
pub struct Heap {
    nodes: Vec<Node>,
    /// Storages that the tensors refer to.
    pub storages: Vec<Storage>,
    /// Their places by key.
    pub storage_keys: HashMap<String, usize>,
    used: usize,
}

impl Heap {
    /// The node behind a value.
    pub fn node(&self, value: Value) -> Option<&Node> {
        match value {
            Value::Node(i) => self.nodes.get(i),
            _ => None,
        }
    }

    /// The text of a value.
    pub fn text(&self, value: Value) -> Option<&str> {
        match self.node(value) {
            Some(Node::Str(text)) => Some(text),
            _ => None,
        }
    }

    /// The elements of a tuple.
    pub fn tuple(&self, value: Value) -> Option<&[Value]> {
        match self.node(value) {
            Some(Node::Tuple(items)) => Some(items),
            _ => None,
        }
    }

    /// Counts memory that a value takes.
    pub fn charge(&mut self, bytes: usize) -> Result<()> {
        self.used = self.used.saturating_add(bytes);
        if self.used > MAX_HEAP { Err("its pickle holds too many values".into()) } else { Ok(()) }
    }

    /// Keeps a node.
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

    /// Puts `items` behind a list's; lists of unknown classes stay unknown.
    pub fn extend(&mut self, list: Value, items: &[Value]) -> Result<()> {
        self.charge(size_of_val(items))?;
        if let Value::Node(i) = list
            && let Some(Node::List(list)) = self.nodes.get_mut(i)
        {
            list.extend_from_slice(items);
        }
        Ok(())
    }

    /// Puts keys and values by turns into a dictionary; those of unknown classes stay unknown.
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
