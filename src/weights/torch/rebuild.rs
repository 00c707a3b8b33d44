//! The few names in a `torch.save` pickle that are understood: storages, tensors, parameters, ordered
//! dictionaries. Any other class becomes an object that is skipped.

use super::heap::{Heap, Node, Result, Value};
use super::storage::{Storage, View};
use crate::weights::tensor::Element;

/// Most axes of a tensor.
const MAX_RANK: usize = 16;
/// Longest key of a storage; PyTorch's are numbers.
const MAX_KEY: usize = 64;

/// The value that stands for `class(*args)`. Nothing is executed.
pub fn call(heap: &mut Heap, class: Value, args: Value) -> Result<Value> {
    let Some(Node::Global(name)) = heap.node(class) else { return heap.add(Node::Object(class)) };
    match name.as_str() {
        "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor" => tensor(heap, args),
        "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state" => {
            Ok(heap.tuple(args).and_then(|a| a.first().copied()).unwrap_or(Value::None))
        }
        "torch._tensor._rebuild_from_type_v2" => match heap.tuple(args) {
            // A tensor with attributes: (function, class, arguments, attributes).
            Some(&[function, _, inner, _]) if is_tensor_function(heap, function) => tensor(heap, inner),
            _ => heap.add(Node::Object(class)),
        },
        "collections.OrderedDict" | "collections.defaultdict" | "builtins.dict" | "__builtin__.dict" => {
            ordered_dict(heap, args)
        }
        // Other tensors: quantised, sparse, on the meta device, of newer types.
        name if name.starts_with("torch._utils._rebuild_") => {
            let why = format!("a tensor of {name}");
            heap.add(Node::Odd(why))
        }
        _ => heap.add(Node::Object(class)),
    }
}

fn is_tensor_function(heap: &Heap, function: Value) -> bool {
    matches!(heap.node(function), Some(Node::Global(name)) if name == "torch._utils._rebuild_tensor_v2")
}

/// A dictionary; pickles of Python 2 have its entries as a list of pairs.
fn ordered_dict(heap: &mut Heap, args: Value) -> Result<Value> {
    let list = heap.tuple(args).and_then(|a| a.first()).copied();
    let pairs = list.and_then(|list| heap.node(list));
    let len = if let Some(Node::List(items)) = pairs { items.len() } else { 0 };
    // Charged before it is copied: a file may pass a long list many times.
    heap.charge(2 * len * size_of::<Value>())?;
    let pairs = match list.and_then(|list| heap.node(list)) {
        Some(Node::List(items)) => items.clone(),
        _ => Vec::new(),
    };
    let mut entries = Vec::new();
    for pair in pairs {
        match heap.node(pair) {
            Some(Node::List(pair) | Node::Tuple(pair)) if pair.len() == 2 => entries.push((pair[0], pair[1])),
            _ => {}
        }
    }
    heap.add(Node::Dict(entries))
}

fn index(value: Value) -> Option<usize> {
    match value {
        Value::Int(v) => usize::try_from(v).ok(),
        _ => None,
    }
}

fn indices(heap: &Heap, value: Value) -> Option<Vec<usize>> {
    heap.tuple(value).filter(|t| t.len() <= MAX_RANK)?.iter().map(|&v| index(v)).collect()
}

/// A tensor of (storage, offset, shape, strides, …).
fn tensor(heap: &mut Heap, args: Value) -> Result<Value> {
    let view = || -> Option<View> {
        let [storage, offset, shape, strides] = *heap.tuple(args)?.first_chunk::<4>()?;
        let Some(&Node::Storage(storage)) = heap.node(storage) else { return None };
        let (shape, strides) = (indices(heap, shape)?, indices(heap, strides)?);
        (shape.len() == strides.len()).then_some(View { storage, offset: index(offset)?, shape, strides })
    };
    match view() {
        Some(view) => heap.add(Node::Tensor(view)),
        None => heap.add(Node::Odd("its pickle describes it in an unknown way".into())),
    }
}

/// The storage of a persistent id ("storage", class, key, device, length[, view]).
pub fn storage(heap: &mut Heap, id: Value) -> Result<Value> {
    let unknown = "its pickle refers to something outside in an unknown way";
    let parts = heap.tuple(id).filter(|p| (5..=6).contains(&p.len())).ok_or(unknown)?;
    let (class, key, len) = (parts[1], parts[2], index(parts[4]).ok_or(unknown)?);
    if parts.get(5).is_some_and(|view| *view != Value::None) {
        return Err(
            "its storages are views of others, as PyTorch before 0.4 wrote them: save it again".into()
        );
    }
    if heap.text(parts[0]) != Some("storage") {
        return Err(unknown.into());
    }
    let element = match heap.node(class) {
        Some(Node::Global(name)) => element(name),
        _ => return Err(unknown.into()),
    };
    let key = heap.text(key).filter(|k| k.len() <= MAX_KEY).ok_or(unknown)?.to_string();
    let storage = Storage { key: key.clone(), element, len };
    let known = heap.storage_keys.get(&key).copied();
    let at = known.unwrap_or(heap.storages.len());
    match heap.storages.get(at) {
        Some(other) if *other != storage => {
            return Err(format!("storage {key} is described in two ways, {other:?} and {storage:?}"));
        }
        Some(_) => {}
        None => {
            heap.charge(4 * MAX_KEY + size_of::<Storage>())?;
            heap.storages.push(storage);
            heap.storage_keys.insert(key, at);
        }
    }
    heap.add(Node::Storage(at))
}

/// The element type of a storage class, where it is known.
fn element(class: &str) -> Option<Element> {
    let name = match class.rsplit_once('.').map_or(class, |(_, name)| name) {
        "DoubleStorage" => "F64",
        "FloatStorage" => "F32",
        "HalfStorage" => "F16",
        "BFloat16Storage" => "BF16",
        "LongStorage" => "I64",
        "IntStorage" | "QInt32Storage" => "I32",
        "ShortStorage" => "I16",
        "CharStorage" | "QInt8Storage" => "I8",
        "BoolStorage" => "BOOL",
        "ComplexFloatStorage" => "C64",
        "ComplexDoubleStorage" => "C128",
        "ByteStorage" | "UntypedStorage" | "QUInt8Storage" => "U8",
        _ => return None,
    };
    Some(Element::by_name(name))
}
