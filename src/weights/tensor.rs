//! Element types of files' tensors, and the way to f32.

use half::{bf16, f16};

/// What a tensor's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// 64-bit floats.
    F64,
    /// 32-bit floats.
    F32,
    /// IEEE's 16-bit floats.
    F16,
    /// The upper halves of 32-bit floats.
    Bf16,
    /// Anything that is no weight, such as counters.
    Other {
        /// As the safetensors format calls it.
        name: &'static str,
        /// Bytes an element.
        bytes: usize,
    },
}

/// Types that are listed but not read. Those of an unknown name are taken as bytes.
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
    /// By the safetensors format's name.
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

    /// The safetensors format's name.
    pub fn name(self) -> &'static str {
        match self {
            Element::F64 => "F64",
            Element::F32 => "F32",
            Element::F16 => "F16",
            Element::Bf16 => "BF16",
            Element::Other { name, .. } => name,
        }
    }

    /// Bytes an element.
    pub fn bytes(self) -> usize {
        match self {
            Element::F64 => 8,
            Element::F32 => 4,
            Element::F16 | Element::Bf16 => 2,
            Element::Other { bytes, .. } => bytes,
        }
    }

    /// Whether it can be a weight.
    pub fn is_float(self) -> bool {
        !matches!(self, Element::Other { .. })
    }

    /// The elements in `bytes`, little end first, rounded to nearest; a rest that is no whole element is left out. Other
    /// types than floats give nothing.
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
