//! Tensors of files: name, shape, element type and the conversion to f32.

use half::{bf16, f16};

/// Name, shape and element type of a tensor in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// The tensor's name, preceded by the keys of the dictionaries that contain it, with dots between.
    pub name: String,
    /// The tensor's shape in the file's order of axes; empty for a scalar.
    pub shape: Vec<usize>,
    /// Type of the elements.
    pub element: Element,
}

impl Info {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// 64-bit floats.
    F64,
    /// 32-bit floats.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// bfloat16, the upper half of a 32-bit float.
    Bf16,
    /// A type that weights do not have, such as integers of counters.
    Other {
        /// Name in the safetensors format.
        name: &'static str,
        /// Bytes per element.
        bytes: usize,
    },
}

/// Names and sizes of types that are listed but not read. Types of an unknown name are listed as `U8`.
const OTHERS: [(&str, usize); 12] = [
    ("U64", 8),
    ("U32", 4),
    ("U16", 2),
    ("I64", 8),
    ("I32", 4),
    ("I16", 2),
    ("I8", 1),
    ("BOOL", 1),
    ("C64", 8),
    ("C128", 16),
    ("F8_E4M3", 1),
    ("F8_E5M2", 1),
];

impl Element {
    /// The type of that name in the safetensors format.
    pub fn by_name(name: &str) -> Element {
        match name {
            "F64" => Element::F64,
            "F32" => Element::F32,
            "F16" => Element::F16,
            "BF16" => Element::Bf16,
            _ => {
                let known = OTHERS.iter().find(|(other, _)| *other == name);
                known.map_or(Element::Other { name: "U8", bytes: 1 }, |&(name, bytes)| Element::Other {
                    name,
                    bytes,
                })
            }
        }
    }

    /// Name in the safetensors format.
    pub fn name(self) -> &'static str {
        match self {
            Element::F64 => "F64",
            Element::F32 => "F32",
            Element::F16 => "F16",
            Element::Bf16 => "BF16",
            Element::Other { name, .. } => name,
        }
    }

    /// Bytes per element.
    pub fn bytes(self) -> usize {
        match self {
            Element::F64 => 8,
            Element::F32 => 4,
            Element::F16 | Element::Bf16 => 2,
            Element::Other { bytes, .. } => bytes,
        }
    }

    /// Whether weights can be of this type.
    pub fn is_float(self) -> bool {
        !matches!(self, Element::Other { .. })
    }

    /// The little-endian elements in `bytes`, rounded to nearest; an incomplete last element is dropped.
    /// Empty for types that are not floats.
    pub fn to_f32(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Element::F64 => bytes.as_chunks::<8>().0.iter().map(|&v| f64::from_le_bytes(v) as f32).collect(),
            Element::F32 => bytes.as_chunks::<4>().0.iter().map(|&v| f32::from_le_bytes(v)).collect(),
            Element::F16 => {
                bytes.as_chunks::<2>().0.iter().map(|&v| f16::from_le_bytes(v).to_f32()).collect()
            }
            Element::Bf16 => {
                bytes.as_chunks::<2>().0.iter().map(|&v| bf16::from_le_bytes(v).to_f32()).collect()
            }
            Element::Other { .. } => Vec::new(),
        }
    }
}
