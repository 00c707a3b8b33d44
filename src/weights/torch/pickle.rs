//! A reader of Python's pickle format that builds plain values and nothing else: no code is run, nothing is
//! imported, and classes are names. It understands the opcodes that `torch.save` writes (protocols 2 to 5)
//! and bounds the memory that a file can make it use. `rebuild` defines what the names mean.

use super::heap::{Heap, Node, Result, Value};
use super::rebuild;
use std::collections::HashMap;
use std::io::{BufRead, Read};

/// Most bytes of a pickle; those of real checkpoints have a few megabytes, as the tensors' values are
/// elsewhere.
pub const MAX_BYTES: u64 = 64 << 20;
/// Most values on the stack, and most remembered ones.
const MAX_STACK: usize = 4 << 20;

/// Reads one pickle from `input` and leaves `input` after it.
///
/// # Errors
/// Where it ends early, has an opcode that `torch.save` does not write, or is too large.
pub fn read<R: BufRead>(input: &mut R, heap: &mut Heap) -> Result<Value> {
    let machine = Machine {
        input: input.take(MAX_BYTES),
        heap,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    machine.run()
}

struct Machine<'a, R> {
    input: std::io::Take<&'a mut R>,
    heap: &'a mut Heap,
    stack: Vec<Value>,
    /// Lengths of the stack at the marks.
    marks: Vec<usize>,
    memo: HashMap<u64, Value>,
}

