//! Fixture files: tensors `in.*` and `out.*` in a safetensors container whose metadata names the op and its
//! settings. Must not know what an op does.

use psmt_fast::files::write_atomically;
use psmt_fast::ops::Shape;
use psmt_fast::{Error, Result};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::de::DeserializeOwned;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Values of an array in one of the three types that fixtures have.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Single precision.
    F32(Vec<f32>),
    /// Labels, counts, boxes.
    I32(Vec<i32>),
    /// 8-bit images.
    U8(Vec<u8>),
}

impl Values {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Values::F32(v) => v.len(),
            Values::I32(v) => v.len(),
            Values::U8(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Value `i` in double precision (exact).
    pub fn get(&self, i: usize) -> f64 {
        match self {
            Values::F32(v) => f64::from(v[i]),
            Values::I32(v) => f64::from(v[i]),
            Values::U8(v) => f64::from(v[i]),
        }
    }

    /// Name of the type as in the container.
    pub fn type_name(&self) -> &'static str {
        match self {
            Values::F32(_) => "float32",
            Values::I32(_) => "int32",
            Values::U8(_) => "uint8",
        }
    }
}

/// An array as it is in a file: row-major, NCHW where it is an activation.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Sizes of the axes; empty for a single number.
    pub shape: Vec<usize>,
    /// As many values as the sizes' product.
    pub values: Values,
}

impl Array {
    /// A single-precision array.
    pub fn f32(shape: impl Into<Vec<usize>>, values: Vec<f32>) -> Array {
        Array { shape: shape.into(), values: Values::F32(values) }
    }

    /// An activation: NHWC values, stored NCHW.
    pub fn activation(s: Shape, nhwc: &[f32]) -> Array {
        Array::f32([s.n, s.c, s.h, s.w], swap_inner(nhwc, s.n, s.h * s.w, s.c))
    }
}

/// Swaps the two inner axes of `[outer, a, b]`: NHWC to NCHW with a = h w, b = c, and the way back with a =
/// c, b = h w.
pub(crate) fn swap_inner<T: Copy>(x: &[T], outer: usize, a: usize, b: usize) -> Vec<T> {
    let index = (0..outer).flat_map(|o| (0..b).flat_map(move |j| (0..a).map(move |i| (o * a + i) * b + j)));
    index.map(|i| x[i]).collect()
}

/// A container with `metadata` in front of its other entries. The library's own writer would put the keys in
/// the order of a hash map, another one each time.
fn with_metadata(container: &[u8], metadata: &serde_json::Value) -> Vec<u8> {
    let (len, rest) = container.split_at(8);
    let len = len.iter().rev().fold(0, |len, byte| len << 8 | usize::from(*byte));
    let (header, data) = rest.split_at(len);
    let entries = &header.trim_ascii()[1..];
    let comma = if entries == b"}" { "" } else { "," };
    let mut header = format!("{{\"__metadata__\":{metadata}{comma}").into_bytes();
    header.extend(entries);
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes(), &header[..], data].concat()
}

/// Results of an op, by name without the prefix `out.`.
pub type Outputs = BTreeMap<String, Array>;

/// A fixture file in memory.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// Where it was read from; named in errors.
    pub path: PathBuf,
    /// Name of the op.
    pub op: String,
    /// Settings, JSON text of an object.
    pub attrs: String,
    /// Inputs of the op, by name without the prefix `in.`.
    pub inputs: BTreeMap<String, Array>,
    /// Expected results.
    pub outputs: Outputs,
}

impl Fixture {
    /// Reads a file. Tensors whose names begin with neither `in.` nor `out.` are left out.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::Checkpoint`] where it is truncated or no such
    /// container, lacks `op` or `attrs`, or has a tensor of a type other than float32, int32, uint8.
    pub fn read(path: &Path) -> Result<Fixture> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let bad = |message: String| Error::checkpoint(path, message);
        let (_, header) = SafeTensors::read_metadata(&bytes)
            .map_err(|e| bad(format!("not a whole safetensors file: {e}")))?;
        let metadata = header.metadata().as_ref();
        let entry = |key: &str| {
            metadata
                .and_then(|m| m.get(key).cloned())
                .ok_or_else(|| bad(format!("expected metadata '{key}', found none")))
        };
        let (op, attrs) = (entry("op")?, entry("attrs")?);
        let tensors = SafeTensors::deserialize(&bytes)
            .map_err(|e| bad(format!("not a whole safetensors file: {e}")))?;
        let (mut inputs, mut outputs) = (BTreeMap::new(), BTreeMap::new());
        for (name, view) in tensors.iter() {
            let (group, short) = match name.split_once('.') {
                Some(("in", short)) => (&mut inputs, short),
                Some(("out", short)) => (&mut outputs, short),
                _ => continue,
            };
            let array = array(&view).ok_or_else(|| {
                bad(format!("tensor '{name}': expected float32, int32 or uint8, found {:?}", view.dtype()))
            })?;
            group.insert(short.to_string(), array);
        }
        Ok(Fixture { path: path.to_path_buf(), op, attrs, inputs, outputs })
    }

    /// Writes `outputs` (as `out.*`) with this fixture's op and settings. The file appears whole or not at
    /// all.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be written.
    pub fn write_outputs(&self, path: &Path, outputs: &Outputs) -> Result<()> {
        let views: Vec<_> = outputs.iter().map(|(name, array)| (format!("out.{name}"), array)).collect();
        let bytes = safetensors::serialize(views, None)
            .map_err(|e| Error::checkpoint(path, format!("cannot be encoded: {e}")))?;
        let bytes = with_metadata(&bytes, &serde_json::json!({ "attrs": self.attrs, "op": self.op }));
        write_atomically(path, |out| out.write_all(&bytes))
    }

    /// The settings as `T`, which should reject unknown keys.
    ///
    /// # Errors
    /// [`Error::Config`] that names the key where they are not what `T` expects.
    pub fn attrs<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.attrs).map_err(|e| self.bad_attrs(e.to_string()))
    }

    /// [`Error::Config`] about the settings.
    pub(crate) fn bad_attrs(&self, message: impl std::fmt::Display) -> Error {
        Error::config(format!("attrs of {}", self.path.display()), message.to_string())
    }

    /// [`Error::Checkpoint`] about an input.
    pub(crate) fn bad_input(&self, name: &str, message: impl std::fmt::Display) -> Error {
        Error::checkpoint(&self.path, format!("tensor 'in.{name}': {message}"))
    }

    /// An input by name.
    pub(crate) fn input(&self, name: &str) -> Result<&Array> {
        self.inputs.get(name).ok_or_else(|| self.bad_input(name, format!("missing, {} needs it", self.op)))
    }

    /// A float32 input of rank `N`.
    pub(crate) fn f32<const N: usize>(&self, name: &str) -> Result<([usize; N], &[f32])> {
        let array = self.input(name)?;
        match &array.values {
            Values::F32(v) => Ok((self.rank(name, array)?, v)),
            other => Err(self.bad_input(name, format!("expected float32, found {}", other.type_name()))),
        }
    }

    /// An int32 input of rank `N`.
    pub(crate) fn i32<const N: usize>(&self, name: &str) -> Result<([usize; N], &[i32])> {
        let array = self.input(name)?;
        match &array.values {
            Values::I32(v) => Ok((self.rank(name, array)?, v)),
            other => Err(self.bad_input(name, format!("expected int32, found {}", other.type_name()))),
        }
    }

    /// A uint8 input of rank `N`.
    pub(crate) fn u8<const N: usize>(&self, name: &str) -> Result<([usize; N], &[u8])> {
        let array = self.input(name)?;
        match &array.values {
            Values::U8(v) => Ok((self.rank(name, array)?, v)),
            other => Err(self.bad_input(name, format!("expected uint8, found {}", other.type_name()))),
        }
    }

    fn rank<const N: usize>(&self, name: &str, array: &Array) -> Result<[usize; N]> {
        array.shape.as_slice().try_into().map_err(|_| {
            self.bad_input(name, format!("expected {N} axes, found {} {:?}", array.shape.len(), array.shape))
        })
    }
}

fn array(view: &TensorView<'_>) -> Option<Array> {
    let bytes = view.data();
    let words = || bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
    let values = match view.dtype() {
        Dtype::F32 => Values::F32(words().map(f32::from_le_bytes).collect()),
        Dtype::I32 => Values::I32(words().map(i32::from_le_bytes).collect()),
        Dtype::U8 => Values::U8(bytes.to_vec()),
        _ => return None,
    };
    Some(Array { shape: view.shape().to_vec(), values })
}

impl safetensors::View for &Array {
    fn dtype(&self) -> Dtype {
        match self.values {
            Values::F32(_) => Dtype::F32,
            Values::I32(_) => Dtype::I32,
            Values::U8(_) => Dtype::U8,
        }
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        match &self.values {
            Values::F32(v) => Cow::Owned(v.iter().flat_map(|v| v.to_le_bytes()).collect()),
            Values::I32(v) => Cow::Owned(v.iter().flat_map(|v| v.to_le_bytes()).collect()),
            Values::U8(v) => Cow::Borrowed(v),
        }
    }
    fn data_len(&self) -> usize {
        self.values.len() * if matches!(self.values, Values::U8(_)) { 1 } else { 4 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_written_with_metadata_in_one_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.safetensors");
        let label = Array { shape: vec![2], values: Values::I32(vec![3, 4]) };
        let both = Outputs::from([("y".into(), Array::f32([1], vec![0.5])), ("label".into(), label)]);
        for outputs in [both, Outputs::new()] {
            let (op, attrs) = ("leaky_relu".to_string(), r#"{"slope": 0.1}"#.to_string());
            let fixture = Fixture { path: path.clone(), op, attrs, inputs: Outputs::new(), outputs };
            fixture.write_outputs(&path, &fixture.outputs).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            assert!(
                bytes[8..].starts_with(br#"{"__metadata__":{"attrs":"{\"slope\": 0.1}","op":"leaky_relu"}"#)
            );
            let read = Fixture::read(&path).unwrap();
            assert_eq!((read.op, read.attrs, read.outputs), (fixture.op, fixture.attrs, fixture.outputs));
        }
    }
}