impl<R: BufRead> Machine<'_, R> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(|_| "its pickle is truncated or too large".to_string())?;
        Ok(bytes)
    }

    fn uint<const N: usize>(&mut self) -> Result<u64> {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(&self.bytes::<N>()?);
        Ok(u64::from_le_bytes(wide))
    }

    /// The next `len` bytes. Memory grows with what the file has, not with `len`.
    fn blob(&mut self, len: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = (&mut self.input).take(len).read_to_end(&mut bytes);
        match read {
            Ok(n) if n as u64 == len => Ok(bytes),
            _ => Err("its pickle is truncated or too large".into()),
        }
    }

    fn text(&mut self, len: u64) -> Result<Value> {
        let bytes = self.blob(len)?;
        self.heap.add(Node::Str(String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn opaque_bytes(&mut self, len: u64) -> Result<Value> {
        let skipped = std::io::copy(&mut (&mut self.input).take(len), &mut std::io::sink());
        match skipped {
            Ok(n) if n == len => self.heap.add(Node::Bytes),
            _ => Err("its pickle is truncated or too large".into()),
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        let _ = (&mut self.input).take(512).read_until(b'\n', &mut line);
        match line.pop() {
            Some(b'\n') => Ok(String::from_utf8_lossy(&line).into_owned()),
            _ => Err("its pickle has a name without end".into()),
        }
    }

    /// An integer of `len` bytes; `None` if it has more than 64 bits.
    fn long(&mut self, len: u64) -> Result<Value> {
        let bytes = self.blob(len)?;
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        let Some(low) = wide.get_mut(..bytes.len()) else { return Ok(Value::None) };
        low.copy_from_slice(&bytes);
        Ok(Value::Int(i64::from_le_bytes(wide)))
    }

    fn push(&mut self, value: Value) -> Result<()> {
        if self.stack.len() >= MAX_STACK {
            return Err("its pickle is nested too deeply".into());
        }
        self.stack.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Result<Value> {
        // Values below a mark belong to it.
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("its pickle takes a value that is not there".into());
        }
        self.stack.pop().ok_or_else(|| "its pickle takes a value that is not there".into())
    }

    fn top(&self) -> Result<Value> {
        self.stack.last().copied().ok_or_else(|| "its pickle takes a value that is not there".into())
    }

    fn pop_mark(&mut self) -> Result<Vec<Value>> {
        let mark = self.marks.pop().ok_or("its pickle takes a mark that is not there")?;
        if mark > self.stack.len() {
            return Err("its pickle takes a mark that is not there".into());
        }
        Ok(self.stack.split_off(mark))
    }

    fn remember(&mut self, key: u64) -> Result<()> {
        let value = self.top()?;
        if self.memo.len() >= MAX_STACK {
            return Err("its pickle remembers too much".into());
        }
        self.memo.insert(key, value);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Result<()> {
        let value = *self.memo.get(&key).ok_or("its pickle recalls a value that is not there")?;
        self.push(value)
    }

    fn add(&mut self, node: Node) -> Result<()> {
        let value = self.heap.add(node)?;
        self.push(value)
    }

    fn tuple(&mut self, len: usize) -> Result<()> {
        let mut items = (0..len).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
        items.reverse();
        self.add(Node::Tuple(items))
    }

    fn run(mut self) -> Result<Value> {
        loop {
            let [opcode] = self.bytes()?;
            match opcode {
                b'.' => return self.pop(),
                0x80 => {
                    let [protocol] = self.bytes()?;
                    if !(2..=5).contains(&protocol) {
                        return Err(format!("expected pickle protocol 2 to 5, got {protocol}"));
                    }
                }
                0x95 => drop(self.bytes::<8>()?), // a frame's length
                b'(' => {
                    if self.marks.len() >= MAX_STACK {
                        return Err("its pickle is nested too deeply".into());
                    }
                    self.marks.push(self.stack.len());
                }
                b'0' => drop(self.pop()?),
                b'1' => drop(self.pop_mark()?),
                b'2' => {
                    let value = self.top()?;
                    self.push(value)?;
                }
                b'N' => self.push(Value::None)?,
                0x88 => self.push(Value::Bool(true))?,
                0x89 => self.push(Value::Bool(false))?,
                b'J' => {
                    let value = i32::from_le_bytes(self.bytes()?);
                    self.push(Value::Int(value.into()))?;
                }
                b'K' => {
                    let value = self.uint::<1>()?;
                    self.push(Value::Int(value as i64))?;
                }
                b'M' => {
                    let value = self.uint::<2>()?;
                    self.push(Value::Int(value as i64))?;
                }
                0x8a | 0x8b => {
                    let len = if opcode == 0x8a { self.uint::<1>()? } else { self.uint::<4>()? };
                    let value = self.long(len)?;
                    self.push(value)?;
                }
                b'G' => {
                    self.bytes::<8>()?;
                    self.push(Value::None)?;
                }
                b'X' | 0x8c | 0x8d | b'T' | b'U' => {
                    let len = match opcode {
                        b'X' | b'T' => self.uint::<4>()?,
                        0x8d => self.uint::<8>()?,
                        _ => self.uint::<1>()?,
                    };
                    let value = self.text(len)?;
                    self.push(value)?;
                }
                b'B' | b'C' | 0x8e | 0x96 => {
                    let len = match opcode {
                        b'B' => self.uint::<4>()?,
                        b'C' => self.uint::<1>()?,
                        _ => self.uint::<8>()?,
                    };
                    let value = self.opaque_bytes(len)?;
                    self.push(value)?;
                }
                b']' | 0x8f => self.add(Node::List(Vec::new()))?,
                b'}' => self.add(Node::Dict(Vec::new()))?,
                b')' => self.add(Node::Tuple(Vec::new()))?,
                0x85..=0x87 => self.tuple(usize::from(opcode - 0x84))?,
                b't' => {
                    let items = self.pop_mark()?;
                    self.add(Node::Tuple(items))?;
                }
                b'l' | 0x91 => {
                    let items = self.pop_mark()?;
                    self.add(Node::List(items))?;
                }
                b'd' => {
                    let items = self.pop_mark()?;
                    let value = self.heap.add(Node::Dict(Vec::new()))?;
                    self.heap.insert(value, &items)?;
                    self.push(value)?;
                }
                b'a' => {
                    let item = self.pop()?;
                    let list = self.top()?;
                    self.heap.extend(list, &[item])?;
                }
                b'e' | 0x90 => {
                    let items = self.pop_mark()?;
                    let list = self.top()?;
                    self.heap.extend(list, &items)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    let dict = self.top()?;
                    self.heap.insert(dict, &[key, value])?;
                }
                b'u' => {
                    let items = self.pop_mark()?;
                    let dict = self.top()?;
                    self.heap.insert(dict, &items)?;
                }
                b'c' => {
                    let name = format!("{}.{}", self.line()?, self.line()?);
                    self.add(Node::Global(name))?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let joined = match (self.heap.text(module), self.heap.text(name)) {
                        (Some(m), Some(n)) if m.len() + n.len() <= 1024 => format!("{m}.{n}"),
                        _ => return Err("its pickle names a class in an unknown way".into()),
                    };
                    self.add(Node::Global(joined))?;
                }
                b'R' | 0x81 => {
                    let (args, class) = (self.pop()?, self.pop()?);
                    let value = rebuild::call(self.heap, class, args)?;
                    self.push(value)?;
                }
                0x92 => {
                    let (_keywords, args, class) = (self.pop()?, self.pop()?, self.pop()?);
                    let value = rebuild::call(self.heap, class, args)?;
                    self.push(value)?;
                }
                b'b' => drop(self.pop()?), // an object's state
                b'Q' => {
                    let id = self.pop()?;
                    let value = rebuild::storage(self.heap, id)?;
                    self.push(value)?;
                }
                b'q' | b'r' => {
                    let key = if opcode == b'q' { self.uint::<1>()? } else { self.uint::<4>()? };
                    self.remember(key)?;
                }
                0x94 => self.remember(self.memo.len() as u64)?,
                b'h' | b'j' => {
                    let key = if opcode == b'h' { self.uint::<1>()? } else { self.uint::<4>()? };
                    self.recall(key)?;
                }
                _ => {
                    return Err(format!(
                        "its pickle has the opcode 0x{opcode:02x}, which torch.save does not write"
                    ));
                }
            }
        }
    }
}
